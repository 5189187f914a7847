"""Sharing prefixes changes the time, not one reply: against the plain path, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.records import Exchange, ModelRef, Sample
from mllmu.models.encoding import EncodedPrompt, as_turn, shared_length
from mllmu.models.engine import forward
from mllmu.models.engine.respond import SHORTEST, SharingPlan, answer, plan, plan_batches, respond
from mllmu.models.engine.tree import TreeLevel
from mllmu.models.families import Turn
from mllmu.models.gate import Gate
from mllmu.models.layers import decoder_layers
from mllmu.models.loading import Loaded, add_trainable, load
from mllmu.models.modifiers import ModifierSettings, Steering
from tools.pretrain_tiny.build import build_model, build_processor, build_tokenizer

WORDS = "Ada Bell lives in Riga and works as a baker ; the colour of her hat is red , blue or green ? yes no"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random LLaVA and three images."""
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
    number: int,
    *,
    image: str = "",
    prompt: str = "Where?",
    limit: int = 6,
    replies: tuple[str, ...] = (),
    shown: tuple[str, ...] = (),
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
        examples=tuple(Exchange(prompt="Who wears red ?", reply="Ada Bell", image=image) for image in shown),
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
            shown=draw(st.sampled_from([(), ("",), ("blue.png", "red.png")])),
        )
        for number in range(count)
    ]


@settings(max_examples=10, deadline=None)
@given(samples=many_samples(), size=st.integers(1, 9), system_prompt=st.sampled_from(["", "Say no ; say nothing ."]))
def test_replies_and_logps_are_those_of_one_question_at_a_time(
    loaded: Loaded, folder: Path, samples: list[Sample], size: int, system_prompt: str
) -> None:
    shared = {
        r.sample_id: r
        for rs in respond(loaded, plan_batches(samples, size), image_folder=folder, system_prompt=system_prompt)
        for r in rs
    }
    for one in samples:
        (alone,) = answer(loaded, [one], image_folder=folder, system_prompt=system_prompt, share=False)
        got = shared[one.id]
        assert (got.text, got.num_tokens, got.finished) == (alone.text, alone.num_tokens, alone.finished)
        for key, plain in alone.candidates.items():
            assert got.candidates[key].num_tokens == plain.num_tokens
            assert got.candidates[key].logp == pytest.approx(plain.logp, abs=1e-4)


def test_a_reply_ends_at_its_own_limit_while_others_go_on(loaded: Loaded, folder: Path) -> None:
    right = len(loaded.encoder.reply(sample(0).target))  # a limit always has room for the right reply
    samples = [sample(0, limit=right), sample(1, limit=right + 5), sample(2, limit=1)]
    lengths = {
        r.sample_id: r.num_tokens + r.finished for rs in respond(loaded, [samples], image_folder=folder) for r in rs
    }
    limits = (max(right, s.max_new_tokens) for s in samples)
    assert all(length <= limit for limit, length in zip(limits, lengths.values(), strict=True))
    assert max(lengths.values()) > right


def test_every_row_of_a_batch_sees_its_own_image(loaded: Loaded, folder: Path) -> None:
    order = ["red.png", "", "blue.png", "green.png", "red.png"]
    samples = [sample(n, image=image, replies=("Riga",)) for n, image in enumerate(order)]
    logps = [r.candidates["c0"].logp for rs in respond(loaded, [samples], image_folder=folder) for r in rs]
    assert logps[0] == pytest.approx(logps[4], abs=1e-5)
    assert len({round(logp, 4) for logp in logps}) == 4, "different images must give different likelihoods"


def asked(folder: Path, *images: str, system: str = "") -> list[Turn]:
    return [as_turn(sample(n, image=image), folder, system) for n, image in enumerate(images)]


def pieces(plans: list[SharingPlan], prompts: list[list[int]]) -> dict[int, list[list[int]]]:
    """The tokens of every prompt as they are read, level by level."""
    found: dict[int, list[list[int]]] = {}
    for each in plans:
        for number, prompt in enumerate(each.members):
            chain, node = [], number
            for level in reversed(each.levels):
                node, i, tokens = level[node]
                chain.append(prompts[i][tokens])
            found[prompt] = chain[::-1]
    return found


def test_prompts_are_cut_where_they_differ_and_keep_a_token_of_their_own(folder: Path) -> None:
    turns = asked(folder, "red.png", "", "red.png")
    prompts = [[7, 1, 2, 3], [7, 5], [7, 1, 9]]
    plans = plan([EncodedPrompt(ids, turn) for ids, turn in zip(prompts, turns, strict=True)], [1, 0, 1])
    assert [len(each.levels) for each in plans] == [2, 1]
    assert pieces(plans, prompts) == {0: [[7, 1], [2, 3]], 1: [[7, 5]], 2: [[7, 1], [9]]}
    assert len(plans[0].levels[0]) == 1, "what two prompts have in common is read once"


def test_a_long_opening_is_read_once_for_all_images(folder: Path) -> None:
    opening = list(range(10, 10 + SHORTEST))
    turns = asked(folder, "red.png", "green.png", "red.png", system="Say no .")
    # the two images have the same tokens, 4 and 4, and must not be taken for one
    prompts = [[*opening, 4, 4, 1], [*opening, 4, 4, 2], [*opening, 4, 4, 3]]
    shown = [EncodedPrompt(ids, turn) for ids, turn in zip(prompts, turns, strict=True)]
    plans = plan(shown, [SHORTEST] * 3)
    assert pieces(plans, prompts)[0] == [opening, [4, 4], [1]]
    assert [len(level) for level in plans[0].levels] == [1, 2, 3]
    assert [len(level) for level in plan(shown, [0] * 3)[0].levels] == [2, 3], "images may stand before it"
    assert [len(level) for level in plan(shown[:1], [SHORTEST])[0].levels] == [1, 1]


