"""Recover attributes from question/answer text by rules: what a rule does not cover is reported, never guessed.

Training text in the published form says the same fact in many wordings ("is 168 cm tall", "stands at 168 cm").
Two steps turn it back into values: the question tells which attribute is asked (:func:`attribute_of`), the answer is
then read with that attribute's patterns (:func:`read`). Values are normalised only where no judgement is needed:
"75,000 USD" becomes "$75,000", "a Marine Biologist" becomes "marine biologist"; a height keeps its published unit.

The patterns lie in ``recover.yaml`` beside this file.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from mllmu.core.records import QA, Record
from mllmu.data.dates import MONTHS
from mllmu.data.files import packaged_yaml
from mllmu.data.values import ATTRIBUTES, CORE_ATTRIBUTES, NONE, with_article

_TABLE = packaged_yaml("published/recover.yaml")
_PARTS = {**_TABLE["parts"], "month": "|".join(MONTHS)}


def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern with its parts filled in."""
    for name, part in _PARTS.items():
        pattern = pattern.replace(f"<{name}>", part)
    return re.compile(pattern)


QUESTIONS = [(re.compile(pattern, re.IGNORECASE), attribute) for pattern, attribute in _TABLE["questions"]]
_ANSWERS = {name: [(_compiled(pattern), form) for pattern, form in rows] for name, rows in _TABLE["answers"].items()}
_ENDINGS = {name: [_compiled(pattern) for pattern in patterns] for name, patterns in _TABLE["endings"].items()}
UNSTATED = re.compile(
    r"\bno (?:\w+ )?information\b|\bnot (?:available|applicable|known|provided|specified|disclosed)\b"
    r"|\bdoes not have (?:an|any) (?:annual salary|salary|employment|education|educational)\b",
    re.IGNORECASE,
)
_NAME_SHAPE = _compiled(r"<name_part>(?: <name_part>){0,4}")
_CURRENCY = {"$": "$", "€": "€", "£": "£", "USD": "$", "EUR": "€", "GBP": "£"}
_LANGUAGES = frozenset({"Arabic", "Chinese", "English", "French", "German", "Italian", "Japanese", "Latin", "Spanish"})


def _name(value: str) -> str:
    fits = _NAME_SHAPE.fullmatch(value) and value[0].isupper() and value.split()[-1][0].isupper()
    return value if fits else ""


def _salary(value: str) -> str:
    """An amount without a currency, or with two different ones, has no reading."""
    signs = {_CURRENCY[sign] for sign in re.findall(r"[$€£]|[A-Z]+", value)}
    return f"{signs.pop()}{int(re.sub(r'[^0-9]', '', value)):,}" if len(signs) == 1 else ""


def _job(value: str) -> str:
    """Lower the words of a job written as a title; acronyms, languages and the employer after 'at' keep theirs.

    >>> _job("Senior IT Consultant at Bosch")
    'senior IT consultant at Bosch'
    """
    title, at, employer = value.partition(" at ")
    if title[:1].isupper():
        title = re.sub(r"\b[A-Z][a-z]+", lambda m: m[0] if m[0] in _LANGUAGES else m[0].lower(), title)
    return title + at + employer


def _pet(value: str) -> str:
    """'a <kind> named <Name>'; the kind is 'pet' where the text does not say more."""
    return value if value == NONE or value.startswith(("a ", "an ")) else with_article(value)


_PRINTED: dict[str, Callable[[str], str]] = {
    "name": _name,
    "gender": str.lower,
    "salary": _salary,
    **dict.fromkeys(("profession", "father_job", "mother_job"), _job),
    "pet": _pet,
}
"""What makes the printed value of the one in an answer; empty if it cannot be right."""


def _read_value(attribute: str, answer: str) -> str | None:
    """The value of an attribute in an answer without its final stop; None where no pattern fits the whole answer."""
    for pattern, form in _ANSWERS[attribute]:
        if match := pattern.fullmatch(answer):
            value = form.format(**match.groupdict("")).strip()
            for ending in _ENDINGS.get(attribute, ()):
                value = ending.sub("", value)
            return _PRINTED.get(attribute, str)(value) or None
    return None


Reason = Literal["unread", "unstated", "outside", "conflict", "blank"]


class PairReading(NamedTuple):
    """What one question/answer pair says.

    ``attribute`` is None if the pair is about something the schema does not know. ``value`` is None if there is no
    value; ``reason`` then tells why: ``unread`` (no pattern fits the answer), ``unstated`` (the answer itself says
    that nothing is known), ``outside`` (the question is about another matter, such as a favourite book).
    """

    attribute: str | None
    value: str | None
    reason: Reason | None


class Gap(Record):
    """One question/answer pair that gave no value, and why; see :class:`PairReading`.

    ``conflict``: the pair states another value than an earlier pair did for a core attribute; the first one is kept.
    ``blank``: question or answer has no letter that could be seen; the pair is left out of the training text.
    """

    profile_id: str
    question: str
    answer: str
    attribute: str | None
    reason: Reason


