"""The plan's memory against what the allocator really gave out, and its operations against those really done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import make_base, turns_of
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.records import ModelRef
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Batch
from mllmu.models.loading import Loaded, add_trainable, load
from mllmu.preflight.plan.facts import ModelFacts, describe
from mllmu.preflight.plan.plan import training_peak
from mllmu.training.batches import pack
from mllmu.training.cost import Cost, step_cost
from mllmu.training.losses import answer_nll

LORA = Lora(rank=16, alpha=16, dropout=0.05)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("planned") / "base", width=96, layers=6)


def section(base: Path, *, checkpointing: bool = False) -> ModelSection:
    return ModelSection(path=str(base), device="cpu", gradient_checkpointing=checkpointing)


def loaded_from(base: Path, *, checkpointing: bool = False) -> Loaded:
    return load(section(base, checkpointing=checkpointing), ModelRef(base=str(base)), base)


def allocated(work: Callable[[], None]) -> int:
    """The most bytes that the allocator had given out at once, by its own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    current = peak = 0
    results: Any = profiler.profiler
    for event in results.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    return peak


def simulated(facts: ModelFacts, lora: Lora | None, batch: Batch, *, checkpointing: bool = False) -> Cost:
    sequences, tokens = batch.labels.shape
    labelled = int((batch.labels != -100).sum())
    return step_cost(facts.outline, lora, sequences, tokens, labelled, recompute=checkpointing)


@pytest.mark.parametrize(
    ("lora", "checkpointing", "packed"),
    [(LORA, False, False), (LORA, False, True), (None, False, False), (LORA, True, False)],
    ids=["lora", "lora packed", "all weights", "lora checkpointed"],
)
def test_the_planned_peak_of_training_is_within_a_fifth_of_the_measured_one(
    base: Path, lora: Lora | None, checkpointing: bool, packed: bool
) -> None:
    facts = replace(describe(section(base, checkpointing=checkpointing), device="cpu"), packs=packed)
    batches: list[Batch] = []

    def two_steps() -> None:
        loaded = loaded_from(base, checkpointing=checkpointing)
        model = add_trainable(loaded.model, loaded.family, lora, seed=0).train()
        turns = turns_of(base) * 3
        batches.append(pack(loaded, turns) if packed else loaded.encoder.batch(turns))
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for _ in range(2):  # the optimiser's state is there from the second on
            optimiser.zero_grad()
            answer_nll(run_forward(model, batches[0])).backward()
            optimiser.step()

    measured = allocated(two_steps)
    cost = simulated(facts, lora, batches[0], checkpointing=checkpointing)
    trained = facts.trainable(lora) * 4
    planned = training_peak(facts.resident - (0 if lora else trained), trained, cost.peak)
    assert planned == pytest.approx(measured, rel=0.2)


def test_the_planned_operations_are_those_the_language_model_does(base: Path) -> None:
    loaded = loaded_from(base)
    model = add_trainable(loaded.model, loaded.family, LORA, seed=0).train()
    batch = loaded.encoder.batch(turns_of(base))
    with FlopCounterMode(display=False, depth=8) as counter:
        answer_nll(run_forward(model, batch)).backward()
    seen = [
        sum(of.values())
        for name, of in counter.get_flop_counts().items()
        if name.endswith((".vision_tower", ".multi_modal_projector"))
    ]
    assert seen, "the vision tower must be told apart"
    cost = simulated(replace(describe(section(base), device="cpu"), packs=False), LORA, batch)
    assert cost.both == pytest.approx(counter.get_total_flops() - sum(seen), rel=0.01)


def test_the_counted_weights_are_the_real_ones(base: Path) -> None:
    loaded = loaded_from(base)
    facts = describe(section(base), device="cpu")
    assert facts.parameters == sum(p.numel() for p in loaded.model.parameters())
    assert facts.resident == 4 * facts.parameters
    for lora in (LORA, None, Lora(rank=3, targets=r".*language_model.*\.q_proj")):
        model = add_trainable(loaded_from(base).model, loaded.family, lora, seed=0)
        assert facts.trainable(lora) == sum(p.numel() for p in model.parameters() if p.requires_grad)
