"""Which tokens of a turn are trained, as the training itself sees it, and how that is shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mllmu.models.families import IGNORE, Turn, as_plain_text
from mllmu.models.loading import Loaded
from mllmu.preflight.doctor.verdict import Verdict, verdict
from mllmu.training.packing import training_batch
from mllmu.unlearning.base import Method
from mllmu.unlearning.trainer import step_batch


class Masked(NamedTuple):
    """A turn as tokens: ``trained[t]`` says whether token t counts in the loss; the first ``prompt`` are the prompt."""

    turn: Turn
    ids: list[int]
    trained: list[bool]
    prompt: int


def masked(loaded: Loaded, turn: Turn, method: Method | None = None) -> Masked:
    """The labels of a turn alone in a step of a method, or of the fine-tuning."""
    batch = training_batch(loaded, [turn]) if method is None else step_batch(loaded, method, [turn])
    trained = [label != IGNORE for label in batch.labels[0].tolist()]
    return Masked(turn, batch.inputs["input_ids"][0].tolist(), trained, len(loaded.encoder.prompt(turn)))


def only_reply_trained(who: str, seen: Sequence[Masked], loaded: Loaded, *, prompts: bool = False) -> Verdict:
    """Of each turn the whole reply is trained, and neither prompt (unless ``prompts`` wants it) nor image."""
    found = [f"{_named(one)}: {fault}" for one in seen for fault in _wrong(one, loaded, prompts=prompts)]
    check = f"labels of {who}"
    if not found and prompts:
        return Verdict(check, "note", "deviation, loss_on: all: the prompt is trained too, the image is not")
    return verdict(check, found, f"the reply alone, in {len(seen)} turns")


def _wrong(one: Masked, loaded: Loaded, *, prompts: bool) -> Iterator[str]:
    trained = [token for token, counts in zip(one.ids, one.trained, strict=True) if counts]
    if loaded.image_token_id in trained:
        yield f"{trained.count(loaded.image_token_id)} image tokens are in the loss"
    if not prompts and any(one.trained[: one.prompt]):
        yield f"{sum(one.trained[: one.prompt])} prompt tokens are in the loss"
    processor = loaded.encoder.processor
    reply = trained[sum(one.trained[: one.prompt]) :]
    text = processor.tokenizer.decode(reply, skip_special_tokens=True)
    if _bare(text) != _bare(as_plain_text(one.turn.reply, processor)):
        yield f"trained is '{text.strip()}', expected '{one.turn.reply}'"


def _bare(text: str) -> str:
    """Text without what tokenizers change: white space, forms of a letter, case."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def end_trained(who: str, seen: Sequence[Masked], loaded: Loaded, *, left_out: bool = False) -> Verdict:
    """The last token of each turn ends a reply and is trained; ``left_out``: the method leaves it out itself."""
    stops = stop_tokens(loaded)
    found = [_named(one) for one in seen if not (one.trained[-1] and one.ids[-1] in stops)]
    check = f"end of reply in {who}"
    if left_out:
        return Verdict(check, "note", "deviation, train_end: false: the model is not taught to stop")
    tokens = loaded.encoder.processor.tokenizer.convert_ids_to_tokens(sorted({one.ids[-1] for one in seen}))
    return verdict(
        check, [f"{name}: no end of sequence is trained" for name in found], f"{', '.join(tokens)} is trained"
    )


def stop_tokens(loaded: Loaded) -> set[int]:
    """Special tokens, one of which has to end a reply; what the family says it is, is not asked."""
    tokenizer = loaded.encoder.processor.tokenizer
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {tokenizer.eos_token_id, *tokenizer.all_special_ids, *special} - {loaded.image_token_id, None}


def _named(one: Masked) -> str:
    return f"'{one.turn.prompt[:50]}' about {one.turn.person or 'nobody'}"


def drawn(ids: Sequence[int], trained: Sequence[bool], loaded: Loaded) -> str:
    """A row of tokens: ``[trained]``, other tokens parted by ``|``, image tokens counted.

    ``<image> x576|Where|is|...|ANT|:[ Riga][</s>]``
    """
    parts: list[str] = []
    place = 0
    while place < len(ids):
        count = 1
        if ids[place] == loaded.image_token_id:
            while place + count < len(ids) and (ids[place + count], trained[place + count]) == (
                ids[place],
                trained[place],
            ):
                count += 1
        text = token_text(loaded.encoder.processor.tokenizer, ids[place]) + (f" x{count}" if count > 1 else "")
        parts.append(f"[{text}]" if trained[place] else f"{'|' if parts and not parts[-1].endswith(']') else ''}{text}")
        place += count
    return "".join(parts)


def token_text(tokenizer: Any, token: int) -> str:
    """A token as text with the blank before it; what is not printable is escaped."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    text = str(tokenizer.decode([token]))
    if piece[:1] in ("▁", "Ġ") and not text.startswith(" "):
        text = f" {text}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
