"""The one loop: it minimises, it can be interrupted anywhere, and it never trains on garbage."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import Watcher, training
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mllmu.core.errors import ModelError, RunStoreError
from mllmu.training.checkpoint import CHECKPOINT, TEMPORARY
from mllmu.training.loop import CURVE, Schedule, train

STEPS = 8
PLAIN = Schedule(num_steps=STEPS, learning_rate=0.05, warmup=0.25, weight_decay=0.1)


class Net(nn.Module):
    """Two layers with dropout between them, the first frozen; the loss of a step needs only its number."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(4, width).requires_grad_(False)
        self.drop = nn.Dropout(0.5)
        self.taught = nn.Linear(width, 3)

    def terms(self, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator)
        out = self.taught(self.drop(torch.relu(self.frozen(x))))
        return {"fit": nn.functional.cross_entropy(out, y), "small": 0.01 * out.square().mean()}


class Killed(KeyboardInterrupt):
    """Stands for a killed process."""


def run(
    net: Net,
    folder: Path,
    terms: Callable[[int], dict[str, Tensor]] | None = None,
    *,
    schedule: Schedule = PLAIN,
    every_s: float = 0,
) -> tuple[list[dict[str, float]], Watcher]:
    watcher = Watcher()
    means = training(folder, label="net", progress=watcher, lora=None, checkpoint_every_s=every_s)
    return train(net, terms or net.terms, schedule, means), watcher


def interrupt(net: Net, folder: Path, at: int) -> None:
    def terms(step: int) -> dict[str, Tensor]:
        if step == at:
            raise Killed
        return net.terms(step)

    with pytest.raises(Killed):
        run(net, folder, terms)


def weights(net: Net) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def finished(tmp_path: Path) -> tuple[list[Tensor], str]:
    """Weights and curve file of a run without interruption."""
    (tmp_path / "plain").mkdir()
    net = Net()
    run(net, tmp_path / "plain")
    return weights(net), (tmp_path / "plain" / CURVE).read_text()


def test_the_sum_of_the_terms_falls_and_only_trainable_weights_move(tmp_path: Path) -> None:
    net = Net()
    net.drop.p = 0.0
    before = weights(net)
    x = {0: net.terms(0)}
    curve, watcher = run(net, tmp_path, lambda _: net.terms(0), schedule=Schedule(num_steps=40, learning_rate=0.05))
    total = [point["fit"] + point["small"] for point in curve]
    assert total[0] == pytest.approx(sum(value.item() for value in x[0].values()), abs=1e-5)
    assert total[-1] < total[0] - 0.05
    moved = [not torch.equal(a, b) for a, b in zip(before, weights(net), strict=True)]
    assert moved == [False, False, True, True]
    assert not net.training
    assert watcher.done == 40
    assert json.loads((tmp_path / CURVE).read_text()) == curve
    assert [file.name for file in tmp_path.iterdir()] == [CURVE]


@pytest.mark.parametrize("at", range(1, STEPS))
def test_an_interrupted_and_resumed_run_is_bit_identical(
    tmp_path: Path, finished: tuple[list[Tensor], str], at: int
) -> None:
    interrupt(Net(), tmp_path, at)
    net, asked = Net(), list[int]()

    def terms(step: int) -> dict[str, Tensor]:
        asked.append(step)
        return net.terms(step)

    _, watcher = run(net, tmp_path, terms)
    assert asked == list(range(at, STEPS)), "finished steps must not be repeated"
    assert watcher.done == STEPS
    assert equal(weights(net), finished[0])
    assert (tmp_path / CURVE).read_text() == finished[1]
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_run_may_be_interrupted_several_times(tmp_path: Path, finished: tuple[list[Tensor], str]) -> None:
    for at in (2, 3, 6):
        interrupt(Net(), tmp_path, at)
    net = Net()
    run(net, tmp_path)
    assert equal(weights(net), finished[0])


