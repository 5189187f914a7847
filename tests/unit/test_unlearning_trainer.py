"""Unlearning a fine-tuned model: what is forgotten, what is kept, and what the reference inside the loss is."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers_models import LORA, load_ref, logits, nll, training, turns_of
from pydantic import PrivateAttr
from torch import Tensor

from mllmu.config.recipe import Finetune, Lora
from mllmu.core import plugins
from mllmu.core.errors import DataError, ModelError
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import IGNORE, Turn
from mllmu.models.loading import Loaded
from mllmu.training.finetune import finetune
from mllmu.training.loop import CURVE
from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import Method, Step, Terms
from mllmu.unlearning.trainer import Sides, unlearn

DROPOUT = LORA.model_copy(update={"dropout": 0.3})
FAST = {"learning_rate": 5e-3, "batch_size": 2, "epochs": 6}


@pytest.fixture(scope="module")
def run_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a target that knows all six turns by heart."""
    root = tmp_path_factory.mktemp("run")
    section = Finetune(epochs=60, learning_rate=1e-2, batch_size=6, lora=None)
    finetune(load_ref(tiny_base), turns_of(tiny_base), section, training(root / "target", seed=5, lora=None))
    return root


@pytest.fixture
def target(tiny_base: Path, run_folder: Path) -> Loaded:
    return load_ref(tiny_base, "target", root=run_folder)


@pytest.fixture
def sides(tiny_base: Path) -> Sides:
    turns = turns_of(tiny_base)
    return Sides(forget=turns[:2], retain=turns[2:])


def forget(
    model: Loaded, method: Method | str, sides: Sides, folder: Path, *, lora: Lora | None = LORA, **settings: Any
) -> list[dict[str, float]]:
    """Run a method by name (with fast settings) or a given one; returns the curve."""
    built = plugins.build("methods", method, FAST | settings) if isinstance(method, str) else method
    unlearn(model, built, sides, training(folder, lora=lora, seed=9, checkpoint_every_s=0))
    return list(json.loads((folder / CURVE).read_text()))


class Spy(Method):
    """Gradient difference that keeps what it was shown; it may fail at a step."""

    source: ClassVar[str] = "https://example.org"
    uses_reference: ClassVar[bool] = True

    fail_at: int = -1
    mute: bool = False
    _seen: list[tuple[str, Any]] = PrivateAttr(default_factory=list)

    @property
    def uses_retain(self) -> bool:
        return True

    def loss(self, step: Step) -> Terms:
        if len(self._seen) == self.fail_at:
            raise KeyboardInterrupt
        self._seen.append((step.phase, step))
        return super().loss(step)

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_ascent": -answer_nll(step.forget.current)}

    def retain_terms(self, step: Step) -> Terms:
        if self.mute:
            return {}
        return {"retain_nll": answer_nll(step.retain.current) + 0 * step.retain.reference.token_logp_N.mean()}

    @property
    def steps(self) -> list[Step]:
        return [step for _, step in self._seen]


def test_gradient_ascent_raises_the_forget_nll_and_gradient_difference_keeps_retain(
    target: Loaded, tiny_base: Path, run_folder: Path, sides: Sides, tmp_path: Path
) -> None:
    known = nll(target, list(sides.forget)), nll(target, list(sides.retain))
    assert max(known) < 1.0, "the target must know what it is to forget"
    after = {}
    for name in ("ga", "grad_diff"):
        model = load_ref(tiny_base, "target", root=run_folder)
        forget(model, name, sides, tmp_path / name, epochs=10, learning_rate=2e-2)
        after[name] = nll(model, list(sides.forget)), nll(model, list(sides.retain))
        assert after[name][0] > known[0] + 1.0
    assert after["grad_diff"][1] < after["ga"][1] - 2.0


def test_the_saved_change_lies_on_the_target(
    target: Loaded, tiny_base: Path, run_folder: Path, sides: Sides, tmp_path: Path
) -> None:
    forget(target, "ga", sides, tmp_path / "ga")
    again = load_ref(tiny_base, str(run_folder / "target"), str(tmp_path / "ga"), root=tmp_path)
    assert nll(again, list(sides.forget)) == pytest.approx(nll(target, list(sides.forget)), abs=1e-3)


