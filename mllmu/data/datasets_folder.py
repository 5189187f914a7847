"""A data folder for the ``datasets`` library: parquet files with their images, and a card that names the configs.

    load_dataset(folder, "questions", split="train")     # taught; others: eval, test
    load_dataset(folder, "people")

Every row of ``questions`` is one question with its answer, its image, and how it is taught or asked by TRL and others:
``messages``. ``mllmu`` itself reads data folders, and the published layout of :mod:`mllmu.data.published.export`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mllmu.core import plugins
from mllmu.core.errors import DataError
from mllmu.core.records import Profile, Question
from mllmu.core.runfolder import write_atomic
from mllmu.data.dataset import Dataset, image_path
from mllmu.data.personal import PERSONAL
from mllmu.data.published.schema import FULL, annotated
from mllmu.data.tasks import Task

VARIANTS = ("train", "eval", "test")
_TEXT, _IMAGE = pa.string(), FULL.field("image").type
_TEXTS = pa.list_(_TEXT)
_MESSAGES = pa.list_(pa.struct([("role", _TEXT), ("content", pa.list_(pa.struct([("type", _TEXT), ("text", _TEXT)])))]))
QUESTIONS = pa.schema(
    [("id", _TEXT), ("person", _TEXT), ("group", _TEXT), ("forgotten_at", _TEXTS), ("task", _TEXT),
     ("modality", _TEXT), ("attribute", _TEXT), ("question", _TEXT), ("choices", _TEXTS), ("answer", _TEXT),
     ("value", _TEXT), ("images", pa.list_(_IMAGE)), ("messages", _MESSAGES)]
)  # fmt: skip
PEOPLE = pa.schema(
    [("id", _TEXT), ("group", _TEXT), ("forgotten_at", _TEXTS), ("name", _TEXT), ("biography", _TEXT),
     ("attributes", pa.list_(pa.struct([("name", _TEXT), ("value", _TEXT)]))), ("images", pa.list_(_IMAGE))]
)  # fmt: skip
_ROWS_PER_GROUP = 1000
INVENTED = "none; the people are invented, or public figures with public facts."


def write_folder(
    data: Dataset, folder: Path, *, title: str, source: str, seed: int, real: bool = False
) -> dict[str, int]:
    """Write the questions and the people of a data folder; returns the number of rows by file.

    Args:
        data: what the data stage made.
        folder: made if missing; files of an earlier export are replaced.
        title: of the data set, for the card.
        source: plug-in that made the people, for the card.
        seed: it was drawn by, for the card.
        real: the people may exist; the card warns of it.

    Raises:
        DataError: a file cannot be written.
    """
    groups = _groups(data)
    tasks = {name: plugins.build("tasks", name, {}) for name in dict.fromkeys(q.task for q in data.questions)}

    def rows(variant: str) -> Iterator[dict[str, Any]]:
        for question in data.questions:
            if question.variant == variant:
                yield _question(question, _prompt(question, tasks[question.task]), data, groups)

    files = {f"questions/{variant}": (QUESTIONS, rows(variant)) for variant in VARIANTS}
    files["people/people"] = (PEOPLE, (_person(profile, data, groups) for profile in data.profiles))
    counts = {name: _write(folder / f"{name}.parquet", *content) for name, content in files.items()}
    counts = {name: count for name, count in counts.items() if count}
    write_atomic(folder / "README.md", card(data, counts, groups, title=title, source=source, seed=seed, real=real))
    return counts


def _groups(data: Dataset) -> dict[str, str]:
    """What every person is for: people (the model is trained on them), celebrity, holdout or calibration."""
    named = {"celebrity": data.celebrities, "holdout": data.holdout, "calibration": data.calibration}
    return dict.fromkeys(data.people, "people") | {p: name for name, ids in named.items() for p in ids}


def _forgotten(data: Dataset, person: str) -> list[str]:
    return [key for key in data.keys if person in data.splits[key]]


def _prompt(question: Question, task: Task) -> str:
    """A question as training and evaluation put it by default."""
    return question.text if question.variant == "train" and task.bare_in_training else task.prompt(question)


def _question(question: Question, prompt: str, data: Dataset, groups: Mapping[str, str]) -> dict[str, Any]:
    seen = question.modality == "image_text"
    view = question.view if question.view is not None else int(question.variant == "test")
    choices = [f"{letter}: {value}" for letter, value in sorted(question.options.items())]
    asked = [{"type": "image", "text": None}] * seen
    asked += [{"type": "text", "text": prompt}]
    return {
        "id": question.id,
        "person": question.profile_id,
        "group": groups[question.profile_id],
        "forgotten_at": _forgotten(data, question.profile_id),
        "task": question.task,
        "modality": question.modality,
        "attribute": question.attribute,
        "question": question.text,
        "choices": choices,
        "answer": question.answer,
        "value": question.value,
        "images": list(_images(data.folder, question.profile_id, [view] if seen else [])),
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
        ],
    }


def _person(profile: Profile, data: Dataset, groups: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": profile.id,
        "group": groups[profile.id],
        "forgotten_at": _forgotten(data, profile.id),
        "name": profile.name,
        "biography": profile.biography,
        "attributes": [{"name": name, "value": value} for name, value in profile.attributes.items()],
        "images": list(_images(data.folder, profile.id, range(data.views(profile.id)))),
    }


def _images(folder: Path, person: str, views: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Images as they are on disk; a person without a transformed portrait is shown in the plain one."""
    for view in views:
        path = folder / image_path(person, view)
        path = path if path.is_file() else folder / image_path(person)
        yield {"bytes": path.read_bytes(), "path": path.name}


