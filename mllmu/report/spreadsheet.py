"""CSV files that every spreadsheet reads, and that none runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable


def csv_of(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A CSV file: numbers with six decimals, truth as yes or no, None empty, and text that no spreadsheet runs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return out.getvalue()


def csv_cell(value: object) -> str:
    """One value as text.

    >>> csv_cell(None), csv_cell(True), csv_cell(0.5), csv_cell("=cmd()")
    ('', 'yes', '0.500000', "'=cmd()")
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6f}"
    text = str(value)
    # A spreadsheet would run a cell that starts like a formula; a leading apostrophe makes it text.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
