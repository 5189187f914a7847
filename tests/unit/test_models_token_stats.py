"""Token statistics against a plain re-derivation from the logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_models import load_ref, logits, sample

from mllmu.core.records import Sample, TokenStats
from mllmu.models.encoding import as_turn
from mllmu.models.engine.plain import measure
from mllmu.models.engine.respond import respond
from mllmu.models.loading import Loaded

ASKED = [
    sample(0, image="red.png", target="Riga, Latvia", measured=("tokens", "gradient")),
    sample(1, target="Oslo", measured=("tokens",)),
    sample(2, target="Oslo"),
]


def measured(loaded: Loaded, samples: list[Sample], images: Path) -> list[TokenStats | None]:
    return measure(loaded, samples, [as_turn(each, images, "") for each in samples])


def test_statistics_are_those_of_the_plain_logits(loaded: Loaded, tiny_base: Path) -> None:
    stats = measured(loaded, ASKED, tiny_base)
    assert stats[2] is None
    for made, found in zip(ASKED[:2], stats[:2], strict=True):
        assert found is not None
        turn = as_turn(made, tiny_base, "")
        reply = loaded.encoder.reply(made.target)
        whole = type(turn)(prompt=turn.prompt, image=turn.image, reply=made.target)
        logp = logits(loaded.model, loaded, whole)[-len(reply) - 1 : -1].log_softmax(-1)
        own = logp[torch.arange(len(reply)), torch.tensor(reply)]
        assert found.logps == pytest.approx(own.tolist(), abs=2e-4)
        assert found.hits == "".join(str(int(hit)) for hit in logp.argmax(-1) == torch.tensor(reply))
        mean = (logp.exp() * logp).sum(-1)
        spread = (logp.exp() * (logp - mean[:, None]).square()).sum(-1).sqrt()
        assert found.z == pytest.approx(((own - mean) / spread).tolist(), abs=2e-3)


def test_the_gradient_of_a_batch_is_that_of_each_row_and_falls_with_learning(loaded: Loaded, tiny_base: Path) -> None:
    both = [
        sample(n, image=image, target="Riga, Latvia", measured=("gradient",)) for n, image in ((0, "red.png"), (1, ""))
    ]
    together = measured(loaded, both, tiny_base)
    for made, found in zip(both, together, strict=True):
        (alone,) = measured(loaded, [made], tiny_base)
        assert found is not None
        assert alone is not None
        assert found.gradient_norm == pytest.approx(alone.gradient_norm, rel=1e-3)
        assert found.gradient_norm
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


def test_measuring_changes_no_reply_and_happens_only_where_asked(tiny_base: Path) -> None:
    plain = [each.model_copy(update={"measured": ()}) for each in ASKED]
    with_stats = next(respond(load_ref(tiny_base), [ASKED], image_folder=tiny_base))
    without = next(respond(load_ref(tiny_base), [plain], image_folder=tiny_base))
    assert [r.tokens is None for r in with_stats] == [False, False, True]
    assert [r.model_copy(update={"tokens": None}) for r in with_stats] == without
    assert '"tokens"' not in without[0].model_dump_json(exclude_defaults=True)


def test_standard_scores_of_nearly_flat_predictions_are_right(tiny_base: Path) -> None:
    loaded = load_ref(tiny_base)
    loaded.model.lm_head.weight.data.mul_(1e-3)
    made = sample(1, target="Oslo", measured=("tokens",))
    (found,) = measured(loaded, [made], tiny_base)
    assert found is not None
    turn, reply = as_turn(made, tiny_base, ""), loaded.encoder.reply(made.target)
    whole = type(turn)(prompt=turn.prompt, reply=made.target)
    logp = logits(loaded.model, loaded, whole)[-len(reply) - 1 : -1].double().log_softmax(-1)
    own, mean = logp[torch.arange(len(reply)), torch.tensor(reply)], (logp.exp() * logp).sum(-1)
    spread = (logp.exp() * (logp - mean[:, None]).square()).sum(-1).sqrt()
    assert spread.max() < 0.1
    assert found.z == pytest.approx(((own - mean) / spread).tolist(), rel=0.02)
