"""Modifiers act alike in every way a model is run, are plain files, and go away with their folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_models import LORA, load_ref, logits, nll, sample, training, turns_of
from safetensors.torch import save_file

from mllmu.config.recipe import ModelSection
from mllmu.core import plugins
from mllmu.core.errors import ModelError
from mllmu.core.records import ModelRef
from mllmu.models import loading
from mllmu.models.devices import recompute_activations
from mllmu.models.engine.forward import run_forward
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.gate import Gate
from mllmu.models.loading import Loaded, add_trainable, save_trained
from mllmu.models.modifiers import (
    MODIFIER_FILE,
    Experts,
    LogitSteering,
    ModifierSettings,
    Pruned,
    Steering,
    decoder_layers,
    write_settings,
)
from mllmu.pipeline.export_model import merged
from mllmu.training.batches import pack
from mllmu.unlearning.trainer import Sides, unlearn

WIDTH = 32


def some_gate(groups: int = 2) -> Gate:
    """A gate that opens at some tokens of some questions and not at others."""
    gate_RD = torch.randn(groups, WIDTH, generator=torch.Generator().manual_seed(4))
    return Gate(gate_RD, torch.full((groups,), 4.0))


def steering(folder: Path, base: Path) -> None:
    del base
    vector_D = 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))
    Steering(ModifierSettings(kind="steering", layer=0, strength=2.0), some_gate(), vector_D).save(folder)


def experts(folder: Path, base: Path) -> None:
    model, generator = load_ref(base).model, torch.Generator().manual_seed(6)
    factors = {}
    for name, module in model.named_modules():
        if ".layers.1." in name and "language_model" in name and isinstance(module, torch.nn.Linear):
            size_out, size_in = module.weight.shape
            factors[name] = (
                torch.randn(2, 3, size_in, generator=generator),
                torch.randn(2, size_out, 3, generator=generator),
            )
    Experts(ModifierSettings(kind="experts", layer=0, strength=0.5), some_gate(), torch.eye(2), factors).save(folder)


def pruned(folder: Path, base: Path) -> None:
    names = [n for n, _ in load_ref(base).model.named_modules() if n.endswith("down_proj")]
    model = load_ref(base).model
    sizes = {name: model.get_submodule(name).weight.shape[1] for name in names}
    Pruned(ModifierSettings(kind="pruned"), {n: torch.arange(size) % 2 == 0 for n, size in sizes.items()}).save(folder)


def logit_steering(folder: Path, base: Path, *, whole: bool = False) -> None:
    """Reinforced by an adapter, or by whole matrices, of random numbers."""
    loaded = load_ref(base)
    model = add_trainable(loaded.model, loaded.family, None if whole else LORA, seed=0)
    torch.manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    save_trained(model, folder)
    write_settings(folder, ModifierSettings(kind="logit_steering", strength=2.0))


def logit_steering_whole(folder: Path, base: Path) -> None:
    logit_steering(folder, base, whole=True)


KINDS: list[Callable[[Path, Path], None]] = [steering, experts, pruned, logit_steering, logit_steering_whole]


@pytest.fixture(params=KINDS, ids=lambda made: made.__name__)
def modified(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Loaded:
    request.param(tmp_path, tiny_base)
    return load_ref(tiny_base, str(tmp_path), root=tmp_path)


SAMPLES = [
    sample(n, image=image, prompt=prompt, max_new_tokens=8, candidates={"target": "Riga, Latvia", "wrong_0": "Oslo"})
    for n, (image, prompt) in enumerate(
        (image, prompt) for image in ("red.png", "green.png", "") for prompt in ("Where?", "Which is the hat's colour?")
    )
]


def test_a_modifier_changes_the_model_and_leaves_with_its_folder(modified: Loaded, tiny_base: Path) -> None:
    turns = turns_of(tiny_base)
    plain = load_ref(tiny_base)
    assert nll(modified, turns) != pytest.approx(nll(plain, turns), abs=1e-3)


@pytest.mark.parametrize("make", KINDS, ids=lambda made: made.__name__)
def test_a_model_is_exported_only_if_its_weights_say_it_all(
    make: Callable[[Path, Path], None], tiny_base: Path, tmp_path: Path
) -> None:
    """Without what acts at inference the model before it would be back, under the name of a model that forgot."""
    make(tmp_path, tiny_base)
    section, ref = ModelSection(path=str(tiny_base), device="cpu"), ModelRef(base=str(tiny_base), adapters=(".",))
    if make is not pruned:
        with pytest.raises(ModelError, match=r"acts at inference .* the model before it would be back"):
            merged(section, ref, tmp_path)
        return
    exported, plain = merged(section, ref, tmp_path)[0].state_dict(), load_ref(tiny_base).model.state_dict()
    neurons = next(name for name in exported if name.endswith("down_proj.weight"))
    assert exported[neurons][:, ::2].count_nonzero() == 0 < plain[neurons][:, ::2].count_nonzero()
    assert torch.equal(exported[neurons][:, 1::2], plain[neurons][:, 1::2])


def test_shared_prefixes_give_what_the_librarys_own_generation_gives(modified: Loaded, tiny_base: Path) -> None:
    batches = plan_batches(SAMPLES, 4)
    shared, plain = (
        [reply for batch in respond(modified, batches, image_folder=tiny_base, share=share) for reply in batch]
        for share in (True, False)
    )
    assert [r.text for r in shared] == [r.text for r in plain]
    for one, other in zip(shared, plain, strict=True):
        for key, found in one.candidates.items():
            assert found.logp == pytest.approx(other.candidates[key].logp, abs=2e-4)


def test_a_packed_batch_gives_what_each_question_alone_gives(modified: Loaded, tiny_base: Path) -> None:
    turns = turns_of(tiny_base)
    with torch.no_grad():
        packed = run_forward(modified.model, pack(modified, turns))
        alone = [run_forward(modified.model, modified.encoder.batch([turn])).row_logp_B for turn in turns]
    assert torch.allclose(packed.row_logp_B, torch.cat(alone), atol=2e-4)


def test_padding_changes_nothing(modified: Loaded, tiny_base: Path) -> None:
    turns = turns_of(tiny_base)
    with torch.no_grad():
        together = run_forward(modified.model, modified.encoder.batch(turns, side="left")).row_logp_B
        alone = [run_forward(modified.model, modified.encoder.batch([turn])).row_logp_B for turn in turns]
    assert torch.allclose(together, torch.cat(alone), atol=2e-4)


def test_what_lies_on_disk_is_json_and_safetensors(modified: Loaded, tmp_path: Path) -> None:
    del modified
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    json.loads((tmp_path / MODIFIER_FILE).read_text())


def test_logits_are_lowered_by_hand(tiny_base: Path, tmp_path: Path) -> None:
    logit_steering(tmp_path, tiny_base)
    turn = turns_of(tiny_base)[0]
    plain = logits(load_ref(tiny_base).model, load_ref(tiny_base), turn)
    (tmp_path / MODIFIER_FILE).rename(tmp_path / "aside")
    reinforced = load_ref(tiny_base, str(tmp_path), root=tmp_path)
    better = logits(reinforced.model, reinforced, turn)
    (tmp_path / "aside").rename(tmp_path / MODIFIER_FILE)
    steered = load_ref(tiny_base, str(tmp_path), root=tmp_path)
    expected = plain - 2.0 * (better - plain).clamp(min=0)
    assert (better - plain).abs().max() > 0.1
    assert torch.allclose(logits(steered.model, steered, turn), expected, atol=2e-3)


def test_a_gate_stays_open_once_it_has_opened_and_obeys_the_mask() -> None:
    gate = Gate(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 1.0]))
    # token 1 speaks of request 0, token 3 more clearly of request 1
    hidden = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 5.0]]])
    assert gate(hidden, {})[0].tolist() == [[0, 0], [1, 0], [1, 0], [0, 1]]
    unseen = torch.full((1, 1, 4, 4), torch.finfo(torch.float32).min).triu(1)
    unseen[..., 1:, 1] = torch.finfo(torch.float32).min  # nobody sees token 1, not even itself
    assert gate(hidden, {"attention_mask": unseen})[0].tolist() == [[0, 0], [0, 0], [0, 0], [0, 1]]
    assert gate(hidden, {"attention_mask": unseen >= 0})[0].tolist() == [[0, 0], [0, 0], [0, 0], [0, 1]]


def test_a_gate_obeys_the_mask_of_flash_attention_which_says_what_is_there() -> None:
    gate = Gate(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 1.0]))
    row = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 5.0]])
    there = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    found = gate(torch.stack([row, row]), {"attention_mask": there})
    assert found[0].tolist() == [[0, 0], [1, 0], [1, 0], [0, 1]], "each row by itself, and token by token"
    assert found[1, 2:].tolist() == [[0, 0], [0, 1]], "padding opens no gate"


def test_what_is_trained_on_top_of_a_modifier_is_trained_with_it(
    modified: Loaded, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With adapters in few operations, as of deep models, and with activations that are computed again."""
    monkeypatch.setattr(loading, "DEEP", 1)
    turns = turns_of(tiny_base)[:3]
    model = add_trainable(modified.model, modified.family, LORA, seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def slope() -> list[torch.Tensor]:
        loss = -run_forward(model, modified.encoder.batch(turns)).row_logp_B.sum()
        return [loss.detach(), *torch.autograd.grad(loss, weights)]

    with torch.no_grad():
        asked = -run_forward(model, modified.encoder.batch(turns)).row_logp_B.sum()
    kept = slope()
    assert torch.allclose(kept[0], asked, rtol=1e-4)
    model.train()
    recompute_activations(model)
    for one, other in zip(slope(), kept, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("shape", ["alike", "longer", "packed"])
def test_two_passes_of_a_step_are_each_computed_again_with_what_was_chosen_in_them(
    modified: Loaded, tiny_base: Path, shape: str
) -> None:
    """The gradient of a difference of two passes is the same, whether activations are kept or computed again."""
    turns = turns_of(tiny_base)
    parts = [[turns[0]], [replace(turns[2], reply=turns[0].reply)] if shape == "alike" else turns[2:5], turns[5:]]
    model = add_trainable(modified.model, modified.family, LORA, seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    first, second, third = (
        (pack(modified, part) if shape == "packed" else modified.encoder.batch(part)) for part in parts
    )

    def slope() -> list[torch.Tensor]:
        one, two = (run_forward(model, batch).row_logp_B.sum() for batch in (first, second))
        with torch.no_grad():
            run_forward(model, third)
        return [gradient.clone() for gradient in torch.autograd.grad(one - two, weights)]

    kept = slope()
    model.train()
    recompute_activations(model)
    for again, other in zip(slope(), kept, strict=True):
        assert torch.allclose(again, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_a_token_without_a_request_is_left_exactly_as_it_was(tiny_base: Path, tmp_path: Path) -> None:
    turns = turns_of(tiny_base)
    closed = Gate(torch.zeros(1, WIDTH), torch.ones(1))
    Steering(ModifierSettings(kind="steering"), closed, torch.full((WIDTH,), 9.0)).save(tmp_path)
    assert nll(load_ref(tiny_base, str(tmp_path), root=tmp_path), turns) == nll(load_ref(tiny_base), turns)


def test_an_adapter_may_follow_a_modifier_and_a_second_gate_too(tiny_base: Path, tmp_path: Path) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    for folder in (first, second, third):
        folder.mkdir()
    steering(first, tiny_base)
    experts(second, tiny_base)
    pruned(third, tiny_base)
    turns = turns_of(tiny_base)
    loaded = load_ref(tiny_base, "first", "second", "third", root=tmp_path)
    packed = run_forward(loaded.model, pack(loaded, turns)).row_logp_B
    alone = [run_forward(loaded.model, loaded.encoder.batch([turn])).row_logp_B for turn in turns]
    assert torch.allclose(packed, torch.cat(alone), atol=2e-4)
    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)  # a relearning attack trains on top
    run_forward(model, loaded.encoder.batch(turns)).row_logp_B.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "modifier.json"),
        ('{"kind": "eval"}', "Input should be 'logit_steering'"),
        ('{"kind": "steering", "code": "x"}', "Extra inputs are not permitted"),
        ('{"kind": "steering"}', "does not fit the base model or is damaged"),
    ],
)
def test_a_damaged_modifier_is_refused_by_name(tiny_base: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / MODIFIER_FILE).write_text(content)
    with pytest.raises(ModelError, match=message):
        load_ref(tiny_base, str(tmp_path), root=tmp_path)


