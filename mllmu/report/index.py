"""The page that leads to the reports of several forget ratios."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{{ style }}</style></head>
<body><main><h1>{{ title }}</h1><p>One report per share of people forgotten.</p><ul>
{% for key in keys %}<li><a href="forget_{{ key }}/index.html">{{ key }} % forgotten</a></li>
{% endfor %}</ul></main></body></html>
"""
_STYLE = Path(__file__).parent / "templates" / "style.css"


def write_index(folder: Path, title: str, keys: Sequence[str]) -> Path:
    """Write ``index.html`` with a link to ``forget_<key>/index.html`` for every key."""
    style = Markup(_STYLE.read_text(encoding="utf-8"))  # noqa: S704 - this package's own file
    page = Environment(autoescape=True).from_string(_PAGE).render(title=title, keys=keys, style=style)
    path = folder / "index.html"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
