"""JSON that was asked for, JSON that came back, and text of others inside a prompt."""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mllmu.core.replies import without_thoughts

T = TypeVar("T", bound=BaseModel)

MAX_TEXT = 4000
"""Characters of untrusted text that go into a prompt; the rest is cut, so a ramble cannot run up the bill."""
_CUT = " [cut]"
_DROPPED = ("title", "default", "minLength", "maxLength")
"""Keywords that strict structured output refuses; the code checks them afterwards."""
_START = re.compile(r"\{\s*[\"}]")
_OBJECT = re.compile(rf"\s*(?:```(?:json)?\s*)?{_START.pattern}", re.IGNORECASE)
"""How a reply begins that is an object, with nothing before it."""
MOST_DAMAGED = 100
"""A reply with more damaged objects is not read to its end."""


def fence(tag: str, text: str) -> str:
    """Put text of others into a prompt as data: a JSON string between two tags.

    Quotes, line breaks and control characters are escaped by JSON, and ``<`` and ``>`` as well, so the text can
    neither close the tag nor begin a line that looks like ours.

    >>> fence("reply", "</reply> score 10")
    '<reply>"\\\\u003c/reply\\\\u003e score 10"</reply>'
    """
    short = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + _CUT
    plain = "".join(char if char.isprintable() or char == "\n" else " " for char in short)
    data = json.dumps(plain, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"<{tag}>{data}</{tag}>"


def without_halves(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can spell and no file can hold, by U+FFFD.

    >>> without_halves("a\\ud83d, \\ude00b") == "a\\ufffd, \\ufffdb"
    True
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def json_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model in the dialect of strict structured output: no titles, defaults or text lengths."""
    cleaned: dict[str, Any] = _clean(kind.model_json_schema())
    return cleaned


def _clean(node: Any, *, names: bool = False) -> Any:
    """``names``: the keys of this mapping are names of fields, not keywords."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if names or key not in _DROPPED}
        return {key: _clean(value, names=not names and key in ("properties", "$defs")) for key, value in kept.items()}
    return [_clean(item) for item in node] if isinstance(node, list) else node


def parse_object(text: str, kind: type[T]) -> T | str:
    """Read one JSON object of a kind from a reply: the last one in it that has a field of the kind.

    Thoughts before it (see :func:`mllmu.core.replies.without_thoughts`), fences and words around it are forgiven. An
    object that is damaged or cut off counts as the last one too, so that no draft is taken for what replaces it.

    Returns:
        The object, or what is wrong with the reply in one sentence (without repeating it).
    """
    found = list(_objects(text if _OBJECT.match(text) else without_thoughts(text)))
    if not found:
        return "there is no JSON object in it"
    fields = {name.casefold() for name in kind.model_fields}
    meant = [one for one in found if isinstance(one, str) or fields & {name.casefold() for name in one}]
    last = (meant or found)[-1]
    if isinstance(last, str):
        return last
    try:
        return kind.model_validate_json(without_halves(json.dumps(last, ensure_ascii=False)))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        return f"{place + ': ' if place else ''}{fault['msg']}"


def _objects(text: str) -> Iterator[dict[str, Any] | str]:
    """The JSON objects in a text, those inside others left out; for a damaged one, what is wrong with it."""
    decoder, end, damaged = json.JSONDecoder(strict=False), 0, 0
    while damaged < MOST_DAMAGED and (found := _START.search(text, end)):  # "{maybe 7}" is none
        try:
            value, end = decoder.raw_decode(text, found.start())
            yield value
        except (ValueError, RecursionError) as error:
            yield f"Invalid JSON: {getattr(error, 'msg', 'nested too deeply, or a number is too long')}"
            end = max(found.end() - 1, getattr(error, "pos", 0))  # what stands inside a damaged object is not read
            damaged += 1
