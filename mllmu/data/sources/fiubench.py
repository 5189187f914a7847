"""FIUBench: fictitious facial identities with private facts, each question with a paraphrase and wrong answers."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL.Image import Image
from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Profile, Question
from mllmu.data.files import read_text
from mllmu.data.published.content import PublishedData, QuestionReader, RowAccount, usable_id, used
from mllmu.data.published.store import decode_image, downloaded
from mllmu.data.sources import Published

FILES = ("full.json", "full_data.json")
_SPLIT = re.compile(r"forget(\d+)$")
_QA_KEYS = ("qa_list", "question_and_answer")
_SHAPE = (
    'Expected FIUBench\'s full.json: rows {"image_path": ..., "qa_list": [{"question": ..., "answer": ..., '
    '"paraphrased_question": ..., "paraphrased_answer": ..., "perturbed_answer": [...]}]}.'
)


Reader = Callable[..., Question | None]


class _File(NamedTuple):
    """An image in the folder, or inside one of its zip files."""

    path: Path | zipfile.Path

    def load(self) -> Image:
        return decode_image(self.path.read_bytes(), str(self.path))


class Fiubench(Published):
    """FIUBench as published: about 400 faces, twenty questions each, all with the image.

    A person is named by the file of the face. Training uses the question as it is; evaluation asks it again, with the
    paraphrased answer as rewording and the perturbed answers as wrong alternatives; Test is the paraphrased question
    with the paraphrased answer (and the same image: there are no others). Forget sets come from ``split.json``.
    Images are read from the folder or straight from its zip files.

    Source: https://huggingface.co/datasets/gray311/FIUBench (arXiv:2411.03554).
    """

    source: ClassVar[str] = "https://huggingface.co/datasets/gray311/FIUBench"

    path: Path = Field(description="folder with full.json and SFHQ.zip (or its images), or hub name gray311/FIUBench")

    def read(self) -> PublishedData:
        data = PublishedData()
        name = next((name for name in FILES if (self.folder / name).is_file()), None)
        if name is None:
            raise DataError(f"{self.path.as_posix()}: none of {', '.join(FILES)} is in it. {_SHAPE}")
        images = _images(self.folder)
        readers = [(variant, QuestionReader(name, variant, data.account)) for variant in ("train", "eval", "test")]
        for number, row in enumerate(_rows(self.folder / name)):
            data.account.rows[name] += 1
            face = Path(str(row.get("image_path") or row.get("image") or "")).name
            person, image = usable_id(Path(face).stem), images.get(face)
            if person is None or image is None or person in data.images:
                reason = "it names no image" if person is None else f"the image {face} is missing"
                reason = "the image was already given" if person in data.images else reason
                data.account.skip(name, number, face, reason)
                continue
            attributes = {"name": str(row.get("name") or f"person {person}")}
            data.people.append(Profile(id=person, kind="fictitious", attributes=attributes))
            data.images[person] = [image]
            # all are free answers with the image
            read = {variant: partial(r.read, number, person, "generation", "image_text") for variant, r in readers}
            data.questions[person] = used([question for pair in _pairs(row) for question in _questions(pair, read)])
        data.forget = self._forget({p.id for p in data.people}, data.account)
        return data

    @cached_property
    def folder(self) -> Path:
        """The folder with the files; a repository of the hub is fetched as files."""
        return downloaded(self.path, self.revision, patterns=["*.json", "SFHQ.zip"])

    def _forget(self, people: set[str], account: RowAccount) -> dict[str, list[str]]:
        """Forget sets by percent; ``split.json`` lists the stems of the images."""
        path = self.folder / "split.json"
        if not path.is_file():
            account.notes.append("no split.json: forget sets are drawn by the seed")
            return {}
        splits = _json(path)
        listed = splits.items() if isinstance(splits, dict) else ()
        return {
            match[1]: [stem for stem in map(str, ids) if stem in people]
            for key, ids in listed
            if (match := _SPLIT.fullmatch(key)) and isinstance(ids, list)
        }


def _json(path: Path) -> Any:
    """A JSON file, or JSON lines as a list."""
    text = read_text(path, expected=_SHAPE)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not readable as JSON ({error}). {_SHAPE}") from None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    rows = _json(path)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of rows. {_SHAPE}")
    if not any(key in rows[0] for key in _QA_KEYS):
        raise DataError(f"{path}: no {' or '.join(_QA_KEYS)}; a row has {', '.join(rows[0])}. {_SHAPE}")
    yield from rows


def _images(folder: Path) -> dict[str, _File]:
    """Images by file name, in the folder and in its zip files; the folder wins."""
    found: dict[str, _File] = {}
    for archive in sorted(folder.glob("*.zip")):
        try:
            root = zipfile.Path(archive)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{archive}: not a readable zip file ({error}). Download it again.") from None
        found |= {Path(name).name: _File(root / name) for name in root.root.namelist() if _is_image(name)}
    return found | {path.name: _File(path) for path in sorted(folder.rglob("*")) if _is_image(path.name)}


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") and not Path(name).name.startswith(".")


def _pairs(row: dict[str, Any]) -> list[dict[str, Any]]:
    listed = next((row[key] for key in _QA_KEYS if key in row), None)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else [str(v) for v in value] if isinstance(value, list) else []


def _questions(pair: dict[str, Any], read: Mapping[str, Reader]) -> Iterator[Question | None]:
    """A question for training and evaluation, and its paraphrase for the test set; ``read``: by variant."""
    question, answer = pair.get("question", pair.get("q")), pair.get("answer", pair.get("a"))
    attribute = pair.get("attribute") if isinstance(pair.get("attribute"), str) else None
    said = {"text": question, "answer": answer, "attribute": attribute}
    wrong = tuple(w for w in _texts(pair.get("perturbed_answer")) if w != answer)
    other = next(iter(_texts(pair.get("paraphrased_answer"))), "")
    yield read["train"](**said)
    yield read["eval"](**said, alternatives=wrong, rewording=other)
    for text in _texts(pair.get("paraphrased_question"))[:1]:
        said |= {"text": text, "answer": other or answer}
        yield read["test"](**said, alternatives=wrong, rewording=str(answer), view=0)


PLUGIN = Fiubench
