"""What a recipe without a retain model may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from mllmu.config.load import parse
from mllmu.core.errors import RecipeError
from mllmu.pipeline.taken import check_without_retain_model

REQUESTS: dict[str, Any] = {"unlearn": {"requests": [{"people": ["001"]}, {"people": ["002"]}]}}


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (REQUESTS, r"unlearn\.requests"),
        ({"unlearn": {"methods": ["retrain"]}}, r"unlearn\.methods: retrain"),
        ({"evaluate": {"summaries": ["oracle_distance"]}}, r"evaluate\.summaries: oracle_distance"),
    ],
)
def test_what_needs_a_retain_model_is_refused_without_one_before_anything_is_made(
    asked: dict[str, Any], named: str
) -> None:
    check_without_retain_model(parse({"name": "x", **asked}))
    with pytest.raises(RecipeError, match=f"{named} needs a retain_model"):
        check_without_retain_model(parse({"name": "x", "finetune": {"retain_model": False}, **asked}))
