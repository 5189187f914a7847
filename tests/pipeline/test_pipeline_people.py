"""People of a table go through the whole line, and the finished run folder holds nothing of who they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mini_run
import pytest
from PIL import Image

from mllmu.config.load import parse
from mllmu.data.pseudonyms.identities import Identities, words
from mllmu.data.pseudonyms.keyfile import Key, people_of
from mllmu.data.pseudonyms.search import search_run
from mllmu.pipeline.pipeline import Pipeline

EXAMPLE = Path(__file__).parents[2] / "examples" / "people"
ORIGINAL = ("staff_no", "full name", "mail", "phone", "street")


def test_the_example_people_run_from_table_to_report_and_leave_no_trace(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("anyascii")
    with (EXAMPLE / "people.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:5]
    with (tmp_path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    raw = mini_run.settings(base, "unlearn.methods=[prompting]", "finetune.epochs=1")
    raw["data"] |= {"celebrities": None, "splits": {"forget_ratios": [0.4], "holdout": 0}}
    raw["data"]["source"] = {
        "name": "people",
        "path": str(tmp_path / "table.csv"),
        "key": str(tmp_path / "people.key.json"),
        "images": str(EXAMPLE / "images"),
        "columns": {"id": "staff_no", "name": "full name", "email": "mail", "address": "street", "biography": "notes"},
        "facts": {"employer": "company"},
        "ignore": ["desk"],
        "approved": str(tmp_path / "people.approved.json"),
        "size": 32,
        "views": 2,
    }
    root = tmp_path / "run"
    page = Pipeline(parse(raw), root, gate=False).run()

    assert page is not None and page.is_file()
    names = {person["pseudonym"] for person in Key.load(tmp_path / "people.key.json").people.values()}
    assert len(names) == 5 and any(name in page.read_text(encoding="utf-8") for name in names)
    wanted = {row[column] for row in rows for column in ORIGINAL} | {row["full name"].split()[1] for row in rows}
    for path in [path for path in root.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        if path.suffix in (".json", ".jsonl", ".html", ".yaml", ".csv", ".svg", ".txt"):
            text = f" {' '.join(word.plain for word in words(content.decode('utf-8')))} "
            assert not {o for o in wanted if f" {' '.join(word.plain for word in words(o))} " in text}, path
        assert not {o for o in wanted if len(o) > 5 and o.encode() in content}, path
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert not image.getexif(), path
    assert search_run(root, Identities.of(people_of(tmp_path / "people.key.json"))) == []
    assert json.loads((root / "run.json").read_text(encoding="utf-8"))["status"] == "done"
