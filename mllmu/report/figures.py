"""How the report draws: one palette, text kept as text, and figures that are the same bytes every time.

A figure becomes a PNG (always light) and an SVG for the page, in which every palette colour is replaced by a CSS
variable, so that the drawing follows the reader's light or dark scheme.
"""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import NamedTuple

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.style import context as use_style

_LOOK = yaml.safe_load((Path(__file__).parent / "templates" / "plots.yaml").read_text(encoding="utf-8"))
PALETTE: dict[str, str] = _LOOK["palette"]
SERIES = ("blue", "orange", "teal", "violet", "red", "sand", "grey")


class Plot(NamedTuple):
    """A finished plot: file name without suffix, what it shows in words, SVG for the page, PNG bytes."""

    name: str
    alt: str
    svg: str
    png: bytes


@contextmanager
def style(name: str) -> Iterator[None]:
    """Draw inside this: sets the report's look, and silences complaints about letters the font lacks."""
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    with use_style([_LOOK["style"], {"svg.hashsalt": name}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        fonts.setLevel(logging.ERROR)
        try:
            yield
        finally:
            fonts.setLevel(level)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, laid out so that long labels get the room they need."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def settle(figure: Figure) -> None:
    """Work out the layout once and keep it: it takes longer than the drawing, and labels are placed relative to it."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def finish(figure: Figure, name: str, alt: str, values: Mapping[str, str] | None = None) -> Plot:
    """Write a figure as SVG and PNG. Neither holds a date or a program version.

    Args:
        values: what the reader sees on pointing at an element, by its ``gid``.
    """
    settle(figure)
    svg, png = io.BytesIO(), io.BytesIO()
    # straight to the canvases: savefig would draw everything once more before each file
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.set_facecolor("#ffffff")
    figure.set_dpi(150)
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return Plot(name, alt, _inline(svg.getvalue().decode(), name, alt, values or {}), png.getvalue())


def _inline(svg: str, name: str, alt: str, values: Mapping[str, str]) -> str:
    """Make an SVG file fit to stand in a page: no prolog, ids of its own, colours as CSS variables, a title."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', svg, count=1)
    svg = re.sub(r"(<svg [^>]*>)", lambda found: f"{found[1]}<title>{escape(alt)}</title>", svg, count=1)
    for gid, text in values.items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(text)}</title>', 1)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, count=1, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], name), svg)


def _tag(tag: str, name: str) -> str:
    """One tag of a drawing as the page has it; the text between tags, numbers and names, stays as it was drawn."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a pixel is enough, and half the bytes
    for variable, colour in PALETTE.items():
        tag = tag.replace(f": {colour}", f": var(--{variable})")
    return tag
