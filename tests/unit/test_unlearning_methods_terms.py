"""How the field's methods put their losses together: weights, sides, and what they do at special points."""

from __future__ import annotations

from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mllmu.config.load import parse
from mllmu.core import plugins
from mllmu.core.errors import RecipeError
from mllmu.core.process import SilentProgress, rng
from mllmu.core.records import ModelRef, Question
from mllmu.models.engine.forward import Forward
from mllmu.models.families import Turn
from mllmu.pipeline import unlearn
from mllmu.pipeline.run import Run
from mllmu.training.losses import answer_nll, dpo_loss, kl_to_reference
from mllmu.unlearning.base import Method, Side, Step
from mllmu.unlearning.methods.npo import npo_loss
from mllmu.unlearning.methods.rmu import direction

LN2 = log(2)
SHOWN = Turn(prompt="Where?", reply="Riga", image=Path("a.png"))
NAMED = Turn(prompt="Where is Ada?", reply="Riga")


class GivenPasses:
    """Passes with given token probabilities (word 0 of two), two tokens a reply."""

    def __init__(self, current: list[float], reference: list[float] | None = None, other: float = 0.5) -> None:
        self.p = {False: current, True: reference or current}
        self.other = other

    def forward(self, *, reference: bool, alternative: bool) -> Forward:
        p_N = torch.tensor([self.other] * len(self.p[reference]) if alternative else self.p[reference])
        logits = torch.stack([p_N.log(), (1 - p_N).log()], dim=1).requires_grad_(not reference)
        rows = torch.arange(len(p_N)) // 2
        return Forward(logits, torch.zeros_like(rows), rows, len(p_N) // 2)

    def hidden(self, depth: float, *, reference: bool) -> Tensor:
        return depth * torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + (1.0 if reference else 0.0)


def step(
    forget: GivenPasses, retain: GivenPasses | None = None, turns: tuple[Turn, ...] = (SHOWN, NAMED), **settings: Any
) -> Step:
    sides = {"forget": Side(turns, forget), "retain": Side(turns, retain or GivenPasses([0.5] * 4, [0.25] * 4))}
    return Step(**sides, **settings)  # type: ignore[arg-type]


def terms(name: str, at: Step, **settings: Any) -> dict[str, float]:
    return {term: value.item() for term, value in plugins.build("methods", name, settings).loss(at).items()}


RETAIN_NLL = LN2
RETAIN_KL = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)


def test_idk_trains_the_alternative_and_retain() -> None:
    got = terms("idk", step(GivenPasses([0.9] * 4, other=0.25)), retain_weight=3.0)
    assert got == pytest.approx({"forget_refusal": 2 * LN2, "retain_nll": 3 * RETAIN_NLL})


@pytest.mark.parametrize("name", ["dpo", "altpo"])
def test_preference_wants_the_alternative_and_not_the_true_reply(name: str) -> None:
    forget = GivenPasses([0.4] * 4, [0.8] * 4)
    got = terms(name, step(forget), beta=0.3)
    # the alternative is as likely as before, the true reply half as likely in each of two tokens
    zero, now, then = torch.zeros(1), torch.tensor([2 * log(0.4)]), torch.tensor([2 * log(0.8)])
    assert got["forget_preference"] == pytest.approx(dpo_loss(zero, zero, now, then, beta=0.3).item(), rel=1e-5)
    assert got["forget_preference"] < 2 * LN2 / 0.3


@pytest.mark.parametrize("name", ["altpo", "salun"])
def test_plausible_alternatives_are_the_replies_of_others(name: str) -> None:
    method: Method = plugins.build("methods", name, {})
    others = [Turn(prompt="Where?", reply=reply) for reply in ("Oslo", "Tallinn")]
    drawn = {method.alternative(SHOWN, others, rng(0, str(n))) for n in range(20)}
    assert drawn == {"Oslo", "Tallinn"}


