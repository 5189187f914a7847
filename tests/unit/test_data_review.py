"""A person marks faults on a page, and the next build does without them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.core.errors import DataError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Profile
from mllmu.core.runfolder import dump_lines
from mllmu.data import build, review
from mllmu.data.dataset import Dataset, load
from mllmu.data.facts import as_requested
from mllmu.data.sources.synthetic import Synthetic

DATA: dict[str, Any] = {
    "source": {"name": "synthetic", "num_people": 6},
    "celebrities": None,
    "portraits": {"name": "dicebear", "size": 32, "num_views": 2},
    "splits": {"forget_ratios": [0.2], "holdout": 1},
    "train_wordings": 1,
}


def make(folder: Path, marks: list[dict[str, Any]] | None = None) -> Dataset:
    data = dict(DATA)
    if marks is not None:
        path = folder.with_suffix(".json")
        path.write_text(json.dumps({"format": review.FORMAT, "marks": marks}), encoding="utf-8")
        data["review"] = str(path)
    build.make(parse({"name": "r", "data": data}).data, 0, folder / "data", SilentProgress())
    return load(folder / "data")


def test_marks_are_honoured_and_counted(tmp_path: Path) -> None:
    before = make(tmp_path / "before")
    first, second, third = before.people[:3]
    asked = next(q for q in before.questions if q.profile_id == second and q.variant == "eval" and q.task == "cloze")
    taught = next(q for q in before.questions if q.profile_id == second and q.variant == "train")
    marks: list[dict[str, Any]] = [{"what": "person", "id": first, "reason": "odd"}, {"what": "portrait", "id": third}]
    marks += [{"what": "question", "id": q.id, "attribute": q.attribute, "text": q.text} for q in (asked, taught)]
    after = make(tmp_path / "after", marks)

    assert first not in after.people and len(after.people) == 5
    slot = (second, asked.task, asked.modality, asked.attribute)
    held = [q for q in after.questions if (q.profile_id, q.task, q.modality, q.attribute) == slot]
    assert not [q for q in held if q.variant != "train"]
    assert sum(q.profile_id == second and q.variant == "eval" for q in after.questions) == 18
    assert not [q for q in after.questions if q.text == taught.text and q.profile_id == second and q.variant == "train"]

    def pixels(run: str, person: str) -> bytes:
        return (tmp_path / run / "data" / "images" / f"{person}_0.png").read_bytes()

    assert pixels("before", third) != pixels("after", third)
    assert pixels("before", second) == pixels("after", second)
    told = json.loads((tmp_path / "after" / "data" / "source.json").read_text())["review"]
    assert (told["person"], told["portrait"], told["question"]) == (1, 1, 2)
    assert review.load(tmp_path / "after" / "data" / "review.json", after.profiles + before.profiles).ids("person")


def test_a_question_can_be_kept_to_its_fact_in_other_words(tmp_path: Path) -> None:
    before = {q.id: q for q in make(tmp_path / "before").questions}
    asked = next(q for q in before.values() if q.variant == "eval" and q.task == "classification")
    mark = {"what": "question", "id": asked.id, "attribute": asked.attribute, "text": asked.text, "same_fact": True}
    after = {q.id: q for q in make(tmp_path / "after", [mark]).questions}
    assert {name for name in before if after[name] != before[name]} == {asked.id}
    assert after[asked.id].attribute == asked.attribute and after[asked.id].text != asked.text


@pytest.mark.parametrize("listed", ["file", "source"])
def test_a_marked_person_of_a_prescribed_forget_set_is_left_out(
    tmp_path: Path, listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: dict[str, Any] = {"forget_ratios": [0.4], "holdout": 1}
    if listed == "file":
        (tmp_path / "ids.json").write_text('{"some": ["002", "005"]}')
        splits |= {"file": str(tmp_path / "ids.json"), "keys": ["some"]}
    else:
        monkeypatch.setattr(Synthetic, "forget_ids", lambda _: {"40": ["002", "005"]})
    monkeypatch.setitem(DATA, "splits", splits)
    assert make(tmp_path / "before").splits["40"] == ["002", "005"]
    after = make(tmp_path / "after", [{"what": "person", "id": "002"}])
    assert after.splits["40"] == ["005"] and after.people == ["001", "003", "004", "005", "006"]


def marks_of(data: Dataset, people: int) -> list[dict[str, Any]]:
    """Every other evaluation question of some people: in these words, or not at all."""
    asked = [q for q in data.questions if q.profile_id in data.people[:people] and q.variant == "eval"][::2]
    return [
        {"what": "question", "id": q.id, "attribute": q.attribute, "text": q.text, "same_fact": n % 3 > 0}
        for n, q in enumerate(asked)
    ]


REQUEST = {"people": ["001", "002", "003"], "attributes": ["pet", "hobby", "salary", "education", "food"]}


@pytest.mark.parametrize(
    ("changes", "kinds"), [({"seeds": {"evaluate": 4}}, {3, 4}), ({"unlearn": {"forget": REQUEST}}, {4})]
)
def test_questions_that_are_drawn_later_are_none_of_the_marked_ones(
    tmp_path: Path, changes: dict[str, Any], kinds: set[int]
) -> None:
    """Neither wordings (3 parts) nor facts that are not asked in a task and modality (4 parts)."""
    data = make(tmp_path / "after", marks_of(make(tmp_path / "before"), 6))
    banned = review.made_with(data.folder).marked
    recipe = parse({"name": "r", "data": DATA} | changes)

    def said() -> set[tuple[str, ...]]:
        asked = [q for q in as_requested(data, recipe).questions if q.variant != "train"]
        words = {(q.profile_id, q.task, q.text) for q in asked}
        return words | {(q.profile_id, q.task, q.modality, q.attribute) for q in asked}

    assert len(banned) > 30 and not said() & banned
    (data.folder / review.KEPT).unlink()
    assert {len(mark) for mark in said() & banned} == kinds, "without the marks they come back"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "x"}', "format: "),
        ("[", "Expected what the review page saved"),
        ('{"format": "mllmu-review-1", "marks": [{"what": "person", "id": "nobody"}]}', "nobody has that id"),
        ('{"format": "mllmu-review-1", "marks": [{"what": "question", "id": "p"}]}', "no question has the id 'p'"),
    ],
)
def test_a_file_of_marks_that_does_not_fit_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "faults.json").write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        review.load(tmp_path / "faults.json", [Profile(id="p", kind="fictitious", attributes={"name": "A B"})])


def evil(folder: Path) -> Path:
    """A run whose person is called like an attack on the page."""
    (folder / "data").mkdir(parents=True)
    name = "</script><script>document.title='hacked'</script>\"'"
    person = Profile(id="p", kind="fictitious", attributes={"name": name}, biography=name)
    (folder / "data" / "profiles.jsonl").write_text(dump_lines([person]), encoding="utf-8")
    (folder / "data" / "questions.jsonl").write_text("", encoding="utf-8")
    return folder


def test_the_page_is_one_escaped_file(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "review", str(evil(tmp_path))])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "review.html").read_text(encoding="utf-8")
    assert text.count("<script>") == 1 and "&lt;/script&gt;" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_data_with_a_recipe_still_is_a_command_of_its_own(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", str(tmp_path / "none.yaml")])
    assert done.exit_code == 2 and "no such recipe" in done.output
    assert "--contact-sheet" in CliRunner().invoke(app, ["data", "--help"]).output


def test_a_browser_saves_what_was_marked(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium")
    make(tmp_path / "run")
    page = review.write_page(tmp_path / "run")
    drive = """<script>
      document.querySelector('[data-what=person]').click();
      document.querySelector('[data-what=question]').click();
      const other = document.querySelectorAll('[data-what=question]')[1];
      other.click(); other.parentElement.querySelector('.same').click();
      document.body.innerHTML = '<pre id=out></pre>';
      document.getElementById('out').textContent = JSON.stringify(saved);
    </script>"""
    drive = drive.replace("document.body", "const saved = faults(); document.body")
    driven = tmp_path / "driven.html"
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", drive + "</body>"), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'} --dump-dom"
    done = subprocess.run([chromium, *flags.split(), driven.as_uri()], capture_output=True, text=True, timeout=60)
    saved = json.loads(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1].replace("&amp;", "&"))  # type: ignore[index]
    path = tmp_path / "faults.json"
    path.write_text(json.dumps(saved), encoding="utf-8")
    faults = review.load(path, load(tmp_path / "run" / "data").profiles)
    assert (len(faults.ids("person")), len(faults.ids("question"))) == (1, 2)
    assert sorted(map(len, faults.marked)) == [3, 4], "words in which it is not asked, and a fact"
