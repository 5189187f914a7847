"""Labels are exactly the reply, whatever surrounds it, and every row gets its own image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_models import COLOURS, turns_of

from mllmu.core.errors import DataError, ModelError
from mllmu.models import encoding, families
from mllmu.models.encoding import Encoder
from mllmu.models.families import IGNORE, Turn, open_image
from mllmu.models.loading import Loaded


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_are_the_reply_and_its_end_and_nothing_else(loaded: Loaded, tiny_base: Path, side: str) -> None:
    encoder, tokenizer = loaded.encoder, loaded.encoder.processor.tokenizer
    turns = [*turns_of(tiny_base), Turn(prompt="Where does Ada Bell live?", reply="Riga")]
    batch = encoder.batch(turns, side=side)  # type: ignore[arg-type]
    for row, turn in enumerate(turns):
        labelled = batch.labels[row] != IGNORE
        assert torch.equal(batch.labels[row][labelled], batch.inputs["input_ids"][row][labelled])
        assert tokenizer.decode(batch.labels[row][labelled]) == f" {turn.reply}</s>"
        seen = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()]
        assert seen.tolist() == encoder.prompt(turn) + encoder.reply(turn.reply)


def test_a_turn_with_a_image_has_exactly_its_image_tokens(loaded: Loaded, tiny_base: Path) -> None:
    with_image, without = turns_of(tiny_base)[0], Turn(prompt="Where?")
    image = loaded.image_token_id
    assert loaded.encoder.prompt(with_image).count(image) == 17
    assert loaded.encoder.prompt(without).count(image) == 0


def test_padding_is_on_the_side_asked_for(loaded: Loaded) -> None:
    turns = [Turn(prompt="Where?"), Turn(prompt="Where was this person born, Riga or Tallinn?")]
    for side, place in (("left", 0), ("right", -1)):
        batch = loaded.encoder.batch(turns, side=side)  # type: ignore[arg-type]
        assert batch.inputs["attention_mask"][0, place] == 0
        assert batch.inputs["input_ids"][0, place] == loaded.encoder.pad
        assert batch.inputs["attention_mask"][1].all()


def test_a_turn_without_reply_has_no_labels(loaded: Loaded) -> None:
    assert (loaded.encoder.batch([Turn(prompt="Where?")]).labels == IGNORE).all()


def test_a_turn_longer_than_the_context_is_an_error_that_shows_its_beginning(loaded: Loaded) -> None:
    encoder = Encoder(loaded.family, loaded.encoder.processor, context=40)
    fits = Turn(prompt="Where?", reply="Riga")
    encoder.batch([fits])
    length = len(encoder.prompt(fits)) + len(encoder.reply("Riga"))
    with pytest.raises(ModelError, match=r"'Ada Bell lives.*has \d+ tokens, the model's context is 40"):
        encoder.batch([fits, Turn(prompt="Ada Bell lives in Riga. " * 20, reply="yes")])
    Encoder(loaded.family, loaded.encoder.processor, context=length).batch([fits])
    with pytest.raises(ModelError, match=f"has {length} tokens"):
        Encoder(loaded.family, loaded.encoder.processor, context=length - 1).batch([fits])


def test_images_come_in_the_order_of_the_rows_though_they_are_remembered(loaded: Loaded, tiny_base: Path) -> None:
    alone = {c: loaded.encoder.batch([Turn(prompt="?", image=tiny_base / f"{c}.png")]) for c in COLOURS}
    order = ["blue", "red", None, "green", "red"]
    turns = [Turn(prompt="?", image=tiny_base / f"{c}.png" if c else None) for c in order]
    pixels = loaded.encoder.batch(turns).inputs["pixel_values"]
    expected = torch.cat([alone[c].inputs["pixel_values"] for c in order if c])
    assert torch.equal(pixels, expected)
    assert not torch.equal(pixels[0], pixels[1])


def test_what_is_remembered_depends_on_all_of_the_turn(loaded: Loaded, tiny_base: Path) -> None:
    turn = Turn(prompt="Where?", image=tiny_base / "red.png")
    first = loaded.encoder.prompt(turn)
    others = [replace(turn, prompt="Which?"), replace(turn, system="Say no more."), replace(turn, image=None)]
    assert all(loaded.encoder.prompt(other) != first for other in others)
    assert loaded.encoder.prompt(turn) == first


def test_a_batch_without_images_has_no_image_tensor(loaded: Loaded) -> None:
    assert set(loaded.encoder.batch([Turn(prompt="Where?")]).inputs) == {"input_ids", "attention_mask"}


def test_a_missing_or_broken_image_is_named(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nobody\.png: no such image"):
        loaded.encoder.batch([Turn(prompt="?", image=tmp_path / "nobody.png")])
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"cut\.png: not a readable image"):
        loaded.encoder.batch([Turn(prompt="?", image=tmp_path / "cut.png")])


def test_another_question_about_a_image_gets_the_ids_it_would_get_alone(loaded: Loaded) -> None:
    image = sorted(Path(loaded.model.config._name_or_path).glob("*.png"))[0]
    turns = [Turn(prompt=text, image=image) for text in ("Who is this?", "What is <image> here?", "Where </s>?")]
    alone = [loaded.family.prompt_ids(turn, loaded.encoder.processor)[0] for turn in turns]
    assert [loaded.encoder.prompt(turn) for turn in turns] == alone


def test_images_that_are_no_longer_in_memory_are_prepared_again(
    loaded: Loaded, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three images of 64 x 64 x 3 floats one is remembered: the one used last."""
    monkeypatch.setattr(encoding, "PIXEL_BYTES", 64 * 64 * 3 * 4)
    encoder = Encoder(loaded.family, loaded.encoder.processor, loaded.encoder.context)
    opened: list[Path] = []
    monkeypatch.setattr(families, "open_image", lambda path: opened.append(path) or open_image(path))
    turns = turns_of(tiny_base)
    assert torch.equal(encoder.images(turns)["pixel_values"], loaded.encoder.batch(turns).inputs["pixel_values"])
    encoder.check(turns)
    opened.clear()
    assert torch.equal(encoder.batch(turns).inputs["pixel_values"], loaded.encoder.images(turns)["pixel_values"])
    assert opened == [tiny_base / f"{colour}.png" for colour in ("red", "green", "blue")]
    encoder.images(turns[-1:])
    assert len(opened) == 3
