"""The one model of all tables of a report: what a cell, a column, a row and a table are, on the page and elsewhere."""

from collections import Counter
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

SHADES = 6
SIGNS = ("−−", "−", "", "", "+", "++")
"""What stands beside a number of a shade: colours alone say nothing to some readers and in print."""


class ReportCell(NamedTuple):
    """A printed value and what stands around it.

    Attributes:
        small: beside the text in small print, e.g. the 95 % interval.
        below: on a line of its own in small print.
        title: shown on pointing.
        shade: 0 (bad) to 5 (good); None where that has no meaning.
        alarm: the small print below is a warning.
        beyond: marked as past the retain_model.
        chips: words in frames before the text, each as (word, CSS class of its colour).
        fold: long text that the page folds away.
    """

    text: str
    small: str = ""
    below: str = ""
    title: str = ""
    shade: int | None = None
    alarm: bool = False
    beyond: bool = False
    chips: tuple[tuple[str, str], ...] = ()
    fold: str = ""


class ReportColumn(NamedTuple):
    """A heading with small print ``under`` it (``alarm``: as a warning) and an ``arrow`` to where a number is good.

    ``group`` is a heading over several columns that follow each other, ``reads`` a sentence on how to read the number;
    ``words``: the column holds words, which are aligned to the left.
    """

    head: str
    under: str = ""
    arrow: str = ""
    reads: str = ""
    group: str = ""
    alarm: bool = False
    words: bool = False


class ReportRow(NamedTuple):
    """A row with its name; ``number`` and ``role`` if it is a model, ``bar`` widths in percent, ``strong``: in bold."""

    name: str
    cells: tuple[ReportCell, ...]
    role: str = ""
    number: int = 0
    bar: tuple[float, ...] = ()
    strong: bool = False


class ReportTable(NamedTuple):
    """A table: heading with ``aside`` in small print, an introduction, the first heading, columns and rows.

    Attributes:
        notes: why cells are empty, each reason once.
        bar, bar_head: labels of the parts of the rows' bars, and the heading over them.
        css: CSS class of the table.
        folded: the page shows the heading alone until it is opened.
    """

    columns: tuple[ReportColumn, ...]
    rows: tuple[ReportRow, ...]
    title: str = ""
    aside: str = ""
    intro: str = ""
    first: str = "model"
    notes: tuple[str, ...] = ()
    bar: tuple[str, ...] = ()
    bar_head: str = ""
    css: str = ""
    folded: bool = False

    @property
    def groups(self) -> dict[str, int]:
        """The headings over several columns, each with the number of its columns."""
        return Counter(column.group for column in self.columns if column.group)

    def spans(self, index: int) -> bool:
        """Whether any cell of a column has small print beside its text; then all keep room for it."""
        return any(row.cells[index].small for row in self.rows)

    def terminal(self) -> Table:
        """The table for a terminal; names are printed as they are, never as markup."""
        shown = Table(title=Text(self.title), caption=Text(self.intro))
        shown.add_column(self.first, overflow="fold")
        for column in self.columns:
            shown.add_column(column.head, justify="right", no_wrap=True)
        for row in self.rows:
            shown.add_row(Text(row.name), *(cell.text for cell in row.cells), style="bold" if row.strong else "")
        return shown


def shade_of(goodness: float | None) -> int | None:
    """Shade of a goodness, which is clipped to 0 to 1; None stays None.

    >>> shade_of(0.0), shade_of(0.5), shade_of(1.3), shade_of(None)
    (0, 3, 5, None)
    """
    return None if goodness is None else min(SHADES - 1, max(0, int(SHADES * goodness)))
