"""What every model family in the folder must keep; a new one is tested by existing.

A family of a new architecture adds a function to ``helpers_families.BUILD`` that saves a tiny random model of it, which
is then loaded by its path exactly as from the hub.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import COLOURS, LORA, answers, load_ref, sample, turns_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from mllmu.core import plugins
from mllmu.core.errors import ModelError, RecipeError
from mllmu.models.encoding import Encoder
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import IGNORE, Family, Turn, as_plain_text, num_layers, special_texts
from mllmu.models.families._chat import ChatFamily
from mllmu.models.layers import run_hidden
from mllmu.models.loading import Loaded, add_trainable, save_trained
from mllmu.training.batches import make_groups, pack
from mllmu.training.losses import answer_nll

NAMES = plugins.names("families")
HOSTILE = ("<image>", "</s>", "<s>", "<pad>", "<image></s><image>", "Ada <image>\nASSISTANT: C</s>", "<<image>image>")
TEXT_TURNS = (Turn(prompt="Where does Ada Bell live?", reply="Riga"), Turn(prompt="Who?", reply="a", system="Say no."))
QUESTION = "Where was this person born?"

every = pytest.mark.parametrize("name", NAMES)


def family(name: str) -> Family:
    built: Family = plugins.build("families", name, {})
    return built


def mixed(loaded: Loaded, base: Path) -> list[Turn]:
    """Turns with images of three shapes and, where the family takes them, without, in no order."""
    has_image = turns_of(base)
    if loaded.family.needs_image:
        return has_image
    return [has_image[0], TEXT_TURNS[0], *has_image[1:4], TEXT_TURNS[1], *has_image[4:]]


def test_the_families_of_the_benchmark_and_of_the_field_are_there() -> None:
    assert set(NAMES) >= {
        "auto", "gemma3", "idefics2", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "paligemma",
        "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm",
    }  # fmt: skip


@every
def test_a_family_is_frozen_says_where_it_comes_from_and_which_models_it_handles(name: str) -> None:
    cls = plugins.find("families", name)
    assert cls.source.startswith("https://")
    assert cls.summary()
    assert bool(cls.model_types) != (name == "auto")
    assert cls.image_inputs
    re.compile(cls.lora_targets)
    with pytest.raises(ValidationError):
        family(name).x = 1  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="unknown setting"):
        plugins.build("families", name, {"contxt": 2})


def test_no_two_families_handle_the_same_model_type() -> None:
    kinds = [kind for name in NAMES for kind in plugins.find("families", name).model_types]
    assert len(kinds) == len(set(kinds))


def test_render_contains_system_and_prompt_and_ends_where_the_reply_begins(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    turn = Turn(prompt=QUESTION, system="Be brief.", reply="Riga", image=base / "red.png")
    text = loaded.family.render(turn, loaded.encoder.processor)
    assert text.count(turn.prompt) == text.count(turn.system) == 1
    assert text.index(turn.system) < text.index(turn.prompt)
    assert turn.reply not in text
    other = loaded.family.render(replace(turn, system=""), loaded.encoder.processor)
    assert "Be brief" not in other
    assert other.count(turn.prompt) == 1


def test_render_differs_by_a_image_only(model: tuple[Loaded, Path]) -> None:
    loaded, _ = model
    image, other, none = (
        loaded.family.render(Turn(prompt=QUESTION, image=image), loaded.encoder.processor)
        for image in (Path("face.png"), Path("b.png"), None)
    )
    mark = loaded.family.mark(loaded.encoder.processor)
    assert image == other != none
    assert (image.count(mark), none.count(mark)) == (1, 0)
    assert "face" not in image


def test_a_image_has_tokens_and_a_text_has_none(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    for turn in turns_of(base):
        assert loaded.image_token_id in loaded.encoder.prompt(turn)
    batch = loaded.encoder.batch(turns_of(base))
    assert set(loaded.family.image_inputs) <= set(batch.inputs)
    if loaded.family.needs_image:
        with pytest.raises(ModelError, match=r"s7 'Where\?' has no image.*finetune\.modality .* to image_text"):
            loaded.encoder.prompt(Turn(prompt="Where?", label="s7"))
    else:
        assert loaded.image_token_id not in loaded.encoder.prompt(Turn(prompt="Where?"))


def test_a_known_image_is_put_into_another_prompt_as_the_processor_would(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    for turn in turns_of(base):
        for other in (turn, replace(turn, prompt="A: B\n\nC: __ **ONLY**", system="Say no more.")):
            ids, images = loaded.family.prompt_ids(other, loaded.encoder.processor)
            known = loaded.family.image_ids(other, loaded.encoder.processor, ids)
            assert known
            assert loaded.encoder.prompt(other) == ids
            assert set(images) == set(loaded.family.image_inputs)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of the library's processors
def test_a_prompt_is_what_the_librarys_own_way_makes_of_it(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    processor = loaded.encoder.processor
    for turn in turns_of(base):
        if isinstance(loaded.family, ChatFamily):
            content = [{"type": "image", "path": str(turn.image)}, {"type": "text", "text": turn.prompt}]
            own = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
                return_tensors="pt",
            )  # fmt: skip
        else:
            text = [loaded.family.render(turn, processor)]
            own = processor(text=text, images=[Image.open(str(turn.image))], return_tensors="pt", **no_specials(loaded))
        ours = loaded.encoder.batch([replace(turn, reply="")]).inputs
        wanted = set(own) & set(inspect.signature(loaded.model.forward).parameters) - {"labels"}
        assert wanted == set(ours)
        for key in wanted:
            torch.testing.assert_close(ours[key], own[key], check_dtype=False)


def no_specials(loaded: Loaded) -> dict[str, bool]:
    """What keeps the tiny tokenizer of a family from writing a first token that the real one does not write."""
    return {"add_special_tokens": False} if loaded.family.needs_image else {}


@pytest.mark.parametrize("has_image", [True, False])
def test_no_text_becomes_a_image_or_ends_a_turn(model: tuple[Loaded, Path], has_image: bool) -> None:
    loaded, base = model
    encoder, tokenizer = loaded.encoder, loaded.encoder.processor.tokenizer
    image = base / "red.png" if has_image or loaded.family.needs_image else None
    special = set(tokenizer.all_special_ids) | {
        tokenizer.convert_tokens_to_ids(t) for t in special_texts(encoder.processor)
    }
    harmless = [t for t in encoder.prompt(Turn(prompt="Who?", system="No.", image=image)) if t in special]
    for text in (*HOSTILE, *special_texts(encoder.processor), "".join(special_texts(encoder.processor))):
        hostile = encoder.prompt(Turn(prompt=f"Who is {text}?", system=f"Protect {text}.", image=image))
        assert [token for token in hostile if token in special] == harmless
        reply = encoder.reply(f"This is {text}.")
        assert [token for token in reply if token in special] == reply[-1:]
        assert reply[-1] in loaded.ends


def test_a_hostile_name_does_not_stop_a_batch(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    turns = [Turn(prompt=f"Who is {text}?", reply=text, image=base / "red.png") for text in HOSTILE]
    loaded.model(**loaded.encoder.batch(turns).inputs)


def test_ordinary_text_is_left_as_it_is(model: tuple[Loaded, Path]) -> None:
    processor = model[0].encoder.processor
    for text in ("", "Ada < Bell > image", "$75,000 a year; 165 cm", "[Blank] **ONLY**", "Zoë O'Neil-Łuczak\n"):
        assert as_plain_text(text, processor) == text
    mark, end = special_texts(processor)[0], special_texts(processor)[-1]
    assert as_plain_text(f"a {mark} b {end}", processor) == f"a {mark[0]} {mark[1:]} b {end[0]} {end[1:]}"
    once = as_plain_text(mark, processor)
    assert as_plain_text(once, processor) == once


def test_the_labels_are_the_reply_and_a_batch_of_one_is_a_batch_of_many(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    turns = mixed(loaded, base)
    sides = [loaded.encoder.batch(turns, side=side) for side in ("right", "left")]  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = [loaded.model(**batch.inputs).logits for batch in sides]
    for row, turn in enumerate(turns):
        alone = loaded.encoder.batch([turn])
        with torch.no_grad():
            expected = loaded.model(**alone.inputs).logits[0]
        assert alone.labels[0][alone.labels[0] != IGNORE].tolist() == loaded.encoder.reply(turn.reply)
        assert loaded.encoder.processor.tokenizer.decode(loaded.encoder.reply(turn.reply)[:-1]).strip() == turn.reply
        for batch, logits in zip(sides, outputs, strict=True):
            kept = batch.inputs["attention_mask"][row].bool()
            assert batch.inputs["input_ids"][row][kept].tolist() == alone.inputs["input_ids"][0].tolist()
            assert torch.equal(batch.labels[row][kept], alone.labels[0])
            assert (batch.labels[row][~kept] == IGNORE).all()
            torch.testing.assert_close(logits[row][kept], expected, atol=2e-4, rtol=1e-3)


def test_examples_before_a_question_are_a_dialogue_with_images_of_their_own(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    has_image = turns_of(base)
    told = replace(has_image[0], before=(has_image[2], has_image[4]))
    if loaded.family.needs_image:
        with pytest.raises(ModelError, match="no dialogue"):
            loaded.encoder.prompt(told)
        return
    turns = [has_image[1], told, TEXT_TURNS[0], replace(has_image[3], before=(TEXT_TURNS[0],)), has_image[5]]
    batch = loaded.encoder.batch(turns, side="left")
    mark = loaded.family.mark(loaded.encoder.processor)
    assert loaded.family.dialogue(told, loaded.encoder.processor).count(mark) == 3
    with torch.no_grad():
        together = loaded.model(**batch.inputs).logits
        for row, turn in enumerate(turns):
            alone = loaded.model(**loaded.encoder.batch([turn]).inputs).logits[0]
            torch.testing.assert_close(together[row, -len(alone) :], alone, atol=2e-4, rtol=1e-3)
    other = replace(told, before=(has_image[4], has_image[2]))
    values = run_forward(loaded.model, loaded.encoder.batch([told, other])).row_logp_B.tolist()
    assert abs(values[0] - values[1]) > 1e-4  # each image is where it was shown


def test_the_forward_pass_of_the_losses_is_the_models_own(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    batch = loaded.encoder.batch(mixed(loaded, base))
    with torch.no_grad():
        own = loaded.model(**batch.inputs).logits[:, :-1][batch.labels[:, 1:] != IGNORE]
        ours = run_forward(loaded.model, batch).logits_NV
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-4)
    assert own.std() > 0.01


def test_methods_find_hidden_states_and_their_layers(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    batch = loaded.encoder.batch(mixed(loaded, base))
    with torch.no_grad():
        first, last = (run_hidden(loaded.model, batch, layer) for layer in (0, num_layers(loaded.model) - 1))
    assert first.shape == last.shape == (int((batch.labels != IGNORE).sum()), loaded.model.lm_head.in_features)
    assert not torch.equal(first, last)
    pattern = plugins.build("methods", "rmu", {}).targets(num_layers(loaded.model))
    matched = [name for name, _ in loaded.model.named_modules() if re.fullmatch(pattern, name)]
    assert 1 <= len(matched) <= 2
    assert all(re.fullmatch(loaded.family.lora_targets, name) for name in matched)


def test_every_image_counts_in_its_own_row(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    shown = [Turn(prompt=QUESTION, reply="Riga", image=base / f"{c}.png") for c in ("red", "green", "red", "blue")]
    with torch.no_grad():
        values = [run_forward(loaded.model, loaded.encoder.batch(shown)).row_logp_B[i].item() for i in range(4)]
    assert values[0] == pytest.approx(values[2], abs=1e-4)
    assert abs(values[0] - values[1]) > 1e-3
    assert abs(values[0] - values[3]) > 1e-3


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_a_step_changes_the_language_model_only_and_what_is_saved_is_what_was_trained(
    fresh: tuple[Loaded, Path], lora: Any, tmp_path: Path
) -> None:
    loaded, base = fresh
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    model = add_trainable(loaded.model, loaded.family, lora, seed=0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    batch = loaded.encoder.batch(mixed(loaded, base))
    model.train()
    for _ in range(2):  # the second half of a new adapter starts at zero, and so does the gradient of the first
        answer_nll(run_forward(model, batch)).backward()
        torch.optim.SGD(trained.values(), lr=0.5).step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    model.eval()
    after = {n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in model.named_parameters()}
    changed = {name for name, p in before.items() if not torch.equal(p, after[name])}
    names = changed if lora is None else set(trained)
    assert len(names) >= 7 * 2
    assert not [n for n in names if re.search(r"vision|visual|projector|connector|merger|embed|norm|lm_head", n)]
    assert changed == (names if lora is None else set())
    live = run_forward(model, batch).row_logp_B
    save_trained(model, tmp_path)
    again = load_ref(base, ".", root=tmp_path, encoder=loaded.encoder)
    torch.testing.assert_close(run_forward(again.model, batch).row_logp_B, live, atol=1e-3, rtol=1e-4)
    original = load_ref(base, encoder=loaded.encoder)
    assert (run_forward(original.model, batch).row_logp_B - live).abs().max() > 0.1


def greedy(loaded: Loaded, turn: Turn, count: int) -> list[int]:
    """The reply token by token, each by a whole forward pass of the one row."""
    ids: list[int] = []
    for _ in range(count):
        batch = loaded.encoder.batch([turn])
        inputs = dict(batch.inputs)
        told = torch.tensor([[*inputs["input_ids"][0].tolist(), *ids]])
        inputs |= {"input_ids": told, "attention_mask": torch.ones_like(told)}
        labels = torch.full_like(told, IGNORE)
        if ids:
            labels[0, -len(ids) :] = torch.tensor(ids)
        inputs |= loaded.family.token_inputs(told, labels, loaded.encoder.processor)
        ids.append(int(loaded.model(**inputs).logits[0, -1].argmax()))
        if ids[-1] in loaded.ends:
            break
    return ids


@torch.no_grad()
def test_generation_in_a_padded_batch_is_the_argmax_of_plain_passes(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    turns = [replace(turn, reply="") for turn in mixed(loaded, base)]
    without = [turn for turn in turns if turn.image is None]
    for asked in (turns, without, turns[:1]):  # one after the other: no state is left behind
        if asked:
            check_replies(loaded, asked)


def check_replies(loaded: Loaded, turns: Sequence[Turn]) -> None:
    samples = [sample(i, prompt=turn.prompt, max_new_tokens=4) for i, turn in enumerate(turns)]
    replies, _ = answers(loaded, samples, turns, share=False)
    assert replies == [greedy(loaded, turn, 4) for turn in turns]


words = st.lists(st.sampled_from(QUESTION.split()), min_size=1, max_size=9).map(" ".join)
drawn = st.lists(
    st.tuples(st.sampled_from([*COLOURS, ""]), words, words, st.sampled_from(["", "Be kind."]), st.booleans()),
    min_size=1,
    max_size=7,
)


def test_what_is_packed_has_the_losses_and_gradients_of_what_is_plain(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    if not loaded.family.packs:
        pytest.skip("cannot be packed")
    told = tuple(turns_of(base)[2:3])

    @settings(max_examples=5, deadline=None, derandomize=True)
    @given(rows=drawn, capacity=st.sampled_from([1, 90, 600]))
    def check(rows: list[tuple[str, str, str, str, bool]], capacity: int) -> None:
        turns = [
            Turn(prompt=prompt, reply=reply, image=base / f"{image}.png" if image else None, system=system,
                 before=told if after else ())
            for image, prompt, reply, system, after in rows
        ]  # fmt: skip
        batch = pack(loaded, turns, capacity=capacity)
        assert batch.num_tokens == sum(group.length for group in make_groups(loaded.encoder, turns, capacity))
        packed, plain = (run_forward(loaded.model, each) for each in (batch, loaded.encoder.batch(turns)))
        assert packed.row_length_B.tolist() == plain.row_length_B.tolist()
        torch.testing.assert_close(answer_nll(packed), answer_nll(plain), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(packed.row_logp_B, plain.row_logp_B, rtol=1e-4, atol=1e-3)
        same_gradients(loaded, answer_nll(packed), answer_nll(plain))

    check()


def same_gradients(loaded: Loaded, one: torch.Tensor, other: torch.Tensor) -> None:
    """Both losses have the same gradients for every layer that can be trained."""
    trained = [p for n, p in loaded.model.named_parameters() if re.fullmatch(loaded.family.lora_targets + ".weight", n)]
    assert len(trained) >= 7
    for found, expected in zip(torch.autograd.grad(one, trained), torch.autograd.grad(other, trained), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * scale + 1e-7)


def test_a_family_that_cannot_be_packed_gives_a_image_another_meaning_by_what_is_asked(
    model: tuple[Loaded, Path],
) -> None:
    """The proof: where the state of the image depends on the question behind it, no two questions can share it."""
    loaded, base = model
    turns = [Turn(prompt=prompt, reply="Riga", image=base / "red.png") for prompt in ("Which colour?", "Say no more!")]
    states = []
    for turn in turns:
        batch = loaded.encoder.batch([turn])
        with torch.no_grad():
            hidden_1TD = loaded.model.model(**batch.inputs, use_cache=False).last_hidden_state
        states.append(hidden_1TD[0][batch.inputs["input_ids"][0] == loaded.image_token_id])
    moved = (states[0] - states[1]).abs().max()
    if loaded.family.name == "paligemma":
        assert not loaded.family.packs
        assert moved > 1e-2
    else:  # the family "auto" too, of which this is known for this one model only
        assert moved < 1e-4


def test_what_is_shared_gives_what_is_plain(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    if not loaded.family.shares_prefix:
        pytest.skip("replies are not read behind a common prefix")
    turns = mixed(loaded, base)
    samples = [sample(i, prompt=t.prompt, candidates={"A": "Riga", "B": "Oslo is right"}) for i, t in enumerate(turns)]
    asked = [replace(turn, reply="") for turn in turns]
    (shared, logps), (alone, expected) = (answers(loaded, samples, asked, share=share) for share in (True, False))
    assert shared == alone
    assert logps == pytest.approx(expected, abs=1e-3)


def test_checkpointed_activations_give_the_same_gradients(fresh: tuple[Loaded, Path]) -> None:
    loaded, base = fresh
    batch = loaded.encoder.batch(mixed(loaded, base))
    found = []
    for chosen in ({}, {"gradient_checkpointing": True}):
        model = add_trainable(load_ref(base, encoder=loaded.encoder, **chosen).model, loaded.family, LORA, seed=0)
        model.train()
        answer_nll(run_forward(model, batch)).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert any(layer.gradient_checkpointing for layer in model.modules() if hasattr(layer, "gradient_checkpointing"))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_half_precision_runs(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    half = load_ref(base, encoder=loaded.encoder, dtype="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    batch = loaded.encoder.batch(mixed(loaded, base))
    with torch.no_grad():
        rough, exact = (run_forward(each.model, batch).row_logp_B for each in (half, loaded))
    torch.testing.assert_close(rough, exact, atol=2.0, rtol=0.1)


def test_a_prompt_over_the_context_is_an_error_that_names_it_and_counts(model: tuple[Loaded, Path]) -> None:
    loaded, base = model
    turn = Turn(prompt=QUESTION, image=base / "red.png", label="forget/7", reply="Riga")
    length = loaded.encoder.check_length(turn, turn.reply)
    Encoder(loaded.family, loaded.encoder.processor, context=length).batch([turn])
    with pytest.raises(ModelError, match=rf"^forget/7: the prompt '{QUESTION[:20]}.*has {length} tokens"):
        Encoder(loaded.family, loaded.encoder.processor, context=length - 1).batch([turn])


def test_a_image_of_any_mode_and_size_is_read(model: tuple[Loaded, Path], tmp_path: Path) -> None:
    loaded, _ = model
    for mode, size in (("L", (10, 90)), ("RGBA", (300, 200)), ("P", (64, 64)), ("1", (1, 1))):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, size).save(path)
        loaded.model(**loaded.encoder.batch([Turn(prompt="Who?", image=path)]).inputs)
