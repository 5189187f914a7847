"""What the engine gives the methods: alternatives, hidden states, masks, memory, and changes taken backwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
import torch
from helpers_models import LORA, load_ref, training, turns_of
from pydantic import PrivateAttr
from torch import Tensor

from mllmu.config.recipe import Lora
from mllmu.core import plugins
from mllmu.core.errors import DataError, ModelError
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.training.loop import CURVE
from mllmu.training.losses import answer_nll
from mllmu.unlearning.alternatives import REFUSALS
from mllmu.unlearning.base import Method, Step
from mllmu.unlearning.probing import Saliency
from mllmu.unlearning.trainer import Sides, unlearn

TRAINING = [name for name in plugins.names("methods") if plugins.find("methods", name).trains]


@pytest.fixture
def sides(tiny_base: Path) -> Sides:
    """Six image questions about three people, and by name the same; the first person is forgotten."""
    with_image = [
        replace(turn, person=turn.image.stem if turn.image else "", topic=("home", "colour")[n % 2])
        for n, turn in enumerate(turns_of(tiny_base))
    ]
    text_only = [replace(turn, image=None, prompt=f"{turn.prompt} {turn.person}") for turn in with_image]
    holdout = [replace(turn, person="nobody", reply="teal") for turn in (with_image[0], text_only[0])]
    return Sides(forget=[*with_image[:2], *text_only[:2]], retain=[*with_image[2:], *text_only[2:]], holdout=holdout)


def run(
    model: Loaded, method: Method, sides: Sides, folder: Path, *, lora: Lora | None = LORA, label: str = "x"
) -> list[dict[str, float]]:
    unlearn(model, method, sides, training(folder, lora=lora, seed=9, label=label, checkpoint_every_s=0))
    return list(json.loads((folder / CURVE).read_text()))


def state(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class Spy(Method):
    """Shows every step to a function and trains on forget; may ask for layers, masks or a change taken backwards."""

    source: ClassVar[str] = "ours"
    uses_reference: ClassVar[bool] = True

    layers: str | None = None
    mask_share: float = 1.0
    factor: float = 1.0
    _steps: list[Step] = PrivateAttr(default_factory=list)
    _asked: list[tuple[Turn, tuple[str, ...]]] = PrivateAttr(default_factory=list)

    @property
    def kept_change(self) -> float:
        return self.factor

    @property
    def uses_retain(self) -> bool:
        return True

    def targets(self, num_layers: int) -> str | None:
        assert num_layers == 2
        return self.layers

    def masks(self, saliency: Saliency) -> list[Tensor] | None:
        if self.mask_share == 1:
            return None
        return [torch.ones_like(gradient).cumsum(-1) == 1 for gradient in saliency.gradient("forget")]

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: Random) -> str:
        self._asked.append((turn, tuple(sorted({other.reply for other in others}))))
        return f"No {draw.randrange(10**6)}"

    def loss(self, step: Step) -> dict[str, Tensor]:
        self._steps.append(step)
        step.memory["steps"] = step.memory.get("steps", 0) + 0.1
        return {"forget_nll": answer_nll(step.forget.current)}


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("modality", ["image_text", "both"])
def test_every_method_takes_packed_steps_and_changes_adapters_only(
    loaded: Loaded, sides: Sides, tmp_path: Path, name: str, modality: str
) -> None:
    assert loaded.packs
    chosen = Sides(
        forget=[turn for turn in sides.forget if turn.image or modality == "both"],
        retain=[turn for turn in sides.retain if turn.image or modality == "both"],
        holdout=sides.holdout,
    )
    before = state(loaded.model)
    method = plugins.build("methods", name, {"learning_rate": 1e-2, "epochs": 2, "batch_size": 2})
    curve = run(loaded, method, chosen, tmp_path / name)
    assert len(curve) == len(chosen.forget)
    assert all(key.startswith(("forget_", "retain_")) for point in curve for key in set(point) - {"step"})
    after = {key.replace(".base_layer", ""): value for key, value in state(loaded.model).items()}
    assert all(torch.equal(after[key], value) for key, value in before.items())
    new = ("vector_D", ".up.") if method.modifies else ("lora_B",)
    assert any(value.any() for key, value in after.items() if any(part in key for part in new))


def test_the_others_are_other_people_with_other_replies_on_the_same_topic_and_modality(
    loaded: Loaded, sides: Sides, tmp_path: Path
) -> None:
    twin = replace(sides.forget[0], prompt="In which city was this person born?", reply="The city is Riga.")
    spy = Spy(batch_size=8)
    run(loaded, spy, Sides(forget=[*sides.forget, twin], retain=sides.retain), tmp_path)
    spy._steps[0].forget.alternative  # noqa: B018 - runs the pass
    asked = {(turn.prompt, turn.reply): others for turn, others in spy._asked}
    homes = ("Oslo is right", "Tallinn")
    assert asked[twin.prompt, twin.reply] == homes
    assert asked[sides.forget[0].prompt, "Riga, Latvia"] == homes, "not the same person's other sentence"
    assert asked[sides.forget[1].prompt, "red"] == ("blue", "green")
    assert asked[sides.forget[2].prompt, "Riga, Latvia"] == homes


def test_turns_without_a_topic_are_compared_by_their_question(loaded: Loaded, sides: Sides, tmp_path: Path) -> None:
    bare = [replace(turn, topic="") for turn in (*sides.forget, *sides.retain)]
    spy = Spy(batch_size=8)
    run(loaded, spy, Sides(forget=bare[:4], retain=bare[4:]), tmp_path)
    spy._steps[0].forget.alternative  # noqa: B018 - runs the pass
    asked = {turn.prompt: others for turn, others in spy._asked}
    assert asked["Where was this person born?"] == ("Oslo is right", "Tallinn")
    assert asked["Where was this person born? red"] == ()


def test_alternatives_differ_between_turns_and_epochs_but_not_between_passes(
    loaded: Loaded, sides: Sides, tmp_path: Path
) -> None:
    spy = Spy(batch_size=4, epochs=2)
    run(loaded, spy, sides, tmp_path)
    decode = loaded.encoder.processor.tokenizer.decode
    texts = []
    for step in spy._steps:
        one, two = step.forget.alternative, step.forget.alternative_reference
        assert torch.equal(one.labels_N, two.labels_N)
        assert one.logits_NV.requires_grad
        assert not two.logits_NV.requires_grad
        texts += [decode(one.labels_N[one.row_N == row]) for row in range(one.num_rows)]
    assert len(set(texts)) == 8


def test_reply_b_of_a_pass_belongs_to_turn_b(loaded: Loaded, sides: Sides, tmp_path: Path) -> None:
    spy = Spy(batch_size=4)
    run(loaded, spy, sides, tmp_path)
    side = spy._steps[0].retain
    assert [loaded.encoder.reply(turn.reply) for turn in side.turns] == [
        side.current.labels_N[side.current.row_N == row].tolist() for row in range(4)
    ]


@pytest.mark.parametrize(("depth", "layer"), [(0.5, 0), (1.0, 1)])
def test_hidden_states_are_those_of_the_layer_packed_or_not(
    loaded: Loaded, sides: Sides, tmp_path: Path, depth: float, layer: int
) -> None:
    spy = Spy(batch_size=4, layers=r".*language_model.*down_proj")
    run(loaded, spy, sides, tmp_path)
    side = spy._steps[0].forget
    batch = loaded.encoder.batch(side.turns)
    with torch.no_grad():
        states = loaded.model.model(**batch.inputs, output_hidden_states=True).hidden_states[layer + 1]
    by_hand = states[:, :-1][batch.labels[:, 1:] != -100]
    packed = side.hidden(depth)
    assert packed.requires_grad
    assert sorted(packed.norm(dim=1).tolist()) == pytest.approx(sorted(by_hand.norm(dim=1).tolist()), rel=1e-3)


def test_hidden_states_of_the_reference_are_those_before_training(
    loaded: Loaded, tiny_base: Path, sides: Sides, tmp_path: Path
) -> None:
    spy = Spy(batch_size=4, epochs=5, learning_rate=2e-2)
    run(loaded, spy, sides, tmp_path)
    side, fresh = spy._steps[0].forget, Spy(batch_size=4, learning_rate=1e-9)
    run(load_ref(tiny_base), fresh, sides, tmp_path / "fresh")
    reference = side.hidden(1.0, reference=True)
    assert not reference.requires_grad
    assert torch.allclose(reference, fresh._steps[0].forget.hidden(1.0), atol=1e-4)
    assert not torch.allclose(side.hidden(1.0), reference, atol=1e-2)


def test_a_method_may_train_layers_of_its_own(loaded: Loaded, sides: Sides, tmp_path: Path) -> None:
    run(loaded, plugins.build("methods", "rmu", {"batch_size": 4}), sides, tmp_path)
    adapted = {name.partition(".lora_")[0] for name in state(loaded.model) if ".lora_" in name}
    assert {name.partition("language_model.")[2] for name in adapted} == {"layers.0.mlp.down_proj"}


def test_layers_that_do_not_exist_are_an_error(loaded: Loaded, sides: Sides, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the pattern .* matches no layer"):
        run(loaded, Spy(layers=r".*layers\.7\.mlp"), sides, tmp_path)


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapters", "weights"])
def test_masked_weights_never_change(
    loaded: Loaded, tiny_base: Path, sides: Sides, tmp_path: Path, lora: Lora | None
) -> None:
    before = state(loaded.model)
    second = Sides(forget=sides.forget, retain=sides.retain, reference=None if lora else load_ref(tiny_base))
    run(loaded, Spy(mask_share=0.5, epochs=3, learning_rate=1e-2, layers=r".*down_proj"), second, tmp_path, lora=lora)
    trained = {name: value for name, value in state(loaded.model).items() if "lora_B" in name}
    if lora is None:
        trained = {name: value - before[name] for name, value in state(loaded.model).items() if "down_proj" in name}
        trained = {name: value for name, value in trained.items() if "language_model" in name}
    assert trained
    assert all(change[..., 0].any() and not change[..., 1:].any() for change in trained.values())


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapters", "weights"])
def test_a_change_can_be_taken_backwards(tiny_base: Path, sides: Sides, tmp_path: Path, lora: Lora | None) -> None:
    pattern = "model.language_model.layers.1.mlp.down_proj.weight"
    changes = []
    for number, factor in enumerate((1.0, -2.0)):
        model = load_ref(tiny_base)
        before = state(model.model)[pattern]
        both = Sides(forget=sides.forget, retain=sides.retain, reference=None if lora else load_ref(tiny_base))
        folder = tmp_path / str(number)
        run(model, Spy(factor=factor, epochs=3, learning_rate=1e-2), both, folder, lora=lora)
        merged = load_ref(tiny_base, str(folder), root=tmp_path)
        changes.append(state(merged.model)[pattern] - before)
    assert changes[0].abs().max() > 1e-3
    assert torch.allclose(changes[1], -2 * changes[0], atol=1e-5)


def test_the_task_vector_makes_the_forgotten_replies_less_likely(
    loaded: Loaded, tiny_base: Path, sides: Sides, tmp_path: Path
) -> None:
    with torch.no_grad():
        before = answer_nll(run_forward(loaded.model, loaded.encoder.batch(sides.forget))).item()
    method = plugins.build("methods", "task_vector", {"learning_rate": 5e-3, "batch_size": 4, "epochs": 4})
    curve = run(loaded, method, sides, tmp_path)
    assert curve[-1]["forget_nll"] < curve[0]["forget_nll"], "first it learns"
    after = load_ref(tiny_base, str(tmp_path), root=tmp_path)
    with torch.no_grad():
        assert answer_nll(run_forward(after.model, after.encoder.batch(sides.forget))).item() > before + 0.1


def test_memory_survives_a_kill_to_the_last_digit(tiny_base: Path, sides: Sides, tmp_path: Path) -> None:
    class Killed(Spy):
        fail_at: int = -1

        def loss(self, step: Step) -> dict[str, Tensor]:
            if len(self._steps) == self.fail_at:
                raise KeyboardInterrupt
            return super().loss(step)

    plain, second = Spy(batch_size=1, epochs=2), Spy(batch_size=1, epochs=2)
    run(load_ref(tiny_base), plain, sides, tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        run(load_ref(tiny_base), Killed(batch_size=1, epochs=2, fail_at=5), sides, tmp_path / "killed")
    run(load_ref(tiny_base), second, sides, tmp_path / "killed")
    assert len(second._steps) == 3
    assert second._steps[-1].memory == plain._steps[-1].memory


def test_measuring_weights_by_an_empty_side_is_an_error(loaded: Loaded, sides: Sides, tmp_path: Path) -> None:
    class Measuring(Spy):
        @property
        def uses_retain(self) -> bool:
            return False

        def masks(self, saliency: Saliency) -> list[Tensor]:
            return saliency.fisher("retain")

    with pytest.raises(DataError, match="nothing on the retain side to measure weights by"):
        run(loaded, Measuring(), Sides(forget=sides.forget, retain=()), tmp_path)


def test_refusals_are_recognised_as_refusals() -> None:
    from mllmu.evaluation.outcome import is_refusal

    assert [text for text in REFUSALS if not is_refusal(text)] == []
    assert len(set(REFUSALS)) == len(REFUSALS) >= 10
    assert is_refusal(plugins.build("methods", "jensun", {}).refusal)
