"""CSV as spreadsheets write it, whatever stands between the cells; and text that no spreadsheet computes."""

import csv
import io
import re

_NAMED = re.compile(r'\ufeff?"?sep=([^\w\s"]|\t)"?[,;|\t ]*(?:\r\n|\r|\n)', re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, in full width too."""


def harmless(text: str) -> str:
    """A cell that begins like a formula, with an apostrophe before it, which makes it text.

    >>> harmless("=cmd()"), harmless("\\n=1"), harmless("npo")
    ("'=cmd()", "'\\n=1", 'npo')
    """
    return f"'{text}" if text.startswith(FORMULA) else text


def as_written(cell: str) -> str:
    """The text of which :func:`harmless` has made a cell."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def csv_rows(text: str) -> list[list[str]]:
    """The rows of a CSV text with their cells.

    A first line ``sep=;``, which Excel reads and writes, names the delimiter and is no row. Without it the delimiter is
    the most frequent of comma, semicolon, tab and bar in the first row, outside of quotes.

    Raises:
        csv.Error: damaged; an open quote, or text behind a closed one.
    """
    named = _NAMED.match(text)
    text = text[named.end() :] if named else text.removeprefix("\ufeff")
    head = re.sub(r'"[^"]*"', "", _LINE_END.split(text, maxsplit=1)[0])
    delimiter = named[1] if named else max(",;\t|", key=head.count)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
