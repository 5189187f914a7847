"""The README of an exported model says what was forgotten and how it was measured, in words that are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mllmu.config.load import parse
from mllmu.core.records import ModelRef
from mllmu.pipeline.model_card import model_card

REF = ModelRef(base="tiny")
DATA = {"source": {"name": "synthetic", "num_people": 5}, "splits": {"forget_ratios": [0.4]}}


def card(root: Path, name: str, *, model: dict[str, Any] | None = None, **unlearn: Any) -> str:
    recipe = parse({
        "name": "x", "data": DATA, "model": {"path": "tiny", **(model or {})},
        "unlearn": {"methods": ["npo"], **unlearn},
    })  # fmt: skip
    return model_card(root, recipe, name, REF)


@pytest.mark.parametrize(
    ("unlearn", "words"),
    [
        ({}, "40 % of them"),
        ({"requests": 2}, "40 % of them"),
        ({"forget": {"people": ["p001", "p002", "p003"]}}, "3 people"),
        ({"forget": {"attributes": ["salary", "hobby"]}}, "`salary`, `hobby` of 40 % of them"),
        (
            {"forget": {"people": ["p001"], "attributes": ["pet"], "coarsen": {"birth_date": "decade"}}},
            "`pet`, `birth_date` (the decade may stay known) of one person",
        ),
        ({"forget": {"facts": {"p001": ["salary"], "p002": ["pet"]}}}, "some facts about 2 people"),
        (
            {"forget": {"facts": {"p001": ["salary"]}, "people": ["p002", "p003"]}},
            "some facts about one person, and all about 2 people",
        ),
        (
            {"requests": [{"people": ["p001"]}, {"attributes": ["salary"]}]},
            "one person; then `salary` of 40 % of them",
        ),
    ],
)
def test_it_names_what_was_to_be_forgotten(tmp_path: Path, unlearn: dict[str, Any], words: str) -> None:
    assert f"and then made to forget {words} by the method `npo`." in card(tmp_path, "forget_40/npo", **unlearn)
    yardstick = words.replace("them", "the people")
    assert f"the data set without {yardstick}: the yardstick." in card(tmp_path, "forget_40/retain_model", **unlearn)


@pytest.mark.parametrize("quantize", [None, "nf4", "int8"])
def test_it_says_that_a_rounded_base_was_measured_where_it_was(tmp_path: Path, quantize: str | None) -> None:
    told = "Measured with the base in"
    assert told not in card(tmp_path, "forget_40/npo", model={"quantize": quantize}), "nothing was measured"
    metrics = tmp_path / "eval" / "forget_40" / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(json.dumps({"results": []}))
    assert (f"{told} `{quantize}`" in card(tmp_path, "forget_40/npo", model={"quantize": quantize})) == bool(quantize)
