"""Tables of people as programs write them: whole, and every cell that cannot be told is named; nothing is lost."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_data_sources_people import checked, row, write

from mllmu.core.errors import DataError, FaultsError
from mllmu.data.sources.people import OwnPeople
from mllmu.data.table import read

openpyxl = pytest.importorskip("openpyxl")


def workbook(path: Path, rows: list[dict[str, Any]], edit: Callable[[Any], object] = id) -> Path:
    """The rows as a workbook; ``edit`` changes its sheet before it is saved."""
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for each in rows:
        book.active.append(list(each.values()))
    edit(book.active)
    book.save(path)
    return path


def repacked(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """The workbook with its parts changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    path.write_bytes(buffer.getvalue())
    return path


def sheet_with(pattern: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    return lambda name, part: re.sub(pattern, new, part) if name.endswith("sheet1.xml") else part


def kept(column: str, number: int, value: bytes, *, text: bool = True) -> Callable[[str, bytes], bytes]:
    """The value of a formula as Excel keeps it."""
    cell = f"{openpyxl.utils.get_column_letter(COLUMN[column])}{number}".encode()
    begin = b'<c r="' + cell + b'"' + (b' t="str"' if text else b"")
    return sheet_with(rb'<c r="' + cell + rb'"[^>]*>(<f>[^<]*</f>)<v ?(/>|></v>)', begin + rb">\1<v>" + value + b"</v>")


PEOPLE = [row(number) for number in range(4)]
COLUMN = {head: position for position, head in enumerate(PEOPLE[0], start=1)}


@pytest.mark.parametrize("written", [b"A1", b"A1:B2", b"A1:L2", b"C3:D4", b"A1:XFD1048576"])
def test_the_dimension_that_a_file_states_does_not_matter(tmp_path: Path, written: bytes) -> None:
    path = workbook(tmp_path / "p.xlsx", PEOPLE)
    repacked(path, sheet_with(rb'<dimension ref="[^"]*"', b'<dimension ref="' + written + b'"'))
    assert [p.id for p in checked(path).people] == [f"E{n:04d}" for n in range(4)]


def test_a_formula_without_its_value_is_named_and_one_with_it_is_read(tmp_path: Path) -> None:
    def formulas(sheet: Any) -> None:
        sheet.cell(2, COLUMN["hobby"]).value = '="che" & "ss"'
        sheet.cell(4, COLUMN["salary"]).value = "=29000*2"
        sheet.cell(5, COLUMN["profession"]).value = '=IF(B5="","",B5)'

    path = workbook(tmp_path / "p.xlsx", PEOPLE, formulas)
    with pytest.raises(FaultsError) as caught:
        checked(path)
    assert [fault.partition(", expected")[0] for fault in caught.value.faults] == [
        "row 2, column 'hobby': got '=\"che\" & \"ss\"'",
        "row 4, column 'salary': got '=29000*2'",
        "row 5, column 'profession': got '=IF(B5=\"\",\"\",B5)'",
    ]
    repacked(path, kept("hobby", 2, b"chess"))
    repacked(path, kept("salary", 4, b"58000", text=False))
    repacked(path, kept("profession", 5, b""))
    people = checked(path).people
    assert people[0].attributes["hobby"] == "chess" and people[2].attributes["salary"] == "$58,000"
    assert "profession" not in people[3].attributes, "a formula gave a text of no letters"


def test_a_zero_that_stands_for_a_value_not_yet_computed_is_none(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "p.xlsx", PEOPLE, lambda sheet: setattr(sheet.cell(3, COLUMN["salary"]), "value", "=1+1")
    )
    repacked(path, kept("salary", 3, b"0", text=False))
    with pytest.raises(
        FaultsError, match=r"row 3, column 'salary': got '=1\+1', expected a value: the file holds only"
    ):
        checked(path)


FORMATS = {
    '#,##0 "€"': "€58,000", "[$€-407] #,##0.00": "€58,000", "[$CHF-807] #,##0": "CHF 58,000", "£#,##0": "£58,000",
    '#,##0\\ "EUR";[Red]-#,##0\\ "EUR"': "€58,000", "$#,##0_);($#,##0)": "$58,000", "#,##0": "$58,000",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_the_currency_of_a_number_may_be_in_its_format(tmp_path: Path, form: str) -> None:
    def formatted(sheet: Any) -> None:
        sheet.cell(2, COLUMN["salary"]).value = 58000
        sheet.cell(2, COLUMN["salary"]).number_format = form

    assert checked(workbook(tmp_path / "p.xlsx", PEOPLE, formatted)).people[0].attributes["salary"] == FORMATS[form]


def test_zeros_percent_and_units_are_read_as_the_sheet_shows_them(tmp_path: Path) -> None:
    def formatted(sheet: Any) -> None:
        for column, value, form in (("id", 42, "00000"), ("hobby", 0.125, "0.0%"), ("height", 1.72, '0.00 "m"')):
            sheet.cell(2, COLUMN[column]).value = value
            sheet.cell(2, COLUMN[column]).number_format = form

    person = checked(workbook(tmp_path / "p.xlsx", PEOPLE, formatted)).people[0]
    assert (person.id, person.attributes["hobby"], person.attributes["height"]) == ("00042", "12.5%", "172 cm")


def test_the_first_visible_sheet_is_read_and_others_are_counted(tmp_path: Path) -> None:
    def more(sheet: Any) -> None:
        hidden = sheet.parent.create_sheet("Notes", 0)
        hidden.sheet_state = "hidden"
        hidden.append(["x"])
        sheet.parent.create_sheet("Empty")

    path = workbook(tmp_path / "p.xlsx", PEOPLE, more)
    assert read(path).unread == ("Notes",)
    account = OwnPeople(path=path, pseudonymise=False).account()
    assert account["sheets_not_read"] == 1 and "1 other sheets of the workbook NOT read" in account["summary"]
    assert "Notes" not in json.dumps(account), "a title may be a name, and the account is kept"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + data, "an encrypted workbook, or one of the old type"),
        (lambda data: data[: len(data) // 2], "not a readable Excel file"),
        (lambda data: data[:400] + bytes([data[400] ^ 16]) + data[401:], "not a readable Excel file"),
        (lambda data: data[:0], "not a readable Excel file"),
    ],
)
def test_a_workbook_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, damage: Callable[[bytes], bytes], said: str
) -> None:
    path = workbook(tmp_path / "p.xlsx", PEOPLE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=said):
        read(path)


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (rb'<row r="3"', b'<row r="99999999999"'),
        (rb'<c r="A3"', b'<c r="AAAAAAA3"'),
        (rb"</sheetData>", b"</sheetDatum>"),
        (rb'<c r="A3"[^>]*>.*?</c>', b'<c r="A3" t="s"><v>987654</v></c>'),
        (rb'<row r="3"', b'<row r="x"'),
    ],
)
def test_a_sheet_with_impossible_content_is_one_sentence(tmp_path: Path, pattern: bytes, new: bytes) -> None:
    path = repacked(workbook(tmp_path / "p.xlsx", PEOPLE), sheet_with(pattern, new))
    with pytest.raises(DataError, match="not a readable Excel file"):
        read(path)


