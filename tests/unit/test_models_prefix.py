"""Sharing prefixes changes the time, not one reply: against the plain path, question by question."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mllmu.models import prefix
from mllmu.models.adapters import add_trainable
from mllmu.models.encoding import shared_length
from mllmu.models.loading import Loaded, load
from mllmu.models.respond import (
    as_turn,
    generate,
    plan_batches,
    respond,
    score_candidates,
    split_prefixes,
)
from mllmu.models.tiny.build import build_model, build_processor, build_tokenizer
from mllmu.recipe import Lora, ModelSection
from mllmu.records import ModelRef, Sample

WORDS = "Ada Bell lives in Riga and works as a baker ; the colour of her hat is red , blue or green ? yes no"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random LLaVA and three pictures."""
    root = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer([WORDS], vocab_size=330)
    torch.manual_seed(0)
    build_model(tokenizer, width=64, layers=2, vision_width=32).save_pretrained(root)
    build_processor(tokenizer).save_pretrained(root)
    for number, colour in enumerate(("red", "green", "blue")):
        Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5 + number), 20).convert("RGB").save(root / f"{colour}.png")
    return root


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return load(ModelSection(path=str(folder), device="cpu"), ModelRef(base=str(folder)), folder)


def sample(
    number: int, *, image: str = "", prompt: str = "Where?", limit: int = 6, replies: tuple[str, ...] = ()
) -> Sample:
    return Sample(
        id=f"forget/{number:03d}",
        question_id=f"{number:03d}",
        profile_id="001",
        split="forget",
        task="generation",
        modality="image_text" if image else "text",
        attribute="residence",
        prompt=prompt,
        image=image,
        target="Riga",
        value="Riga",
        candidates={f"c{i}": text for i, text in enumerate(replies)},
        max_new_tokens=limit,
    )


texts = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=12).map(" ".join)


@st.composite
def many_samples(draw: st.DrawFn) -> list[Sample]:
    count = draw(st.integers(1, 9))
    return [
        sample(
            number,
            image=draw(st.sampled_from(["", "red.png", "green.png", "blue.png"])),
            prompt=draw(texts),
            limit=draw(st.integers(1, 9)),
            replies=tuple(draw(st.lists(texts, max_size=3))),
        )
        for number in range(count)
    ]


@settings(max_examples=10, deadline=None)
@given(samples=many_samples(), size=st.integers(1, 9), guard=st.sampled_from(["", "Say no ; say nothing ."]))
def test_replies_and_logps_are_those_of_one_question_at_a_time(
    loaded: Loaded, folder: Path, samples: list[Sample], size: int, guard: str
) -> None:
    shared = {
        r.sample_id: r for rs in respond(loaded, plan_batches(samples, size), images=folder, guard=guard) for r in rs
    }
    for one in samples:
        turn = as_turn(one, folder, guard)
        text, count, finished = generate(loaded, [one], [turn])[0]
        got = shared[one.id]
        assert (got.text, got.num_tokens, got.finished) == (text, count, finished)
        for key, plain in score_candidates(loaded, [one], [turn])[0].items():
            assert got.candidates[key].num_tokens == plain.num_tokens
            assert got.candidates[key].logp == pytest.approx(plain.logp, abs=1e-4)


def test_a_reply_ends_at_its_own_limit_while_others_go_on(loaded: Loaded, folder: Path) -> None:
    samples = [sample(0, limit=2), sample(1, limit=7), sample(2, limit=1)]
    lengths = {r.sample_id: r.num_tokens + r.finished for rs in respond(loaded, [samples], images=folder) for r in rs}
    assert all(length <= s.max_new_tokens for s, length in zip(samples, lengths.values(), strict=True))
    assert max(lengths.values()) > 2


def test_every_row_of_a_batch_sees_its_own_picture(loaded: Loaded, folder: Path) -> None:
    order = ["red.png", "", "blue.png", "green.png", "red.png"]
    samples = [sample(n, image=image, replies=("Riga",)) for n, image in enumerate(order)]
    logps = [r.candidates["c0"].logp for rs in respond(loaded, [samples], images=folder) for r in rs]
    assert logps[0] == pytest.approx(logps[4], abs=1e-5)
    assert len({round(logp, 4) for logp in logps}) == 4, "different pictures must give different likelihoods"


def test_prompts_are_cut_where_they_differ_and_keep_a_token_of_their_own(loaded: Loaded, folder: Path) -> None:
    turns = [as_turn(sample(n, image=image), folder, "") for n, image in enumerate(["red.png", "", "red.png"])]
    prompts = [[7, 1, 2, 3], [7, 5], [7, 1, 9]]
    groups, parents, rests = split_prefixes(prompts, turns)
    assert (groups, parents, rests) == ([[7, 1], [7]], [0, 1, 0], [[2, 3], [5], [9]])
    assert [*groups[parents[0]], *rests[0]] == prompts[0]


