"""Chat templates that take what a message says as a string and as a list of parts (images and texts), as tools put it.

Our own prompts are written by the families and do not change with it. A family that writes them without a template
gets one, and what a template writes is compared with what the family puts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllmu.core.errors import UnfitPromptError
from mllmu.models.families import Family, Turn
from mllmu.models.families._chat import PROMPT, RAISED, SYSTEM, ChatFamily

PARTS_OF_CONTENT = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}{% endmacro %}"
)
"""A macro for templates that put in text: ``said(message['content'])``, each image as its mark on a line of its own."""
_EACH = "{%- set now = namespace(messages=[]) -%}{%- for message in messages -%}"
_END = "{%- set now.messages = now.messages + [message] -%}{%- endfor -%}{%- set messages = now.messages -%}"
AS_PARTS = (
    _EACH + "{%- if message['content'] is string -%}"
    "{%- set message = dict(message, content=[{'type': 'text', 'text': message['content']}]) -%}{%- endif -%}" + _END
)
"""Before a template that reads lists: strings become lists of one text."""
AS_TEXT = (
    _EACH + "{%- if message['content'] is not string -%}{%- set all = namespace(text='') -%}"
    "{%- for part in message['content'] -%}"
    "{%- set all.text = all.text + ('MARK\n' if part['type'] == 'image' else part['text']) -%}{%- endfor -%}"
    "{%- set message = dict(message, content=all.text) -%}{%- endif -%}" + _END
)
"""Before a template that reads strings: lists become a string, each image its mark on a line of its own."""
_WORD = "PROBE"
_ASKED = Turn(prompt="Who is this?", image=Path())
CASES = {
    "a question without an image": Turn(prompt="Who is this?"),
    "a question with an image": _ASKED,
    "a system message": Turn(prompt="Who is this?", system="Be brief.", image=Path()),
    "examples before a question": Turn(prompt="Who is this?", image=Path(), before=(
        Turn(prompt="And this?", reply="Ada Bell.", image=Path()),
    )),
}  # fmt: skip
"""Prompts of all kinds, which a template must write as the family does; their images are never opened."""


def take_all_forms(processor: Any, mark: str) -> None:
    """Give a processor whose chat template takes only strings, or only lists, one that takes both and writes the same.

    Args:
        mark: what stands for an image in a prompt.
    """
    own = getattr(processor, "chat_template", None)
    if not isinstance(own, str):
        return
    text = _takes(processor, _WORD)
    parts = _takes(processor, [{"type": "image"}, {"type": "text", "text": _WORD}], mark)
    if text != parts:
        processor.chat_template = (AS_PARTS if parts else AS_TEXT.replace("MARK", mark)) + own


def _takes(processor: Any, content: Any, mark: str = "") -> bool:
    """Whether the template writes a message without losing its text or its image, or writing a list as text."""
    try:
        said = str(processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
    except RAISED:
        return False
    return _WORD in said and mark in said and "'type'" not in said


def write_own_prompts(processor: Any, family: Family) -> None:
    """Give a processor a chat template that writes what a family puts without one, unless its own does so already."""
    if not isinstance(family, ChatFamily) and any(written_otherwise(family, processor, processor)):
        processor.chat_template = _template_of(family, processor)


def written_otherwise(family: Family, run: Any, saved: Any) -> Iterator[tuple[str, str]]:
    """The cases in which a chat template writes another prompt than a family, and what the family puts there.

    Args:
        run: the processor that the family uses.
        saved: the processor with the template.
    """
    for case, turn in CASES.items():
        if family.needs_image and turn.image is None:
            continue
        try:
            put = family.dialogue(turn, run)
        except UnfitPromptError:
            continue
        try:
            written = saved.apply_chat_template(_messages(turn), tokenize=False, add_generation_prompt=True)
        except RAISED:
            written = None
        if written != put:
            yield case, put


def _messages(turn: Turn) -> list[dict[str, Any]]:
    """A turn as tools put it: the system message first, an image before its question."""
    system = [{"role": "system", "content": [{"type": "text", "text": turn.system}]}] if turn.system else []
    exchanges = []
    for one in (*turn.before, turn):
        image = [{"type": "image"}] if one.image is not None else []
        exchanges += [{"role": "user", "content": [*image, {"type": "text", "text": one.prompt}]}]
        exchanges += [{"role": "assistant", "content": [{"type": "text", "text": one.reply}]}] if one.reply else []
    return [*system, *exchanges]


def _template_of(family: Family, processor: Any) -> str:
    """A template from what a family writes around the prompt, the image and the system prompt of a turn."""
    plain, imaged, led = (
        family.render(turn, processor)
        for turn in (Turn(prompt=PROMPT), Turn(prompt=PROMPT, image=Path()), Turn(prompt=PROMPT, system=SYSTEM))
    )
    opening, _, closing = plain.partition(PROMPT)
    asks = closing.lstrip()  # what comes before a reply, on the same line
    between = closing.removesuffix(asks)
    image = imaged.removeprefix(opening).partition(PROMPT)[0]
    below = led.removeprefix(SYSTEM).removesuffix(plain)
    before, after = family.frame(processor)
    said = "{{ said(m['content']) }}"
    return (
        PARTS_OF_CONTENT.replace("'<image>\n'", _literal(image))
        + "{% for m in messages %}{% if m['role'] == 'system' %}" + said + _put(below)
        + "{% elif m['role'] == 'user' %}" + _put(opening) + said + _put(between)
        + "{% else %}{% generation %}" + _put(asks + before) + said + _put(after)
        + "{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}" + _put(asks) + "{% endif %}"
    )  # fmt: skip


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _put(text: str) -> str:
    return f"{{{{ {_literal(text)} }}}}"