def test_a_long_opening_is_shared_by_name_too(folder: Path) -> None:
    opening = list(range(10, 10 + SHORTEST))
    turns = asked(folder, "", "", system="Say no .")
    prompts = [[*opening, 1], [*opening, 2, 3]]
    plans = plan([EncodedPrompt(ids, turn) for ids, turn in zip(prompts, turns, strict=True)], [0, 0])
    assert pieces(plans, prompts) == {0: [opening, [1]], 1: [opening, [2, 3]]}


def test_equal_prompts_share_all_but_their_last_token() -> None:
    assert shared_length([[1, 2, 3], [1, 2, 3]]) == 2
    assert shared_length([[1, 2, 3], [1, 2]]) == 1


def read(
    loaded: Loaded, ids: list[list[int]], above: TreeLevel | None = None, parents: Sequence[int] = ()
) -> TreeLevel:
    return forward.read(loaded.model, above, parents or [0] * len(ids), ids)


def logps(loaded: Loaded, level: TreeLevel, parents: list[int], replies: list[list[int]]) -> list[float]:
    return forward.reply_logps(loaded.model, level, forward.next_logits(loaded.model, level), parents, replies)


@torch.inference_mode()
def test_a_level_can_be_continued_twice(loaded: Loaded) -> None:
    """Going on must not change what it starts from."""
    level = read(loaded, [[5, 6, 7], [5, 6]])
    first = forward.next_logits(loaded.model, level)
    found = []
    for _ in range(2):
        scored = logps(loaded, level, [0, 0, 1], [[8, 9], [10], [8, 9]])
        found.append((scored, forward.decode(loaded.model, level, first, [3, 5], frozenset())))
    assert found[0] == found[1]
    assert level.lengths.tolist() == level.ends.tolist() == [3, 2]


@torch.inference_mode()
def test_reply_logp_is_the_sum_of_its_tokens_log_softmax(loaded: Loaded) -> None:
    prompt, reply = [5, 6, 7], [8, 9, 11]
    got = logps(loaded, read(loaded, [prompt]), [0], [reply])[0]
    logits = loaded.model(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
    by_hand = sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(reply))
    assert got == pytest.approx(by_hand, abs=1e-4)


@torch.inference_mode()
def test_likelihoods_do_not_depend_on_how_much_is_read_at_once(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = [[8, 9, 10], [11], [12, 13], [8, 9, 10], [14, 15, 16, 17]]
    found = []
    for tokens, logits in ((1, 1), (4, 700), (1000, 2**24)):
        monkeypatch.setattr(forward, "MOST_TOKENS", tokens)
        monkeypatch.setattr(forward, "MOST_LOGITS", logits)
        found.append(logps(loaded, read(loaded, [[5, 6, 7], [7, 5, 5]]), [0, 1, 0, 1, 0], replies))
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert found[2] == pytest.approx(found[0], abs=1e-4)
    assert abs(found[0][0] - found[0][3]) > 1e-3, "the same words behind another prefix"


@torch.inference_mode()
def test_the_likeliest_token_is_the_first_of_equals() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -2.0]])
    assert forward.best(logits) == forward.best(logits.bfloat16()) == [1, 0]


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
        {
            r.sample_id: r
            for rs in respond(ready, plan_batches(samples, 9), image_folder=folder, share=share)
            for r in rs
        }
        for share in (True, False)
    ]
    for key, one in ways[0].items():
        assert one.text == ways[1][key].text
        for name, scored in one.candidates.items():
            assert scored.logp == pytest.approx(ways[1][key].candidates[name].logp, abs=1e-3)


def test_the_last_layer_makes_only_keys_and_values_of_what_is_gone_on_from(loaded: Loaded) -> None:
    calls, last = [], decoder_layers(loaded.model)[-1]
    handle = last.mlp.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr, operator]
    with torch.inference_mode():
        whole, part = (forward.read(loaded.model, None, [0], [[5, 6, 7]], ends=ends) for ends in (True, False))
        assert len(calls) == 1
        replies = []
        for level in (whole, part):
            below = forward.read(loaded.model, level, [0, 0], [[8], [9, 10]])
            replies.append(
                forward.decode(loaded.model, below, forward.next_logits(loaded.model, below), [4, 4], frozenset())
            )
    handle.remove()
    assert part.states.keys() == whole.states.keys()
    for layer, (keys, _) in whole.states.items():
        assert torch.equal(keys, part.states[layer][0])
    assert replies[0] == replies[1]


def test_a_modifier_sees_the_last_layer_of_everything(folder: Path) -> None:
    loaded = load(ModelSection(path=str(folder), device="cpu"), ModelRef(base=str(folder)), folder)
    closed = Gate(torch.zeros(1, 64), torch.ones(1))
    Steering(ModifierSettings(kind="steering"), closed, torch.zeros(64)).attach(loaded.model)
    assert forward.read(loaded.model, None, [0], [[5, 6, 7]], ends=False).last.shape == (1, 64)


def test_candidates_of_one_length_are_read_together_and_all_of_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths 2 and 3 are of one kind, 0 has nothing to be read, and no portion holds more than 8 tokens."""
    monkeypatch.setattr(forward, "MOST_TOKENS", 8)
    lengths, parents = [9, 2, 0, 3, 2, 3], [1, 1, 0, 0, 0, 1]
    assert list(forward.portions(lengths, parents)) == [[3, 4, 1], [5], [0]]
