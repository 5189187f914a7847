"""The page that leads to several reports: of forget ratios, or of the recipes of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from mllmu.core.runfolder import write_atomic

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{{ style }}</style></head>
<body><main><h1>{{ title }}</h1><p>{{ note }}</p><ul>
{% for label, place in links.items() %}<li><a href="{{ place }}">{{ label }}</a></li>
{% endfor %}</ul></main></body></html>
"""
STYLE = Path(__file__).parent / "templates" / "style.css"


def write_index(folder: Path, title: str, keys: Sequence[str]) -> Path:
    """Write ``index.html`` with a link to ``forget_<key>/index.html`` for every key."""
    links = {f"{key} % forgotten": f"forget_{key}/index.html" for key in keys}
    return write_links(folder, title, "One report per share of people forgotten.", links)


def write_links(folder: Path, title: str, note: str, links: Mapping[str, str]) -> Path:
    """Write ``index.html`` with a title, a sentence, and a link to a place below the folder for every label."""
    style = Markup(STYLE.read_text(encoding="utf-8"))  # noqa: S704 - this package's own file
    page = Environment(autoescape=True).from_string(_PAGE).render(title=title, note=note, links=links, style=style)
    path = folder / "index.html"
    write_atomic(path, page)
    return path
