"""Where the numbers come from: settings, versions and times of a run as printable rows, and published rows."""

from __future__ import annotations

from typing import Any

from mllmu.report.numbers import duration
from mllmu.report.tables import Grid

REFERENCE_KEY = "5"
"""The forget ratio of the published rows, in percent; beside any other they would mislead."""
REFERENCE = Grid(
    ("", "Forget acc. %", "Forget ROUGE-L", "Retain acc. %", "Retain ROUGE-L", "Celebrity acc. %"),
    (
        ("target (vanilla)", "51.70", "0.645", "46.11", "0.632", "51.80"),
        ("GA", "44.40", "0.485", "39.09", "0.495", "45.56"),
        ("GradDiff", "43.60", "0.507", "41.07", "0.508", "46.52"),
        ("NPO", "45.61", "0.525", "42.61", "0.515", "49.51"),
        ("MANU (later work)", "41.25", "0.491", "43.38", "0.542", "49.57"),
    ),
)
"""LLaVA-1.5-7B, 5 % of people forgotten: the table of arXiv 2410.22108 as re-printed by later work."""

_OWN_PLACE = ("recipe", "seconds")


def provenance_rows(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """Flatten nested provenance into (dotted key, text); recipe and stage times are shown elsewhere.

    >>> provenance_rows({"seed": 1, "versions": {"torch": "2.8"}})
    [('seed', '1'), ('versions.torch', '2.8')]
    """
    rest = {key: value for key, value in provenance.items() if key not in _OWN_PLACE}
    return list(_flat("", rest))


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(f"{prefix}.{key}" if prefix else str(key), inner)]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(map(str, value)) or "–")]
    return [(prefix, "–" if value is None else str(value))]


def stage_rows(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """Seconds per stage, and their sum if there are several."""
    stages = provenance.get("seconds")
    if not isinstance(stages, dict):
        return []
    timed = {str(k): float(v) for k, v in stages.items() if isinstance(v, int | float)}
    rows = [(name, duration(seconds)) for name, seconds in timed.items()]
    return [*rows, ("total", duration(sum(timed.values())))] if len(rows) > 1 else rows


def recipe_text(provenance: dict[str, Any]) -> str:
    """The recipe as it was run, or an empty string."""
    return str(provenance.get("recipe") or "")
