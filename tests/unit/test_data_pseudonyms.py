"""People of a table get pseudonyms: the same everywhere, undone by the key file alone; nothing of them stays."""

from __future__ import annotations

import csv
import json
import re
import stat
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.ImageDraw import Draw
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.core.errors import DataError, FaultsError
from mllmu.core.process import SilentProgress
from mllmu.data import build, dates
from mllmu.data.pseudonyms import finding, keyfile
from mllmu.data.pseudonyms.finding import plain, words
from mllmu.data.pseudonyms.keyfile import reveal
from mllmu.data.sources.people import OwnPeople

pytest.importorskip("phonenumbers")

GIVEN = ("Quillon", "Zephanie", "Ottoline", "Wystan", "Ysolde", "Thaddea", "Peregrin", "Élodine", "Jocasta", "Ignatz")
FAMILY = (
    "Vantongeren",
    "Oxborough",
    "Quibell",
    "Zwartkruis",
    "Young-Ferrabee",
    "Tregarthen",
    "de Wolfenden",
    "Młynarski",
)
CITIES = ("Pontypool, Wales", "Zaltbommel, Netherlands", "Quimper, France", "Wuppertal, Germany", "Nice, France")


def row(number: int) -> dict[str, str]:
    """A person with names, cities and numbers that no pool of invented people holds."""
    given, family = GIVEN[number % 10], FAMILY[number % 8]
    home, birthplace = CITIES[number % 5], CITIES[(number + 2) % 5]
    city, born = home.partition(",")[0], date(1960 + number, 1 + number % 12, 3 + number)
    mail, phone = f"{given[:3]}.{number}@quorndon.example", f"+44 20 7946 0{300 + number}"
    staff = f"QX-{7100 + 13 * number}"
    return {
        "staff no": staff,
        "name": f"{given} {family}",
        "gender": ("female", "male")[number % 2],
        "birth_date": born.isoformat(),
        "birthplace": birthplace,
        "residence": home,
        "profession": f"baker of {given}'s shop" if number == 3 else ("nurse", "potter", "tailor")[number % 3],
        "education": f"University of {city}",
        "salary": str(41000 + 1000 * number),
        "height": str(158 + number),
        "hobby": ("chess", "rowing", "archery", "painting")[number % 4],
        "food": ("rice", "soup", "curry", "bread")[number // 3 % 4],
        "mail": mail,
        "phone": phone,
        "address": f"{11 + number} Gallowgate Wynd, {city}",
        "employer": f"{family} and Daughters" if number == 5 else ("Tern", "Halden", "Orbit", "Castle")[number % 4],
        "biography": (
            f"{given} {family} ({staff.lower()}), born {born.day}.{born.month}.{born.year} in {city}, of "
            f"{11 + number} gallowgate wynd. Ask {plain(given).upper()} under {phone.replace('+44 ', '0')} or "
            f"{mail.upper()}. "
            f"{family}, {given} shares a desk with {GIVEN[(number + 1) % 10]} {FAMILY[(number + 1) % 10 % 8]}; "
            f"a young nurse, Dr. Xanthippe Grout, IBAN DE89 3704 0044 0532 0130 00, knows "
            f"@{given.lower()}{family.lower()[:5]}"
            f" from https://quorndon.example/{given.lower()}."
        ),
        "image": f"{given} {number}.jpg",
        "consent": "Yes",
        "consent_date": f"2026-02-{10 + number}",
    }


ROWS = [row(number) for number in range(10)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "path": folder / "table.csv",
        "key": folder / "secret" / "key.json",
        "columns": {"id": "staff no", "email": "mail"},
        "facts": {"employer": "employer"},
        "region": "GB",
        "size": 64,
        "views": 2,
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "table.csv", ROWS)
    return tmp_path


def photos(folder: Path) -> Path:
    """Different images that carry names in their metadata."""
    folder.mkdir()
    for number, each in enumerate(ROWS):
        image = Image.new("RGB", (90, 70), (20 * number, 90, 200 - 15 * number))
        Draw(image).ellipse((10 + 3 * number, 10, 60, 60), fill=(200, 20 * number, 40))
        exif = Image.Exif()
        exif[0x013B] = each["name"]  # the artist
        exif.get_ifd(0x8825)[1] = "N"  # GPS
        image.save(folder / each["image"], exif=exif, comment=each["mail"].encode())
    return folder


def originals() -> Iterator[str]:
    """Every form of every original that must not be met again."""
    for each in ROWS:
        born = date.fromisoformat(each["birth_date"])
        yield from (each[c] for c in ("staff no", "name", "mail", "phone", "address", "birth_date", "image"))
        yield from (part for part in re.split(r"[ -]", each["name"]) if part not in ("de", "Young"))
        yield from (each[c].partition(",")[0] for c in ("birthplace", "residence") if not each[c].startswith("Nice"))
        yield from (
            dates.printed(born),
            f"{born.day}.{born.month}.{born.year}",
            f"{born.day:02d}.{born.month:02d}.{born.year}",
        )
        yield from (each["phone"].replace(" ", ""), each["phone"][-9:], each["mail"].partition("@")[0])
        yield from ("Gallowgate", "quorndon.example", "Xanthippe", "Grout", "DE89", "0532 0130", "Nice, France")


def leaks(text: str) -> set[str]:
    bare = plain(text)
    return {original for original in originals() if plain(original) in bare}


def test_the_forms_of_the_originals_are_found_where_they_are() -> None:
    assert leaks(json.dumps(ROWS, ensure_ascii=False)) >= {"Quillon Vantongeren", "QX-7100", "Gallowgate", "Quimper"}


def test_nothing_of_an_original_is_left_in_a_profile(folder: Path) -> None:
    for person in OwnPeople(**settings(folder)).profiles(0):
        assert not leaks(person.model_dump_json())
        assert re.fullmatch(r"p[0-9a-f]{10}", person.id)


def test_an_original_becomes_the_same_fake_wherever_it_stands(folder: Path) -> None:
    people = {p.id: p for p in OwnPeople(**settings(folder)).profiles(0)}
    key = keyfile.Key.load(folder / "secret" / "key.json")
    pid = {each["name"]: one for one, each in key.people.items()}
    for number, each in enumerate(ROWS):
        me, other = people[pid[each["name"]]], people[pid[ROWS[(number + 1) % 10]["name"]]]
        text = me.biography
        assert text.startswith(f"{me.name} ({me.id}), born ")
        assert f"shares a desk with {other.name};" in text
        assert f". {me.name} shares" in text
        assert f"in {me.attributes['residence'].partition(',')[0]}, of " in text
        assert me.attributes["education"] in (
            f"University of {me.attributes['residence'].partition(',')[0]}",
            each["education"],
        )
        assert "a young nurse" in text
    assert people[pid[ROWS[3]["name"]]].attributes["profession"].startswith("baker of ")
    assert people[pid[ROWS[5]["name"]]].attributes["fact_employer"].endswith(" and Daughters")


def test_dates_of_a_person_move_together_and_by_less_than_asked(folder: Path) -> None:
    people = OwnPeople(**settings(folder, shift_days=20)).profiles(0)
    key = keyfile.Key.load(folder / "secret" / "key.json")
    by_name = {each["name"]: each for each in ROWS}
    for person in people:
        known = key.people[person.id]
        moved = int(known["shift_days"])
        born, now = (
            date.fromisoformat(by_name[known["name"]]["birth_date"]),
            dates.parse(person.attributes["birth_date"]),
        )
        assert now is not None and 0 < abs(moved) <= 20
        assert (now - born).days == moved
        assert f"born {now.day:02d}.{now.month:02d}.{now.year} in" in person.biography


def test_the_same_key_gives_the_same_pseudonyms_and_another_key_others(folder: Path) -> None:
    first = OwnPeople(**settings(folder)).profiles(0)
    again = OwnPeople(**settings(folder)).profiles(7)
    other = OwnPeople(**settings(folder, key=folder / "other.json")).profiles(0)
    assert first == again
    assert not {p.name for p in first} & {p.name for p in other}
    assert not {p.id for p in first} & {p.id for p in other}


def test_whoever_comes_later_changes_nobody(folder: Path) -> None:
    write(folder / "table.csv", ROWS[:7])
    few = {p.id: p.name for p in OwnPeople(**settings(folder)).profiles(0)}
    write(folder / "table.csv", ROWS[::-1])
    all_of_them = {p.id: p.name for p in OwnPeople(**settings(folder)).profiles(0)}
    assert few.items() <= all_of_them.items()
    assert len(set(all_of_them.values())) == 10


def test_the_key_file_undoes_it_and_is_readable_by_its_owner_only(folder: Path) -> None:
    person = OwnPeople(**settings(folder)).profiles(0)[0]
    key = folder / "secret" / "key.json"
    known = reveal(key, [person.id])[person.id]
    assert {"id": known["id"], "name": known["name"]} in [{"id": r["staff no"], "name": r["name"]} for r in ROWS]
    assert known["pseudonym"] == person.name
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(DataError, match="knows no 'p0' among 10 people"):
        reveal(key, ["p0"])


def test_the_command_says_who_is_behind_ids_names_and_other_fakes(folder: Path) -> None:
    people, key = OwnPeople(**settings(folder)).profiles(0), str(folder / "secret" / "key.json")
    ask = lambda *who: CliRunner().invoke(app, ["data", "reveal", key, *who])  # noqa: E731
    everybody = ask().stdout.splitlines()
    assert len(everybody) == len(ROWS) and all(any(r["name"] in line for line in everybody) for r in ROWS)
    one = people[3]
    assert ask(one.id).stdout == ask(one.name).stdout == ask(one.name.upper()).stdout
    assert ask(one.id).stdout.splitlines()[0] in everybody
    city = one.attributes["birthplace"].partition(",")[0]
    assert ask(city).stdout.startswith(f"{city}: original ")
    wrong = ask("Nobody")
    assert wrong.exit_code == 2 and wrong.stdout == "" and "knows no 'Nobody'" in wrong.stderr


@pytest.mark.parametrize("content", ["", "{}", '{"format": "mllmu-people-key-1", "secret": "x"}', "\xff"])
def test_a_damaged_key_file_is_refused_and_never_overwritten(folder: Path, content: str) -> None:
    (folder / "key.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"key\.json: (not a key file|the key file cannot be read)"):
        OwnPeople(**settings(folder, key=folder / "key.json")).profiles(0)
    assert (folder / "key.json").read_bytes() == content.encode("latin-1")


def test_a_key_shows_nothing_of_itself_in_a_traceback() -> None:
    key = keyfile.Key(
        format="mllmu-people-key-1",
        secret="a" * 64,
        replaced={"name": {"Ada Bell": "Eva Lind"}},
        people={"p1": {"id": "7"}},
    )
    shown = repr(key)
    assert not any(secret in shown for secret in ("aaaa", "Ada", "Eva", "p1"))


def test_a_key_in_the_run_folder_is_refused(folder: Path) -> None:
    for name in keyfile.RUN_FILES:
        (folder / name).write_text("{}")
    with pytest.raises(DataError, match="lies in the run folder"):
        OwnPeople(**settings(folder)).profiles(0)


def test_a_path_that_holds_an_original_is_refused_because_the_recipe_is_copied(folder: Path) -> None:
    telling = folder / "quillon_vantongeren.csv"
    (folder / "table.csv").rename(telling)
    with pytest.raises(DataError, match=r"data\.source\.path: .* holds an original \(name\)"):
        OwnPeople(**settings(folder, path=telling)).profiles(0)


def test_all_missing_images_are_named_at_once(folder: Path) -> None:
    images = photos(folder / "photos")
    for each in ROWS[2:5]:
        (images / each["image"]).unlink()
    with pytest.raises(FaultsError, match="no image of 3 people") as caught:
        OwnPeople(**settings(folder, images=images)).profiles(0)
    assert [fault[:5] for fault in caught.value.faults] == ["row 4", "row 5", "row 6"]


def test_a_image_column_cannot_lead_out_of_the_folder(folder: Path) -> None:
    photos(folder / "photos")
    for name in ("../table.csv", "..", "a\\b.jpg", "/etc/passwd"):
        write(folder / "table.csv", [*ROWS[:-1], ROWS[-1] | {"image": name}])
        with pytest.raises(FaultsError, match=r"1 faults|no image of 1 people"):
            OwnPeople(**settings(folder, images=folder / "photos")).profiles(0)


def test_the_account_counts_what_was_replaced_and_keeps_consent_by_pseudonym(folder: Path) -> None:
    source = OwnPeople(**settings(folder))
    people = source.profiles(0)
    account = source.account()
    assert account["consent"].keys() == {p.id for p in people}
    assert sorted(c["date"] for c in account["consent"].values()) == [f"2026-02-{10 + n}" for n in range(10)]
    assert account["replaced"]["name"]["name"] == 10
    assert account["replaced"]["email"] == {"biography": 10}
    assert account["replaced"]["phone"] == {"biography": 10}
    assert account["replaced"]["id"] == {"staff no": 10, "biography": 10}
    assert not leaks(json.dumps(account, ensure_ascii=False))


def test_without_pseudonyms_everything_is_as_in_the_table_and_no_key_is_made(folder: Path) -> None:
    source = OwnPeople(**settings(folder, pseudonymise=False))
    assert [p.name for p in source.profiles(0)] == [each["name"] for each in ROWS]
    assert "NOTHING replaced" in source.account()["summary"]
    assert not (folder / "secret").exists()


def test_the_data_of_a_run_hold_no_original_not_even_in_a_image(folder: Path) -> None:
    images = photos(folder / "photos")
    raw = {
        "name": "audit",
        "data": {
            "source": {
                "name": "people",
                **{k: str(v) if isinstance(v, Path) else v for k, v in settings(folder).items()},
            },
            "celebrities": None,
            "splits": {"forget_ratios": [0.2], "holdout": 2},
            "train_wordings": 2,
        },
    }
    raw["data"]["source"]["images"] = str(images)
    run = folder / "run" / "data"
    build.make(parse(raw).data, 0, run, SilentProgress())
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    assert sum(path.suffix == ".png" for path in files) == 10 * 2 + 2
    for path in files:
        content = path.read_bytes()
        assert not leaks(content.decode("latin-1")), path
        assert not leaks(content.decode("utf-8", errors="ignore")), path
        assert not leaks(path.name), path
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert not image.info and not image.getexif(), path
    questions = (run / "questions.jsonl").read_text(encoding="utf-8")
    assert "This person's employer is " in questions
    assert json.loads((run / "source.json").read_text())["people"]["consent"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to a.b+c@mail.co.uk or www.x.org/page.", ["email", "url"]),
        ("thanks to @some_body", ["handle"]),
        ("ring (212) 555-0134 now", ["phone"]),
        ("ring +33 4 72 00 01 23 now", ["phone"]),
        ("account DE89 3704 0044 0532 0130 00", ["number"]),
        ("card 4111 1111 1111 1111", ["number"]),
        ("passport C01X00T47", ["number"]),
        ("staff EMP-0042", ["number"]),
        ("earned $1,250,000 in 1999, 180 cm tall, room 12", []),
    ],
)
def test_identifiers_are_found_by_their_form(text: str, kinds: list[str]) -> None:
    found: list[finding.Match] = []
    net, accounts, numbers = (
        finding.by_form(text, kinds) for kinds in (finding.NET, finding.ACCOUNTS, finding.NUMBERS)
    )
    finders = (net, accounts, finding.phones(text, "US"), numbers)
    for match in (match for finder in finders for match in finder):
        found += [match] if all(match.end <= f.start or match.start >= f.end for f in found) else []
    assert [match.kind for match in found] == kinds


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("her husband Olaf met Mrs. Brown", ["Olaf", "Brown"]),
        ("together with Maria Lopez in Rome", ["Maria Lopez"]),
        ("the United Kingdom and a cat named Luna", []),
        ("Xq Zzyzx was here", []),  # neither title nor usual given name: not found, and the documentation says so
    ],
)
def test_names_of_strangers_are_guessed_by_title_kinship_and_usual_given_names(text: str, names: list[str]) -> None:
    assert [text[m.start : m.end] for m in finding.others(text)] == names


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("1990-05-14", "1990-06-03"),
        ("14.05.1990", "03.06.1990"),
        ("05/14/1990", "06/03/1990"),
        ("May 14, 1990", "June 3, 1990"),
        ("14th of May 1990", "3 June 1990"),
        ("hired in May 2012", "hired in June 2012"),
        ("on Dec 24, 1999 and 1.1.00", "on January 13, 2000 and 21.01.2000"),
        ("class of 1999", "class of 1999"),
        ("$2000, 2000-3000 or 1999th; 30.02.1990", "$2000, 2000-3000 or 1999th; 30.02.1990"),
    ],
)
def test_dates_move_in_the_way_they_are_written(before: str, after: str) -> None:
    text = before
    for found in reversed(dates.find(before)):
        text = text[: found.start] + found.write(dates.moved(found.day, 20)) + text[found.end :]
    assert text == after


def test_words_are_compared_without_case_accents_and_marks() -> None:
    assert [w.plain for w in words("Élodie_Młynarski, (O’Neil)")] == ["elodie", "mlynarski", "o", "neil"]