def test_at_the_first_step_nothing_differs_from_the_reference(target: Loaded, sides: Sides, tmp_path: Path) -> None:
    first = forget(target, "kl_min", sides, tmp_path / "kl", lora=DROPOUT)[0]
    assert first["retain_kl"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.4])
def test_the_first_npo_term_is_two_ln_two_over_beta(target: Loaded, sides: Sides, tmp_path: Path, beta: float) -> None:
    curve = forget(target, "npo", sides, tmp_path / "npo", lora=DROPOUT, beta=beta)
    assert curve[0]["forget_npo"] == pytest.approx(2 * log(2) / beta, abs=1e-4)
    assert curve[-1]["forget_npo"] < curve[0]["forget_npo"] - 0.1


def test_the_reference_stays_the_target_without_dropout_to_the_last_step(
    target: Loaded, tiny_base: Path, run_folder: Path, sides: Sides, tmp_path: Path
) -> None:
    for module in target.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.2  # a base with dropout of its own
    spy = Spy(batch_size=4, epochs=5, learning_rate=5e-3)
    forget(target, spy, sides, tmp_path / "spy", lora=DROPOUT)
    untouched = load_ref(tiny_base, "target", root=run_folder)
    with torch.no_grad():
        every = run_forward(untouched.model, untouched.encoder.batch(sides.retain))
    expected = sorted(every.row_logp_B.tolist())
    for step in spy.steps:
        assert sorted(step.retain.reference.row_logp_B.tolist()) == pytest.approx(expected, abs=1e-3)
        assert not step.retain.reference.logits_NV.requires_grad
    last = sorted(spy.steps[-1].retain.current.row_logp_B.tolist())
    assert last != pytest.approx(expected, abs=1e-2)


def test_in_two_phases_every_epoch_passes_over_the_forget_set_then_over_the_whole_retain_set(
    target: Loaded, sides: Sides, tmp_path: Path
) -> None:
    curve = forget(target, "grad_diff", sides, tmp_path / "two", batch_size=1, epochs=2, schedule="two_phase")
    terms = [set(point) - {"step"} for point in curve]
    assert terms == ([{"forget_ascent"}] * 2 + [{"retain_nll"}] * 4) * 2


def test_two_phases_of_half_an_epoch_more_end_with_half_a_pass_over_both_sets(
    target: Loaded, sides: Sides, tmp_path: Path
) -> None:
    spy = Spy(batch_size=1, epochs=2.5, schedule="two_phase", mute=True)
    forget(target, spy, sides, tmp_path / "mute")
    assert [phase for phase, _ in spy._seen] == (["forget"] * 2 + ["retain"] * 4) * 2 + ["forget"] + ["retain"] * 2


def test_jointly_every_step_has_both_sides(target: Loaded, sides: Sides, tmp_path: Path) -> None:
    curve = forget(target, "grad_diff", sides, tmp_path / "joint", batch_size=1, epochs=2)
    assert [set(point) - {"step"} for point in curve] == [{"forget_ascent", "retain_nll"}] * 4


def test_a_method_that_keeps_nothing_has_one_phase(target: Loaded, sides: Sides, tmp_path: Path) -> None:
    assert len(forget(target, "ga", sides, tmp_path / "ga", batch_size=1, epochs=2, schedule="two_phase")) == 4


def test_a_phase_with_nothing_to_do_is_passed_over(target: Loaded, sides: Sides, tmp_path: Path) -> None:
    spy = Spy(batch_size=1, epochs=1, schedule="two_phase", mute=True)
    curve = forget(target, spy, sides, tmp_path / "mute")
    assert [phase for phase, _ in spy._seen] == ["forget"] * 2 + ["retain"] * 4
    assert [point["step"] for point in curve] == [0, 1]


def test_every_step_draws_its_batch_from_both_sides(target: Loaded, sides: Sides, tmp_path: Path) -> None:
    spy = Spy(batch_size=2, epochs=2)
    forget(target, spy, sides, tmp_path / "spy")
    tokenizer = target.encoder.processor.tokenizer
    seen = [tokenizer.decode(step.forget.current.labels_N).count("</s>") for step in spy.steps]
    assert seen == [2, 2]
    assert {int(step.retain.current.num_rows) for step in spy.steps} == {2}


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_the_prompt_is_trained_only_if_asked_for(target: Loaded, sides: Sides, tmp_path: Path, loss_on: str) -> None:
    spy = Spy(batch_size=2, epochs=1, loss_on=loss_on)  # type: ignore[arg-type]
    forget(target, spy, sides, tmp_path / "spy")
    labels = spy.steps[0].forget.current.labels_N.tolist()
    assert target.image_token_id not in labels
    assert IGNORE not in labels
    assert sorted(labels) == sorted(token for turn in sides.forget for token in spoken(target, turn, loss_on))