def test_a_small_file_does_not_unpack_to_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllmu.data.spreadsheet.MAX_UNPACKED", 1_000)
    with pytest.raises(DataError, match=r"unpacks to .* expected at most 1,000"):
        read(workbook(tmp_path / "p.xlsx", PEOPLE))


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "sep=;;;;;", "\ufeffsep=;"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_first_line_of_excel_names_the_delimiter_and_is_no_row(tmp_path: Path, first: str, end: str) -> None:
    lines = [first, ";".join(PEOPLE[0]), *(";".join(each.values()) for each in PEOPLE)]
    (tmp_path / "p.csv").write_bytes((end.join(lines) + end).encode())
    table = read(tmp_path / "p.csv")
    assert [each.cells["id"] for each in table.rows] == [each["id"] for each in PEOPLE]
    assert [each.number for each in table.rows] == [2, 3, 4, 5], "numbered as Excel does, which hides the line"


def test_a_delimiter_inside_a_quoted_head_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('"name, first, and last";consent\nAda;yes\n', encoding="utf-8")
    assert read(path).columns == ("name, first, and last", "consent")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_number_that_is_none_in_json_is_named(tmp_path: Path, number: str, suffix: str) -> None:
    objects = [json.dumps(each | ({"hobby": 0} if each is PEOPLE[1] else {})) for each in PEOPLE]
    objects[1] = objects[1].replace('"hobby": 0', f'"hobby": {number}')
    text = "\n".join(objects) if suffix == ".jsonl" else f"[{', '.join(objects)}]"
    (tmp_path / f"p{suffix}").write_text(text, encoding="utf-8")
    with pytest.raises(FaultsError, match=r"row 3, column 'hobby': got '(NaN|-?Infinity)', expected a text, number"):
        checked(tmp_path / f"p{suffix}")


