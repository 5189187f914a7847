"""Write a data set in the published MLLMU-Bench parquet layout.

Ten configs, one folder each, ``<Config>/train-00000-of-00001.parquet`` (Test_Set: two shards)::

    Full_Set      all fictitious people      image ID Directory biography question answer + the three tasks
    ft_Data       all fictitious people      image metadata (JSON list of {ID, Question, Answer}: training pairs)
    Test_Set      all fictitious people      ID images (transformed portraits) + the three tasks, reworded
    Retain_Set    the celebrities (published name; not the retained people)       columns of Full_Set
    forget_R, retain_Q   R = 5, 10, 15       columns of Full_Set without Directory; Q = 100 - R, the rest of the people

The published schema has no attributes, values, alternatives or rewordings, no text-only training pairs, and no place
for people whom no model may see, so these are left out. The source ``mllmu_bench`` reads the layout.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mllmu.core.errors import DataError
from mllmu.core.records import MODALITIES, Modality, Profile, Question
from mllmu.data.dataset import SPLITS, Dataset, image_files, image_path
from mllmu.data.published import schema as published
from mllmu.data.published.biography import biography, description
from mllmu.data.published.schema import CELEBRITIES, FULL_SET, GROUPS, RATIOS, TEST_SET, TRAINING, TYPES, annotated

DESCRIBE = "Can you describe this person in detail?"
_ROWS_PER_GROUP = 50

Lists = Mapping[tuple[str, str, str, Modality], Sequence[Question]]
"""Questions by (variant, person, task, modality): the list of a config in which they stand."""


def export(data: Dataset, folder: Path) -> dict[str, int]:
    """Write the ten configs; return the number of rows per config.

    eval questions about fictitious people go to Full_Set, forget_R and retain_Q, those about celebrities to
    Retain_Set, test questions to Test_Set, image_text training pairs to ft_Data. An image cell holds the file's bytes
    as they are.

    Args:
        folder: created if missing; files of an earlier export are replaced.

    Raises:
        DataError: the data do not have the published forget ratios, a person has no image, or a file cannot be written.
    """
    if any(str(ratio) not in data.splits for ratio in RATIOS):
        raise DataError(
            f"{data.folder / SPLITS}: the export needs the forget ratios 5, 10 and 15 percent, got "
            f"{', '.join(data.keys) or 'none'}. Make the data with --set "
            "'data.splits.forget_ratios=[0.05, 0.1, 0.15]' in a run folder of its own (--out)."
        )
    lists: dict[tuple[str, str, str, Modality], list[Question]] = defaultdict(list)
    for question in data.questions:
        lists[question.variant, question.profile_id, question.task, question.modality].append(question)
    profiles = {p.id: p for p in data.profiles}
    people, celebrities = ([profiles[person] for person in ids] for ids in (data.people, data.celebrities))
    plan: dict[str, tuple[pa.Schema, list[Profile]]] = {
        FULL_SET: (published.FULL, people),
        TRAINING: (published.TRAIN, people),
        TEST_SET: (published.TEST, people),
        CELEBRITIES: (published.FULL, celebrities),
    }
    for ratio in RATIOS:
        forgotten = set(data.splits[str(ratio)])
        plan[f"forget_{ratio}"] = (published.PART, [p for p in people if p.id in forgotten])
        plan[f"retain_{100 - ratio}"] = (published.PART, [p for p in people if p.id not in forgotten])
    for config, (schema, members) in plan.items():
        num_shards = 2 if config == TEST_SET else 1
        size = -(-len(members) // num_shards)
        for shard in range(num_shards):
            path = folder / config / f"train-{shard:05d}-of-{num_shards:05d}.parquet"
            _write(path, schema, members[shard * size : (shard + 1) * size], lists, data.folder)
    return {config: len(members) for config, (_, members) in plan.items()}


def _write(path: Path, schema: pa.Schema, people: Sequence[Profile], lists: Lists, data_folder: Path) -> None:
    """Write rows in groups, to a temporary name first: a stopped export leaves no half file under the real name."""
    described = annotated(schema)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, described, write_page_checksum=True) as writer:
            for start in range(0, max(1, len(people)), _ROWS_PER_GROUP):
                rows = [_row(schema, p, lists, data_folder) for p in people[start : start + _ROWS_PER_GROUP]]
                writer.write_table(pa.Table.from_pylist(rows, schema=described))
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}. Expected a writable folder with free space.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _row(schema: pa.Schema, profile: Profile, lists: Lists, data_folder: Path) -> dict[str, Any]:
    """The columns of a schema for one person."""
    variant = "test" if schema is published.TEST else "eval"
    portrait, view = (data_folder / image_path(profile.id, number) for number in (0, 1))
    columns: dict[str, Callable[[], Any]] = {
        "ID": lambda: profile.id,
        "question": lambda: DESCRIBE,
        "image": lambda: _image(portrait),
        "images": lambda: [_image(path) for path in image_files(data_folder, profile.id)[1:] or [view]],
        "Directory": lambda: portrait.name,
        "biography": lambda: biography(profile),
        "answer": lambda: description(profile),
        "metadata": lambda: _training_pairs(profile.id, lists),
        "Classification_Task": lambda: {GROUPS[m]: _choices(variant, profile.id, m, lists) for m in MODALITIES},
        "Generation_Task": lambda: _open_ended(variant, profile.id, "generation", lists),
        "Mask_Task": lambda: _open_ended(variant, profile.id, "cloze", lists),
    }
    return {name: columns[name]() for name in schema.names}


def _training_pairs(person: str, lists: Lists) -> str:
    pairs = lists.get(("train", person, "generation", "image_text"), ())
    return json.dumps([{"ID": person, "Question": q.text, "Answer": q.answer} for q in pairs], ensure_ascii=False)


def _choices(variant: str, person: str, modality: Modality, lists: Lists) -> list[dict[str, Any]]:
    questions = lists.get((variant, person, "classification", modality), ())
    return [{"Question": q.text, "Options": q.options, "Correct_Answer": q.answer} for q in questions]


def _open_ended(variant: str, person: str, task: str, lists: Lists) -> list[dict[str, str]]:
    return [
        {"Type": TYPES[modality], "Question": q.text, "Ground_Truth": q.answer}
        for modality in MODALITIES
        for q in lists.get((variant, person, task, modality), ())
    ]


def _image(path: Path) -> dict[str, Any]:
    """The cell of an image file."""
    if not path.is_file():
        raise DataError(f"{path.parent}: no image '{path.name}'. Make the data again (--force).")
    return {"bytes": path.read_bytes(), "path": path.name}