def test_dropout_differs_from_step_to_step_and_not_with_the_state_of_the_generator(tmp_path: Path) -> None:
    nets = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        nets.append(Net())
        curve, _ = run(nets[-1], tmp_path, lambda _, net=nets[-1]: net.terms(0))
    assert equal(weights(nets[0]), weights(nets[1]))
    still = Schedule(num_steps=4, learning_rate=1e-12)
    curve, _ = run(nets[0], tmp_path, lambda _: nets[0].terms(0), schedule=still)
    assert len({point["fit"] for point in curve}) == 4


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a checkpoint")


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_meta(path: Path) -> None:
    save_file(load_file(path), path)


def damage_names(path: Path) -> None:
    save_file({f"{k}_old": v for k, v in load_file(path).items()}, path, metadata={"step": "3", "curve": "[]"})


def damage_state(path: Path) -> None:
    save_file(load_file(path) | {"o/strange": torch.ones(1)}, path, metadata={"step": "3", "curve": "[]"})


def damage_shape(path: Path) -> None:
    tensors = {k: torch.ones(2) if k == "p/taught.bias" else v for k, v in load_file(path).items()}
    save_file(tensors, path, metadata={"step": "3", "curve": "[]"})


@pytest.mark.parametrize(
    "damage", [damage_cut, damage_header, damage_empty, damage_meta, damage_names, damage_state, damage_shape]
)
def test_a_checkpoint_that_cannot_be_used_is_noted_and_training_starts_over(
    tmp_path: Path, finished: tuple[list[Tensor], str], damage: Callable[[Path], None]
) -> None:
    interrupt(Net(), tmp_path, 5)
    damage(tmp_path / CHECKPOINT)
    net = Net()
    _, watcher = run(net, tmp_path)
    assert len(watcher.notes) == 1
    assert CHECKPOINT in watcher.notes[0]
    assert "starts over" in watcher.notes[0]
    assert watcher.done == STEPS
    assert equal(weights(net), finished[0])
    assert (tmp_path / CURVE).read_text() == finished[1]


