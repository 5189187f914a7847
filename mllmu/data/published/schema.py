"""The published parquet schema: arrow types for writing, pydantic models for reading what strangers wrote."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

import pyarrow as pa
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from mllmu.core.errors import DataError
from mllmu.core.records import Modality

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


class _Choice(BaseModel):
    Question: str
    Options: dict[str, str | None]
    Correct_Answer: str


class _Classification(BaseModel):
    Image_Textual_Questions: list[_Choice]
    Pure_Text_Questions: list[_Choice]


class _Open(BaseModel):
    Type: Literal["Image_Textual", "Pure_Text"]
    Question: str
    Ground_Truth: str


class TaskRow(BaseModel):
    ID: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    Classification_Task: _Classification
    Generation_Task: list[_Open]
    Mask_Task: list[_Open]


class TrainingPair(BaseModel):
    ID: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    Question: str
    Answer: str


class TrainRow(BaseModel):
    metadata: str


T = TypeVar("T")


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


def validated(adapter: TypeAdapter[T], value: Any, where: str) -> T:
    """Check a Python value, or JSON text, against a type; a misfit raises DataError with place, got and expected."""
    try:
        return adapter.validate_json(value) if isinstance(value, str) else adapter.validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        got = repr(fault["input"])[:80]
        raise DataError(f"{where}: {place}: {fault['msg']}, got {got}. Expected the published schema.") from None