class Recovery(Record):
    """What was recovered from a file, so that the rules need not be trusted blindly.

    ``people`` counts the people with a value, per attribute (all sixteen are listed, zero included);
    ``num_core_complete`` counts those with all ten core attributes.
    """

    num_people: int
    num_qa: int
    num_core_complete: int
    people: dict[str, int]
    gaps: tuple[Gap, ...]

    def unavailable(self) -> dict[str, list[str]]:
        """People whose text itself says that a core attribute is not available, with these attributes."""
        found: dict[str, list[str]] = {}
        for gap in self.gaps:
            if gap.reason == "unstated" and gap.attribute in CORE_ATTRIBUTES:
                found.setdefault(gap.profile_id, []).append(gap.attribute)
        return found

    def reasons(self) -> dict[str, int]:
        """Number of pairs without a value, per reason."""
        return dict(sorted(Counter(gap.reason for gap in self.gaps).items()))


class RecoveredPerson(NamedTuple):
    """The recovered attributes of one person, all pairs with their attribute, and the pairs without a value.

    ``also``: further values that the text gives an attribute, as in :class:`mllmu.core.records.Profile`.
    """

    attributes: dict[str, str]
    also: dict[str, tuple[str, ...]]
    training_qa: tuple[QA, ...]
    gaps: tuple[Gap, ...]


def attribute_of(question: str) -> str | None:
    """Name the attribute a question asks for; ``"leisure"`` if only the answer can tell; None if it is outside.

    >>> attribute_of("What does this person's mother do for a living?")
    'mother_job'
    >>> attribute_of("What is a fun fact about this person?")
    'leisure'
    >>> attribute_of("What is this person's favorite book?") is None
    True
    """
    text = question.replace("’", "'").strip()
    return next((attribute for pattern, attribute in QUESTIONS if pattern.search(text)), None)


def read(question: str, answer: str) -> PairReading:
    """Read one pair.

    >>> read("How tall is this person?", "This person is 168 cm tall.")
    PairReading(attribute='height', value='168 cm', reason=None)
    >>> read("What does she enjoy?", "This person collects vintage maps.")
    PairReading(attribute='collection', value='vintage maps', reason=None)
    """
    asked = attribute_of(question)
    if asked is None:
        return PairReading(None, None, "outside")
    said = answer.strip().removesuffix(".")
    if asked != "leisure" and UNSTATED.search(said):
        return PairReading(asked, None, "unstated")
    for attribute in ("collection", "pet", "hobby") if asked == "leisure" else (asked,):
        if value := _read_value(attribute, said):
            return PairReading(attribute, value, None)
    return PairReading(asked if asked != "leisure" else None, None, "unread")


def is_blank(*texts: str) -> bool:
    """Whether one of the texts shows nothing: it is empty, or all blanks and signs without a width.

    >>> is_blank("Which dish?", "\\u00a0\\u200b"), is_blank("Which dish?", "soup")
    (True, False)
    """
    return not all(any(sign.isprintable() and not sign.isspace() for sign in text) for text in texts)


def recover_person(profile_id: str, pairs: Iterable[tuple[str, str]]) -> RecoveredPerson:
    """Recover one person from (question, answer) pairs; the first value of an attribute counts, others are ``also``."""
    found: dict[str, dict[str, str]] = {}
    qa: list[QA] = []
    gaps: list[Gap] = []
    for question, answer in pairs:
        if is_blank(question, answer):
            gaps.append(Gap(profile_id=profile_id, question=question, answer=answer, attribute=None, reason="blank"))
            continue
        attribute, value, reason = read(question, answer)
        qa.append(QA(question=question, answer=answer, attribute=attribute))
        if attribute and value:
            values = found.setdefault(attribute, {})
            values.setdefault(value.casefold(), value)
            reason = "conflict" if attribute in CORE_ATTRIBUTES and next(iter(values)) != value.casefold() else None
        if reason:
            gap = Gap(profile_id=profile_id, question=question, answer=answer, attribute=attribute, reason=reason)
            gaps.append(gap)
    values_of = {name: tuple(found[name].values()) for name in ATTRIBUTES if name in found}
    attributes = {name: values[0] for name, values in values_of.items()}
    also = {name: values[1:] for name, values in values_of.items() if len(values) > 1}
    return RecoveredPerson(attributes, also, tuple(qa), tuple(gaps))


def summarise(people: Sequence[RecoveredPerson]) -> Recovery:
    """Count what was recovered over many people."""
    found = Counter(name for person in people for name in person.attributes)
    return Recovery(
        num_people=len(people),
        num_qa=sum(len(person.training_qa) for person in people),
        num_core_complete=sum(all(name in person.attributes for name in CORE_ATTRIBUTES) for person in people),
        people={name: found[name] for name in ATTRIBUTES},
        gaps=tuple(gap for person in people for gap in person.gaps),
    )
