"""The published parquet schema: arrow types for writing, and the walk over the questions of a row for reading."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from mllmu.core.records import MODALITIES, Modality, TaskName

FULL_SET, TEST_SET, TRAINING, CELEBRITIES = "Full_Set", "Test_Set", "ft_Data", "Retain_Set"
RATIOS = (5, 10, 15)
"""Percent of forgotten people: the configs forget_R and retain_Q, Q = 100 - R."""
TASKS = ("Classification_Task", "Generation_Task", "Mask_Task")
TYPES: dict[Modality, str] = {"image_text": "Image_Textual", "text": "Pure_Text"}
GROUPS: dict[Modality, str] = {"image_text": "Image_Textual_Questions", "text": "Pure_Text_Questions"}

_TEXT = pa.string()
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", _TEXT)])
_CHOICES = pa.list_(
    pa.struct(
        [("Question", _TEXT), ("Options", pa.struct([(x, _TEXT) for x in "ABCD"])), ("Correct_Answer", _TEXT)],
    )
)
_OPEN = pa.list_(pa.struct([("Type", _TEXT), ("Question", _TEXT), ("Ground_Truth", _TEXT)]))
_TASKS = list(zip(TASKS, (pa.struct([(name, _CHOICES) for name in GROUPS.values()]), _OPEN, _OPEN), strict=True))
_ABOUT = [("biography", _TEXT), ("question", _TEXT), ("answer", _TEXT)]
FULL = pa.schema([("image", _IMAGE), ("ID", _TEXT), ("Directory", _TEXT), *_ABOUT, *_TASKS])
PART = pa.schema([("image", _IMAGE), ("ID", _TEXT), *_ABOUT, *_TASKS])
TEST = pa.schema([("ID", _TEXT), ("images", pa.list_(_IMAGE)), *_TASKS])
TRAIN = pa.schema([("image", _IMAGE), ("metadata", _TEXT)])


class PublishedItem(NamedTuple):
    """One question as a row holds it; nothing of it is checked.

    Attributes:
        modality: None if the published Type is neither of :data:`TYPES`.
        column, position: the list of the row in which it stands, and where in it.
        options: letter -> value, for a classification.
    """

    task: TaskName
    modality: Modality | None
    column: str
    position: int
    text: Any
    answer: Any
    options: Any = None
    type: Any = None


def items(row: Mapping[str, Any]) -> Iterator[PublishedItem]:
    """The questions in the columns :data:`TASKS` of a row, in the published order within task and modality."""
    for modality in MODALITIES:
        for position, item in enumerate((row["Classification_Task"] or {}).get(GROUPS[modality]) or ()):
            said = item.get("Question"), item.get("Correct_Answer"), item.get("Options")
            yield PublishedItem("classification", modality, "Classification_Task", position, *said)
    lists: tuple[tuple[TaskName, str], ...] = (("generation", "Generation_Task"), ("cloze", "Mask_Task"))
    for task, column in lists:
        for position, item in enumerate(row[column] or ()):
            text, answer, named = item.get("Question"), item.get("Ground_Truth"), item.get("Type")
            yield PublishedItem(task, _modality(named), column, position, text, answer, type=named)


def _modality(named: Any) -> Modality | None:
    plain = re.sub(r"[^a-z]", "", str(named).casefold())
    return "image_text" if plain.startswith("image") else "text" if plain.startswith("puretext") else None


def annotated(schema: pa.Schema) -> pa.Schema:
    """Add the description by which the ``datasets`` library decodes image cells when it loads the folder."""
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: Any) -> Any:
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": "string", "_type": "Value"}
