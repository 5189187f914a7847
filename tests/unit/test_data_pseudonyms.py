"""People of a table get pseudonyms: the same everywhere, undone by the key file alone; nothing of them stays."""

from __future__ import annotations

import csv
import json
import multiprocessing
import re
import stat
import time
import unicodedata
from collections.abc import Iterator
from datetime import date
from multiprocessing.synchronize import Barrier
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
from mllmu.data.pseudonyms import keyfile
from mllmu.data.pseudonyms.identities import Identities, plain, words
from mllmu.data.pseudonyms.keyfile import reveal
from mllmu.data.sources.people import OwnPeople

pytest.importorskip("anyascii")

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
        "profession": ("nurse", "potter", "tailor")[number % 3],
        "education": ("Tern College", "Halden School", "Orbit Academy")[number % 3],
        "salary": str(41000 + 1000 * number),
        "height": str(158 + number),
        "hobby": ("chess", "rowing", "archery", "painting")[number % 4],
        "food": ("rice", "soup", "curry", "bread")[number // 3 % 4],
        "mail": mail,
        "phone": phone,
        "address": f"{11 + number} Gallowgate Wynd, {city}",
        "employer": ("Tern", "Halden", "Orbit", "Castle")[number % 4],
        "hired": f"{2010 + number}-04-0{1 + number % 9}",
        "biography": (
            f"{given} {family} ({staff.lower()}), born {born.day}.{born.month}.{born.year} in {city}, of "
            f"{11 + number} gallowgate wynd. Ask {plain(given).upper()} under {phone.replace('+44 ', '0')} or "
            f"{mail.upper()}. "
            f"{family}, {given} shares a desk with {GIVEN[(number + 1) % 10]} {FAMILY[(number + 1) % 10 % 8]}; "
            f"a young nurse knows @{given.lower()}{family.lower()[:5]} from https://quorndon.example/{given.lower()}."
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
        "dates": {"day of hiring": "hired"},
        "approved": folder / "secret" / "approved.json",
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
        yield from (each[c] for c in ("staff no", "name", "mail", "phone", "address", "birth_date", "hired", "image"))
        yield from (part for part in re.split(r"[ -]", each["name"]) if part not in ("de", "Young"))
        yield from (each[c].partition(",")[0] for c in ("birthplace", "residence") if not each[c].startswith("Nice"))
        yield from (dates.printed(born), f"{born.day}.{born.month}.{born.year}")
        yield from (each["phone"].replace(" ", ""), each["phone"][-9:], each["mail"].partition("@")[0])
        yield from ("Gallowgate", "quorndon.example", "Nice, France")


def leaks(text: str) -> set[str]:
    bare = plain(text)
    return {original for original in originals() if plain(original) in bare}


def waiting(folder: Path, **changes: Any) -> list[str]:
    """What waits for a decision."""
    with pytest.raises(FaultsError, match="wait for you") as caught:
        OwnPeople(**settings(folder, **changes)).profiles(0)
    return list(caught.value.faults)


def decide(folder: Path, faults: list[str], what: str = "approved") -> None:
    """Write down a decision about faults, as the page does."""
    found = {what: [fault.rpartition("[")[2].rstrip("]") for fault in faults]}
    (folder / "secret" / "approved.json").write_text(json.dumps({"format": "mllmu-approved-1", **found}))


def changed(folder: Path, number: int, **cells: str) -> None:
    write(folder / "table.csv", [each | (cells if n == number else {}) for n, each in enumerate(ROWS)])


def test_the_forms_of_the_originals_are_found_where_they_are() -> None:
    assert leaks(json.dumps(ROWS, ensure_ascii=False)) >= {"Quillon Vantongeren", "QX-7100", "Gallowgate", "Quimper"}


def test_nothing_of_an_original_is_left_in_a_profile_and_no_text_is_read(folder: Path) -> None:
    changed(folder, 2, biography="x" * 9000)
    for person in OwnPeople(**settings(folder)).profiles(0):
        assert not leaks(person.model_dump_json()) and not person.biography
        assert re.fullmatch(r"p[0-9a-f]{10}", person.id)


def test_facts_stay_as_they_are(folder: Path) -> None:
    people = {p.id: p for p in OwnPeople(**settings(folder)).profiles(0)}
    key = keyfile.Key.load(folder / "secret" / "key.json")
    by_name = {each["name"]: each for each in ROWS}
    for pid, known in key.people.items():
        told, given = people[pid].attributes, by_name[known["name"]]
        assert {c: told[c] for c in ("gender", "profession", "education", "hobby", "food")} == {
            c: given[c] for c in ("gender", "profession", "education", "hobby", "food")
        }
        assert told["fact_employer"] == given["employer"]


def test_only_texts_that_a_person_approved_by_hash_are_kept_without_what_identifies(folder: Path) -> None:
    faults = waiting(folder, free_text="review")
    assert len(faults) == 10 and faults[0].startswith("row 2, column 'biography': a text of ")
    page = folder / "secret" / "approved.html"
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert ROWS[0]["name"] in page.read_text(encoding="utf-8"), "the original is shown beside what would be kept"
    decide(folder, faults[:9])
    assert len(waiting(folder, free_text="review")) == 1
    decide(folder, faults)
    people = {p.id: p for p in OwnPeople(**settings(folder, free_text="review")).profiles(0)}
    key = keyfile.Key.load(folder / "secret" / "key.json")
    pid = {each["name"]: one for one, each in key.people.items()}
    for number, each in enumerate(ROWS):
        me, other = people[pid[each["name"]]], people[pid[ROWS[(number + 1) % 10]["name"]]]
        city, (first, *_) = me.attributes["residence"].partition(",")[0], me.name.split()
        assert me.biography.startswith(f"{me.name} ({me.id}), born [number] in {city}, of [address]. Ask ")
        assert f". {me.name} shares a desk with {other.name}; a young nurse knows " in me.biography
        assert first in me.biography and not leaks(me.biography)


def test_a_text_that_changed_after_it_was_approved_waits_again_and_one_that_is_left_out_is_gone(folder: Path) -> None:
    write(folder / "table.csv", [each | {"biography": "likes tea" if n < 2 else ""} for n, each in enumerate(ROWS)])
    faults = waiting(folder, free_text="review")
    decide(folder, faults)
    assert sum(p.biography == "likes tea" for p in OwnPeople(**settings(folder, free_text="review")).profiles(0)) == 2
    write(folder / "table.csv", [each | {"biography": "likes Tea" if n < 2 else ""} for n, each in enumerate(ROWS)])
    decide(folder, waiting(folder, free_text="review"), "left_out")
    assert not any(p.biography for p in OwnPeople(**settings(folder, free_text="review")).profiles(0))


def test_a_hash_of_another_key_approves_nothing(folder: Path) -> None:
    faults = waiting(folder, free_text="review")
    decide(folder, faults)
    assert len(waiting(folder, free_text="review", key=folder / "other.json")) == 10


@pytest.mark.parametrize(
    "text",
    [
        "met QUILLON VANTONGEREN once", "Vantongeren, Quillon", "quillonvantongeren", "Elodine Oxborough",
        unicodedata.normalize("NFD", "Élodine Oxborough"), "ring 020 7946 0300", "staff qx 7100",
        "Qui.0@QUORNDON.example",
        "11 Gallowgate Wynd", "see www.tern.example", "someone@tern.example", "since 14 mai 1990", "14. März 1991",
        "2001-09-14T00:00:00Z", "from the 14th of May, 1990", "14/05/90", "1990年5月14日",
    ],
)  # fmt: skip
def test_a_fact_that_tells_who_somebody_is_is_refused_with_row_and_column(folder: Path, text: str) -> None:
    rows = [each | {"name": "Élodine Oxborough"} if n == 7 else each for n, each in enumerate(ROWS)]
    rows[3] = rows[3] | {"employer": text}
    write(folder / "table.csv", rows)
    with pytest.raises(FaultsError, match="1 facts tell who a person is") as caught:
        OwnPeople(**settings(folder)).profiles(0)
    assert caught.value.faults[0].startswith(f"row 5, column 'employer': got {unicodedata.normalize('NFC', text)!r}, ")


@pytest.mark.parametrize("text", ["Grade 7", "3 cats", "Quillonia", "class of 1999", "$90 of 2000"])
def test_a_fact_with_numbers_of_its_own_is_none_of_these(folder: Path, text: str) -> None:
    changed(folder, 3, employer=text)
    assert text in {p.attributes["fact_employer"] for p in OwnPeople(**settings(folder)).profiles(0)}


@pytest.mark.parametrize(
    "word", ["Quibell and Daughters", "the oxborough", "Ferrabee", "YOUNG", "Zwartkruis'", "elodine"]
)
def test_a_fact_with_a_word_of_a_name_waits_and_stays_as_it_is_when_approved(folder: Path, word: str) -> None:
    rows = [each | {"name": "Élodine Oxborough"} if n == 7 else each for n, each in enumerate(ROWS)]
    rows[3] = rows[3] | {"hobby": word}
    write(folder / "table.csv", rows)
    faults = waiting(folder)
    assert len(faults) == 1 and re.match(r"row 5, column 'hobby': '.*' is a word of the name in row \d+ \[", faults[0])
    decide(folder, faults)
    assert word in {p.attributes["hobby"] for p in OwnPeople(**settings(folder)).profiles(0)}


def test_dates_of_a_person_move_together_and_by_less_than_asked(folder: Path) -> None:
    people = OwnPeople(**settings(folder, shift_days=20)).profiles(0)
    key = keyfile.Key.load(folder / "secret" / "key.json")
    by_name = {each["name"]: each for each in ROWS}
    for person in people:
        known = key.people[person.id]
        moved = int(known["shift_days"])
        assert 0 < abs(moved) <= 20
        for attribute, column in (("birth_date", "birth_date"), ("fact_day_of_hiring", "hired")):
            now = dates.parse(person.attributes[attribute])
            assert now and (now - date.fromisoformat(by_name[known["name"]][column])).days == moved


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


def begin_slowly(folder: Path, table: str, together: Barrier) -> None:
    """Build from a table, and wait between reading the key and all that follows, in a process of its own."""
    load = keyfile.Key.load

    def slowly(path: Path) -> keyfile.Key:
        key = load(path)
        time.sleep(0.5)
        return key

    keyfile.Key.load = slowly  # type: ignore[method-assign]
    together.wait(60)
    people = OwnPeople(**settings(folder, path=folder / table)).profiles(0)
    (folder / f"{table}.json").write_text(json.dumps({person.id: person.name for person in people}))


@pytest.mark.parametrize("there", [False, True], ids=["a new key", "a key that is there"])
def test_two_processes_keep_one_key_with_everybody_of_both(folder: Path, there: bool) -> None:
    write(folder / "first.csv", ROWS[:4])
    write(folder / "second.csv", ROWS[4:])
    key = folder / "secret" / "key.json"
    if there:
        begun = keyfile.Key(format="mllmu-people-key-1", secret="5" * 64)
        begun.save(key)
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    both = [spawn.Process(target=begin_slowly, args=(folder, f"{name}.csv", together)) for name in ("first", "second")]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    told = [json.loads((folder / f"{name}.csv.json").read_text()) for name in ("first", "second")]
    assert {pid: known["pseudonym"] for pid, known in reveal(key).items()} == told[0] | told[1]
    assert [len(each) for each in told] == [4, 6]
    assert sorted(path.name for path in key.parent.iterdir()) == [".key.json.lock", "key.json"]
    assert not there or keyfile.Key.load(key).secret == "5" * 64


def test_a_process_that_holds_the_key_too_long_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "PATIENCE_S", 0.1)
    key = folder / "secret" / "key.json"
    with keyfile.alone_with(key), pytest.raises(DataError, match=r"key\.json: another process has worked"):
        OwnPeople(**settings(folder)).profiles(0)
    assert len(OwnPeople(**settings(folder)).profiles(0)) == 10


def test_a_key_that_may_only_be_read_is_used_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock can be made nothing can be written either."""
    first = OwnPeople(**settings(folder)).profiles(0)
    (folder / "secret" / ".key.json.lock").unlink()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    assert OwnPeople(**settings(folder)).profiles(0) == first


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


def test_the_account_keeps_consent_by_pseudonym(folder: Path) -> None:
    source = OwnPeople(**settings(folder))
    people = source.profiles(0)
    account = source.account()
    assert account["texts"] == {"given": 0, "approved": 0}
    assert account["consent"].keys() == {p.id for p in people}
    assert sorted(c["date"] for c in account["consent"].values()) == [f"2026-02-{10 + n}" for n in range(10)]
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
        assert path.suffix == ".png" or not leaks(content.decode()), path
        assert not [one for one in originals() if len(one) > 5 and one.encode() in content], path
        assert not leaks(path.name), path
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert not image.info and not image.getexif(), path
    questions = (run / "questions.jsonl").read_text(encoding="utf-8")
    assert "This person's employer is " in questions
    assert json.loads((run / "source.json").read_text())["people"]["consent"]


PEOPLE = {
    "p1": {"name": "王伟"},
    "p2": {"name": "山田 太郎"},
    "p3": {"name": "김민준"},
    "p4": {"name": "سمير الخطيب"},
    "p5": {"name": "Jörg Lips"},
    "p6": {"name": "Åse Bjørnsæter"},
    "p7": {"name": "Rebeca Benning-Holt"},
    "p8": {"name": "Dr. Edeltraud O'Murchadha PhD", "id": "0042", "phone": "12345"},
    "p9": {"name": "Jean-Luc de Peral", "email": "jl@quorndon.example", "phone": "+44 20 7946 0101", "id": "TS-4207"},
    "p10": {"name": "मीरा जोशी", "address": "5 Marlow Row, Boston", "id": "7"},
    "p11": {"name": "カルラ・ベニング"},
    "p12": {"name": "Иван Петров"},
}


@pytest.mark.parametrize(
    ("text", "owners"),
    [
        ("王伟是一名兽医。", "p1!"), ("Wang Wei, a vet", "p1!"), ("wangwei88", "p1!"), ("twang weird", ""),
        ("山田太郎は獣医です。山田さん", "p2! p2"), ("김민준은 수의사입니다.", "p3!"), ("لسمير كلب", "p4"),
        ("JOERG LIPS", "p5!"), ("Lips, Jorg", "p5!"), ("Jo\u0308rg", "p5"), ("J\u200borg", "p5"), ("Lipstick", ""),
        ("Aase Bjornsaeter", "p6!"), ("Ase and Bjornsæter", "p6 p6"), ("Rebeca Holt", "p7 p7"), ("benning", "p7"),
        ("OMurchadha", "p8"), ("Dr Who, PhD", ""), ("room 0042", "p8"), ("12345", ""), ("JeanLuc Peral", "p9!"),
        ("de luxe", ""), ("JL@Quorndon.EXAMPLE", "p9!"), ("(020) 7946-0101", "p9!"), ("٠٢٠٧٩٤٦٠١٠١", "p9!"),
        ("ts4207 or TS 4207", "p9! p9!"), ("hits 4207", ""), ("मीरा जोशी", "p10!"), ("at 5 marlow row", "p10!"),
        ("7 of 5", ""), ("ベニングさん", "p11"), ("Ivan Petrov", "p12!"), ("Ｉｖａｎ", "p12"),
    ],
)  # fmt: skip
def test_people_are_found_however_they_are_spelt(text: str, owners: str) -> None:
    found = Identities.of(PEOPLE).find(text)
    assert " ".join(f.form.owner + "!" * f.form.certain for f in found) == owners, [
        text[f.start : f.end] for f in found
    ]


def test_words_that_begin_like_a_name_are_pointed_at() -> None:
    identities = Identities.of(PEOPLE)
    for text, word in (("знают Ивана", "Ивана"), ("the Bennings", "Bennings"), ("for Rebecas dog", "Rebecas")):
        assert [text[f.start : f.end] for f in identities.near(text)] == [word]
    assert not list(identities.near("lip service, even revolution"))


def finished(folder: Path, source: OwnPeople, **files: str) -> Path:
    """A finished data folder of a source inside a run folder, with some files changed."""
    data = folder / "run" / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "profiles.jsonl").write_text("".join(p.model_dump_json() + "\n" for p in source.profiles(0)))
    for name, content in files.items():
        path = data / name.replace("_", ".")
        path.write_text(content, encoding="utf-8")
    return data


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("questions_jsonl", '{"text": "ok"}\n{"text": "Does JOCASTA\\u200b know?"}', "data/questions.jsonl, line 2"),
        ("review_json", '{"marks": [{"reason": "not like Wolfenden"}]}', "data/review.json"),
        ("source_json", '{"column of Quibell": 3}', "data/source.json"),
        ("notes_html", "<p>Zwartkru&iuml;s</p>", "data/notes.html, line 1"),
        ("Tregarthen_txt", "", "file name"),
    ],
)
def test_the_last_check_names_the_place_of_every_find_and_passes_when_it_is_approved(
    folder: Path, name: str, content: str, where: str
) -> None:
    source = OwnPeople(**settings(folder))
    source.inspect(finished(folder, source))
    data = finished(folder, source, **{name: content})
    with pytest.raises(FaultsError, match="1 texts or words wait for you") as caught:
        source.inspect(data)
    assert caught.value.faults[0].startswith(f"{where}: ")
    decide(folder, list(caught.value.faults))
    source.inspect(data)


def test_the_last_check_reads_the_recipe_and_knows_dates_and_our_own_words(folder: Path) -> None:
    changed(folder, 4, name="May Will")
    source = OwnPeople(**settings(folder))
    data = finished(folder, source, questions_jsonl='{"text": "Born on May 14, 1990? What will it be?"}')
    with pytest.raises(FaultsError) as caught:
        source.inspect(data)
    assert [fault.partition(" [")[0] for fault in caught.value.faults] == [
        "data/questions.jsonl, line 1: 'will' is a word of the name in row 6",
    ], "not the date"
    (data / "questions.jsonl").write_text('{"text": "Can you name this person\'s alma mater?"}')
    source.inspect(data)
    (data.parent / "recipe.yaml").write_text("report: {title: Will and others}")
    with pytest.raises(FaultsError, match=r"recipe\.yaml: 'Will' is a word of the name in row 6"):
        source.inspect(data)


def test_the_command_searches_a_whole_run_folder(folder: Path) -> None:
    data = finished(folder, OwnPeople(**settings(folder)))
    ask = lambda: CliRunner().invoke(app, ["data", "search", str(data.parent), str(folder / "secret" / "key.json")])  # noqa: E731
    assert ask().exit_code == 0
    (data.parent / "eval").mkdir()
    (data.parent / "eval" / "responses.jsonl").write_text('{"text": "Jocasta"}\n{"text": "It is ottoline  QUIBELL."}')
    found = ask()
    assert found.exit_code == 1
    assert found.stdout.startswith("eval/responses.jsonl, line 2: 'ottoline  QUIBELL' is the name of p")
    (data / "profiles.jsonl").unlink()
    missing = ask()
    assert missing.exit_code == 2 and "profiles.jsonl: no such file" in missing.stderr


def test_weights_and_embedded_images_are_no_texts(folder: Path) -> None:
    data = finished(
        folder, OwnPeople(**settings(folder)), page_html='<img src="data:image/webp;base64,JocastaQuibell">'
    )
    (data / "model.safetensors").write_bytes(b"\0 Jocasta Quibell")
    OwnPeople(**settings(folder)).inspect(data)


def test_the_build_stops_before_images_are_drawn(folder: Path) -> None:
    settings_of = {k: str(v) if isinstance(v, Path) else v for k, v in settings(folder).items()}
    raw = {
        "name": "audit",
        "data": {
            "source": {"name": "people", **settings_of, "ignore": ["image"]},
            "celebrities": None,
            "splits": {"forget_ratios": [0.2], "holdout": 0},
            "train_wordings": 1,
        },
    }
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text("name: Oxborough")
    with pytest.raises(FaultsError, match=r"recipe\.yaml: 'Oxborough' is a word of the name in row \d"):
        build.make(parse(raw).data, 0, folder / "run" / "data", SilentProgress())
    assert not list((folder / "run").rglob("*.png"))


@pytest.mark.parametrize("content", ["", "[]", '{"format": "x"}', '{"format": "mllmu-approved-1", "approved": 3}'])
def test_a_damaged_file_of_decisions_is_named(folder: Path, content: str) -> None:
    (folder / "secret").mkdir()
    (folder / "secret" / "approved.json").write_text(content)
    with pytest.raises(DataError, match=r"approved\.json: .* delete it to decide anew"):
        OwnPeople(**settings(folder)).profiles(0)


def test_decisions_and_their_page_never_lie_in_a_run_folder(folder: Path) -> None:
    (folder / "run").mkdir()
    for name in keyfile.RUN_FILES:
        (folder / "run" / name).write_text("{}")
    with pytest.raises(DataError, match=r"data\.source\.approved: .* lies in the run folder"):
        OwnPeople(**settings(folder, approved=folder / "run" / "approved.json")).profiles(0)


def test_pseudonyms_are_no_words_of_our_sentences_or_of_the_facts(folder: Path) -> None:
    write(folder / "table.csv", [each | {"hobby": "Grace, Art and Dean"} for each in ROWS])
    ours = {word.plain for word in words("Alma May Will Can Grace Art Dean January March")}
    for number in range(5):
        for person in OwnPeople(**settings(folder, key=folder / f"key{number}.json")).profiles(0):
            assert not ours & {word.plain for word in words(person.name)}


def test_words_are_compared_without_case_accents_and_marks() -> None:
    assert [w.plain for w in words("Élodie_Młynarski, (O’Neil)")] == ["elodie", "mlynarski", "o", "neil"]
