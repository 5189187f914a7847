"""``mllmu layers``: measure the layers of all models of a run, and write one page about them.

The page shows where the forgotten facts can be read, layer by layer, before and after unlearning.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import yaml
from matplotlib.ticker import MaxNLocator

from mllmu.config.recipe import Recipe
from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.errors import DataError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.process import Progress
from mllmu.core.records import MODALITIES, Modality, Record, Sample
from mllmu.core.runfolder import RunFolder, write_atomic
from mllmu.evaluation import inside
from mllmu.models.families import Turn
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.run import Run
from mllmu.pipeline.taken import need_retain_model
from mllmu.report.figures import PALETTE, SERIES, Plot, finish, new_figure, style
from mllmu.report.page import PageSection, write_small_page
from mllmu.report.printing import show
from mllmu.report.table import ReportTable
from mllmu.report.tables import plain_table

_TEXTS = yaml.safe_load(files(__package__).joinpath("page.yaml").read_text(encoding="utf-8"))
_YARDSTICKS = {TARGET: "ink", RETAIN_MODEL: "muted"}


class LayersResult(Record):
    """All numbers of the page."""

    title: str
    num_people: int
    probed: tuple[str, ...] = ()
    layers: tuple[inside.LayerRow, ...]
    models: tuple[inside.ErasureRow, ...]


def measure_layers(
    recipe: Recipe,
    root: Path,
    *,
    gate: bool = True,
    check: Callable[[Pipeline], None] | None = None,
    progress: Progress,
) -> Path:
    """Measure all models of the first forget ratio on its cloze questions; returns the page ``layers/index.html``.

    Cloze replies are the facts themselves, so every measured token belongs to one. Models that are missing are made.

    Raises:
        DataError: there is no cloze question about the people to forget.
    """
    need_retain_model(recipe, "mllmu layers")
    pipeline = Pipeline(recipe, root, gate=gate, check=check, progress=progress)
    pipeline.run("unlearn")
    run = pipeline.state
    key = run.keys[0]
    samples = pipeline.evaluations[key].samples
    samples = [s for s in samples if s.split == "forget" and s.task == "cloze" and s.part == "report"]
    if not samples:
        raise DataError("layers: no cloze question about the people to forget. Add 'cloze' to evaluate.tasks.")
    modalities = [m for m in MODALITIES if any(sample.modality == m for sample in samples)]
    probes = {m: inside.attribute_probes(run.data, key, m) for m in modalities}
    measured = [of_model for m in modalities for of_model in _measured(run, key, m, samples, probes[m])]
    result = LayersResult(
        title=f"{recipe.name}: where facts can be read",
        num_people=len({sample.profile_id for sample in samples}),
        probed=tuple(sorted({probe.attribute for of_modality in probes.values() for probe in of_modality})),
        layers=tuple(row for rows, _ in measured for row in rows),
        models=tuple(erasure for _, erasure in measured),
    )
    write_atomic(root / RunFolder.LAYERS_FILE, result.model_dump_json(indent=1) + "\n")
    return write_page(result, root / RunFolder.LAYERS)


def _measured(
    run: Run, key: str, modality: Modality, samples: Sequence[Sample], probes: Sequence[inside.AttributeProbe]
) -> Iterator[tuple[list[inside.LayerRow], inside.ErasureRow]]:
    """The numbers of every model in one modality, the retain_model first: it is the yardstick of all others."""
    size, folder = run.recipe.evaluate.planned_batch_size, run.data.folder
    turns = [
        Turn(prompt=s.prompt, reply=s.target, image=folder / s.image if s.image else None, label=s.id)
        for s in samples
        if s.modality == modality
    ]
    comparison = inside.LayerComparison(run.load(run.ref(key, TARGET)), turns, modality, batch_size=size)
    names = list(dict.fromkeys([RETAIN_MODEL, TARGET, *run.models]))
    run.progress.start(f"layers, {modality}", len(names))
    for name in names:
        ref = run.ref(key, name)
        loaded = run.load(ref)
        try:
            accuracy = inside.mean_accuracy(loaded, probes, ref.system_prompt, batch_size=size, seed=run.recipe.seed)
            yield comparison.measure(name, loaded, ref.system_prompt, accuracy)
        except inside.NoStatesError as error:
            run.progress.note(f"{name}: left out; {error}.")
        run.progress.advance()
    run.progress.finish()


# --- the page


def write_page(result: LayersResult, folder: Path) -> Path:
    """Write ``index.html`` and one PNG per plot into ``folder``; returns the page."""
    sections = [PageSection("How far the facts are erased", _TEXTS["erased"], table=_table(result))]
    for name, texts in _TEXTS["measures"].items():
        if any(getattr(row, texts["value"]) is not None for row in result.layers):
            plot = _plot(result, f"layers_{name}", **texts)
            write_atomic(folder / f"{plot.name}.png", plot.png)
            text = texts["text"].format(probed=", ".join(result.probed))
            sections.append(PageSection(texts["title"], text, plot))
    lead = _TEXTS["lead"].format(people=result.num_people)
    return write_small_page(folder / "index.html", result.title, lead, sections)


def _table(result: LayersResult) -> ReportTable:
    erased = {(row.model, row.modality): row.erased for row in result.models}
    modalities = [m for m in MODALITIES if any(row.modality == m for row in result.models)]
    names = dict.fromkeys(row.model for row in result.models)
    rows = ((name, *(show(erased.get((name, modality)), "decimal", 2) for modality in modalities)) for name in names)
    return plain_table(("model", *(MODALITY_LABELS[modality] for modality in modalities)), *rows)


def _plot(result: LayersResult, name: str, *, value: str, title: str, unit: str, **_: str) -> Plot:
    """One panel per modality, one line per model; target and retain_model are drawn thick."""
    modalities = [m for m in MODALITIES if any(row.modality == m for row in result.layers)]
    models = list(dict.fromkeys(row.model for row in result.layers))
    others = [model for model in models if model not in _YARDSTICKS]
    with style(name):
        figure = new_figure(10.4, 3.6 + 0.2 * (len(models) // 6))
        panels = figure.subplots(1, len(modalities), sharey=True, squeeze=False)[0]
        for axes, modality in zip(panels, modalities, strict=True):
            for model in models:
                rows = [row for row in result.layers if row.model == model and row.modality == modality]
                points = [(row.layer + 1, y) for row in rows if (y := getattr(row, value)) is not None]
                colour = _YARDSTICKS.get(model) or SERIES[others.index(model) % len(SERIES)]
                dash = "-" if model in _YARDSTICKS or others.index(model) < len(SERIES) else "--"
                width = 2.6 if model in _YARDSTICKS else 1.3
                axes.plot(*zip(*points, strict=True) if points else ([], []), dash, marker="o", markersize=3,
                          color=PALETTE[colour], linewidth=width, label=model)  # fmt: skip
            axes.set_title(MODALITY_LABELS[modality])
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel(unit)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        return finish(figure, name, title)