def test_prompts_with_nothing_in_common_stand_alone(folder: Path) -> None:
    turns = [as_turn(sample(n), folder, "") for n in range(2)]
    assert split_prefixes([[1, 2], [3, 4]], turns) == ([[1], [3]], [0, 1], [[2], [4]])


def test_equal_prompts_share_all_but_their_last_token() -> None:
    assert shared_length([[1, 2, 3], [1, 2, 3]]) == 2
    assert shared_length([[1, 2, 3], [1, 2]]) == 1


def test_a_tree_can_be_continued_twice(loaded: Loaded) -> None:
    """Fanning out must not change what it starts from."""
    with torch.inference_mode():
        tree = prefix.begin(loaded.model, [[5, 6, 7]], {}, 0)
        once = prefix.reply_logps(loaded.model, tree, [0, 0], [[8, 9], [10]], 0)
        again = prefix.reply_logps(loaded.model, tree, [0, 0], [[8, 9], [10]], 0)
    assert once == again
    assert tree.block_RS.tolist() == [[0, 0, 0]]
    assert tree.cache.get_seq_length() == 3


def test_reply_logp_is_the_sum_of_its_tokens_log_softmax(loaded: Loaded) -> None:
    prompt, reply = [5, 6, 7], [8, 9, 11]
    with torch.inference_mode():
        state = prefix.begin(loaded.model, [prompt], {}, 0)
        got = prefix.reply_logps(loaded.model, state, [0], [reply], 0)[0]
        logits = loaded.model(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
    by_hand = sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(reply))
    assert got == pytest.approx(by_hand, abs=1e-4)


def test_a_question_is_stored_once_and_sees_its_own_picture_and_itself_alone(loaded: Loaded) -> None:
    with torch.inference_mode():
        tree = prefix.begin(loaded.model, [[5, 6], [7]], {}, 0)
        blocks = prefix.extend(loaded.model, tree, [0, 0, 1], [[8, 9], [10], [11]], 0)
    assert blocks == [2, 3, 4]
    assert tree.block_RS.tolist() == [[0, 0, 2, 2, 3], [1, -1, 4, -1, -1]]
    assert [tree.length[block] for block in blocks] == [4, 3, 2]
    mask = prefix.visible(tree.sees, tree.block_RS[:, 2:], tree.block_RS, torch.float32)
    assert (mask[0, 0] == 0).tolist() == [
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, False, False, True],
    ]
    assert (mask[1, 0, 0] == 0).tolist() == [True, False, True, False, False]


def test_likelihoods_do_not_depend_on_how_many_candidates_are_read_at_once(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [[8, 9, 10], [11], [12, 13], [8, 9, 10], [14, 15, 16, 17]]
    found = []
    for room in (1, 4, 1000):
        monkeypatch.setattr(prefix, "ROOM", room)
        with torch.inference_mode():
            tree = prefix.begin(loaded.model, [[5, 6, 7], [7, 5, 5]], {}, 0)
            found.append(prefix.reply_logps(loaded.model, tree, [0, 1, 0, 1, 0], replies, 0))
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert found[2] == pytest.approx(found[0], abs=1e-4)
    assert abs(found[0][0] - found[0][3]) > 1e-3, "the same words behind another prefix"


@settings(max_examples=6, deadline=None)
@given(samples=many_samples(), adapted=st.booleans())
def test_an_adapter_changes_replies_and_both_ways_alike(folder: Path, samples: list[Sample], adapted: bool) -> None:
    ready = load(ModelSection(path=str(folder), device="cpu"), ModelRef(base=str(folder)), folder)
    if adapted:
        torch.manual_seed(2)
        model = add_trainable(ready.model, ready.family, Lora(rank=4, dropout=0.0), seed=1).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        ready = Loaded(model=model, encoder=ready.encoder, device=ready.device)
    ways = [
        {r.sample_id: r for rs in respond(ready, plan_batches(samples, 9), images=folder, share=share) for r in rs}
        for share in (True, False)
    ]
    for key, one in ways[0].items():
        assert one.text == ways[1][key].text
        for name, scored in one.candidates.items():
            assert scored.logp == pytest.approx(ways[1][key].candidates[name].logp, abs=1e-3)


def test_a_kernel_without_masks_is_not_given_one(loaded: Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prefix.takes_masks(loaded.model)
    monkeypatch.setattr(loaded.model.config.get_text_config(), "_attn_implementation_internal", "flash_attention_2")
    assert not prefix.takes_masks(loaded.model)


def test_a_cache_that_grows_token_by_token_holds_what_was_put_in() -> None:
    layer, parts = prefix.GrowingLayer(), [torch.randn(2, 3, width, 4) for width in (5, 1, 1, 40, 2)]
    for number in range(len(parts)):
        keys, values = layer.update(parts[number], -parts[number])
        assert torch.equal(keys, torch.cat(parts[: number + 1], dim=2))
        assert torch.equal(values, -keys)
        assert layer.get_seq_length() == keys.shape[2]
