"""Reading replies: what a model said and what it only thought, which option it chose, whether it declined to answer."""

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any, NamedTuple

import yaml

from mllmu.core.parsing import contains_words, normalise

_THOUGHT = r"(?:think|thinking|thought|thoughts|reasoning|scratchpad)"
_CLOSED = re.compile(rf"<({_THOUGHT})>.*?</\1>", re.DOTALL | re.IGNORECASE)
_END = re.compile(rf"^.*</{_THOUGHT}>", re.DOTALL | re.IGNORECASE)
_UNCLOSED = re.compile(rf"<{_THOUGHT}>.*", re.DOTALL | re.IGNORECASE)
# Where a reply runs on into a turn that nobody took: the names of turns in chat templates, with their control tokens or
# without them, in capitals anywhere, else at the beginning of a line.
_TURN = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|(?:user|assistant|system)\|>|\[INST\]"
    r"|(?<!\S)(?:USER|ASSISTANT|HUMAN)[ \t]?:"
    r"|^[ \t]{0,3}#{0,3}[ \t]?(?i:(?:user|assistant|human|instruction|response)[ \t]?:|(?:user|assistant)[ \t]?$)",
    re.MULTILINE,
)
_TOKENS = re.compile(r"</?s>|<\|[^|<>\n]{1,40}\|>|<(?:eos|bos|pad|end_of_turn|end_of_utterance)>")

# Markup around an answer, and what stands for it: LaTeX, tags, code, bullets and numbers of a list, cells of a table.
_MARKUP = (
    (re.compile(r"```\w*\n?|[*`]+|(?<!\w)_+|_+(?!\w)"), ""),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\boxed\s*\{([^{}]*)\}"), r"\nAnswer: \1\n"),
    (re.compile(r"<answer>|</answer>", re.IGNORECASE), "\nAnswer: "),
    (re.compile(r"\$\s*([A-Za-z])\s*\$"), r"\1"),
    (re.compile(r"(?m)^\s*\|?[\s|:-]*-{3}[\s|:-]*$|\|"), " "),
    (re.compile(r"(?m)^\s*(?:[-+•>#]+|\d{1,2}[.)])\s+"), ""),
)
# Where an answer is announced: "The correct answer is", "I would choose", "It is", in other languages before a colon.
_ANNOUNCED = re.compile(
    r"\b(?:answer|option|choice|letter)\b\s*(?:is\b|would\s+be\b|must\s+be\b)?\s*[:=-]?"
    r"|\b(?:i|we)(?:'d|'ll|\s+would|\s+will|\s+must)?\s+(?:choose|pick|select|guess|go\s+(?:for|with)|say|answer)\b\s*:?"
    r"|\b(?:it|this|that)(?:'s|\s+is|\s+must\s+be|\s+would\s+be|\s+should\s+be)\b"
    r"|(?:ответ|відповідь|antwort|réponse|respuesta|risposta|resposta|antwoord|odpowiedź|cevap|答案|答え|回答|정답|الإجابة|الجواب|उत्तर)"
    r"(?:ом)?\s*(?:是|は|ist|est|es|è|é|is)?\s*[:：]?",
    re.IGNORECASE,
)
# One letter that is a word of its own, in brackets or not: not the I of "I'm", not the B of "BC".
_LETTER = re.compile(
    r"[\s(\[{\"'“‘:]*(?:(?:option|choice|letter)\s+)?[(\[{\"'“‘]*([A-Za-z])(?![^\W_\u3040-\u9fff\uac00-\ud7af]|['’]\w)(.*)",
    re.DOTALL,
)
# What may follow a letter that is meant as a letter. "A nurse" is an article, "B.A. in history" an abbreviation.
_MARK = re.compile(
    r"[ \t\"'”’]*(?:$|[\n:)\]}/،。、؛؟।\u3040-\u9fff\uac00-\ud7af]|[.,;!?](?!\w)|[-–—]\s"
    r"|(?:is|was|because|since|as|for|which)\b)",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"[\W_]*(?:is|was)?\s*(?:not\b(?!\s+only)|wrong|false|incorrect|untrue|no\b|ruled\s+out|out\b)", re.IGNORECASE
)
_NEGATED = re.compile(r"\b(?:not|no|never|neither|nor|none|cannot|or|maybe|perhaps|either)\b|n't\b", re.IGNORECASE)
# Further option letters in the text after the first one: "B or C", "B) nurse C) doctor", "B, D".
_OTHERS = re.compile(r"(?<![^\W_])(?<!['’])([A-Za-z])(?=[\s\"'”’]*(?:$|[:)\]/,;]|\.(?!\w))|\s+(?:or|and)\b)")


