"""FIUBench: fictitious facial identities with private facts, each question with a paraphrase and wrong answers."""

import re
import zipfile
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.data.files import parse_json, read_text
from mllmu.data.portraits import folder
from mllmu.data.published.content import PublishedData, QuestionReader, RowAccount, refuse_unknown, used
from mllmu.data.published.ids import PersonIds, as_id, usable_id
from mllmu.data.published.store import decode_image, downloaded
from mllmu.data.sources import Published

FILES = ("full.json", "full_data.json")
_SPLIT = re.compile(r"forget(\d+)$")
_QA_KEYS = ("qa_list", "question_and_answer")
_SHAPE = (
    'Expected FIUBench\'s full.json: rows {"image_path": ..., "qa_list": [{"question": ..., "answer": ..., '
    '"paraphrased_question": ..., "paraphrased_answer": ..., "perturbed_answer": [...]}]}.'
)


class Fiubench(Published):
    """FIUBench as published: about 400 faces, twenty questions each, all with the image.

    A person is named by the file of the face. Training uses the question as it is; evaluation asks it again, with the
    paraphrased answer as rewording and the perturbed answers, which are in its words, as wrong alternatives; Test is
    the paraphrased question with the paraphrased answer (and the same image: there are no others). Forget sets come
    from ``split.json``. Images are read from the folder or straight from its zip files.

    Source: https://huggingface.co/datasets/gray311/FIUBench (arXiv:2411.03554).
    """

    source = "https://huggingface.co/datasets/gray311/FIUBench"

    path: Path = Field(description="folder with full.json and SFHQ.zip (or its images), or hub name gray311/FIUBench")

    def read(self) -> PublishedData:
        data = PublishedData()
        name = next((name for name in FILES if (self.folder / name).is_file()), None)
        if name is None:
            raise DataError(f"{self.path.as_posix()}: none of {', '.join(FILES)} is in it. {_SHAPE}")
        images = _images(self.folder)
        readers = {variant: QuestionReader(name, variant, data.account) for variant in ("train", "eval", "test")}
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
            data.images[person] = [partial(_decoded, image)]
            data.questions[person] = used(  # all are free answers with the image
                readers[variant].read(number, person, "generation", "image_text", **said)
                for pair in _pairs(row)
                for variant, said in _questions(pair)
            )
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
        known, unusable = PersonIds(people), {Path(skip["id"]).stem for skip in account.skipped}
        found: dict[str, list[str]] = {}
        for key, stems in listed:
            if not (match := _SPLIT.fullmatch(key)) or not isinstance(stems, list):
                continue
            found[match[1]] = [person for stem in stems if (person := known.find(stem))]
            unknown = [as_id(stem) for stem in stems if not known.find(stem) and as_id(stem) not in unusable]
            refuse_unknown(f"{path}: {key}", unknown)
        account.note(known.note(path.name))
        return found


def _json(path: Path) -> Any:
    """A JSON file, or JSON lines as a list."""
    text = read_text(path, expected=_SHAPE)
    try:
        return parse_json(text, path, _SHAPE)
    except DataError:
        return parse_json(text, path, _SHAPE, lines=True)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    rows = _json(path)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of rows. {_SHAPE}")
    if not any(key in rows[0] for key in _QA_KEYS):
        raise DataError(f"{path}: no {' or '.join(_QA_KEYS)}; a row has {', '.join(rows[0])}. {_SHAPE}")
    yield from rows


def _images(root: Path) -> dict[str, Path | zipfile.Path]:
    """Images by file name, in the folder and in its zip files; the folder wins."""
    found: dict[str, Path | zipfile.Path] = {}
    for archive in sorted(root.glob("*.zip")):
        try:
            files = zipfile.Path(archive)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{archive}: not a readable zip file ({error}). Download it again.") from None
        found |= {Path(name).name: files / name for name in files.root.namelist() if _is_image(name)}
    return found | {path.name: path for path in sorted(root.rglob("*")) if _is_image(path.name)}


def _decoded(path: Path | zipfile.Path) -> Image:
    return decode_image(path.read_bytes(), str(path))


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in folder.SUFFIXES and not Path(name).name.startswith(".")


def _pairs(row: dict[str, Any]) -> list[dict[str, Any]]:
    listed = next((row[key] for key in _QA_KEYS if key in row), None)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else [str(v) for v in value] if isinstance(value, list) else []


def _questions(pair: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A question for training and evaluation, and its paraphrase for the test set, each with its variant."""
    question, answer = pair.get("question", pair.get("q")), pair.get("answer", pair.get("a"))
    attribute = pair.get("attribute") if isinstance(pair.get("attribute"), str) else None
    said = {"text": question, "answer": answer, "attribute": attribute}
    wrong = tuple(w for w in _texts(pair.get("perturbed_answer")) if w != answer)
    other = next(iter(_texts(pair.get("paraphrased_answer"))), "")
    yield "train", said
    yield "eval", {**said, "alternatives": wrong, "rewording": other}
    for text in _texts(pair.get("paraphrased_question"))[:1]:
        yield "test", {**said, "text": text, "answer": other or answer, "alternatives": wrong, "view": 0}
