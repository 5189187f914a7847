"""Looking at people, portraits and questions before the first training, and building again without what was marked.

The page is one file without links: open it in a browser, mark faults, save ``faults.json``, name it in
``data.review``. A marked person is left out; a marked portrait is drawn again (all views of the person, so that they
stay one face); a marked question of the evaluation gives its place to another attribute, its twin of the test set too,
or asks the same attribute in other words (``same_fact``); a marked training question is left out.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.records import Profile, Question, Record
from mllmu.core.runfolder import RunFolder, read_lines, write_atomic
from mllmu.data.dataset import PROFILES, QUESTIONS, image_files
from mllmu.data.files import REMAKE, misfit, read_image, read_text

FORMAT = "mllmu-review-1"
KEPT = "review.json"
PAGE = "review.html"
THUMB = 128


class Mark(Record):
    """Something that a person found wrong; ``id`` is a profile's, a question's, or of a profile for portraits."""

    what: Literal["person", "portrait", "question"]
    id: str
    reason: str = ""
    attribute: str = ""
    text: str = ""
    same_fact: bool = False


class Faults(Record):
    """The content of ``faults.json``."""

    format: Literal["mllmu-review-1"]
    marks: tuple[Mark, ...] = Field(default=(), max_length=1_000_000)

    def ids(self, what: str) -> frozenset[str]:
        """Ids of the marked people, portraits (by person) or questions."""
        return frozenset(mark.id for mark in self.marks if mark.what == what)

    @property
    def marked(self) -> frozenset[tuple[str, ...]]:
        """What the evaluation does not ask any more, as in :class:`mllmu.data.questions.QuestionOrder`."""
        questions = [(mark, mark.id.split(".")) for mark in self.marks if mark.what == "question"]
        return frozenset(
            (person, task, mark.text) if mark.same_fact else (person, task, modality, mark.attribute)
            for mark, (person, variant, task, modality, _) in questions
            if variant != "train"
        )


def load(path: Path | None, known: Sequence[Profile]) -> Faults:
    """Read a file of marks; every mark must be about a person of this data set.

    Raises:
        DataError: no such file, not a file of marks, or it names a person that the data do not have.
    """
    if path is None:
        return Faults(format=FORMAT)
    expected, missing = "Expected what the review page saved.", "data.review names what the review page saved."
    try:
        faults = Faults.model_validate_json(read_text(path, expected=expected, missing=missing))
    except ValidationError as error:
        raise DataError(f"{path}: {misfit(error, 'file')}. {expected}") from None
    ids = {person.id for person in known}
    for mark in faults.marks:
        _check_mark(mark, ids, path)
    return faults


def made_with(folder: Path) -> Faults:
    """The marks that a data folder was made with; none if it was made without a review."""
    path = folder / KEPT
    return Faults.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else Faults(format=FORMAT)


def _check_mark(mark: Mark, ids: set[str], path: Path) -> None:
    parts = mark.id.split(".")
    if mark.what == "question" and len(parts) != 5:
        raise DataError(f"{path}: no question has the id '{mark.id}'. Expected <person>.eval.<task>.<modality>.<n>.")
    if parts[0] not in ids:
        raise DataError(
            f"{path}: marks {mark.what} '{mark.id}', but nobody has that id.{did_you_mean(parts[0], ids)} "
            "Is it the review of other data?"
        )


def keep(people: Sequence[Profile], faults: Faults) -> list[Profile]:
    """The people who are not marked."""
    gone = faults.ids("person")
    return [person for person in people if person.id not in gone]


def without(questions: Sequence[Question], faults: Faults) -> list[Question]:
    """The questions less the training questions that were marked.

    Raises:
        DataError: a marked question of the evaluation is still asked, because its source replaces none.
    """
    marked = faults.marked
    left_out = {(m.id.split(".")[0], m.attribute, m.text) for m in faults.marks if ".train." in m.id}
    for q in questions:
        about = {(q.profile_id, q.task, q.modality, q.attribute), (q.profile_id, q.task, q.text)}
        if q.variant != "train" and about & marked:
            raise DataError(
                f"data.review: question {q.id} is marked, but it is its source's own, and no other is put in its "
                "place. Mark the person, or correct the source."
            )
    return [q for q in questions if (q.profile_id, q.attribute, q.text) not in left_out or q.variant != "train"]


def refuse_own_images(faults: Faults, own: Sequence[str]) -> None:
    """An image that comes from a file cannot be drawn again; ``own``: people with such images."""
    marked = faults.ids("portrait")
    if person := next((person for person in own if person in marked), ""):
        raise DataError(
            f"data.review: the portrait of {person} is marked, but it is the source's own image. Replace the "
            "file and unmark it, or mark the person."
        )


def counts(faults: Faults) -> dict[str, Any]:
    """How many marks of each kind were honoured, for ``source.json``."""
    found = {what: len(faults.ids(what)) for what in ("person", "portrait", "question")}
    told = f"{found['person']} people left out, {found['portrait']} drawn again, {found['question']} questions replaced"
    return {"summary": told, **found} if faults.marks else {}


def write_page(run: Path) -> Path:
    """Write ``review.html`` into a run folder and return its path.

    Raises:
        DataError: the folder holds no data, or an image cannot be read.
    """
    folder = run / RunFolder.DATA
    people, questions = read_lines(folder / PROFILES, Profile), defaultdict(list)
    for question in read_lines(folder / QUESTIONS, Question):
        questions[question.profile_id].append(question)
    shown = [
        {"person": person, "views": _thumbs(folder, person.id), "questions": questions[person.id]} for person in people
    ]
    path = run / PAGE
    write_atomic(path, _render(run.resolve().name, shown, [mark.model_dump() for mark in made_with(folder).marks]))
    return path


def _render(title: str, people: list[dict[str, Any]], marks: list[dict[str, Any]]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("mllmu.data").joinpath("review.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(title=title, people=people, earlier=marks, format=FORMAT)


def _thumbs(folder: Path, person: str) -> list[str]:
    """The views of a person as data addresses."""
    found: list[str] = []
    for path in image_files(folder, person):
        buffer = io.BytesIO()
        image = read_image(path, str(path), fault="not a readable image", advice=REMAKE)
        image.resize((THUMB, THUMB)).save(buffer, "WEBP", quality=75)
        found.append(f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return found
