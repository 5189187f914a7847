"""A table of people is read whatever its type, and every fault of every row is listed at once."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllmu.cli.failures import explained_errors
from mllmu.core.errors import DataError, FaultsError
from mllmu.data.checked import CheckedTable, check
from mllmu.data.sources.people import OwnPeople
from mllmu.data.table import read

Row = dict[str, str]


def row(number: int, **changes: str) -> Row:
    """A faultless person."""
    return {
        "id": f"E{number:04d}",
        "name": f"Given{'abcdefghij'[number % 10]}{'klmnopqrst'[number // 10 % 10]} Family{'uvwxyz'[number // 100]}",
        "gender": ("female", "male", "non-binary")[number % 3],
        "birth_date": f"{1950 + number % 50}-0{1 + number % 9}-1{number % 10}",
        "birthplace": f"Town {number}, France",
        "residence": "Lyon, France",
        "profession": "nurse",
        "height": str(150 + number % 50),
        "salary": f"${30 + number % 60},000",
        "hobby": "chess",
        "email": f"someone{number}@mail.example",
        "phone": f"+33 4 72 00 0{number:03d}",
        "consent": "yes",
        "consent_date": "2026-03-01",
        **changes,
    }


def write(path: Path, rows: list[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def checked(path: Path, **settings: Any) -> CheckedTable:
    return check(read(path), OwnPeople(path=path, **settings))


PLANTED: dict[int, tuple[str, str, str]] = {
    3: ("name", "", "1 to 10 words of letters"),
    8: ("name", "Robert'); DROP TABLE 1", "1 to 10 words of letters"),
    15: ("gender", "fmale", "female, male or non-binary"),
    21: ("birth_date", "31.02.1980", "a day such as 1990-05-14"),
    34: ("birth_date", "03/04/1980", "needs the setting day_first"),
    40: ("birth_date", "2015-01-01", "an age of 18 to 120 years"),
    47: ("birth_date", "1850-01-01", "an age of 18 to 120 years"),
    55: ("height", "1720", "a height of 50 to 272 cm"),
    63: ("height", "tall", "a height of 50 to 272 cm"),
    70: ("salary", "a lot", "an amount of 0 to 10,000,000"),
    77: ("salary", "$99,000,000", "an amount of 0 to 10,000,000"),
    88: ("residence", "Lyon", "a city and a country with a comma"),
    95: ("profession", "<script>alert(1)</script>", "plain text without markup"),
    101: ("hobby", "x" * 81, "1 to 80 letters"),
    110: ("email", "no at sign", "an e-mail address"),
    121: ("phone", "call me", "a telephone number of 5 to 15 digits"),
    130: ("id", "../../etc", "1 to 64 letters, digits"),
    137: ("id", "E0001", "one that is not in row 3 already"),
    144: ("consent", "no", "consent, one of yes"),
    151: ("consent", "", "consent, one of yes"),
    160: ("consent_date", "", "a day such as 1990-05-14"),
    168: ("consent_date", "2999-01-01", "a day that is not in the future"),
}
"""Index of the person -> column, planted value, what the message expects."""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    rows = [row(number) for number in range(200)]
    for number, (column, value, _) in PLANTED.items():
        rows[number][column] = value
    rows[180] |= {"name": rows[0]["name"], "height": "-3"}  # two faults in one row
    rows[190] |= dict.fromkeys(("birthplace", "residence", "profession", "height"), "")
    return write(tmp_path / "people.csv", rows)


def test_each_of_the_planted_errors_of_200_rows_is_listed_once(planted: Path) -> None:
    with pytest.raises(FaultsError) as caught:
        checked(planted)
    told = caught.value.faults
    for number, (column, value, expected) in PLANTED.items():
        begin = f"row {number + 2}, column '{column}': got {value[:60]!r}"[:-1]
        line = [fault for fault in told if fault.startswith(begin)]
        assert len(line) == 1, (number, column, told)
        assert expected in line[0]
    assert f"row 182, column 'name': got {row(0)['name']!r}, expected one that is not in row 2 already" in told
    assert any(fault.startswith("row 182, column 'height': got '-3'") for fault in told)
    assert "row 192, column 'all': got '3 facts', expected 6 facts besides name and gender" in told
    assert len(told) == len(PLANTED) + 3
    assert (
        caught.value.summary
        == f"{planted}: {len(PLANTED) + 3} faults in {len(PLANTED) + 2} of 200 rows. Mend the table."
    )
    assert [int(re.findall(r"\d+", fault)[0]) for fault in told] == sorted(
        int(re.findall(r"\d+", fault)[0]) for fault in told
    )


def test_the_command_line_prints_one_line_a_fault(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    with pytest.raises(typer.Exit) as left, explained_errors():
        checked(planted)
    lines = capsys.readouterr().err.splitlines()
    assert left.value.exit_code == 2
    assert len(lines) == 1 + len(PLANTED) + 3
    assert lines[0].startswith("error: ") and all(line.startswith("  row ") for line in lines[1:])


def test_rows_without_consent_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    rows = [row(0), row(1, consent="no", height="broken"), row(2, consent=""), row(3)]
    path = write(tmp_path / "people.csv", rows)
    found = checked(path, skip_without_consent=True)
    assert [person.id for person in found.people] == ["E0000", "E0003"]
    assert found.num_without_consent == 2


def _with_images(folder: Path, rows: list[Row], *files: str) -> OwnPeople:
    """People of a table, and images of one colour each: the n-th is (10 n, 0, 0)."""
    for number, name in enumerate(files):
        Image.new("RGB", (40, 40), (10 * number, 0, 0)).save(folder / name)
    path = write(folder / "people.csv", rows)
    return OwnPeople(path=path, images=folder, size=32, views=3, pseudonymise=False, skip_without_consent=True)


@pytest.mark.parametrize("consent", ["no", "yes"])
def test_an_image_that_another_row_names_is_no_view(tmp_path: Path, consent: str) -> None:
    rows = [row(0, image="face.png"), row(1, image="face_1.PNG", consent=consent)]
    source = _with_images(tmp_path, rows, "face.png", "face_1.PNG", "face_2.png")
    person = source.profiles(0)[0]
    reds = [source.image(person, view).getpixel((16, 16))[0] for view in range(3)]
    assert reds[0] == 0 and reds[2] == 20 and reds[1] != 10, "view 1 is made of the portrait"


def test_an_id_that_reads_like_a_view_is_another_person(tmp_path: Path) -> None:
    rows = [row(0, id="12"), row(1, id="12_2", consent="no"), row(2, id="30"), row(3, id="30_2")]
    source = _with_images(tmp_path, rows, "12.png", "12_2.png", "30.png", "30_2.png")
    for person in source.profiles(0)[:2]:
        portrait, view = (source.image(person, n).getpixel((16, 16))[0] for n in (0, 2))
        assert view != portrait + 10


def test_an_image_of_somebody_without_consent_is_nobody_elses_portrait(tmp_path: Path) -> None:
    rows = [row(0, image="pair.png"), row(1, image="pair", consent="no")]
    source = _with_images(tmp_path, rows, "pair.png")
    with pytest.raises(FaultsError, match="1 people share an image with another row") as caught:
        source.profiles(0)
    expected = "an image that no other row names, also none that is left out"
    assert list(caught.value.faults) == [f"row 2, column 'image': got 'pair.png', expected {expected}"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("Zoë Brontë", "Zoe Bronte"), ("Anne-Marie Holt", "ANNE MARIE HOLT"), ("Seán O’Neil", "Sean O'Neil")],
)
def test_a_name_without_its_accents_is_the_same_person_where_no_id_says_otherwise(
    tmp_path: Path, one: str, other: str
) -> None:
    rows = [row(0, name=one), row(1), row(2, name=other)]
    path = write(tmp_path / "people.csv", rows)
    assert len(checked(path).people) == 3
    write(path, [{head: cell for head, cell in each.items() if head != "id"} for each in rows])
    with pytest.raises(FaultsError) as caught:
        checked(path)
    assert list(caught.value.faults) == [
        f"row 4, column 'name': got {other!r}, expected one that is not in row 2 already"
    ]


def test_names_of_other_letters_stay_two_people(tmp_path: Path) -> None:
    rows = [row(n, name=name) for n, name in enumerate(("王伟", "王薇", "कुमार जोशी", "कमर जोशी", "Ana Lo", "Ana Loo"))]
    path = write(tmp_path / "people.csv", [{h: cell for h, cell in each.items() if h != "id"} for each in rows])
    assert len(checked(path).people) == 6


def _xlsx(path: Path, rows: list[Row]) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(list(rows[0]))
    for each in rows:
        cells: list[Any] = list(each.values())
        cells[3] = datetime.fromisoformat(each["birth_date"])
        cells[7] = float(each["height"])
        sheet.append(cells)
    book.save(path)


def _json(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps([{**r, "height": int(r["height"]), "consent": True} for r in rows]), encoding="utf-8")


def _lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def _semicolons(path: Path, rows: list[Row]) -> None:
    lines = [";".join(rows[0]), *(";".join(f'"{value}"' for value in r.values()) for r in rows)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())


@pytest.mark.parametrize(
    ("name", "save"),
    [("p.xlsx", _xlsx), ("p.json", _json), ("p.jsonl", _lines), ("p.csv", write), ("q.csv", _semicolons)],
)
def test_every_type_of_table_gives_the_same_people(
    tmp_path: Path, name: str, save: Callable[[Path, list[Row]], object]
) -> None:
    path, rows = tmp_path / name, [row(number) for number in range(4)]
    save(path, rows)
    people = checked(path).people
    assert [p.id for p in people] == ["E0000", "E0001", "E0002", "E0003"]
    assert people[1].attributes["height"] == "151 cm"
    assert people[1].attributes["birth_date"] == "February 11, 1951"
    assert people[1].attributes["salary"] == "$31,000"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"x", "a table of people is .csv"),
        ("p.csv", b"", "the first row names no column"),
        ("p.csv", b"name,name\n", "the column 'name' is there twice"),
        ("p.csv", b"name,,id\n", "column 2 has no name"),
        ("p.csv", b"name\n\xff\xfe", "not UTF-8 text"),
        ("p.csv", b'name\n"open', "damaged CSV"),
        ("p.json", b"{}", "expected a list of objects"),
        ("p.json", b"[1", "not JSON"),
        ("p.json", b"[1, 2]", "no person could be read"),
        ("p.xlsx", b"no zip", "not a readable Excel file"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path / name)


def test_a_row_with_too_many_cells_is_a_fault_of_that_row(tmp_path: Path) -> None:
    path = write(tmp_path / "people.csv", [row(0), row(1)])
    path.write_text(path.read_text(encoding="utf-8").replace('"Town 1, France"', "Town 1, France"), encoding="utf-8")
    with pytest.raises(FaultsError, match=r"row 3, column 'consent_date': got '15 cells', expected 14"):
        checked(path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"columns": {"nmae": "name"}}, r"no target 'nmae'\. Did you mean 'name'\?"),
        ({"columns": {"hobby": "hobbi"}}, r"columns\.hobby names the column 'hobbi', .* Did you mean 'hobby'\?"),
        ({"facts": {"employer": "firm"}}, r"facts\.employer names the column 'firm'"),
        ({"ignore": ("consent",)}, r"no column for 'consent'\. Did you mean 'consent_date'"),
    ],
)
def test_a_wrong_mapping_names_the_nearest(tmp_path: Path, layout: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "people.csv", [row(0)])
    with pytest.raises(DataError, match=message):
        checked(path, **layout)


def test_a_column_nobody_asked_for_is_refused_by_name_until_it_is_a_fact_or_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "people.csv", [row(0) | {"Hobbies": "a", "employer": "Tern & Sons"}])
    with pytest.raises(
        DataError, match=r"2 column\(s\): 'Hobbies' Did you mean 'hobby'; 'employer'.*data\.source\.facts"
    ):
        checked(path)
    people = checked(path, facts={"employer": "employer"}, ignore=("Hobbies",)).people
    assert people[0].attributes["fact_employer"] == "Tern & Sons"


def test_a_person_without_an_attribute_simply_lacks_it_but_none_is_an_answer(tmp_path: Path) -> None:
    rows = [row(0, hobby="") | {"pet": "None", "food": "rice"}]
    person = checked(write(tmp_path / "p.csv", rows)).people[0]
    assert "hobby" not in person.attributes
    assert person.attributes["pet"] == "none"


def test_slashed_dates_are_read_as_the_recipe_says(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", [row(0, birth_date="03/04/1980")])
    days = [checked(path, day_first=first).people[0].attributes["birth_date"] for first in (True, False)]
    assert days == ["April 3, 1980", "March 4, 1980"]