def test_an_object_that_names_a_key_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('[{"name": "Ada", "consent": "no", "consent": "yes"}]', encoding="utf-8")
    with pytest.raises(DataError, match="the key 'consent' is there twice in one object"):
        read(tmp_path / "p.json")
    (tmp_path / "q.json").write_text("[" + "9" * 5000 + "]", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        read(tmp_path / "q.json")


def test_markers_of_absence_are_empty_cells_and_counted(tmp_path: Path) -> None:
    rows = [row(0, hobby="N/A"), row(1, hobby="unknown", salary="-"), row(2, hobby="n/a"), row(3)]
    path = write(tmp_path / "p.csv", [each | {"food": "rice"} for each in rows])
    found = checked(path)
    assert [p.attributes.get("hobby") for p in found.people] == [None, None, None, "chess"]
    assert found.absent == {"hobby": Counter({"n/a": 2, "unknown": 1}), "salary": Counter({"-": 1})}
    source = OwnPeople(path=path, pseudonymise=False)
    assert "4 cells such as 'n/a' read as empty" in source.account()["summary"]
    with pytest.raises(FaultsError, match="row 2, column 'name': got 'N/A', expected 1 to 10 words"):
        checked(write(tmp_path / "p.csv", [row(0, name="N/A")]))


def test_an_error_of_the_spreadsheet_is_a_fault_in_every_column(tmp_path: Path) -> None:
    rows = [row(0, hobby="#REF!"), row(1, id="#N/A"), row(2, residence="#VALUE!")]
    with pytest.raises(FaultsError) as caught:
        checked(write(tmp_path / "p.csv", rows))
    assert all("the mark of a formula that failed" in fault for fault in caught.value.faults)
    assert [fault[:5] for fault in caught.value.faults] == ["row 2", "row 3", "row 4"]


@pytest.mark.parametrize(
    ("facts", "head", "age", "birth", "wrong"),
    [
        ({"age": "age"}, "age", "9", "", "an age of 18 to 120 years"),
        ({"years of age": "y"}, "y", "15", "", "an age of 18 to 120 years"),
        ({"alter im jahr": "Alter"}, "Alter", "17", "", "an age of 18 to 120 years"),
        ({"age": "age"}, "age", "old", "", "an age of 18 to 120 years"),
        ({"age": "age"}, "age", "12", "1985-07-06", r"an age of 39 to \d\d years by the birth date 1985-07-06"),
        ({"age": "age"}, "age", "70", "1985-07-06", r"by the birth date"),
        ({"age": "age"}, "age", "40", "1985-07-06", ""),
        ({"age": "age"}, "age", "40", "", ""),
        ({"age of house": "age_h"}, "age_h", "12", "1985-07-06", ""),
    ],
)
def test_an_age_fits_the_birth_date_and_the_least_age(
    tmp_path: Path, facts: dict[str, str], head: str, age: str, birth: str, wrong: str
) -> None:
    path = write(tmp_path / "p.csv", [row(0, birth_date=birth, **{head: age})])
    if not wrong:
        assert checked(path, facts=facts).num_without_age == 0
        return
    with pytest.raises(FaultsError, match=f"row 2, column '{head}': got '{age}', expected .*{wrong}"):
        checked(path, facts=facts)


def test_people_whose_age_nobody_knows_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", [row(0, birth_date=""), row(1)])
    assert checked(path).num_without_age == 1
    summary = OwnPeople(path=path, pseudonymise=False).account()["summary"]
    assert "1 people without a birth date whose age is NOT checked" in summary


def test_two_columns_of_one_meaning_are_both_named_until_one_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", [row(0) | {"Hobby": "golf"}])
    with pytest.raises(DataError, match="the columns 'hobby' and 'Hobby' both mean 'hobby'"):
        checked(path)
    assert checked(path, ignore=("hobby",)).people[0].attributes["hobby"] == "golf"
    assert checked(path, columns={"hobby": "hobby"}, ignore=("Hobby",)).people[0].attributes["hobby"] == "chess"


def test_rows_without_an_image_are_not_taken_for_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", [row(0) | {"image": "N/A"}, row(1) | {"image": "n/a"}])
    assert [p.image for p in checked(path).people] == ["", ""]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("F2:F4", ["row 2, column 'residence'"]),
        ("E3:F3", ["row 3, column 'birthplace'", "row 3, column 'residence'"]),
        ("J1:J2", ["row 2, column 'hobby'"]),
        ("M5:AZ9", ["row 5, column 'consent'", "row 5, column 'consent_date'"]),
    ],
)
def test_merged_cells_are_named_as_they_hold_one_value_for_many(
    tmp_path: Path, cells: str, expected: list[str]
) -> None:
    path = workbook(tmp_path / "people.xlsx", PEOPLE, lambda sheet: sheet.merge_cells(cells))
    with pytest.raises(FaultsError) as caught:
        checked(path)
    told = [fault for fault in caught.value.faults if "merged" in fault]
    assert [fault.partition(":")[0] for fault in told] == expected
    assert all(f"got 'the merged cells {cells}', expected a value in each cell: unmerge" in fault for fault in told)


@pytest.mark.parametrize("cells", ["A9:C12", "O2:P4", "B1:B1"])
def test_merged_cells_that_hold_nothing_of_the_table_are_no_fault(tmp_path: Path, cells: str) -> None:
    path = workbook(tmp_path / "people.xlsx", PEOPLE, lambda sheet: sheet.merge_cells(cells))
    assert checked(path).people == checked(workbook(path, PEOPLE)).people


def test_merged_cells_of_a_column_that_is_ignored_are_no_fault(tmp_path: Path) -> None:
    people = [each | {"desk": "left"} for each in PEOPLE]
    path = workbook(tmp_path / "people.xlsx", people, lambda sheet: sheet.merge_cells("O2:O4"))
    assert len(checked(path, ignore=["desk"]).people) == 4
