"""Looking at the data of a run, and exporting it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.records import Profile, Question
from mllmu.core.runfolder import dump_lines
from mllmu.data.contact_sheet import GAP, write_contact_sheet
from mllmu.data.dataset import load
from mllmu.data.published.export import export

SPLITS = {"5": ["a"], "10": ["a"], "15": ["a", "a_0"]}


def question(profile_id: str, modality: str) -> Question:
    return Question.model_validate(
        {
            "id": f"{profile_id}.eval.cloze.{modality}.0",
            "profile_id": profile_id,
            "variant": "eval",
            "task": "cloze",
            "modality": modality,
            "attribute": "residence",
            "text": "This person lives in __.",
            "answer": "Riga",
            "value": "Riga",
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the people a (two views), a_0 (two views: its id begins with a file name of a) and hidden."""
    folder = tmp_path / "run"
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    ids = ("a", "a_0", "hidden")
    people = [Profile(id=i, kind="fictitious", attributes={"name": f"Name {i}"}) for i in ids]
    questions = [question(i, m) for i in ids for m in ("image_text", "text")]
    for number, person in enumerate(people):
        for view in range(2):
            Image.new("RGB", (40, 40), (80 * number, 100 * view, 10)).save(images / f"{person.id}_{view}.png")
    (folder / "data" / "profiles.jsonl").write_text(dump_lines(people), encoding="utf-8")
    (folder / "data" / "questions.jsonl").write_text(dump_lines(questions), encoding="utf-8")
    (folder / "data" / "splits.json").write_text(json.dumps({**SPLITS, "holdout": ["hidden"]}), encoding="utf-8")
    return folder


def drawn(run: Path) -> Path:
    path = run / "contact_sheet.png"
    write_contact_sheet(load(run / "data"), path)
    return path


def test_contact_sheet_shows_every_person_with_the_own_views_only(run: Path) -> None:
    path = drawn(run)
    with Image.open(path) as sheet:
        width, height = sheet.size
        colours = {c for _, c in sheet.getcolors(maxcolors=100_000) or []}
    assert path == run / "contact_sheet.png"
    assert {(80 * number, 100 * view, 10) for number in range(3) for view in range(2)} <= colours
    one_row = height - 2 * (128 + GAP)
    assert width < 2 * 24 + 190 + 3 * 128 and 128 < one_row < 2 * 128


def test_damaged_image_is_named(run: Path) -> None:
    broken = run / "data" / "images" / "a_1.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a_1\.png: not a readable image"):
        drawn(run)


def test_cut_off_image_is_named(run: Path) -> None:
    broken = run / "data" / "images" / "a_1.png"
    Image.effect_noise((300, 300), 90).save(broken)
    broken.write_bytes(broken.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a_1\.png: not a readable image"):
        drawn(run)


def test_export_writes_the_published_layout_without_the_holdout_people(run: Path, tmp_path: Path) -> None:
    rows = export(load(run / "data"), tmp_path / "exported")
    assert [rows[name] for name in ("Full_Set", "forget_5", "retain_95", "forget_15", "retain_85")] == [2, 1, 1, 2, 0]
    table = pq.read_table(tmp_path / "exported" / "Full_Set" / "train-00000-of-00001.parquet")
    assert table.column("ID").to_pylist() == ["a", "a_0"]


def test_export_of_other_forget_ratios_says_how_to_get_the_published_ones(run: Path, tmp_path: Path) -> None:
    (run / "data" / "splits.json").write_text('{"10": ["a"]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"got 10\. Make the data with --set 'data\.splits\.forget_ratios"):
        export(load(run / "data"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"5": "a"}'])
def test_damaged_splits_are_an_error_that_names_the_file(run: Path, text: str) -> None:
    (run / "data" / "splits.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunStoreError, match=r"splits\.json: damaged"):
        load(run / "data")
