"""The page of ``mllmu layers``: where the forgotten facts can be read, layer by layer, before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from mllmu.core.records import MODALITIES, Modality
from mllmu.core.runfolder import write_atomic
from mllmu.report.figures import PALETTE, SERIES, Plot, finish, new_figure, style
from mllmu.report.index import STYLE
from mllmu.report.numbers import MODALITY_LABELS
from mllmu.studies.layers.records import LayerRow, LayersResult

_MEASURES: dict[str, tuple[str, str, Callable[[LayerRow], float | None]]] = {
    "readable": ("Readable in the layer", "tokens of the facts, share", lambda row: row.readable),
    "similarity": ("Like the target's layer", "linear CKA", lambda row: row.similarity),
    "erased": ("Erased from the layer", "share of what the retain_model lacks", lambda row: row.erased),
    "probe": ("Found by a probe", "accuracy above its control", lambda row: _above(row)),
}
_YARDSTICKS = {"target": "ink", "retain_model": "muted"}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ result.title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{{ style }}</style></head>
<body><header class="top"><h1>{{ result.title }}</h1>
<p class="lead">{{ result.num_people }} forgotten people, asked to fill blanks; every measured token belongs to a fact.
Layer 1 is the first of the language model, the last one is what the model says.</p></header><main>
<section><h2>How far the facts are erased</h2>
<p class="note">1: the layers give the target no more than those of a model that never learned the facts;
0: as much as its own.</p>
<div class="scroll"><table><thead><tr><th>model</th>
{% for m in modalities %}<th class="num">{{ labels[m] }}</th>{% endfor %}</tr></thead><tbody>
{% for name, cells in rows %}<tr><td>{{ name }}</td>
{% for cell in cells %}<td class="num">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div></section>
{% for plot, text in plots %}<section><h2>{{ plot.alt }}</h2><p class="note">{{ text }}</p>
<figure class="plot" role="img" aria-label="{{ plot.alt }}">{{ plot.svg | safe }}</figure></section>
{% endfor %}</main></body></html>
"""
_TEXTS = {
    "readable": "Logit lens: the last norm and the output layer applied to every layer. A fact that can be read in the "
    "middle but not at the end is hidden, not gone.",
    "similarity": "1: the same representation as before unlearning, up to rotation and scale.",
    "erased": "The target's own state is replaced by this model's, layer by layer; shown is how much of the loss that "
    "the retain_model's state causes this model's causes too. Layers where that loss is nearly nothing are left out.",
    "probe": "A linear classifier of an attribute's value, trained on people that stay and tested on the forgotten; "
    "the same with shuffled values is taken off. Attributes: ",
}


def write_page(result: LayersResult, folder: Path) -> Path:
    """Write ``index.html`` and one PNG per plot into ``folder``; returns the page."""
    plots = [(_plot(result, name), _text(result, name)) for name in _MEASURES if _has(result, name)]
    modalities = [m for m in MODALITIES if any(row.modality == m for row in result.models)]
    environment = Environment(autoescape=True)
    page = environment.from_string(_PAGE).render(
        result=result,
        modalities=modalities,
        labels=MODALITY_LABELS,
        rows=_rows(result, modalities),
        plots=plots,
        style=Markup(STYLE.read_text(encoding="utf-8")),  # noqa: S704 - this package's own file
    )
    for plot, _ in plots:
        write_atomic(folder / f"{plot.name}.png", plot.png)
    path = folder / "index.html"
    write_atomic(path, page)
    return path


def _above(row: LayerRow) -> float | None:
    return None if row.probe is None or row.control is None else row.probe - row.control


def _has(result: LayersResult, name: str) -> bool:
    return any(_MEASURES[name][2](row) is not None for row in result.layers)


def _text(result: LayersResult, name: str) -> str:
    return _TEXTS[name] + (", ".join(result.probed) + "." if name == "probe" else "")


def _rows(result: LayersResult, modalities: list[Modality]) -> list[tuple[str, list[str]]]:
    found = {(row.model, row.modality): row.erased for row in result.models}
    names = list(dict.fromkeys(row.model for row in result.models))
    return [(name, [_two(found.get((name, modality))) for modality in modalities]) for name in names]


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _plot(result: LayersResult, name: str) -> Plot:
    """One panel per modality, one line per model; the yardsticks are drawn thick."""
    title, unit, value = _MEASURES[name]
    modalities = [m for m in MODALITIES if any(row.modality == m for row in result.layers)]
    models = list(dict.fromkeys(row.model for row in result.layers))
    others = [model for model in models if model not in _YARDSTICKS]
    with style(f"layers_{name}"):
        figure = new_figure(10.4, 3.6 + 0.2 * (len(models) // 6))
        panels = figure.subplots(1, len(modalities), sharey=True, squeeze=False)[0]
        for axes, modality in zip(panels, modalities, strict=True):
            for model in models:
                rows = [row for row in result.layers if row.model == model and row.modality == modality]
                points = [(row.layer + 1, value(row)) for row in rows if value(row) is not None]
                colour = _YARDSTICKS.get(model) or SERIES[others.index(model) % len(SERIES)]
                dash = "-" if model in _YARDSTICKS or others.index(model) < len(SERIES) else "--"
                width = 2.6 if model in _YARDSTICKS else 1.3
                axes.plot(*zip(*points, strict=True) if points else ([], []), dash, marker="o", markersize=3,
                          color=PALETTE[colour], linewidth=width, label=model)  # fmt: skip
            axes.set_title(f"asked with {MODALITY_LABELS[modality]}")
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel(unit)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        return finish(figure, f"layers_{name}", title)
