"""Layers that see a window of the tokens before: what is packed or shared gives what is plain, whatever the window."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import text_settings, tokenizer
from helpers_models import COLOURS, answers, load_ref, sample
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, GptOssConfig, Llama4TextConfig, LlavaConfig, LlavaForConditionalGeneration

from mllmu.config.recipe import ModelSection
from mllmu.core.errors import ModelError
from mllmu.models.engine import decode_graph, forward
from mllmu.models.engine.forward import run_forward
from mllmu.models.engine.respond import respond
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded, choose_packing
from mllmu.training.batches import pack
from mllmu.training.losses import answer_nll

MIXED = ["sliding_attention", "full_attention"]
SLIDING = {"model_type": "mistral"}
MIX = {"layer_types": MIXED, "use_sliding_window": True, "max_window_layers": 0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    # Mistral: every layer has the window
    "idefics2": ("idefics2", {}),
    "llava_next": ("llava_next", {}),
    "llava": ("llava", SLIDING),
    "idefics3": ("idefics3", SLIDING),
    "smolvlm": ("smolvlm", SLIDING),
    # some layers have it
    "llava, mixed": ("llava", {"model_type": "ministral", "layer_types": MIXED}),
    "internvl": ("internvl", MIX),
    "llava_onevision": ("llava_onevision", MIX),
    "qwen2_vl": ("qwen2_vl", MIX),
    "qwen2_5_vl": ("qwen2_5_vl", MIX | {"layer_types": MIXED[::-1]}),
    "gemma3": ("gemma3", {}),
    # all of a prompt sees itself: nothing is packed
    "paligemma": ("paligemma", {"layer_types": MIXED}),
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    },
    "longrope": {
        "factor": 4.0, "short_factor": [1.0] * 16, "long_factor": [6.0] * 16, "original_max_position_embeddings": 48,
    },
}  # fmt: skip

WORDS = ["Where", "was", "this", "person", "born", "?", "Riga", "red", "1987"]
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)
rows = st.lists(
    st.tuples(st.sampled_from([*COLOURS, ""]), words.map(" ".join), words.map(" ".join)), min_size=1, max_size=6
)


def changed(base: Path, folder: Path, **text: Any) -> Path:
    """A copy of a model with other settings of its language model, and the same weights."""
    for file in base.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").unlink()
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def turns_from(loaded: Loaded, base: Path, drawn: list[tuple[str, str, str]]) -> list[Turn]:
    image = "red" if loaded.family.needs_image else ""
    named = [(name or image, prompt, reply) for name, prompt, reply in drawn]
    return [Turn(prompt=p, reply=r, image=base / f"{name}.png" if name else None) for name, p, r in named]


def check(loaded: Loaded, base: Path, *, examples: int = 5) -> None:
    """Packed losses and shared replies are the plain ones."""

    @settings(max_examples=examples, deadline=None, derandomize=True, phases=(Phase.generate,))
    @given(drawn=rows, capacity=st.sampled_from([60, 600]))
    def compare(drawn: list[tuple[str, str, str]], capacity: int) -> None:
        turns = turns_from(loaded, base, drawn)
        if loaded.packs:
            batches = pack(loaded, turns, capacity=capacity), loaded.encoder.batch(turns)
            packed, plain = (run_forward(loaded.model, batch) for batch in batches)
            torch.testing.assert_close(packed.token_logp_N.sort()[0], plain.token_logp_N.sort()[0], rtol=0, atol=1e-4)
            torch.testing.assert_close(packed.row_logp_B, plain.row_logp_B, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(answer_nll(packed), answer_nll(plain), rtol=1e-5, atol=1e-5)
        compare_replies(loaded, turns)

    compare()


def compare_replies(loaded: Loaded, turns: list[Turn]) -> None:
    asked = [Turn(prompt=turn.prompt, image=turn.image) for turn in turns]
    samples = [sample(i, prompt=t.prompt, candidates={"A": t.reply, "B": "Oslo"}) for i, t in enumerate(turns)]
    (shared, logps), (alone, expected) = (answers(loaded, samples, asked, share=share) for share in (True, False))
    assert shared == alone
    assert logps == pytest.approx(expected, abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("window", [2, 7, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_as_wide_as_in_a_sequence_of_ones_own(kind: str, window: int, bases: Any, tmp_path: Path) -> None:
    name, text = KINDS[kind]
    base = changed(bases(name), tmp_path, sliding_window=window, **text)
    loaded = load_ref(base)
    assert loaded.packs is (name != "paligemma") and loaded.shares
    check(loaded, base, examples=3)
    turn = Turn(prompt="Where was this person born, and where?", reply="Riga", image=base / "red.png")
    seen, unseen = (run_forward(one.model, one.encoder.batch([turn])) for one in (loaded, load_ref(bases(name))))
    if window < 40:  # or the test would compare nothing
        assert (seen.row_logp_B - unseen.row_logp_B).abs().item() > 1e-3


@pytest.mark.parametrize("rope", ROPES)
def test_positions_that_are_stretched_for_long_contexts_are_those_of_the_plain_path(
    rope: str, bases: Any, tmp_path: Path
) -> None:
    parameters = {"rope_type": rope, "rope_theta": 1e4, **ROPES[rope]}
    base = changed(bases("llava"), tmp_path, rope_parameters=parameters, max_position_embeddings=256)
    loaded = load_ref(base)
    assert loaded.encoder.context == (48 if rope == "longrope" else 256)
    if rope != "longrope":
        check(loaded, base)
        return
    turns = turns_from(loaded, base, [("red", "Where?", "Riga"), ("red", "Which colour?", "red"), ("", "Who?", "Oslo")])
    compare_replies(loaded, turns)
    long = Turn(prompt="Where was this person born? " * 9, reply="Riga")
    with pytest.raises(ModelError, match="the model's context is 48"):
        pack(loaded, [*turns, long])
    questions = [sample(i, prompt="Where? " * i, max_new_tokens=100) for i in (1, 5)]
    (replies,) = respond(loaded, [questions], image_folder=base)
    assert all(reply.num_tokens + len(loaded.encoder.prompt(Turn(prompt=q.prompt))) <= 48
               for q, reply in zip(questions, replies, strict=True))  # fmt: skip
    (alone,) = respond(loaded, [questions], image_folder=base, share=False)
    assert [reply.text for reply in replies] == [reply.text for reply in alone]


def own_language_model(base: Path, folder: Path, config: Any) -> Path:
    """The tiny LLaVA with another, random language model."""
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).symlink_to(file)
    whole = AutoConfig.from_pretrained(base)
    (folder / "config.json").unlink()
    torch.manual_seed(0)
    names = ("vision_config", "image_token_id", "vision_feature_layer", "vision_feature_select_strategy")
    kept = {name: getattr(whole, name) for name in names}
    model = LlavaForConditionalGeneration(LlavaConfig(text_config=config, **kept))
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(folder)
    return folder


def small(base: Path, make: Callable[..., Any], **text: Any) -> Any:
    own = AutoConfig.from_pretrained(base).get_text_config()
    kept = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16}
    return make(**text_settings(tokenizer()) | {key: getattr(own, key) for key in kept} | experts | text)


@pytest.mark.parametrize("window", [6, 200])
def test_attention_sinks_take_their_share_once(
    window: int, bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(bases("llava"), GptOssConfig, sliding_window=window, layer_types=MIXED)
    loaded = load_ref(own_language_model(bases("llava"), tmp_path, config))
    sinks = [layer.self_attn.sinks.data for layer in loaded.model.model.language_model.layers]
    for sink_H in sinks:
        sink_H.copy_(torch.tensor([1.5, -0.5]))
    assert loaded.packs and loaded.shares
    step_by_step, fixed = forward.decode, []

    def both(*args: Any) -> list[list[int]]:
        """Replies as on a CPU, and in steps of fixed shape as on a GPU."""
        fixed.append(decode_graph.fixed(*args[:2], args[3]))
        expected = step_by_step(*args)
        if fixed[-1]:
            assert decode_graph.decode(*args, rows=4) == expected
        return expected

    monkeypatch.setattr(forward, "decode", both)
    check(loaded, tmp_path, examples=4)
    assert set(fixed) == {window == 200}


def test_layers_that_see_chunks_share_nothing_and_say_why(bases: Any, tmp_path: Path) -> None:
    config = small(
        bases("llava"), Llama4TextConfig, attention_chunk_size=8, intermediate_size_mlp=48,
        layer_types=["chunked_attention", "full_attention"],
    )  # fmt: skip
    loaded = load_ref(own_language_model(bases("llava"), tmp_path, config))
    assert not loaded.packs and not loaded.shares
    whole = AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"model\.packing: what tokens .* layers of the type chunked_attention \(llama4"
    ):
        choose_packing(ModelSection(packing="on"), loaded.family, whole)