def test_a_turned_bit_of_a_checkpoint_is_noticed(tmp_path: Path, finished: tuple[list[Tensor], str]) -> None:
    interrupt(Net(), tmp_path, 5)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for place in range(8, len(whole), len(whole) // 24):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (tmp_path / CHECKPOINT).write_bytes(flipped)
        net = Net()
        _, watcher = run(net, tmp_path)
        assert len(watcher.notes) == 1 and "starts over" in watcher.notes[0], place
        assert equal(weights(net), finished[0])


def test_the_half_written_checkpoint_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    (tmp_path / TEMPORARY).write_bytes(b"half")
    run(Net(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [CURVE]


def test_no_checkpoint_is_written_before_its_time(tmp_path: Path) -> None:
    net = Net()

    def terms(step: int) -> dict[str, Tensor]:
        assert not (tmp_path / CHECKPOINT).exists()
        return net.terms(step)

    run(net, tmp_path, terms, schedule=Schedule(num_steps=4, learning_rate=0.1), every_s=60)


def test_a_checkpoint_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / TEMPORARY).mkdir()
    with pytest.raises(RunStoreError, match=rf"{CHECKPOINT}: cannot be written"):
        run(Net(), tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path: Path, value: str) -> None:
    net = Net()

    def terms(step: int) -> dict[str, Tensor]:
        return net.terms(step) | {"bad": torch.tensor(float(value)) if step == 2 else torch.tensor(0.0)}

    with pytest.raises(ModelError, match=rf"net: the loss is {value} at step 3 of 8.*Lower learning_rate"):
        run(net, tmp_path, terms)
    assert all(torch.isfinite(w).all() for w in weights(net))


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(tmp_path: Path) -> None:
    net = Net()

    def terms(step: int) -> dict[str, Tensor]:
        zero = net.taught.bias[0] * 0.0
        return {"root": zero.sqrt()} if step == 1 else net.terms(step)

    with pytest.raises(ModelError, match="net: the norm of the gradient is nan at step 2 of 8"):
        run(net, tmp_path, terms)
    assert all(torch.isfinite(w).all() for w in weights(net))


@pytest.mark.parametrize("bad", [0, 3])
def test_no_step_behind_one_that_is_not_finite_changes_the_weights(tmp_path: Path, bad: int) -> None:
    net = Net()
    before: list[list[Tensor]] = []

    def terms(step: int) -> dict[str, Tensor]:
        before.append(weights(net))
        good = net.terms(step)
        return {name: value * float("inf") for name, value in good.items()} if step == bad else good

    with pytest.raises(ModelError, match=rf"the loss is inf at step {bad + 1} of 8"):
        run(net, tmp_path, terms, every_s=60)
    assert equal(weights(net), before[bad])


class ReadCounter(TorchDispatchMode):
    """Counts the numbers that Python asks tensors for."""

    reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_number_back_and_the_curve_is_complete_all_the_same(tmp_path: Path) -> None:
    net = Net()
    schedule = Schedule(num_steps=40, learning_rate=0.01)
    with ReadCounter() as counter:
        curve, watcher = run(net, tmp_path, schedule=schedule, every_s=60)
    assert counter.reads == 0
    assert [point["step"] for point in curve] == list(range(40))
    assert watcher.done == 40
    assert net.terms(0)["fit"].item() != curve[0]["fit"]


def test_a_step_without_terms_changes_nothing_and_counts(tmp_path: Path) -> None:
    net = Net()
    before: dict[int, list[Tensor]] = {}

    def terms(step: int) -> dict[str, Tensor]:
        before[step] = weights(net)
        return net.terms(step) if step % 2 else {}

    curve, watcher = run(net, tmp_path, terms)
    assert watcher.done == STEPS
    assert [point["step"] for point in curve] == [1, 3, 5, 7]
    for step, after in pairwise(before):
        assert equal(before[step], before[after]) == (step % 2 == 0)


def test_a_run_whose_first_steps_have_no_terms_can_be_resumed(tmp_path: Path) -> None:
    net, again = Net(), Net()
    run(net, tmp_path, lambda step: net.terms(step) if step > 3 else {})

    def terms(step: int) -> dict[str, Tensor]:
        if step == 6:
            raise Killed
        return again.terms(step) if step > 3 else {}

    with pytest.raises(Killed):
        run(again, tmp_path, terms)
    resumed = Net()
    run(resumed, tmp_path, lambda step: resumed.terms(step) if step > 3 else {})
    assert equal(weights(resumed), weights(net))


def test_the_learning_rate_rises_and_falls_linearly() -> None:
    schedule = Schedule(num_steps=10, learning_rate=6.0, warmup=0.2)
    by_hand = [2.0, 4.0, 6.0, 5.25, 4.5, 3.75, 3.0, 2.25, 1.5, 0.75]
    assert [schedule.rate(step) for step in range(10)] == pytest.approx(by_hand)
    assert [Schedule(num_steps=4, learning_rate=1.0).rate(s) for s in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert Schedule(num_steps=1, learning_rate=1.0, warmup=0.9).rate(0) == 1.0


def test_a_step_moves_the_weights_by_the_scheduled_rate(tmp_path: Path) -> None:
    # Adam's first step moves every weight by the rate, whatever the size of its gradient
    net = Net()
    before = net.taught.bias.detach().clone()
    run(net, tmp_path, lambda _: {"up": -net.taught.bias.sum()}, schedule=Schedule(num_steps=1, learning_rate=0.25))
    assert (net.taught.bias.detach() - before).tolist() == pytest.approx([0.25] * 3, rel=1e-5)


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    # Adam hides the size of one gradient, not the ratio of two: clipped, a step 1000 times steeper counts as any other
    def slope(step: int) -> float:
        return 1000.0 if step else 1.0

    moved = []
    for limit in (1.0, 1e6):
        net = Net()
        schedule = Schedule(num_steps=2, learning_rate=0.1, max_grad_norm=limit)
        run(net, tmp_path, lambda step, net=net: {"up": -slope(step) * net.taught.bias[0]}, schedule=schedule)
        moved.append(net.taught.bias[0].item() - Net().taught.bias[0].item())
    assert moved[0] == pytest.approx(0.1 + 0.05, rel=1e-3)
    assert moved[1] != pytest.approx(moved[0], rel=1e-2)