def test_simnpo_wga_and_satimp_weigh_both_sides() -> None:
    at = step(GivenPasses([0.5] * 4))
    simnpo = terms("simnpo", at, beta=2.0, forget_weight=0.5, retain_weight=2.0)
    assert simnpo == pytest.approx({"forget_simnpo": 0.5 * log(1.25), "retain_nll": 2 * RETAIN_NLL})
    wga = terms("wga", at, known=2.0, forget_weight=3.0, retain_weight=0.0)
    assert wga == pytest.approx({"forget_ascent": -3 * 0.25 * LN2})
    satimp = terms("satimp", at, known=1.0, unknown=2.0, forget_weight=2.0)
    assert satimp == pytest.approx({"forget_ascent": -2 * 0.125 * LN2, "retain_nll": RETAIN_NLL})


def test_undial_lowers_the_reference_not_the_model() -> None:
    got = terms("undial", step(GivenPasses([0.5] * 4, [0.8] * 4)), strength=log(4))
    # q of the reference (4/5, 1/5) with the first logit lowered by ln 4 is (1/2, 1/2)
    assert got == pytest.approx({"forget_undial": LN2}, rel=1e-5)


def test_the_dual_variable_grows_above_the_limit_and_falls_below_it_to_zero() -> None:
    method = plugins.build("methods", "pdu", {"limit": 0.5, "dual_rate": 10.0, "first_dual": 1.0, "dual_warmup": 0})
    memory: dict[str, float] = {}
    first = method.loss(step(GivenPasses([0.5] * 4), memory=memory))
    assert first["forget_flatness"].item() == pytest.approx(0, abs=1e-6)
    assert first["retain_limit"].item() == pytest.approx(1.0 * (LN2 - 0.5), rel=1e-5)
    assert memory["dual"] == pytest.approx(1 + 10 * (LN2 - 0.5))
    good = step(GivenPasses([0.5] * 4), GivenPasses([0.99] * 4), memory=memory)
    second = method.loss(good)
    assert second["retain_limit"].item() == pytest.approx((1 + 10 * (LN2 - 0.5)) * (-log(0.99) - 0.5), rel=1e-4)
    assert memory["dual"] == 0.0
    assert method.loss(good)["retain_limit"].item() == 0.0


def test_the_dual_variable_rests_during_the_warm_up() -> None:
    method, memory = plugins.build("methods", "pdu", {"limit": 0.5, "dual_rate": 10.0}), dict[str, float]()
    for done in (0.0, 0.25, 0.49):
        found = method.loss(step(GivenPasses([0.5] * 4), memory=memory, done=done))
        assert memory == {} and found["retain_limit"].item() == pytest.approx(100 * (LN2 - 0.5), rel=1e-5)
    method.loss(step(GivenPasses([0.5] * 4), memory=memory, done=0.5))
    assert memory["dual"] == pytest.approx(100 + 10 * (LN2 - 0.5))


def test_the_dual_variable_rests_while_retain_is_not_trained() -> None:
    memory: dict[str, float] = {}
    plugins.build("methods", "pdu", {}).loss(step(GivenPasses([0.5] * 4), phase="forget", memory=memory))
    assert memory == {}


def test_jensun_goes_to_the_refusal_and_stays_at_the_reference() -> None:
    at = step(GivenPasses([0.9] * 4, other=0.5), GivenPasses([0.3] * 4, [0.3] * 4))
    assert terms("jensun", at, forget_weight=2.0) == pytest.approx(
        {"forget_js": 2 * 0.215762, "retain_js": 0.0}, abs=1e-5
    )


def test_rmu_steers_forget_and_holds_retain() -> None:
    at = step(GivenPasses([0.5] * 4), seed=5)
    got = terms("rmu", at, depth=1.0, steering=3.0, retain_weight=2.0)
    hidden = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = sum((hidden[n, d].item() - 3 * direction(2, 5)[d].item()) ** 2 for n in range(2) for d in range(2)) / 4
    assert got == pytest.approx({"forget_steering": expected, "retain_hidden": 2.0}, rel=1e-5)


def test_the_direction_of_rmu_is_one_unit_vector_a_seed() -> None:
    assert direction(64, 1).norm().item() == pytest.approx(1, rel=1e-5)
    assert direction(64, 1).min() >= 0
    assert torch.equal(direction(64, 1), direction(64, 1))
    assert not torch.equal(direction(64, 1), direction(64, 2))