class Choice(NamedTuple):
    """The option a reply chose, or None with the reason why none could be read."""

    letter: str | None
    reason: str = ""


def said(reply: str) -> str:
    """A reply without what the model only thought, without turns that it invented, and without control tokens.

    A thought stands between ``<think>`` and ``</think>`` (or their like). One that is not closed goes to the end: the
    model has not answered yet. One that is not opened begins with the reply, as templates that open it themselves do.
    An invented turn begins with its mark, see :func:`own_turn`.

    >>> said("<think>A nurse?</think> A judge.</s>"), said("<think>A nurse?"), said("a nurse?</think>A judge.")
    (' A judge.', '', 'A judge.')
    """
    return _TOKENS.sub("", own_turn(without_thoughts(reply)))


def without_thoughts(reply: str) -> str:
    """A reply without what stands between the marks of a thought, see :func:`said`."""
    return _UNCLOSED.sub("", _END.sub("", _CLOSED.sub("", reply)))


def own_turn(reply: str) -> str:
    """A reply up to the first mark of a next turn; a mark with nothing before it is only the head of the reply.

    >>> own_turn("B\\nUSER: Which city?\\nASSISTANT: C"), own_turn("ASSISTANT: B"), own_turn("nurse<|im_start|>user")
    ('B', 'ASSISTANT: B', 'nurse')
    """
    marks = (mark.start() for mark in _TURN.finditer(reply))
    end = next((start for start in marks if _TOKENS.sub("", reply[:start]).strip()), None)
    return reply if end is None else reply[:end].rstrip()


def runs_on(reply: str) -> bool:
    """Whether a reply goes on with a turn that nobody took, after its thoughts."""
    spoken = without_thoughts(reply)
    return own_turn(spoken) != spoken


@lru_cache(maxsize=4096)
def is_refusal(text: str) -> bool:
    """Whether a reply declines to answer, by the phrases of ``refusals.yaml``: English, and 18 languages in brief."""
    plain = " ".join(unicodedata.normalize("NFC", text).casefold().replace("’", "'").replace("ß", "ss").split())
    anywhere, whole = _refusals()
    return bool(anywhere.search(plain) or whole.fullmatch(plain.strip(" .!?,;:\"'()*_-")))


@cache
def _refusals() -> tuple[re.Pattern[str], re.Pattern[str]]:
    text = resources.files(__package__).joinpath("refusals.yaml").read_text(encoding="utf-8")
    phrases: dict[str, str] = yaml.safe_load(text)
    whole = phrases.pop("whole").splitlines()
    anywhere = [phrase for of_language in phrases.values() for phrase in of_language.splitlines()]
    return re.compile("|".join(anywhere)), re.compile("|".join(whole))


def parse_choice(reply: str, options: Mapping[str, str]) -> Choice:
    """Read the chosen option from a multiple choice reply, strictly.

    Read, in this order, after thoughts (:func:`said`) and markup are taken away:
        the last announced answer: 'The answer is B.', 'I would choose (B)', '\\boxed{B}', '{"answer": "B"}'; so a reply
            that corrects itself counts as what it says last;
        a letter at the beginning, alone or followed by punctuation, by a reason, or by its own option's text;
        the text of one option, if the reply names no other one and denies nothing.

    Everything else is unreadable, not wrong: an empty reply, two letters, a letter with the text of another option, a
    letter that is denied or followed by a refusal, a word that only begins with an option letter ('An artist').

    Args:
        reply: what the model wrote.
        options: upper-case letter -> value.

    Returns:
        The letter, or None and the reason.
    """
    return _parsed(reply, tuple(options.items()))


