"""Short texts: when two are the same, the published rules that read replies, and sentences around a value."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

SPACELESS = (
    r"\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
    r"\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Characters of scripts that put no spaces between words, or put small words on others without one."""
LETTERS = (
    r"\w\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
)
"""What words are made of: beside letters and digits, the vowel signs and accents that are characters of their own."""
_SPACELESS = re.compile(f"[{SPACELESS}]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")

# Words that are spoken with a vowel first, and exceptions: 'an hour', but 'a university', 'a European'.
_AN = re.compile(r"^(?:hour|honest|heir|[aeio]|u(?!ni(?!n)|ro|s[aeiu]|k))", re.IGNORECASE)
_A = re.compile(r"^(?:one\b|eu)", re.IGNORECASE)


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
    """Whether the value occurs in the reply as whole words, ignoring case: 'male' does not occur in 'female'.

    In scripts without spaces every character is a word.
    """
    text, wanted = (unicodedata.normalize("NFC", each).lower() for each in (reply, value))
    if _SPACELESS.search(text):
        text, wanted = (" ".join(_SPACELESS.sub(r" \g<0> ", each).split()) for each in (text, wanted))
    return re.search(rf"(?<![{LETTERS}]){re.escape(wanted)}(?![{LETTERS}])", text) is not None


def told_words(value: str, reply: str) -> tuple[list[str], list[str]]:
    """The words of a value, and those of them that a reply has as whole words; without spaces, as a part of it.

    >>> told_words("head nurse, Riga", "A nurse in Riga.")
    (['head', 'nurse', 'riga'], ['nurse', 'riga'])
    """
    plain, wanted = normalise(reply), normalise(value).split()
    said = set(plain.split())
    return wanted, [word for word in wanted if word in said or (_SPACELESS.search(word) and word in plain)]


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
