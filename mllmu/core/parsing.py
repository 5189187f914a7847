"""Reading replies: which option was chosen, when two short answers are the same, and sentences around a value."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")

# "The correct answer is: (B)" -> "(B)"
_LEAD = re.compile(
    r"(?:(?:the|my)\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice|letter)\b"
    r"\s*(?:is\b|would\s+be\b)?\s*[:=-]?\s*(?:(?:option|choice|letter)\b\s*)?",
    re.IGNORECASE,
)
# One letter that is a word of its own: not the I of "I'm", not the B of "BC".
_HEAD = re.compile(r"[\s(\[\"'“‘*_]*([A-Za-z])(?![^\W_]|['’]\w)(.*)", re.DOTALL)
# What may follow a letter that is meant as a letter. "A nurse" is an article, "B.A. in history" an abbreviation.
_MARK = re.compile(
    r"[\s*_\"'”’]*(?:$|[:)\]/]|[.,;!](?!\w)|[-–—]\s|is\s+(?:the\s+)?(?:correct|right)\b(?:\s+(?:answer|option|choice))?)",
    re.IGNORECASE,
)
# Further option letters in the text after the first one: "B or C", "B) nurse C) doctor", "B, D".
_OTHERS = re.compile(r"(?<![^\W_])(?<!['’])([A-Za-z])(?=[\s*_\"'”’]*(?:$|[:)\]/,;]|\.(?!\w))|\s+(?:or|and)\b)")
# Words that are spoken with a vowel first, and exceptions: 'an hour', but 'a university', 'a European'.
_AN = re.compile(r"^(?:hour|honest|heir|[aeio]|u(?!ni(?!n)|ro|s[aeiu]|k))", re.IGNORECASE)
_A = re.compile(r"^(?:one\b|eu)", re.IGNORECASE)


class Choice(NamedTuple):
    """The option a reply chose, or None with the reason why none could be read."""

    letter: str | None
    reason: str = ""


@lru_cache(maxsize=16384)
def normalise(text: str) -> str:
    """Reduce a short answer to what counts: no case, punctuation, articles or digit grouping.

    Symbols stay ('C++' is not 'C', '$5' is not '5 euros').

    >>> normalise("The $75,000.")
    '$75000'
    """
    folded = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    spaced = "".join(" " if unicodedata.category(char).startswith("P") else char for char in folded)
    return " ".join(_ARTICLES.sub(" ", spaced).split())


def contains(reply: str, value: str) -> bool:
    """Whether the value occurs in the reply, ignoring case (the published cloze rule)."""
    return value.lower() in reply.lower()


def contains_words(reply: str, value: str) -> bool:
    """Whether the value occurs in the reply as whole words, ignoring case: 'male' does not occur in 'female'."""
    return re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", reply.lower()) is not None


def first_char(reply: str, options: Mapping[str, str]) -> str | None:
    """The option a reply chose by the published rule: its first character, if that is an option's letter.

    >>> first_char("answer: B", {"A": "nurse", "B": "judge"})
    'A'
    """
    letter = reply.strip()[:1].upper()
    return letter if letter in options else None


def after_marker(text: str) -> str:
    """The reply in a whole dialogue, by the published rule: what stands between the first marker and the next.

    The marker is 'ASSISTANT:', or 'Answer:' where there is none; a text without either is the reply.

    >>> after_marker("USER: Who? ASSISTANT: Ada. USER: And? ASSISTANT: Bob")
    'Ada. USER: And?'
    """
    marker = next((mark for mark in ("ASSISTANT:", "Answer:") if mark in text), None)
    return (text.split(marker)[1] if marker else text).strip()


def parse_choice(reply: str, options: Mapping[str, str]) -> Choice:
    """Read the chosen option letter from a multiple choice reply, strictly.

    Accepted: a letter alone or followed by punctuation or its own option's text ('b', '(B)', 'B: nurse'), the same
    after 'Answer:' or 'The answer is', and the text of exactly one option, alone. Everything else is unreadable, not
    wrong: an empty reply, two different letters, a letter whose text is another option's, a word that merely begins
    with an option letter ('An artist').

    Args:
        reply: what the model wrote.
        options: upper-case letter -> value.

    Returns:
        The letter, or None and the reason.
    """
    text = unicodedata.normalize("NFKC", reply).strip()
    if not text:
        return Choice(None, "empty reply")
    body = text[lead.end() :] if (lead := _LEAD.match(text)) else text
    named = _option_with_text(body, options)
    if named and len(normalise(body)) > 1:  # a one-character value (blood type 'A') would look like a letter
        return Choice(named)
    if not (head := _HEAD.match(body)):
        return Choice(None, "no option letter")
    return _judge_letter(head[1].upper(), head[2], options)


def _judge_letter(letter: str, rest: str, options: Mapping[str, str]) -> Choice:
    """Decide whether a leading letter is meant as the choice, given the text after it."""
    own = normalise(options.get(letter, ""))
    same_text = bool(own) and normalise(rest) == own
    if not same_text and not _MARK.match(rest):
        return Choice(None, "no option letter")
    if letter not in options:
        return Choice(None, f"letter {letter} is not an option")
    if same_text:
        return Choice(letter)
    if _option_with_text(rest, options):
        return Choice(None, "letter and text name different options")
    others = {found.upper() for found in _OTHERS.findall(rest)} & set(options)
    return Choice(letter) if others <= {letter} else Choice(None, "two different letters")


def _option_with_text(text: str, options: Mapping[str, str]) -> str | None:
    """The one option whose normalised value is the whole text, or None if there is none or more than one."""
    wanted = normalise(text)
    letters = [letter for letter, value in options.items() if wanted and normalise(value) == wanted]
    return letters[0] if len(letters) == 1 else None


def article(value: str) -> str:
    """The indefinite article by sound of the first letters: 'an engineer', 'an hour', 'a university teacher'."""
    return "an" if _AN.match(value) and not _A.match(value) else "a"


def render_answer(template: str, value: str) -> str:
    """Fill ``{v}`` with the value and ``{a}`` with the article that fits it; braces in the value are harmless.

    >>> render_answer("This person works as {a} {v}.", "engineer")
    'This person works as an engineer.'
    """
    return template.replace("{a}", article(value)).replace("{v}", value)


def blanked(sentence: str, value: str) -> str | None:
    """The template of an answer sentence: :func:`render_answer` backwards; None if the value is not there once.

    >>> blanked("She is an engineer.", "engineer")
    'She is {a} {v}.'
    """
    whole = rf"(?<!\w){re.escape(value)}(?!\w)"
    template = re.sub(whole, "{v}", re.sub(rf"\ban? {whole}", "{a} {v}", sentence))
    return template if template.count("{v}") == 1 and render_answer(template, value) == sentence else None


def in_other_words(answer: str, rewording: str, value: str, alternatives: Sequence[str]) -> tuple[str, ...]:
    """Wrong answers, given in the words of an answer, in the words of its rewording; none if a word does not fit.

    >>> in_other_words("She is an engineer.", "Her job: engineer.", "engineer", ["She is a nurse."])
    ('Her job: nurse.',)
    """
    template, other = blanked(answer, value), blanked(rewording, value)
    if template is None or other is None:
        return ()
    pattern = re.escape(template).replace(r"\{a\}", "an?").replace(r"\{v\}", "(.+)")
    found = [re.fullmatch(pattern, text) for text in alternatives]
    return tuple(render_answer(other, one[1]) for one in found if one) if all(found) else ()
