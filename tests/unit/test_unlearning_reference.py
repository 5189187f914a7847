"""What the reference gives a reply is computed once; recalling it changes the time and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import LORA, Watcher, load_ref, training, turns_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mllmu.core import plugins
from mllmu.models.engine.forward import labelled, run_forward, run_logits
from mllmu.models.families import Batch, Turn
from mllmu.models.loading import Loaded
from mllmu.training.loop import CURVE
from mllmu.unlearning import trainer
from mllmu.unlearning.trainer import Recalled, Reference, ReferenceMemory, Sides, pays, step_batch, unlearn

WAYS: tuple[dict[str, Any], ...] = ({}, {"train_end": False}, {"loss_on": "all"})


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Loaded:
    return load_ref(tiny_base)


@pytest.fixture(scope="module")
def turns(tiny_base: Path) -> list[Turn]:
    """Twelve exchanges about three people, with image and by name."""
    seen = [replace(turn, person=turn.image.stem if turn.image else "") for turn in turns_of(tiny_base)]
    return [*seen, *(replace(turn, image=None, prompt=f"{turn.prompt} {turn.person}") for turn in seen)]


def memory_of(
    loaded: Loaded, turns: Sequence[Turn], way: dict[str, Any], **settings: Any
) -> tuple[ReferenceMemory, Callable[[Sequence[Turn]], Batch]]:
    make = partial(step_batch, loaded, plugins.build("methods", "ga", way))
    means = training(Path(), **settings)
    return ReferenceMemory(Reference(loaded=loaded, make=make, training=means), turns), make


@settings(max_examples=8, deadline=None)
@given(
    steps=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True), min_size=1, max_size=4),
    way=st.sampled_from(WAYS),
    packs=st.booleans(),
    chunk=st.sampled_from([1, 5, 32]),
)
def test_what_is_recalled_is_what_a_pass_gives(
    model: Loaded, turns: list[Turn], steps: list[list[int]], way: dict[str, Any], packs: bool, chunk: int
) -> None:
    ready = replace(model, packs=packs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "CHUNK", chunk)
        known, batch = memory_of(ready, turns, way)
        for step in steps:
            chosen = [turns[i] for i in step]
            recalled = Recalled(known, chosen, *labelled(batch(chosen)))
            with torch.no_grad():
                plain = run_forward(ready.model, batch(chosen))
            assert recalled.labels_N.tolist() == plain.labels_N.tolist()
            assert recalled.row_N.tolist() == plain.row_N.tolist()
            torch.testing.assert_close(recalled.token_logp_N, plain.token_logp_N, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(recalled.row_logp_B, plain.row_logp_B, atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(recalled.logits_NV, plain.logits_NV, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS, ids=["answer", "no_end", "all"])
def test_it_does_not_depend_on_what_was_asked_before(model: Loaded, turns: list[Turn], way: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "CHUNK", 4)
        (early, batch), (late, _) = (memory_of(model, turns, way) for _ in range(2))
        for chosen in (turns[3:9], turns[:2], turns[6:]):
            Recalled(early, chosen, *labelled(batch(chosen))).row_logp_B  # noqa: B018 - runs the passes
            Recalled(early, chosen, *labelled(batch(chosen))).logits_NV  # noqa: B018
        last = turns[8:3:-1]
        one, other = (Recalled(known, last, *labelled(batch(last))) for known in (early, late))
        assert torch.equal(one.token_logp_N, other.token_logp_N)
        assert torch.equal(one.logits_NV, other.logits_NV)


def test_logits_that_do_not_fit_are_computed_again_with_one_note(model: Loaded, turns: list[Turn]) -> None:
    watcher = Watcher()
    known, batch = memory_of(model, turns, {}, reference_mib=0.001, progress=watcher)
    for chosen in (turns[:3], turns[2:7]):
        recalled = Recalled(known, chosen, *labelled(batch(chosen)))
        with torch.no_grad():
            assert torch.equal(recalled.logits_NV, run_forward(model.model, batch(chosen)).logits_NV)
        assert recalled.row_logp_B.shape == (len(chosen),)
    assert len(watcher.notes) == 1
    assert "run in every step" in watcher.notes[0] and "unlearn.reference_mib" in watcher.notes[0]


def trained(
    base: Path,
    folder: Path,
    sides: Sides,
    name: str,
    *,
    reference_mib: float = 64,
    lora: Any = LORA,
    progress: Any = None,
    **settings: Any,
) -> tuple[list[dict[str, float]], Any]:
    """The curve of a method and the model it made."""
    loaded = load_ref(base)
    method = plugins.build("methods", name, {"learning_rate": 2e-3, "batch_size": 3, "epochs": 3} | settings)
    means = training(
        folder, lora=lora, seed=4, checkpoint_every_s=0, reference_mib=reference_mib, progress=progress or Watcher()
    )
    unlearn(loaded, method, sides, means)
    return list(json.loads((folder / CURVE).read_text())), loaded


@pytest.fixture
def sides(turns: list[Turn]) -> Sides:
    return Sides(forget=turns[:2] + turns[6:8], retain=turns[2:6] + turns[8:])


CASES: dict[str, dict[str, Any]] = {
    "npo": {"retain_weight": 1.0},
    "kl_min": {"schedule": "two_phase"},
    "dpo": {},
    "scrub": {},
    "undial": {"loss_on": "all"},
    "sam_npo": {},
}


@pytest.mark.parametrize("name", CASES)
def test_a_training_with_it_is_the_training_without(tiny_base: Path, sides: Sides, tmp_path: Path, name: str) -> None:
    kept, again = (
        trained(tiny_base, tmp_path / str(mib), sides, name, modality="both", reference_mib=mib, **CASES[name])[0]
        for mib in (64, 0)
    )
    assert len(kept) == len(again) >= 6
    for one, other in zip(kept, again, strict=True):
        assert one == pytest.approx(other, rel=5e-3, abs=5e-4)


def test_it_pays_where_replies_come_again_or_share_a_image(
    model: Loaded, turns: list[Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not pays(model, turns, shared=False)
    assert pays(model, [*turns, *turns], shared=False)
    monkeypatch.setattr(trainer, "GAIN", 1.2)
    many = [replace(turns[0], prompt=letter, reply=letter) for letter in "ABCDEFGHIJKLMNOPQRST"]
    assert pays(model, many, shared=True), "17 image tokens are read once instead of twenty times"
    assert not pays(model, many, shared=False)
    assert not pays(model, [replace(turn, image=None) for turn in many], shared=True)


@pytest.mark.parametrize(("name", "epochs", "passes"), [("npo", 4, 1), ("kl_min", 4, 1), ("npo", 1, 0), ("ga", 4, 0)])
def test_a_pass_for_all_epochs(
    tiny_base: Path, sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, epochs: int, passes: int
) -> None:
    sides = replace(sides, forget=sides.forget[2:])
    recalled, run = [], Reference.run

    def counted(self: Reference, what: Any, turns: Sequence[Turn]) -> Any:
        if what is not run_logits:
            recalled.append(what)
        return run(self, what, turns)

    monkeypatch.setattr(Reference, "run", counted)
    trained(tiny_base, tmp_path / name, sides, name, modality="both", epochs=epochs)
    assert len(recalled) == passes


@pytest.mark.parametrize("name", ["npo", "kl_min", "dpo"])
def test_killed_training_recalls_the_same_numbers(
    tiny_base: Path, sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(trainer, "CHUNK", 2)
    _, plain = trained(tiny_base, tmp_path / "plain", sides, name, modality="both")

    class Killer(Watcher):
        def advance(self, n: int = 1, **facts: float) -> None:
            super().advance(n, **facts)
            if self.done == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny_base, tmp_path / "killed", sides, name, modality="both", progress=Killer())
    _, resumed = trained(tiny_base, tmp_path / "killed", sides, name, modality="both")
    ends = [{n: p for n, p in one.model.named_parameters() if "lora" in n} for one in (plain, resumed)]
    assert ends[0] and all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    assert (tmp_path / "killed" / CURVE).read_text() == (tmp_path / "plain" / CURVE).read_text()


def test_another_model_as_reference_is_recalled_too(tiny_base: Path, sides: Sides, tmp_path: Path) -> None:
    other = load_ref(tiny_base)
    both = replace(sides, reference=other)
    curves = [trained(tiny_base, tmp_path / str(mib), both, "npo", lora=None, reference_mib=mib)[0] for mib in (64, 0)]
    for one, again in zip(*curves, strict=True):
        assert one == pytest.approx(again, rel=5e-3, abs=5e-4)