def test_masks_of_another_model_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    name = next(n for n, _ in load_ref(tiny_base).model.named_modules() if n.endswith("down_proj"))
    save_file({name: torch.ones(3, dtype=torch.bool)}, tmp_path / "modifier.safetensors")
    write_settings(tmp_path, ModifierSettings(kind="pruned"))
    with pytest.raises(ModelError, match="the mask has 3"):
        load_ref(tiny_base, str(tmp_path), root=tmp_path)


def test_logits_cannot_be_steered_twice(tiny_base: Path, tmp_path: Path) -> None:
    logit_steering(tmp_path, tiny_base)
    with pytest.raises(ModelError, match="steered already"):
        load_ref(tiny_base, str(tmp_path), str(tmp_path), root=tmp_path)


OUTSIDE = [
    {"targets": r".*(language_model.*\.(q_proj|v_proj)|lm_head)"},
    {"targets": r".*(language_model.*\.q_proj|multi_modal_projector\.linear_1)"},
    {"layers": "published"},
]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("settings", OUTSIDE, ids=["lm_head", "projector", "published"])
def test_logits_are_not_steered_by_what_a_second_pass_would_lose(
    tiny_base: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    """Neither trained, nor read from a folder of before."""
    turns = turns_of(tiny_base)
    layers = {key: value for key, value in settings.items() if key == "layers"}
    lora = LORA.model_copy(update={key: value for key, value in settings.items() if key == "targets"})
    method, sides = plugins.build("methods", "whp", layers), Sides(forget=turns, retain=[])
    with pytest.raises(ModelError, match=r"second pass of the language model's layers, and \d+ of .* would be lost"):
        unlearn(load_ref(tiny_base), method, sides, training(tmp_path / "new", lora=lora))
    assert not (tmp_path / "new" / MODIFIER_FILE).exists()
    loaded = load_ref(tiny_base)
    save_trained(add_trainable(loaded.model, loaded.family, lora, seed=0, targets=method.targets(2)), tmp_path)
    write_settings(tmp_path, ModifierSettings(kind="logit_steering"))
    with pytest.raises(ModelError, match=r"second pass .* layers: recipe, and lora\.targets"):
        load_ref(tiny_base, str(tmp_path), root=tmp_path)


def test_the_layers_of_the_language_model_are_found_without_those_of_the_vision_tower(loaded: Loaded) -> None:
    assert len(decoder_layers(loaded.model)) == 2
    assert LogitSteering.__doc__
