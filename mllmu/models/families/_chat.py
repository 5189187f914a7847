"""Families whose prompts are written by the chat template that comes with the model's processor."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from mllmu.core.errors import ModelError
from mllmu.models.families import Family, Turn, special_texts

SYSTEM, PROMPT, REPLY = "Qsystem", "Qprompt", "Qreply"
"""Stand-ins that are looked for in what a template writes."""
Message = Mapping[str, Any]


class Style(NamedTuple):
    """How a template takes messages, found out by trying.

    Attributes:
        parts: a message's content is a list of images and texts; otherwise it is one text, the image's mark in it.
        system: there is a system message; otherwise its text is put before the user's.
        before, after: what the template writes around a reply, see :meth:`Family.frame`.
    """

    parts: bool
    system: bool
    before: str
    after: str


class ChatFamily(Family):
    """Base of the families that are asked through their processor's chat template."""

    def render(self, turn: Turn, processor: Any) -> str:
        style = style_of(processor, self.mark(processor))
        return write(processor, messages(turn, style, self.mark(processor)))

    def dialogue(self, turn: Turn, processor: Any) -> str:
        return self.render(turn, processor)

    def frame(self, processor: Any) -> tuple[str, str]:
        style = style_of(processor, self.mark(processor))
        return style.before, style.after


def messages(turn: Turn, style: Style, mark: str, *, reply: str | None = None) -> list[Message]:
    """A turn as the messages a chat template takes."""
    prompt = turn.prompt if style.system or not turn.system else f"{turn.system}\n{turn.prompt}"
    has_image = turn.image is not None
    if style.parts:
        user: Any = [*([{"type": "image"}] if has_image else []), {"type": "text", "text": prompt}]
    else:
        user = f"{mark}\n{prompt}" if has_image else prompt

    def said(text: str) -> Any:
        return [{"type": "text", "text": text}] if style.parts else text

    opening: list[Message] = [{"role": "system", "content": said(turn.system)}] if turn.system and style.system else []
    opening += [each for one in turn.before for each in messages(one, style, mark, reply=one.reply)]
    closing = [] if reply is None else [{"role": "assistant", "content": said(reply)}]
    return [*opening, {"role": "user", "content": user}, *closing]


def write(processor: Any, said: Sequence[Message], *, ask: bool = True) -> str:
    """The text of some messages; with ``ask``, up to where the next reply begins."""
    return str(processor.apply_chat_template(list(said), tokenize=False, add_generation_prompt=ask))


@lru_cache(maxsize=16)
def style_of(processor: Any, mark: str) -> Style:
    """Find out how a processor's chat template takes messages.

    Raises:
        ModelError: there is no template, or it loses the prompt, the image or the reply.
    """
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"model.path: the {type(processor).__name__} there has no chat template, so nobody knows how its prompts "
            "look. Expected the file chat_template.jinja beside the processor; take it from the model's hub page."
        )
    styles = [Style(parts, system, "", "") for parts in (True, False) for system in (True, False)]
    known = next((known for style in styles if (known := _tried(processor, style, mark))), None)
    if known is None:
        raise ModelError(
            f"model.path: the chat template of the {type(processor).__name__} there loses the prompt, its image "
            f"({mark}) or the reply. Expected a template for user and assistant messages with images."
        )
    return known


def _tried(processor: Any, style: Style, mark: str) -> Style | None:
    """The style with the text around a reply; None if the template loses something of it."""
    turn = Turn(prompt=PROMPT, system=SYSTEM, image=Path())
    try:
        question = write(processor, messages(turn, style, mark))
        whole = write(processor, messages(turn, style, mark, reply=REPLY), ask=False)
    except (TemplateError, TypeError, ValueError, KeyError):  # what templates raise on messages they do not take
        return None
    once = all(question.count(part) == 1 for part in (SYSTEM, PROMPT, mark)) and whole.count(REPLY) == 1
    if not once or question.find(SYSTEM) > question.find(PROMPT):
        return None
    first, _, after = whole.partition(REPLY)
    before = first.removeprefix(question) if first.startswith(question) else ""
    ends = [after.index(token) + len(token) for token in special_texts(processor) if token in after]
    return style._replace(before=before, after=after[: min(ends)] if ends else str(processor.tokenizer.eos_token))
