"""``mllmu layers``: measure the layers of all models of a run and write one page about them."""

from pathlib import Path

from mllmu.config.recipe import Recipe
from mllmu.core.errors import DataError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.process import Progress
from mllmu.core.records import MODALITIES, Modality, Sample
from mllmu.core.runfolder import RunFolder, write_atomic
from mllmu.models.families import Turn
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.run import Run
from mllmu.studies.layers.measure import LayerComparison, attribute_probes, mean_accuracy
from mllmu.studies.layers.page import write_page
from mllmu.studies.layers.records import ErasureRow, LayerRow, LayersResult


def measure_layers(recipe: Recipe, root: Path, *, gate: bool = True, progress: Progress) -> Path:
    """Measure all models of the first forget ratio on its cloze questions; returns the page ``layers/index.html``.

    Cloze replies are the facts themselves, so every measured token belongs to one. Models that are missing are made.

    Raises:
        DataError: there is no cloze question about the people to forget.
    """
    pipeline = Pipeline(recipe, root, gate=gate, progress=progress)
    pipeline.run("unlearn")
    run = pipeline.state
    key = run.keys[0]
    samples = pipeline.evaluations[key].samples
    samples = [s for s in samples if s.split == "forget" and s.task == "cloze" and s.part == "report"]
    if not samples:
        raise DataError("layers: no cloze question about the people to forget. Add 'cloze' to evaluate.tasks.")
    layers: list[LayerRow] = []
    models: list[ErasureRow] = []
    probed: set[str] = set()
    for modality in MODALITIES:
        of_modality = [sample for sample in samples if sample.modality == modality]
        if of_modality:
            rows, erasures, attributes = _measure_modality(run, key, modality, of_modality)
            layers += rows
            models += erasures
            probed |= attributes
    result = LayersResult(
        title=f"{recipe.name}: where facts can be read",
        num_people=len({sample.profile_id for sample in samples}),
        probed=tuple(sorted(probed)),
        layers=tuple(layers),
        models=tuple(models),
    )
    write_atomic(root / RunFolder.LAYERS_FILE, result.model_dump_json(indent=1) + "\n")
    return write_page(result, root / RunFolder.LAYERS)


def _measure_modality(
    run: Run, key: str, modality: Modality, samples: list[Sample]
) -> tuple[list[LayerRow], list[ErasureRow], set[str]]:
    recipe, data = run.recipe, run.data
    size = recipe.evaluate.planned_batch_size
    images = [data.folder / sample.image if sample.image else None for sample in samples]
    turns = [
        Turn(prompt=sample.prompt, reply=sample.target, image=image, label=sample.id)
        for sample, image in zip(samples, images, strict=True)
    ]
    comparison = LayerComparison(run.load(run.ref(key, TARGET)), turns, modality, batch_size=size)
    probes = attribute_probes(data, key, modality)
    layers: list[LayerRow] = []
    erasures: list[ErasureRow] = []
    names = [RETAIN_MODEL, TARGET, *(name for name in run.models if name not in (TARGET, RETAIN_MODEL))]
    run.progress.start(f"layers, {modality}", len(names))
    for name in names:
        ref = run.ref(key, name)
        loaded = run.load(ref)
        accuracy = mean_accuracy(loaded, probes, ref.system_prompt, batch_size=size, seed=recipe.seed)
        rows, erasure = comparison.measure(name, loaded, ref.system_prompt, accuracy)
        layers += rows
        erasures.append(erasure)
        run.progress.advance()
    run.progress.finish()
    return layers, erasures, {probe.attribute for probe in probes}