def spoken(model: Loaded, turn: Turn, loss_on: str) -> list[int]:
    """Reply tokens; with 'all' the prompt's text tokens too, its first excepted, which nothing predicts."""
    prompt = model.encoder.prompt(turn)[1:] if loss_on == "all" else []
    return [token for token in [*prompt, *model.encoder.reply(turn.reply)] if token != model.image_token_id]


def test_without_adapters_a_second_model_is_the_reference(
    target: Loaded, tiny_base: Path, run_folder: Path, sides: Sides, tmp_path: Path
) -> None:
    second = load_ref(tiny_base, "target", root=run_folder, encoder=target.encoder)
    before = logits(second.model, second, sides.forget[0])
    both = Sides(forget=sides.forget, retain=sides.retain, reference=second)
    curve = forget(target, "npo", both, tmp_path / "npo", lora=None, learning_rate=1e-3)
    assert curve[0]["forget_npo"] == pytest.approx(2 * log(2) / 0.4, abs=1e-4)
    assert curve[-1]["forget_npo"] < curve[0]["forget_npo"]
    assert torch.equal(logits(second.model, second, sides.forget[0]), before)
    assert not second.model.training


def test_without_adapters_and_without_a_second_model_there_is_no_reference(
    target: Loaded, sides: Sides, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"x: compares with a frozen reference.*Set unlearn\.lora"):
        forget(target, "npo", sides, tmp_path / "npo", lora=None)
    forget(target, "ga", sides, tmp_path / "ga", lora=None, epochs=1)


def test_another_reference_is_used_where_it_is_given(
    target: Loaded, tiny_base: Path, sides: Sides, tmp_path: Path
) -> None:
    base = load_ref(tiny_base, encoder=target.encoder)
    with torch.no_grad():
        batch = target.encoder.batch(sides.forget)
        ratio_B = run_forward(target.model, batch).row_logp_B - run_forward(base.model, batch).row_logp_B
    by_hand = torch.log1p(torch.exp(0.1 * ratio_B)).mean().item() * 20
    both = Sides(forget=sides.forget, retain=sides.retain, reference=base)
    first = forget(target, "npo", both, tmp_path / "npo", beta=0.1)[0]["forget_npo"]
    assert first == pytest.approx(by_hand, rel=1e-4)
    assert first > 2 * log(2) / 0.1 + 1, "the target knows the replies better than the base does"


@pytest.mark.parametrize("at", [1, 3])
def test_killed_unlearning_goes_on_where_it_was(
    tiny_base: Path, run_folder: Path, sides: Sides, tmp_path: Path, at: int
) -> None:
    settings = {"batch_size": 1, "epochs": 2.5, "learning_rate": 5e-3, "schedule": "two_phase"}

    def run(folder: str, fail_at: int = -1) -> Tensor:
        model = load_ref(tiny_base, "target", root=run_folder)
        forget(model, Spy(**settings, fail_at=fail_at), sides, tmp_path / folder, lora=DROPOUT)  # type: ignore[arg-type]
        return logits(model.model, model, sides.forget[0])

    plain = run("plain")
    with pytest.raises(KeyboardInterrupt):
        run("killed", at)
    assert torch.equal(run("killed"), plain)
    assert (tmp_path / "killed" / CURVE).read_text() == (tmp_path / "plain" / CURVE).read_text()


@pytest.mark.parametrize(
    ("method", "empty", "message"),
    [
        ("ga", Sides(forget=(), retain=()), "x: nothing to forget in modality image_text"),
        ("grad_diff", Sides(forget=(Turn(prompt="?", reply="a"),), retain=()), "x: nothing to retain in modality"),
    ],
)
def test_a_side_that_is_needed_and_empty_is_an_error(
    loaded: Loaded, tmp_path: Path, method: str, empty: Sides, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        forget(loaded, method, empty, tmp_path)