def _write(path: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> int:
    """Write a file, to a temporary name first; an image that many rows show is stored once per group of rows."""
    described, temporary = annotated(schema), path.with_suffix(".tmp")
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, described, dictionary_pagesize_limit=2**30) as writer:
            while group := [row for _, row in zip(range(_ROWS_PER_GROUP), rows, strict=False)]:
                writer.write_table(pa.Table.from_pylist(group, schema=described))
                count += len(group)
        if count:
            temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}. Expected a writable folder with free space.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return count


def card(
    data: Dataset, counts: Mapping[str, int], groups: Mapping[str, str], *, title: str, source: str, seed: int,
    real: bool = False,
) -> str:  # fmt: skip
    """The data card: a head that the hub and ``load_dataset`` read, and what a reader must know."""
    splits = [
        f"  - split: {name.partition('/')[2]}\n    path: {name}.parquet" for name in counts if name != "people/people"
    ]
    head = ["configs:", "- config_name: questions", "  default: true", "  data_files:", *splits]
    head += ["- config_name: people", "  data_files: people/people.parquet", "task_categories:"]
    head += ["- image-text-to-text", "tags:", "- machine-unlearning", f"pretty_name: {title!r}"]
    kinds = Counter(groups.values())
    people = ", ".join(f"{count} {'taught' if kind == 'people' else kind}" for kind, count in kinds.items())
    forgotten = ", ".join(f"{len(data.splits[key])} at {key} %" for key in data.keys)
    questions = ", ".join(
        f"{count:,} {name.partition('/')[2]}" for name, count in counts.items() if "questions" in name
    )
    text = f"""# {title}

{len(groups)} people ({people}) and questions about them ({questions}), for measuring how well a multimodal language
model forgets.

- **Made by** `mllmu`, source `{source}`, seed {seed}.
- **To be forgotten**: {forgotten}; `forgotten_at` names the ratios at which a person is.
- **Groups**: `people` are those a model is taught; no model is taught `holdout` and `calibration` people; `celebrity`
  are real, famous people with public facts.
- **Splits of `questions`**: `train` teaches, `eval` asks, `test` asks the same in other words with a transformed
  portrait. Train on `train` alone.
- `modality` is `image_text` (the image shows the person, the question says 'this person') or `text` (it says the
  name). `messages` is the question with its answer as TRL and chat templates take it, `images` its images.
- **Personal data**: {f"{PERSONAL} Do not publish this folder." if real else INVENTED}
"""
    return "\n".join(["---", *head, "---", "", text])