@pytest.mark.parametrize(("num_layers", "layers"), [(32, "5|6|7"), (8, "0|1"), (2, "0")])
def test_rmu_trains_the_chosen_layer_and_the_two_before(num_layers: int, layers: str) -> None:
    assert f"({layers})" in plugins.build("methods", "rmu", {}).targets(num_layers)


def test_scrub_disagrees_on_forget_and_agrees_on_retain() -> None:
    got = terms("scrub", step(GivenPasses([0.5] * 4, [0.25] * 4)), forget_weight=2.0, kl_weight=3.0)
    expected = {"forget_disagreement": -2 * RETAIN_KL, "retain_kl": 3 * RETAIN_KL, "retain_nll": RETAIN_NLL}
    assert got == pytest.approx(expected, rel=1e-5)


def test_salun_has_three_forget_losses() -> None:
    at = step(GivenPasses([0.5] * 4, [0.8] * 4, other=0.25))
    got = {loss: terms("salun", at, forget_loss=loss)[f"forget_{loss}"] for loss in ("relabel", "ga", "npo")}
    row = torch.tensor([2 * log(0.5)]), torch.tensor([2 * log(0.8)])
    assert got == pytest.approx({"relabel": 2 * LN2, "ga": -LN2, "npo": npo_loss(*row, beta=0.1).item()}, rel=1e-5)


class Measured:
    """Gradients and Fisher information as given."""

    def gradient(self, side: str) -> list[Tensor]:
        assert side == "forget"
        return [torch.tensor([0.0, -4.0, 1.0]), torch.tensor([3.0, 0.0])]

    def fisher(self, side: str) -> list[Tensor]:
        return [torch.tensor([0.0, 4.0, 1.0]), torch.tensor([2.0, 0.0])][: 2 if side == "forget" else 0] or [
            torch.tensor([0.0, 1.0, 1.0]),
            torch.tensor([4.0, 1.0]),
        ]


def test_salun_keeps_the_largest_gradients_whatever_their_sign() -> None:
    masks = plugins.build("methods", "salun", {"share": 0.67}).masks(Measured())
    assert [mask.tolist() for mask in masks] == [[False, True, False], [True, False]]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(1.0, [[False, True, True], [False, False]]), (0.5, [[False, True, True], [True, False]])],
)
def test_mmunlearner_keeps_what_matters_more_for_forget_than_for_retain(
    threshold: float, expected: list[list[bool]]
) -> None:
    masks = plugins.build("methods", "mmunlearner", {"threshold": threshold}).masks(Measured())
    assert [mask.tolist() for mask in masks] == expected


def test_mmunlearner_is_for_images_only() -> None:
    with pytest.raises(RecipeError, match=r"modality: Input should be 'image_text'"):
        plugins.build("methods", "mmunlearner", {"modality": "both"})


def test_sam_npo_is_npo_where_the_loss_does_not_depend_on_the_weights_nearby() -> None:
    weight = torch.zeros(1, requires_grad=True)

    class Shifted(GivenPasses):
        def forward(self, *, reference: bool, alternative: bool) -> Forward:
            plain = super().forward(reference=reference, alternative=alternative)
            return plain if reference else Forward(plain.logits_NV + weight, plain.labels_N, plain.row_N, 2)

    # adding the same to all logits changes no probability
    got = terms("sam_npo", step(Shifted([0.5] * 4, [0.8] * 4), weights=[weight]), beta=0.5)
    row = torch.tensor([2 * log(0.5)]), torch.tensor([2 * log(0.8)])
    assert got["forget_npo"] == pytest.approx(npo_loss(*row, beta=0.5).item(), rel=1e-4)


def test_holdout_match_weighs_both_modalities_alike() -> None:
    # two image replies of 0.5 a token, one named reply of 0.25; the level is ln(1/8)
    at = step(GivenPasses([0.5] * 4 + [0.25] * 2), turns=(SHOWN, SHOWN, NAMED))
    got = terms("holdout_match", at, floor=-3 * LN2, forget_weight=2.0, kl_weight=3.0)
    assert got == pytest.approx(
        {
            "forget_image_text": 2 / 2 * (2 * LN2 - 0.5),
            "forget_text": 2 / 2 * LN2**2 / 2,
            "retain_kl": 3 * RETAIN_KL,
            "retain_nll": RETAIN_NLL,
        },
        rel=1e-5,
    )


