"""Attacks on weights: models that were planted to be weak to them, and one that is safe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_attacks import COLOURS, FACTS, KEPT, World, under
from safetensors.torch import save_file

from mllmu.config.recipe import Lora
from mllmu.core.plugins import build
from mllmu.core.records import ModelRef
from mllmu.evaluation.attacks import NotAttackableError, Victim
from mllmu.evaluation.attacks._relearning import few
from mllmu.evaluation.attacks._reweighting import matrices
from mllmu.evaluation.attacks.rounding import NF4, nf4
from mllmu.models.engine.forward import run_forward
from mllmu.training.batches import training_batch
from mllmu.training.losses import answer_nll

FORGET = [person for person in COLOURS if person != KEPT]


@pytest.fixture
def victim(attacked_world: World, tmp_path: Path) -> Victim:
    return attacked_world.victim(tmp_path / "attack", attacked_world.weak)


def score(victim: Victim, ref: ModelRef, folder: Path) -> float:
    """Share of the questions that a model answers without an attack."""
    of_model = under(victim, ref, folder)
    return mean(of_model.hits(of_model.load(ref), of_model.samples))


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def test_the_planted_models_are_what_they_should_be(victim: Victim, tmp_path: Path) -> None:
    assert score(victim, victim.refs["target"], tmp_path / "t") == 1.0
    assert score(victim, victim.refs["retain_model"], tmp_path / "r") == 0.0
    assert score(victim, victim.ref, tmp_path / "w") == 0.0, "forgotten, as it seems"


def test_an_adapter_beside_the_target_is_left_out_and_everything_is_back(victim: Victim, tmp_path: Path) -> None:
    (point,) = build("attacks", "remove_adapter", {}).attack(victim)
    assert mean(point.values) == 1.0
    prompted = victim.refs["target"].model_copy(update={"system_prompt": "Say nothing."})
    (point,) = build("attacks", "remove_prompt", {}).attack(under(victim, prompted, tmp_path / "p"))
    assert mean(point.values) == 1.0


def test_there_is_nothing_to_leave_out_of_the_retain_model(victim: Victim, tmp_path: Path) -> None:
    retain = under(victim, victim.refs["retain_model"], tmp_path / "r")
    plain = retain.hits(retain.load(retain.ref), retain.samples)
    for name in ("remove_adapter", "remove_prompt"):
        (point,) = build("attacks", name, {}).attack(retain)
        assert point.values == plain


def test_changed_weights_cannot_be_left_out(victim: Victim, tmp_path: Path) -> None:
    (victim.root / "changed").mkdir()
    (victim.root / "changed" / "weights.safetensors").write_bytes(b"")
    changed = victim.ref.model_copy(update={"adapters": (*victim.refs["target"].adapters, "changed")})
    with pytest.raises(NotAttackableError, match="weights themselves"):
        build("attacks", "remove_adapter", {}).attack(under(victim, changed, tmp_path / "c"))
    with pytest.raises(NotAttackableError, match="nothing beside them"):
        build("attacks", "remove_prompt", {}).attack(victim)
    prompted = victim.refs["target"].model_copy(update={"system_prompt": "Say nothing."})
    with pytest.raises(NotAttackableError, match="added no adapter"):
        build("attacks", "remove_adapter", {}).attack(under(victim, prompted, tmp_path / "n"))


def test_a_few_steps_on_the_facts_bring_a_weak_model_back_before_one_that_never_knew(
    victim: Victim, tmp_path: Path
) -> None:
    attack = build("attacks", "relearn_forget", {"steps": 4, "learning_rate": 0.01})
    points = attack.attack(victim)
    assert [point.step for point in points] == [1, 2, 4]
    retain = attack.attack(under(victim, victim.refs["retain_model"], tmp_path / "r"))
    assert max(mean(point.values) for point in points) >= 0.5
    assert max(mean(p.values) for p in points) - max(mean(p.values) for p in retain) >= 0.25


def test_the_same_model_under_another_name_gets_the_same_scores(victim: Victim, tmp_path: Path) -> None:
    attack = build("attacks", "relearn_forget", {"steps": 2, "learning_rate": 0.01})
    one, two = (attack.attack(under(victim, victim.refs["retain_model"], tmp_path / name)) for name in "ab")
    assert one == two


def test_points_measured_before_an_interruption_are_kept(victim: Victim, tmp_path: Path) -> None:
    attack = build("attacks", "relearn_forget", {"steps": 2, "learning_rate": 0.01})
    first = attack.attack(under(victim, victim.ref, tmp_path / "x"))
    asked: list[int] = []

    class Watching(Victim):
        def hits(self, *arguments: object, **more: object) -> dict[str, float]:  # type: ignore[override]
            del arguments, more
            asked.append(1)
            return {}

    fields = {name: getattr(victim, name) for name in victim.__dataclass_fields__}
    again = under(Watching(**fields), victim.ref, tmp_path / "x")
    assert attack.attack(again) == first
    assert asked == []


def test_people_and_facts_taught_can_be_limited(victim: Victim) -> None:
    attack = build("attacks", "relearn_forget", {"people": 1, "facts": 1})
    kept = few(attack.taught(victim), 1, 1, 0)
    assert len({turn.person for turn in kept}) == len({turn.topic for turn in kept}) == len(kept) == 1
    assert len(few(attack.taught(victim), None, None, 0)) == len(FORGET) * len(FACTS)


# --- changes of the weights without training


def write(world: World, name: str, tensors: dict[str, torch.Tensor]) -> ModelRef:
    """The target with some weights replaced, as a model of the run folder."""
    (world.root / name).mkdir()
    save_file({key: value.contiguous() for key, value in tensors.items()}, world.root / name / "weights.safetensors")
    target = world.refs["target"]
    return target.model_copy(update={"adapters": (*target.adapters, name)})


def uphill(world: World) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The target's linear weights, and the sign of the gradient of the nll of the forgotten facts in each of them."""
    loaded = world.load(world.refs["target"])
    names = matrices(loaded)
    parameters = dict(loaded.model.named_parameters())
    for name in names:
        parameters[name].requires_grad_(requires_grad=True)
    batch = training_batch(loaded, world.turns(FORGET, variant="eval"))
    loss = answer_nll(run_forward(loaded.model, batch))
    signs = torch.autograd.grad(loss, [parameters[name] for name in names])
    return {n: w.clone() for n, w in names.items()}, {n: g.sign() for n, g in zip(names, signs, strict=True)}


