"""Chat templates that take what a message says as a string and as a list of parts (images and texts), as tools put it.

Our own prompts are written by the families and do not change with it.
"""

from typing import Any

from mllmu.models.families._chat import RAISED

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