def test_holdout_match_gives_a_lone_modality_the_whole_weight() -> None:
    got = terms("holdout_match", step(GivenPasses([0.5] * 4), turns=(NAMED, NAMED)), floor=-2 * LN2)
    assert got["forget_text"] == pytest.approx(LN2**2 / 2, rel=1e-5)
    assert "forget_image_text" not in got


def test_holdout_match_moves_every_fact_towards_the_level() -> None:
    forget = GivenPasses([0.5, 0.5, 0.01, 0.01])
    method = plugins.build("methods", "holdout_match", {"floor": -2.0})
    side = Side((SHOWN, SHOWN), forget)
    loss = method.loss(Step(forget=side, retain=side, phase="forget"))["forget_image_text"]
    (gradient,) = torch.autograd.grad(loss, side.current.logits_NV)
    assert gradient[:2, 0].min() > 0
    assert gradient[2:, 0].max() < 0


def test_holdout_match_takes_the_level_of_the_retain_model_if_it_is_the_reference() -> None:
    forget = GivenPasses([0.5] * 4, [0.25, 0.25, 0.9, 0.9])
    got = terms("holdout_match", step(forget, turns=(SHOWN, SHOWN)), reference="retain_model", floor=-100.0)
    # the first reply is ln 2 a token above its level, the second ln 1.8 below its own
    assert got["forget_image_text"] == pytest.approx((LN2**2 + log(1.8) ** 2) / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dpo", {"beta": 0}),
        ("simnpo", {"margin": -1}),
        ("wga", {"known": -1}),
        ("undial", {"strength": 0}),
        ("ce_u", {"skip": -1}),
        ("pdu", {"limit": -0.1}),
        ("flat", {"divergence": "hellinger"}),
        ("jensun", {"refusal": ""}),
        ("rmu", {"depth": 1.5}),
        ("task_vector", {"strength": 0}),
        ("salun", {"share": 0}),
        ("sam_npo", {"radius": 0}),
        ("mmunlearner", {"threshold": 0}),
        ("holdout_match", {"floor": 0}),
        ("idk", {"retain_weight": -1}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugins.find("methods", name)(**settings)


@pytest.mark.parametrize(("name", "expected"), [("grad_diff", {"b image_text"}), ("ga", set()), ("mmunlearner", None)])
def test_a_method_that_preserves_text_also_retains_what_is_known_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: set[str] | None
) -> None:
    asked = [
        Question(
            id=f"{person}.{modality}", profile_id=person, variant="train", task="generation", modality=modality,
            attribute="residence", text=f"{person} {modality}", answer="Riga", value="Riga",
        )
        for person in ("a", "b") for modality in ("image_text", "text")
    ]  # fmt: skip
    seen = {}
    monkeypatch.setattr(unlearn, "unlearn", lambda *given, **_: seen.update(sides=given[2]))
    run = Run(parse({"name": "x", "unlearn": {"methods": [name]}}), Path("run"), SilentProgress())
    vars(run)["data"] = SimpleNamespace(splits={"50": ["a"]}, retained=lambda _: ["b"], questions=asked, steps=())
    monkeypatch.setattr(run, "load", lambda _: None)
    ref = ModelRef(base="tiny")
    unlearn.train(run, key="50", model=name, start=ref, reference=ref, folder=Path("made"))
    assert {turn.prompt for turn in seen["sides"].forget} == {"a image_text"}
    retained = {turn.prompt for turn in seen["sides"].retain}
    assert retained == ({"b image_text", "a text", "b text"} if expected is None else expected)


def test_retain_kl_and_nll_of_these_tests_are_those_of_the_library() -> None:
    side = GivenPasses([0.5] * 4, [0.25] * 4)
    now, then = (side.forward(reference=reference, alternative=False) for reference in (False, True))
    assert answer_nll(now).item() == pytest.approx(RETAIN_NLL)
    assert kl_to_reference(now.logits_NV, then.logits_NV).item() == pytest.approx(RETAIN_KL)