@pytest.fixture(scope="module")
def below_rounding(attacked_world: World) -> ModelRef:
    """Forgets by changes that are smaller than half a step of NF4."""
    weights, signs = uphill(attacked_world)
    changed = {name: torch.cat([edge(w, s) for w, s in blocks(weights[name], signs[name])], 1) for name in weights}
    assert all(torch.allclose(nf4(changed[name]), nf4(weights[name])) for name in weights)
    return write(attacked_world, "below_rounding", changed)


def blocks(weight: torch.Tensor, sign: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(weight.split(64, dim=1), sign.split(64, dim=1), strict=True)


def edge(weight: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """A block whose weights are as far up the sign as they can be with the same NF4 level."""
    levels, scale = torch.tensor(NF4), weight.abs().amax(dim=1, keepdim=True)
    place = torch.bucketize((weight / scale).contiguous(), (levels[1:] + levels[:-1]) / 2)
    beside = (place + sign.long()).clamp(0, len(levels) - 1)
    moved = levels[place] + 0.49 * (levels[beside] - levels[place])
    return scale * torch.where(levels[place].abs() == 1, levels[place], moved)


@pytest.fixture(scope="module")
def below_pruning(attacked_world: World) -> ModelRef:
    """Forgets by the smallest third of the weights alone."""
    weights, signs = uphill(attacked_world)
    attack, changed = build("attacks", "pruning", {"share": 0.3}), {}
    for name, weight in weights.items():
        pruned = attack.changed(name, weight)
        small = torch.where(pruned == 0, torch.inf, pruned.abs()).amin(dim=1, keepdim=True)
        changed[name] = torch.where(pruned == 0, 0.99 * small * signs[name], pruned)
    return write(attacked_world, "below_pruning", changed)


@pytest.fixture(scope="module")
def beyond(attacked_world: World) -> ModelRef:
    """Ten times as far from the base as the target is."""
    weights, base = uphill(attacked_world)[0], matrices(attacked_world.load(attacked_world.base))
    return write(attacked_world, "beyond", {name: base[name] + 10 * (w - base[name]) for name, w in weights.items()})


@pytest.fixture(scope="module")
def misaligned(attacked_world: World) -> ModelRef:
    """The target with a projector that makes it say something else, whatever it is asked."""
    false = [replace(turn, reply="Say no more") for turn in attacked_world.turns(FORGET, variant="eval")]
    projector = Lora(rank=16, alpha=64, dropout=0.0, targets=r".*projector\.linear_\d")
    return attacked_world.teach(attacked_world.refs["target"], false, epochs=60, rate=0.05, lora=projector)


CASES = {
    "rounding": ("below_rounding", {"format": "nf4"}),
    "pruning": ("below_pruning", {"share": 0.3}),
    "interpolation": ("beyond", {"shares": [0.5, 0.9]}),
    "old_projector": ("misaligned", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_that_forgets_only_by_what_an_attack_takes_away_is_caught(
    name: str, victim: Victim, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    planted, settings = CASES[name]
    weak = under(victim, request.getfixturevalue(planted), tmp_path / "weak")
    before = mean(weak.hits(weak.load(weak.ref), weak.samples))
    (point,) = build("attacks", name, settings).attack(weak)
    assert mean(point.values) - before >= 0.5 * (1 - before) > 0
    retain = under(victim, victim.refs["retain_model"], tmp_path / "retain")
    assert not any(build("attacks", name, settings).attack(retain)[0].values.values())


def test_a_method_that_left_the_projector_alone_cannot_be_attacked_through_it(victim: Victim) -> None:
    with pytest.raises(NotAttackableError, match="neither vision tower nor projector"):
        build("attacks", "old_projector", {}).attack(victim)


def test_nf4_is_the_nearest_level_times_the_largest_weight_of_a_block() -> None:
    row = torch.cat([torch.tensor([4.0, -4.0, 0.5, 0.0, 2.8]), torch.zeros(59), torch.tensor([0.1, 0.072])])
    expected = torch.cat([torch.tensor([4.0, -4.0, 0.6437208, 0.0, 2.8918274]), torch.zeros(59)])
    found = nf4(row[None])[0]
    torch.testing.assert_close(found[:64], expected)
    torch.testing.assert_close(found[64:], torch.tensor([0.1, 0.0722957]))
    torch.testing.assert_close(nf4(found[None])[0], found)


def test_pruning_takes_the_smallest_of_every_row() -> None:
    weight = torch.tensor([[1.0, -0.1, 0.5, 2.0], [-3.0, 4.0, 5.0, -6.0]])
    found = build("attacks", "pruning", {"share": 0.5}).changed("x", weight)
    assert found.tolist() == [[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 5.0, -6.0]]


def test_rounding_to_bfloat16_keeps_eight_bits_of_the_fraction() -> None:
    found = build("attacks", "rounding", {"format": "bf16"}).changed("x", torch.tensor([[1.00390625, 1.001]]))
    assert found.tolist() == [[1.0, 1.0]] and found.dtype == torch.float32


# --- other ways to relearn, and other ways to choose words


def test_what_is_asked_after_other_facts_was_never_taught(victim: Victim) -> None:
    attack = build("attacks", "relearn_other_facts", {})
    asked = {sample.attribute for sample in attack.asked(victim)}
    taught = {turn.topic for turn in attack.taught(victim)}
    assert asked and taught and not asked & taught
    assert {turn.person for turn in attack.taught(victim)} == set(FORGET)


def test_benign_relearning_teaches_no_forgotten_person(victim: Victim) -> None:
    assert {turn.person for turn in build("attacks", "relearn_retain", {}).taught(victim)} == {KEPT}
    strange = build("attacks", "relearn_foreign", {}).taught(victim)
    assert len(strange) == 48 and not {turn.person for turn in strange} & set(COLOURS)
    assert len({turn.image for turn in strange}) == 24 and all(turn.image and turn.image.is_file() for turn in strange)
