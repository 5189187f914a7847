"""Perplexity of a model's own replies, by hand; and that the base model really weighs them."""

from __future__ import annotations

import doctest
import math
from pathlib import Path
from typing import Any

import pytest
from helpers_models import nll

from mllmu.core.records import BaseLogp, Response, Sample
from mllmu.evaluation.metrics import reply_perplexity as module
from mllmu.evaluation.metrics.reply_perplexity import ReplyPerplexity
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.pipeline.base_logp import base_logps

METRIC = ReplyPerplexity()


def sample(number: int = 0, **changes: Any) -> Sample:
    fields = {
        "id": f"s{number}", "question_id": "q", "profile_id": "p", "split": "retain", "task": "generation",
        "modality": "text", "attribute": "job", "prompt": "What is the job?", "target": "t", "value": "t",
        "max_new_tokens": 8,
    }  # fmt: skip
    return Sample.model_validate(fields | changes)


def reply(text: str, base_logp: BaseLogp | None = None, number: int = 0) -> Response:
    return Response(sample_id=f"s{number}", text=text, num_tokens=3, finished=True, base_logp=base_logp)


def test_a_reply_is_worth_its_nll_per_token() -> None:
    known = BaseLogp(sample_id="s0", logp=-6.0, num_tokens=4)
    assert METRIC.score(sample(), reply("a nurse", known)).value == 1.5


def test_what_was_not_said_or_not_weighed_has_no_value() -> None:
    assert METRIC.score(sample(), reply(" ")).reason == "empty reply"
    assert METRIC.score(sample(), reply("a nurse")).value is None


def test_the_mean_is_taken_before_the_exponential() -> None:
    found = METRIC.aggregate([math.log(2), math.log(8)], ["a", "b"], split="retain")
    assert found.value == pytest.approx(4.0), "the geometric mean of 2 and 8, not 5"
    assert found.low is not None and found.high is not None and found.low * found.high == pytest.approx(16.0)
    assert METRIC.aggregate([], [], split="retain").value is None
    assert math.isfinite(METRIC.aggregate([1e6], ["a"], split="retain").value or 0.0)


def test_fluency_is_the_log_probability_of_exactly_that_reply(loaded: Loaded, tmp_path: Path) -> None:
    samples = [sample(n) for n in range(3)]
    replies = [reply("Riga", number=0), reply("", number=1), reply("Oslo is right", number=2)]
    found = {f.sample_id: f for f in base_logps(loaded, samples, replies, image_folder=tmp_path, batch_size=2)}
    assert set(found) == {"s0", "s2"}, "an empty reply is not weighed"
    for one in (replies[0], replies[2]):
        alone = nll(loaded, [Turn(prompt=samples[0].prompt, reply=one.text)])
        weighed = found[one.sample_id]
        assert -weighed.logp / weighed.num_tokens == pytest.approx(alone, rel=1e-4)
    assert list(base_logps(loaded, [sample(raw_prompt=True)], replies[:1], image_folder=tmp_path, batch_size=1)) == []


def test_printed_values_are_as_documented() -> None:
    assert doctest.testmod(module).failed == 0
