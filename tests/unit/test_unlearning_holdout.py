"""The level at which a fact counts as forgotten: what true replies about holdout people get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch

from mllmu.config.load import parse
from mllmu.core import plugins
from mllmu.core.errors import DataError, RecipeError
from mllmu.models.engine.forward import Forward
from mllmu.models.families import Turn
from mllmu.unlearning.base import Side, Step
from mllmu.unlearning.holdout import CHUNK, holdout_levels, level_of

LETTER = Turn(prompt="Which?", reply="A", image=Path("a.png"), task="classification")
WORD = Turn(prompt="What?", reply="Riga", task="cloze")


def forward(replies: Sequence[Sequence[float]]) -> Forward:
    """A pass with the given token probabilities of each reply (word 0 of two)."""
    p_N = torch.tensor([p for reply in replies for p in reply])
    rows = torch.tensor([row for row, reply in enumerate(replies) for _ in reply])
    logits = torch.stack([p_N.log(), (1 - p_N).log()], dim=1).requires_grad_()
    return Forward(logits, torch.zeros_like(rows), rows, len(replies))


def test_a_level_is_the_mean_normalised_probability_of_its_type() -> None:
    levels = holdout_levels(
        [LETTER, WORD, LETTER, replace(WORD, image=Path("b.png"))],
        lambda turns: forward([[0.5], [0.25, 0.25], [0.125], [0.9, 0.1]][: len(turns)]),
    )
    # (1/2 + 1/8) / 2 for the letters; a reply of two tokens counts by its geometric mean
    assert levels == pytest.approx(
        {(True, "classification"): log(5 / 16), (False, "cloze"): log(1 / 4), (True, "cloze"): log(0.3)}, rel=1e-6
    )


def test_every_question_about_holdout_people_is_run_once() -> None:
    seen: list[Turn] = []

    def run(turns: Sequence[Turn]) -> Forward:
        seen.extend(turns)
        assert len(turns) <= CHUNK
        return forward([[0.5]] * len(turns))

    turns = [replace(LETTER, prompt=str(number)) for number in range(2 * CHUNK + 3)]
    assert holdout_levels(turns, run) == pytest.approx({(True, "classification"): log(0.5)})
    assert seen == turns


def test_a_question_type_without_holdout_questions_is_named() -> None:
    with pytest.raises(DataError, match=r"no cloze question about a holdout person, text only \(there are 1 other"):
        level_of(WORD, {(True, "cloze"): -1.0})


def test_holdout_match_goes_to_the_level_of_the_replys_own_type() -> None:
    class Passes:
        def forward(self, *, reference: bool, alternative: bool) -> Forward:
            assert not (reference or alternative)
            return forward([[0.5], [0.25, 0.25]])

        def hidden(self, depth: float, *, reference: bool) -> torch.Tensor:
            pytest.fail(f"not asked for: {depth}, {reference}")

    side = Side((LETTER, WORD), Passes(), lambda: {(True, "classification"): log(0.6), (False, "cloze"): log(0.125)})
    method = plugins.build("methods", "holdout_match", {"kl_weight": 0, "retain_weight": 0})
    assert method.uses_holdout
    got = {name: term.item() for name, term in method.loss(Step(forget=side, retain=side)).items()}
    # the letter is a little less likely than holdout people's, the word twice as likely per token
    expected = {"forget_image_text": log(1.2) ** 2 / 2 / 2, "forget_text": log(2) ** 2 / 2 / 2}
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("settings", [{"floor": -1.5}, {"reference": "retain_model"}])
def test_holdout_match_with_a_given_level_needs_no_holdout_people(settings: dict[str, object]) -> None:
    assert not plugins.build("methods", "holdout_match", settings).uses_holdout


def test_a_recipe_without_holdout_people_is_refused_before_it_runs() -> None:
    raw = {"name": "x", "data": {"splits": {"holdout": 4}}, "unlearn": {"methods": ["holdout_match"]}}
    with pytest.raises(RecipeError, match=r"holdout_match compares with people .*: set data.splits.calibration above"):
        parse(raw, where="x.yaml")
    raw["unlearn"] = {"methods": [{"name": "holdout_match", "floor": -1.5}]}
    parse(raw, where="x.yaml")
