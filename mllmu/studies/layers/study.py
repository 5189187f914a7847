"""``mllmu depth``: look into the models of a finished run and write one page about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mllmu.config.recipe import Recipe
from mllmu.core.errors import DataError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.progress import Progress
from mllmu.core.records import MODALITIES, Modality, Sample
from mllmu.core.runfolder import write_atomic
from mllmu.models.engine.respond import as_turn
from mllmu.pipeline.pipeline import Pipeline
from mllmu.studies.layers.measure import Depths, probe_accuracy
from mllmu.studies.layers.page import write_page
from mllmu.studies.layers.probing import probes
from mllmu.studies.layers.records import Depth, DepthRow, LayerRow

FOLDER = "depth"
DEPTH_FILE = "depth.json"


def depth(recipe: Recipe, root: Path, *, gate: bool = True, progress: Progress) -> Path:
    """Measure all models of the first forget ratio on its cloze questions; returns the page ``depth/index.html``.

    Cloze replies are the facts themselves, so every measured token belongs to one.

    Raises:
        DataError: there is no cloze question about the people to forget.
    """
    pipeline = Pipeline(recipe, root, gate=gate, progress=progress)
    pipeline.run("unlearn")
    key = pipeline.keys[0]
    answers = pipeline.answers[key]
    asked = [s for s in answers.samples if s.split == "forget" and s.task == "cloze" and s.part == "report"]
    if not asked:
        raise DataError("depth: no cloze question about the people to forget. Add 'cloze' to evaluate.tasks.")
    layers: list[LayerRow] = []
    models: list[DepthRow] = []
    probed: set[str] = set()
    for modality in MODALITIES:
        samples = [sample for sample in asked if sample.modality == modality]
        if samples:
            found = _of_modality(pipeline, key, modality, samples)
            layers += found[0]
            models += found[1]
            probed |= found[2]
    content = Depth(
        title=f"{recipe.name}: where facts can be read",
        num_people=len({sample.profile_id for sample in asked}),
        probed=tuple(sorted(probed)),
        layers=tuple(layers),
        models=tuple(models),
    )
    write_atomic(root / FOLDER / DEPTH_FILE, content.model_dump_json(indent=1) + "\n")
    return write_page(content, root / FOLDER)


def _of_modality(
    pipeline: Pipeline, key: str, modality: Modality, samples: list[Sample]
) -> tuple[list[LayerRow], list[DepthRow], set[str]]:
    recipe, models, data = pipeline.recipe, pipeline.models, pipeline.context.dataset
    size = recipe.evaluate.planned_batch_size
    turns = [replace(as_turn(sample, data.folder, ""), reply=sample.target) for sample in samples]
    target = models.load(models.ref(key, TARGET))
    measured = Depths(target, turns, modality, batch_size=size)
    attributes = probes(data, key, modality)
    layers: list[LayerRow] = []
    rows: list[DepthRow] = []
    # the retain_model comes first: what its states take away is the yardstick of all others
    names = [RETAIN_MODEL, TARGET, *(name for name in pipeline.names if name not in (TARGET, RETAIN_MODEL))]
    pipeline.progress.start(f"layers, {modality}", len(names))
    for name in names:
        ref = models.ref(key, name)
        loaded = models.load(ref)
        look = measured.look(loaded, ref.system_prompt)
        drops = measured.drops(look)
        measured.drops_gold = measured.drops_gold or drops
        accuracy = probe_accuracy(loaded, attributes, ref.system_prompt, batch_size=size, seed=recipe.seed)
        found, row = measured.rows(name, look, drops, accuracy)
        layers += found
        rows.append(row)
        pipeline.progress.advance()
    pipeline.progress.finish()
    return layers, rows, {one.attribute for one in attributes}
