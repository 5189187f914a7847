"""Judges in a recipe: the rule keeps its name, and a wrong setting is named."""

from __future__ import annotations

from typing import Any

import pytest

from mllmu.config.load import parse
from mllmu.core.errors import RecipeError
from mllmu.evaluation.judges.rule import Rule


def test_the_rule_keeps_its_name_under_any_label() -> None:
    assert Rule().name == "rule" and Rule(label="gpt4").name == "rule_gpt4"


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"judges": ["rule"], "tasks": ["cloze"]}, "judges read free answers only"),
        ({"judges": ["rul"]}, "no 'rul'. Did you mean 'rule'"),
        ({"judges": ["rule", "rule"]}, r"two are named alike \(rule, rule\)"),
        ({"judges": [{"name": "rule", "lable": "x"}]}, r"evaluate\.judges\[0\]\.lable: unknown setting of 'rule'"),
    ],
)
def test_a_wrong_judge_in_a_recipe_is_named(evaluate: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as error:
        parse({"name": "r", "evaluate": evaluate})
    assert isinstance(error.value, RecipeError) or "PluginError" in type(error.value).__name__
