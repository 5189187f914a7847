"""A packed batch gives the losses and gradients of the plain batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlamaConfig

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.records import ModelRef
from mllmu.models.engine.forward import Forward, run_forward
from mllmu.models.families import IGNORE, Batch, Turn
from mllmu.models.families.llava import Llava
from mllmu.models.loading import Loaded, add_trainable, load
from mllmu.training.batches import Group, arrange, fill, kin, make_groups, pack
from mllmu.training.losses import answer_nll
from tools.pretrain_tiny.build import build_model, build_processor, build_tokenizer

SENTENCE = "Ada Bell lives in Riga and works as a baker ; the colour of her hat is red , blue or green ?"
WORDS = SENTENCE.split()
IMAGES = ("red.png", "blue.png", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer([SENTENCE], vocab_size=330)
    torch.manual_seed(0)
    build_model(tokenizer, width=64, layers=2, vision_width=32).save_pretrained(root)
    build_processor(tokenizer).save_pretrained(root)
    for number, name in enumerate(IMAGES[:2]):
        Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5 + number), 20).convert("RGB").save(root / name)
    return root


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return load(ModelSection(path=str(folder), device="cpu"), ModelRef(base=str(folder)), folder)


@pytest.fixture(scope="module")
def adapted(folder: Path) -> Loaded:
    """With a LoRA adapter that already does something."""
    fresh = load(ModelSection(path=str(folder), device="cpu"), ModelRef(base=str(folder)), folder)
    model = add_trainable(fresh.model, fresh.family, Lora(rank=4, dropout=0.0), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return Loaded(model=model, encoder=fresh.encoder, device=fresh.device)


sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=10).map(" ".join)
drawn = st.lists(
    st.tuples(st.sampled_from(IMAGES), sentences, sentences, st.sampled_from(["", "Be kind ."])),
    min_size=1,
    max_size=9,
)


def turns_of(folder: Path, rows: list[tuple[str, str, str, str]]) -> list[Turn]:
    return [
        Turn(prompt=prompt, reply=reply, image=folder / image if image else None, system=system)
        for image, prompt, reply, system in rows
    ]


def both(loaded: Loaded, turns: list[Turn], capacity: int) -> tuple[Forward, Forward]:
    packed = pack(loaded, turns, capacity=capacity)
    return run_forward(loaded.model, packed), run_forward(loaded.model, loaded.encoder.batch(turns))


@settings(max_examples=8, deadline=None)
@given(rows=drawn, capacity=st.sampled_from([1, 80, 256]))
def test_losses_and_reply_logps_equal_the_plain_batch(
    loaded: Loaded, folder: Path, rows: list[tuple[str, str, str, str]], capacity: int
) -> None:
    packed, plain = both(loaded, turns_of(folder, rows), capacity)
    assert packed.num_rows == plain.num_rows == len(rows)
    assert packed.row_length_B.tolist() == plain.row_length_B.tolist()
    assert torch.allclose(answer_nll(packed), answer_nll(plain), rtol=1e-5, atol=1e-6)
    assert torch.allclose(packed.row_logp_B, plain.row_logp_B, rtol=1e-4, atol=1e-4)


@settings(max_examples=6, deadline=None)
@given(rows=drawn, capacity=st.sampled_from([1, 100, 400]), lora=st.booleans())
def test_gradients_equal_those_of_the_plain_batch(
    loaded: Loaded, adapted: Loaded, folder: Path, rows: list[tuple[str, str, str, str]], capacity: int, lora: bool
) -> None:
    ready = adapted if lora else loaded
    gradients = []
    for forward in both(ready, turns_of(folder, rows), capacity):
        ready.model.zero_grad()
        answer_nll(forward).backward()
        gradients.append({n: p.grad.clone() for n, p in ready.model.named_parameters() if p.grad is not None})
    weights = [name for name in gradients[0] if "language_model" in name and "norm" not in name]
    assert any(float(gradients[0][name].abs().max()) > 1e-3 for name in weights)
    for name in weights:
        scale = float(gradients[1][name].abs().max())
        assert torch.allclose(gradients[0][name], gradients[1][name], rtol=1e-4, atol=1e-4 * scale + 1e-7), name


def test_a_image_is_run_once_for_all_its_questions(loaded: Loaded, folder: Path) -> None:
    turns = turns_of(folder, [("red.png", word, "yes", "") for word in WORDS[:6]])
    packed: Batch = pack(loaded, turns, capacity=400)
    plain = loaded.encoder.batch(turns)
    assert len(packed.inputs["pixel_values"]) == 1
    assert len(plain.inputs["pixel_values"]) == 6
    assert packed.inputs["input_ids"].numel() < 0.6 * plain.inputs["input_ids"].numel()


def test_labels_are_the_replies_and_nothing_else(loaded: Loaded, folder: Path) -> None:
    turns = turns_of(folder, [("red.png", "Ada ?", "a baker", ""), ("", "Bell ?", "Riga", "")])
    packed = pack(loaded, turns, capacity=10)
    labelled = packed.labels != IGNORE
    assert packed.replies is not None
    for place, turn in enumerate(turns):
        assert packed.labels[labelled & (packed.replies == place)].tolist() == loaded.encoder.reply(turn.reply)


def test_the_mask_shows_prefix_and_own_block_only() -> None:
    # one sequence: group 0 = prefix token, block 1, block 2; group 1 = prefix token, block 1; one token of padding
    group = torch.tensor([[0, 0, 0, 1, 1, -1]])
    block = torch.tensor([[0, 1, 2, 0, 1, 0]])
    no_image = torch.zeros(1, 6, dtype=torch.bool)
    index, model = torch.tensor([[0, 1, 1, 0, 1, 0]]), SimpleNamespace(config=LlamaConfig())
    seen = Llava().packed_masks(model, kin(group, block), index, no_image)[""][0]
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 0, 1, 0, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    )
    assert seen.tolist() == expected.bool().tolist()


def test_groups_are_split_at_the_capacity_and_sequences_filled_to_it(loaded: Loaded, folder: Path) -> None:
    turns = turns_of(folder, [("red.png", word, "yes", "") for word in WORDS[:8]])
    whole = make_groups(loaded.encoder, turns, 10_000)
    split = make_groups(loaded.encoder, turns, whole[0].length // 2)
    assert len(whole) == 1 and len(split) > 1
    assert sorted(place for group in split for place in group.turns) == list(range(8))
    sequences = fill(split, 10_000)
    assert len(sequences) == 1
    assert all(sum(group.length for group in sequence) <= 120 for sequence in fill(split, 120) if len(sequence) > 1)


@pytest.mark.parametrize(
    ("lengths", "hidden_size", "expected"),
    [
        # two of 100 have no padding, as one of 200 has none, and less attention; four of 60 have 40 tokens of padding
        ([60, 60, 40, 40], 10_000, [[60, 40], [60, 40]]),
        # attention is dear: 4 * 60 * (1 + 60/4) = 3840 is less than 2 * 100 * (1 + 100/4) = 5200
        ([60, 60, 40, 40], 1, [[60], [60], [40], [40]]),
        # questions with long prefixes of their own gain nothing from standing side by side
        ([620, 620, 620, 620], 4096, [[620], [620], [620], [620]]),
        # one row of 660: 660 * (1 + 660/16384) is less than three of 600
        ([600, 30, 30], 4096, [[600, 30, 30]]),
        ([7], 64, [[7]]),
    ],
)
def test_sequences_have_the_length_that_costs_least(
    lengths: list[int], hidden_size: int, expected: list[list[int]]
) -> None:
    groups = [Group([0] * length, [place]) for place, length in enumerate(lengths)]
    found = [[group.length for group in sequence] for sequence in arrange(groups, hidden_size)]
    assert found == expected


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=20), hidden_size=st.sampled_from([8, 160, 4096]))
def test_every_group_is_in_one_sequence_and_none_costs_more_than_simple_filling(
    lengths: list[int], hidden_size: int
) -> None:
    groups = [Group([0] * length, [place]) for place, length in enumerate(lengths)]
    found = arrange(groups, hidden_size)
    assert sorted(group.turns[0] for sequence in found for group in sequence) == list(range(len(lengths)))

    def cost(sequences: list[list[Group]]) -> float:
        width = max(sum(group.length for group in sequence) for sequence in sequences)
        return len(sequences) * width * (1 + width / (4 * hidden_size))

    assert cost(found) <= cost(fill(groups, max(lengths)))


@settings(max_examples=4, deadline=None)
@given(rows=drawn)
def test_without_a_capacity_the_losses_are_the_same_too(
    loaded: Loaded, folder: Path, rows: list[tuple[str, str, str, str]]
) -> None:
    turns = turns_of(folder, rows)
    packed = run_forward(loaded.model, pack(loaded, turns))
    plain = run_forward(loaded.model, loaded.encoder.batch(turns))
    assert torch.allclose(answer_nll(packed), answer_nll(plain), rtol=1e-5, atol=1e-6)
    assert torch.allclose(packed.row_logp_B, plain.row_logp_B, rtol=1e-4, atol=1e-4)
