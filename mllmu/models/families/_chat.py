"""Families whose prompts are written by the chat template that comes with the model's processor."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError

from mllmu.core.errors import ModelError, one_line
from mllmu.models.families import Family, Turn, special_texts

SYSTEM, PROMPT, REPLY = "Qsystem", "Qprompt", "Qreply"
"""Stand-ins that are looked for in what a template writes."""
TEMPLATE_DATE = date(2024, 7, 26)
"""What a template that writes the date of today gets, on every day: the same run has the same prompts."""
TIMES = 4
"""How often a template writes the same messages, to see whether it always writes the same."""
RAISED = (ArithmeticError, AttributeError, LookupError, RecursionError, TemplateError, TypeError, ValueError)
"""What templates raise on messages they do not take, or that are broken."""
OPENED = re.compile(r"([<\[◁])(\w+)([>\]▷])\s*\Z")
Message = Mapping[str, Any]


class Style(NamedTuple):
    """How a template takes messages, found out by trying.

    Attributes:
        parts: a message's content is a list of images and texts; otherwise it is one text, the image's mark in it.
        system: there is a system message; otherwise its text is put before the user's.
        before, after: what the template writes around a reply, see :meth:`Family.frame`.
        always_system: the template takes no messages without a system message, so an empty one is written.
        closing: what closes a block that the template opens behind a question (``<think>``): prompts end with it, so
            that an answer is trained, and asked for, behind an empty block.
        keeps: whether the template keeps blanks at the beginning, and at the end, of a reply.
    """

    parts: bool
    system: bool
    before: str
    after: str
    always_system: bool = False
    closing: str = ""
    keeps: tuple[bool, bool] = (True, True)


class ChatFamily(Family):
    """Base of the families that are asked through their processor's chat template."""

    def render(self, turn: Turn, processor: Any) -> str:
        style = style_of(processor, self.mark(processor))
        return write(processor, messages(turn, style, self.mark(processor))) + style.closing

    def dialogue(self, turn: Turn, processor: Any) -> str:
        return self.render(turn, processor)

    def frame(self, processor: Any) -> tuple[str, str]:
        style = style_of(processor, self.mark(processor))
        return style.before, style.after

    def reply_ids(self, reply: str, processor: Any) -> list[int]:
        begin, end = style_of(processor, self.mark(processor)).keeps
        reply = reply if begin else reply.lstrip()
        return super().reply_ids(reply if end else reply.rstrip(), processor)


def remarks(processor: Any, mark: str) -> list[str]:
    """What is special about the prompts that a processor's chat template writes here."""
    style, found = style_of(processor, mark), []
    if _dated(processor):
        found.append(f"it writes the date of the day; here it is always {TEMPLATE_DATE}")
    if style.closing:
        found.append(f"it opens a block behind the question; here prompts close it, with {style.closing!r}")
    if style.always_system:
        found.append("it takes no messages without a system message; here an empty one is written")
    return found


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

    has_system = style.system and (turn.system or (style.always_system and reply is None))
    opening: list[Message] = [{"role": "system", "content": said(turn.system)}] if has_system else []
    opening += [each for one in turn.before for each in messages(one, style, mark, reply=one.reply)]
    closing = [] if reply is None else [{"role": "assistant", "content": said(reply)}]
    return [*opening, {"role": "user", "content": user}, *closing]


def write(processor: Any, said: Sequence[Message], *, ask: bool = True) -> str:
    """The text of some messages; with ``ask``, up to where the next reply begins.

    Raises:
        ModelError: the template raises an error; shows it with its line.
    """
    try:
        return _written(processor, said, ask=ask)
    except RAISED as error:
        raise ModelError(_reason(processor, error)) from None


def _written(processor: Any, said: Sequence[Message], *, ask: bool) -> str:
    settings = {"chat_template": _same_date() + _template(processor)} if _dated(processor) else {}
    return str(processor.apply_chat_template(list(said), tokenize=False, add_generation_prompt=ask, **settings))


def _template(processor: Any) -> str:
    held = processor.chat_template
    return str(held.get("default", "") if isinstance(held, Mapping) else held)


def _dated(processor: Any) -> bool:
    return "strftime_now" in _template(processor)