@lru_cache(maxsize=4096)
def _parsed(reply: str, lettered: tuple[tuple[str, str], ...]) -> Choice:
    """The choice; kept, as every metric of a task asks for that of the same reply."""
    options = dict(lettered)
    spoken = said(reply)
    if not spoken.strip():
        return Choice(None, "unfinished thought" if reply.strip() else "empty reply")
    text = _plain(spoken)
    spans = [*(match.span() for match in _ANNOUNCED.finditer(text)), (len(text), len(text))]
    parts = [text[after:end] for (_, after), (end, _) in pairwise(spans)]
    for rest in [*reversed(parts), text]:
        if choice := _leading(rest, options):
            return choice
    return _named(text, options)


def _plain(text: str) -> str:
    """A reply without markup; of JSON the value of its answer."""
    text = unicodedata.normalize("NFKC", text).strip()
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    if (answer := _json_answer(text)) is not None:
        text = answer
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text.strip()


def _json_answer(text: str) -> str | None:
    """What a JSON object gives as the answer; None if the text is no such object."""
    start, end = text.find("{"), text.rfind("}")
    if not re.fullmatch(r"\s*(?:```)?\s*(?:json)?\s*", text[: max(start, 0)]):
        return None
    try:
        value: Any = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    keys = ("answer", "final_answer", "choice", "option", "letter")
    fields = {str(key).lower(): item for key, item in value.items()} if isinstance(value, dict) else {}
    return next((str(fields[key]) for key in keys if key in fields), None)


def _leading(text: str, options: Mapping[str, str]) -> Choice | None:
    """The choice at the beginning of a text: a letter meant as one, or an option's whole text; None if neither."""
    head = _LETTER.match(text)
    if head and (_MARK.match(head[2]) or _starts_with_option(head[2], options)[0] == head[1].upper()):
        return _judge_letter(head[1].upper(), head[2], options)
    sentence = normalise(re.split(r"[.!?;]\s|\n", text.strip(), maxsplit=1)[0])
    letters = [letter for letter, value in options.items() if sentence and normalise(value) == sentence]
    if len(letters) != 1:
        return None
    rest = text.strip()[len(options[letters[0]]) :]
    return _agreeing(letters[0], rest, options)


def _judge_letter(letter: str, rest: str, options: Mapping[str, str]) -> Choice:
    """Whether a leading letter is the choice, given the text after it."""
    if letter not in options:
        return Choice(None, f"letter {letter} is not an option")
    named, behind = _starts_with_option(rest, options)
    if named and named != letter:
        return Choice(None, "letter and text name different options")
    if not named and (_DENIED.match(rest) or is_refusal(rest.lstrip(" :.,;)]-–—\n"))):
        return Choice(None, "the letter is denied, or a refusal follows it")
    return _agreeing(letter, behind if named else rest, options)


def _agreeing(letter: str, rest: str, options: Mapping[str, str]) -> Choice:
    """A choice, unless the text after it names another letter."""
    others = {other.upper() for other in _OTHERS.findall(rest)} & set(options)
    return Choice(letter) if others <= {letter} else Choice(None, "two different letters")


def _starts_with_option(rest: str, options: Mapping[str, str]) -> tuple[str, str]:
    """The letter of the option whose text comes next, the longest one that fits, and what is left; '' if none does."""
    body = re.sub(r"^[\W_]+", "", rest)
    bodies = (body, re.sub(r"^(?:an?|the)\s+", "", body, flags=re.IGNORECASE))
    fitting = [
        (len(value), letter, text[match.end() :])
        for letter, value in options.items()
        for text in bodies
        if value.strip() and (match := re.match(rf"{re.escape(value.strip('.'))}(?!\w)", text, re.IGNORECASE))
    ]
    _, letter, left = max(fitting, default=(0, "", rest))
    return letter, left


def _named(text: str, options: Mapping[str, str]) -> Choice:
    """The one option that a sentence names by its text, with its letter or without one."""
    found = [letter for letter, value in options.items() if len(normalise(value)) > 1 and contains_words(text, value)]
    found = [x for x in found if not any(x != y and contains_words(options[y], options[x]) for y in found)]
    if len(found) != 1:
        return Choice(None, "several options are named" if found else "no option letter")
    if is_refusal(text) or _NEGATED.search(text):
        return Choice(None, "an option is named, but not chosen")
    return _agreeing(found[0], re.sub(re.escape(options[found[0]]), "_", text, flags=re.IGNORECASE), options)
