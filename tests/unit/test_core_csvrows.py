"""CSV is read as spreadsheets write it."""

from __future__ import annotations

import csv

import pytest

from mllmu.core.csvrows import csv_rows

ROWS = [["name", "likes, mostly"], ["Ada", "tea; milk"], ["Bo", 'a "b"\nc']]


def written(delimiter: str, end: str = "\r\n") -> str:
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in ROWS]
    return "".join(delimiter.join(row) + end for row in quoted)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_delimiter_is_found_outside_of_quotes(delimiter: str, end: str) -> None:
    assert csv_rows(written(delimiter, end)) == ROWS
    assert csv_rows("\ufeff" + written(delimiter, end)) == ROWS


@pytest.mark.parametrize("named", [";", ",", "\t", "|", ":", "~"])
def test_the_first_line_of_excel_names_it(named: str) -> None:
    for line in (f"sep={named}\r\n", f"\ufeffSEP={named}\n", f'"sep={named}"\r', f"sep={named},,\n"):
        assert csv_rows(line + written(named)) == ROWS, line


def test_a_head_of_such_a_name_is_a_head() -> None:
    assert csv_rows("sep=a,b\n1,2\n") == [["sep=a", "b"], ["1", "2"]]
    assert csv_rows("") == []


@pytest.mark.parametrize("damaged", ['a\n"open', 'a\n"x"y\n'])
def test_damage_is_an_error(damaged: str) -> None:
    with pytest.raises(csv.Error):
        csv_rows(damaged)