@lru_cache(maxsize=1)
def _same_date() -> str:
    """What stands before a template that asks for the date, on its first line: a function of our own for it."""
    filled = "".join(f" | replace('%{code}', '{TEMPLATE_DATE.strftime(f'%{code}')}')" for code in "aAbBdejmyYHIMSp")
    return f"{{% macro strftime_now(format) %}}{{{{ format{filled} }}}}{{% endmacro %}}"


def _reason(processor: Any, error: Exception) -> str:
    """An error that a template raised, with its line."""
    line = error.lineno if isinstance(error, TemplateSyntaxError) else None
    step = error.__traceback__
    while line is None and step is not None:
        line = step.tb_lineno if step.tb_frame.f_code.co_filename == "<template>" else None
        step = step.tb_next
    return (
        f"model.path: the chat template of the {type(processor).__name__} there"
        f"{f', line {line},' if line else ''} cannot be used: {one_line(error)}. Expected a template for user and "
        "assistant messages; take the file chat_template.jinja from the model's hub page."
    )


@lru_cache(maxsize=16)
def style_of(processor: Any, mark: str) -> Style:
    """Find out how a processor's chat template takes messages.

    Raises:
        ModelError: there is no template, it cannot be read, writes the same messages in several ways, or loses the
            prompt, the image or the reply.
    """
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"model.path: the {type(processor).__name__} there has no chat template, so nobody knows how its prompts "
            "look. Expected the file chat_template.jinja beside the processor; take it from the model's hub page."
        )
    raised: list[Exception] = []
    for parts, system in ((True, True), (True, False), (False, True), (False, False)):
        try:
            known = _tried(processor, Style(parts, system, "", ""), mark)
        except ModelError:
            raise
        except RAISED as error:
            raised.append(error)
        else:
            if known is not None:
                return known
    if len(raised) == 4:
        raise ModelError(_reason(processor, raised[0]))
    raise ModelError(
        f"model.path: the chat template of the {type(processor).__name__} there loses the prompt, its image "
        f"({mark}) or the reply. Expected a template for user and assistant messages with images."
    )


def _tried(processor: Any, style: Style, mark: str) -> Style | None:
    """The style with all that the template does to a reply; None if the template loses something of a turn."""
    turn = Turn(prompt=PROMPT, system=SYSTEM, image=Path())
    question = _written(processor, messages(turn, style, mark), ask=True)
    whole, spaced = (
        _written(processor, messages(turn, style, mark, reply=reply), ask=False) for reply in (REPLY, f" {REPLY} ")
    )
    once = all(question.count(part) == 1 for part in (SYSTEM, PROMPT, mark)) and whole.count(REPLY) == 1
    if not once or question.find(SYSTEM) > question.find(PROMPT):
        return None
    if any(_written(processor, messages(turn, style, mark), ask=True) != question for _ in range(TIMES)):
        raise ModelError(
            f"model.path: the chat template of the {type(processor).__name__} there writes the same messages in "
            "several ways, so no number could be had again. Expected a template without random parts."
        )
    first, _, after = whole.partition(REPLY)
    closing = _closing(question, first)
    before = first.removeprefix(question + closing) if first.startswith(question + closing) else ""
    ends = [after.index(token) + len(token) for token in special_texts(processor) if token in after]
    return style._replace(
        before=before,
        after=after[: min(ends)] if ends else str(processor.tokenizer.eos_token),
        always_system=style.system and _refuses(processor, messages(turn, style, mark)[1:]),
        closing=closing,
        keeps=(f" {REPLY}" in spaced, f"{REPLY} {after}" in spaced),
    )


def _refuses(processor: Any, said: Sequence[Message]) -> bool:
    try:
        _written(processor, said, ask=True)
    except RAISED:
        return True
    return False


def _closing(question: str, first: str) -> str:
    """What closes a block that a question ends with; ``first`` is what the template writes before a given reply."""
    opened = OPENED.search(question)
    if opened is None:
        return ""
    end = f"{opened[1]}/{opened[2]}{opened[3]}"
    if not first.startswith(question):  # before a reply that is given, the template opens no block
        return f"\n{end}\n\n"
    head, found, rest = first.removeprefix(question).partition(end)
    return f"{head}{found}{rest[: len(rest) - len(rest.lstrip())]}" if found else ""
