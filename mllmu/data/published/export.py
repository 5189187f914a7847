"""Write and read a data set in the published MLLMU-Bench parquet layout.

Ten configs, one folder each, ``<Config>/train-00000-of-00001.parquet`` (Test_Set: two shards)::

    Full_Set      all fictitious people      image ID Directory biography question answer + the three tasks
    ft_Data       all fictitious people      image metadata (JSON list of {ID, Question, Answer}: training pairs)
    Test_Set      all fictitious people      ID images (transformed portraits) + the three tasks, reworded
    Retain_Set    the celebrities (published name; not the retained people)       columns of Full_Set
    forget_R, retain_Q   R = 5, 10, 15       columns of Full_Set without Directory; Q = 100 - R, the rest of the people

The published schema has no question ids, attributes, values, alternatives or rewordings, and no text-only training
pairs. :func:`export` keeps those in ``mllmu_index.jsonl`` beside the configs, so :func:`read_questions` gives back
exactly what was exported; without that file it rebuilds what the configs hold.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter

from mllmu.core.errors import DataError
from mllmu.core.jsonl import dump_lines, read_lines
from mllmu.core.records import MODALITIES, Modality, Profile, Question
from mllmu.data.published.biography import biography, description
from mllmu.data.published.recover import read
from mllmu.data.published.schema import (
    FULL,
    GROUPS,
    PART,
    TEST,
    TRAIN,
    TYPES,
    Pair,
    TaskRow,
    TrainRow,
    annotated,
    validated,
)

RATIOS = (5, 10, 15)
INDEX = "mllmu_index.jsonl"
DESCRIBE = "Can you describe this person in detail?"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_ROWS_PER_GROUP = 50

Row = TypeVar("Row", bound=BaseModel)
Key = tuple[str, str, str, Modality]
"""(variant, profile id, task, modality): the list of a config in which a question stands."""


class _Cell(NamedTuple):
    text: str
    answer: str
    options: dict[str, str]


def export(
    folder: Path,
    profiles: Sequence[Profile],
    questions: Sequence[Question],
    splits: Mapping[int, Sequence[str]],
    images_dir: Path,
) -> dict[str, int]:
    """Write the ten configs and the index; return the number of rows per config.

    Args:
        folder: created if missing; files of an earlier export are replaced.
        profiles: fictitious people and celebrities; rows keep this order.
        questions: of these people. eval of fictitious people goes to Full_Set, forget_R and retain_Q, eval of
            celebrities to Retain_Set, test to Test_Set, image_text train to ft_Data; others stand in the index only.
        splits: for each of 5, 10, 15 the ids of the forgotten fictitious people.
        images_dir: portraits, ``<id>.png`` (also jpg, jpeg, webp), and transformed views ``<id>_1.png``,
            ``<id>_2.png`` ... of every fictitious person; an image cell holds the file's bytes as they are.

    Raises:
        DataError: a split, a question or an image does not fit the people, or a file cannot be written.
    """
    _check(profiles, questions, splits)
    cells = _cells_of(questions)
    invented = [p for p in profiles if p.kind == "fictitious"]
    plan: dict[str, tuple[pa.Schema, list[Profile]]] = {
        "Full_Set": (FULL, invented),
        "ft_Data": (TRAIN, invented),
        "Test_Set": (TEST, invented),
        "Retain_Set": (FULL, [p for p in profiles if p.kind == "celebrity"]),
    }
    for ratio in RATIOS:
        forgotten = set(splits[ratio])
        plan[f"forget_{ratio}"] = (PART, [p for p in invented if p.id in forgotten])
        plan[f"retain_{100 - ratio}"] = (PART, [p for p in invented if p.id not in forgotten])
    for config, (schema, people) in plan.items():
        num_shards = 2 if config == "Test_Set" else 1
        size = -(-len(people) // num_shards)
        for shard in range(num_shards):
            path = folder / config / f"train-{shard:05d}-of-{num_shards:05d}.parquet"
            rows = (_row(schema, p, cells, images_dir) for p in people[shard * size : (shard + 1) * size])
            _write(path, schema, rows)
    _write_index(folder / INDEX, profiles, questions)
    return {config: len(people) for config, (_, people) in plan.items()}


def read_questions(folder: Path) -> list[Question]:
    """Read the questions of the four configs Full_Set, Retain_Set, Test_Set and ft_Data.

    With ``mllmu_index.jsonl`` the result equals what was exported, in the same order. Without it (the published data
    set itself) ids are numbered by position, ``attribute`` is recovered for training pairs and ``"other"``
    elsewhere, ``value`` is the right option, the filled blank, or the answer without its final stop; alternatives
    and rewordings are empty, and there are no text-only training questions.

    Raises:
        DataError: a config is missing or has another schema, or the index and the configs contradict each other.
    """
    cells = _read_cells(folder)
    if not (folder / INDEX).exists():
        return [_rebuilt(key, n, cell) for key, group in cells.items() for n, cell in enumerate(group)]
    waiting = {key: iter(group) for key, group in cells.items()}
    questions = [_joined(entry, waiting, folder) for entry in read_lines(folder / INDEX, Question)]
    left = [key for key, group in waiting.items() if next(group, None)]
    if left:
        raise DataError(
            f"{folder / INDEX}: {len(left)} lists of the configs have questions it does not know, first "
            f"{'.'.join(left[0])}. Expected one line a question; export again, or delete the index to rebuild."
        )
    return questions


def _check(profiles: Sequence[Profile], questions: Sequence[Question], splits: Mapping[int, Sequence[str]]) -> None:
    kinds = {p.id: p.kind for p in profiles}
    if len(kinds) != len(profiles):
        raise DataError(f"profiles: {len(profiles)} people share {len(kinds)} ids. Expected unique ids.")
    if set(splits) != set(RATIOS):
        raise DataError(f"splits: got the ratios {sorted(splits)}, expected exactly {list(RATIOS)}.")
    for ratio, ids in splits.items():
        bad = [i for i in ids if kinds.get(i) != "fictitious"]
        if bad or len(set(ids)) != len(ids):
            fault = f"'{bad[0]}' is not a fictitious person of this data set" if bad else "an id appears twice"
            raise DataError(f"splits[{ratio}]: {fault}. Expected different ids of fictitious profiles.")
    for question in questions:
        if question.profile_id not in kinds or not question.text:
            fault = "has no text" if question.profile_id in kinds else f"is about '{question.profile_id}', not exported"
            raise DataError(f"questions: '{question.id}' {fault}. Export all people that are asked about.")


def _key(question: Question) -> Key:
    return question.variant, question.profile_id, question.task, question.modality


def _cells_of(questions: Iterable[Question]) -> dict[Key, list[_Cell]]:
    cells: dict[Key, list[_Cell]] = defaultdict(list)
    for question in questions:
        cells[_key(question)].append(_Cell(question.text, question.answer, question.options))
    return cells


def _row(schema: pa.Schema, profile: Profile, cells: Mapping[Key, list[_Cell]], images_dir: Path) -> dict[str, Any]:
    """All values a config may ask of one person; only the columns of its schema are computed."""
    row: dict[str, Any] = {"ID": profile.id, "question": DESCRIBE}
    names = set(schema.names)
    if "image" in names:
        row["image"] = _portrait(images_dir, profile.id)
    if "images" in names:
        row["images"] = _views(images_dir, profile.id)
    if "Directory" in names:
        row["Directory"] = row["image"]["path"]
    if "biography" in names:
        row |= {"biography": biography(profile), "answer": description(profile)}
    if "metadata" in names:
        pairs = cells.get(("train", profile.id, "generation", "image_text"), [])
        metadata = [{"ID": profile.id, "Question": c.text, "Answer": c.answer} for c in pairs]
        row["metadata"] = json.dumps(metadata, ensure_ascii=False)
    if "Mask_Task" in names:
        row |= _tasks("test" if schema is TEST else "eval", profile.id, cells)
    return {name: row[name] for name in schema.names}


def _tasks(variant: str, profile_id: str, cells: Mapping[Key, list[_Cell]]) -> dict[str, Any]:
    def found(task: str, modality: Modality) -> list[_Cell]:
        return cells.get((variant, profile_id, task, modality), [])

    def choices(modality: Modality) -> list[dict[str, Any]]:
        group = found("classification", modality)
        return [{"Question": c.text, "Options": c.options, "Correct_Answer": c.answer} for c in group]

    def open_ended(task: str) -> list[dict[str, str]]:
        return [
            {"Type": TYPES[m], "Question": c.text, "Ground_Truth": c.answer} for m in MODALITIES for c in found(task, m)
        ]

    return {
        "Classification_Task": {GROUPS[m]: choices(m) for m in MODALITIES},
        "Generation_Task": open_ended("generation"),
        "Mask_Task": open_ended("cloze"),
    }


def _image(images_dir: Path, *stems: str) -> dict[str, Any] | None:
    """The image cell of the first file found; a profile id has no separators, so the path stays in the folder."""
    paths = [images_dir / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES]
    found = next((path for path in paths if path.is_file()), None)
    return {"bytes": found.read_bytes(), "path": found.name} if found else None


def _portrait(images_dir: Path, profile_id: str) -> dict[str, Any]:
    cell = _image(images_dir, profile_id, f"{profile_id}_0")
    if cell is None:
        raise _no_image(images_dir, profile_id)
    return cell


def _views(images_dir: Path, profile_id: str) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = []
    while view := _image(images_dir, f"{profile_id}_{len(views) + 1}"):
        views.append(view)
    if not views:
        raise _no_image(images_dir, f"{profile_id}_1")
    return views


def _no_image(images_dir: Path, stem: str) -> DataError:
    return DataError(f"{images_dir}: no image '{stem}.png' (or jpg, jpeg, webp). Render the portraits first.")


def _write(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows in groups, to a temporary name first: a stopped export leaves no half file under the real name."""
    described = annotated(schema)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, described) as writer:
            for group in _grouped(rows):
                writer.write_table(pa.Table.from_pylist(group, schema=described))
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}. Expected a writable folder with free space.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _grouped(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS_PER_GROUP:
            yield group
            group = []
    yield group


def _write_index(path: Path, profiles: Sequence[Profile], questions: Iterable[Question]) -> None:
    """One question a line; text, answer and options are blank where a config holds them."""
    kinds = {p.id: p.kind for p in profiles}
    blank = {"text": "", "answer": "", "options": {}}
    lines = dump_lines(q.model_copy(update=blank) if _in_config(q, kinds[q.profile_id]) else q for q in questions)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(lines, encoding="utf-8")
    temporary.replace(path)


def _in_config(question: Question, kind: str) -> bool:
    if question.variant == "train":
        return kind == "fictitious" and question.modality == "image_text" and question.task == "generation"
    return kind == "fictitious" or question.variant == "eval"


def _read_cells(folder: Path) -> dict[Key, list[_Cell]]:
    cells: dict[Key, list[_Cell]] = {}
    for config, variant in (("Full_Set", "eval"), ("Retain_Set", "eval"), ("Test_Set", "test")):
        for where, row in _read_rows(folder, config, TaskRow):
            if (variant, row.ID, "cloze", "text") in cells:
                raise DataError(f"{where}: ID '{row.ID}' appears twice. Expected one row a person.")
            cells |= _row_cells(variant, row)
    for where, trained in _read_rows(folder, "ft_Data", TrainRow):
        for pair in validated(TypeAdapter(list[Pair]), trained.metadata, f"{where}: metadata"):
            key: Key = ("train", pair.ID, "generation", "image_text")
            cells.setdefault(key, []).append(_Cell(pair.Question, pair.Answer, {}))
    return cells


def _row_cells(variant: str, row: TaskRow) -> dict[Key, list[_Cell]]:
    cells: dict[Key, list[_Cell]] = {}
    for m in MODALITIES:
        cells[variant, row.ID, "classification", m] = [
            _Cell(c.Question, c.Correct_Answer, {x: v for x, v in c.Options.items() if v is not None})
            for c in getattr(row.Classification_Task, GROUPS[m])
        ]
        for task, items in (("generation", row.Generation_Task), ("cloze", row.Mask_Task)):
            same = [i for i in items if i.Type == TYPES[m]]
            cells[variant, row.ID, task, m] = [_Cell(i.Question, i.Ground_Truth, {}) for i in same]
    return cells


def _read_rows(folder: Path, config: str, kind: type[Row]) -> Iterator[tuple[str, Row]]:
    """Validated rows of all shards of a config; images are not loaded."""
    paths = sorted((folder / config).glob("*.parquet"))
    if not paths:
        raise DataError(
            f"{folder / config}: no parquet file. Expected the configs Full_Set, Retain_Set, Test_Set, ft_Data."
        )
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                rows = file.read(columns=list(kind.model_fields)).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: not a readable parquet file ({error}). Download or export it again.") from None
        for number, row in enumerate(rows):
            where = f"{path}: row {number}"
            yield where, validated(TypeAdapter(kind), row, where)


def _joined(entry: Question, waiting: Mapping[Key, Iterator[_Cell]], folder: Path) -> Question:
    """Fill a blank index line from its config; a line with text is complete."""
    if entry.text:
        return entry
    cell = next(waiting.get(_key(entry), iter(())), None)
    if cell is None:
        raise DataError(f"{folder / INDEX}: '{entry.id}' is not in the configs. Export again, or delete the index.")
    if entry.task == "classification" and cell.options.get(cell.answer) != entry.value:
        raise DataError(
            f"{folder / INDEX}: '{entry.id}': got the value '{entry.value}', but the config says "
            f"'{cell.options.get(cell.answer)}'. The config was changed; export again, or delete the index."
        )
    return entry.model_copy(update=cell._asdict())


def _rebuilt(key: Key, number: int, cell: _Cell) -> Question:
    variant, profile_id, task, modality = key
    attribute, value = "other", cell.answer
    if task == "classification":
        if cell.answer not in cell.options:
            raise DataError(f"{'.'.join(key)}: the answer '{cell.answer}' is none of the options {list(cell.options)}.")
        value = cell.options[cell.answer]
    elif task == "generation":
        value = cell.answer.removesuffix(".")
    if variant == "train":
        reading = read(cell.text, cell.answer)
        attribute = reading.attribute or "other"
        value = reading.value if reading.value and reading.value in cell.answer else value
    place = f"{profile_id}.{variant}.{task}.{modality}.{number}"
    where = {"id": place, "profile_id": profile_id, "variant": variant, "task": task}
    known = {"modality": modality, "attribute": attribute, "value": value}
    return Question.model_validate({**where, **known, **cell._asdict()})
