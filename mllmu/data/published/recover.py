"""Recover attributes from question/answer text by rules: what a rule does not cover is reported, never guessed.

Training text in the published form says the same fact in many wordings ("is 168 cm tall", "stands at 168 cm").
Two steps turn it back into values: the question tells which attribute is asked (:func:`attribute_of`), the answer is
then read with that attribute's patterns (:func:`read`). Values are normalised only where no judgement is needed:
"75,000 USD" becomes "$75,000", "a Marine Biologist" becomes "marine biologist"; a height keeps its published unit.

``QUESTIONS`` is tried from top to bottom, so a narrow rule stands above a broad one ("the name of this person's cat"
is about a pet). ``READERS`` maps an attribute to a function from the answer, without its final stop, to the
normalised value, or None where no pattern fits the whole answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from mllmu.core.records import QA, Record
from mllmu.data.dates import MONTHS
from mllmu.data.values import ATTRIBUTES, CORE_ATTRIBUTES, with_article

_SUBJECT = r"(?i:th(?:is|e) (?:person|individual)|s?he|they)"
_POSSESSIVE = r"(?i:th(?:is|e) (?:person|individual)['’]s|her|his|their)"
_MONTH = "|".join(MONTHS)


def _asks(pattern: str, attribute: str | None) -> tuple[re.Pattern[str], str | None]:
    return re.compile(pattern, re.IGNORECASE), attribute


QUESTIONS: tuple[tuple[re.Pattern[str], str | None], ...] = (
    _asks(r"\b(father|mother|parent)s?\b.*\bname|\bnames?\b.*\b(father|mother|parent)s?\b|\bsiblings?\b", None),
    _asks(r"\bfather\b", "father_job"),
    _asks(r"\bmother\b", "mother_job"),
    _asks(r"\bpets?\b|\b(the|'s) ((rescue|pet) )?(cat|dog|parrot)\b", "pet"),
    _asks(r"\bname\b", "name"),
    _asks(r"^where (was|is) .*\bborn\b", "birthplace"),
    _asks(r"\bdate of birth\b|^when was .*\bborn\b", "birth_date"),
    _asks(r"\bgender\b", "gender"),
    _asks(r"\bheight\b|^how tall\b", "height"),
    _asks(r"\bsalary\b", "salary"),
    _asks(r"\b(reside|residing)\b|^where does .*\blive\b", "residence"),
    _asks(r"\bmedical conditions?\b", "medical_condition"),
    _asks(r"\beducat(ed|ion)\b|^where did .*\bstudy\b|\b(university|institution|school)\b.*\battend\b", "education"),
    _asks(r"\b(profession|occupation|employment)\b", "profession"),
    _asks(r"\b(books?|languages?|music|musical instrument|instrument|countries|author|animal|colou?r|drink)\b", None),
    _asks(r"\b(chocolate|flavou?r|trail|destination|spot)\b|\bfavorite sport\b|^who\b|^how (many|quickly)\b", None),
    _asks(r"\b(cook|cooking|preparing|experiment|experimenting|recipes|make well)\b", "leisure"),
    _asks(r"\b(foods?|cuisine|dish|treat|seafood|eating)\b", "food"),
    _asks(r"\b(hobby|hobbies|enjoys?|activit(y|ies)|passion|passionate|passionately|loves?|likes? to)\b", "leisure"),
    _asks(r"\bfun facts?\b|\binteresting fact\b|\b(collects?|collecting|collection|craft|quirks?)\b", "leisure"),
)

UNSTATED = re.compile(
    r"\bno (?:\w+ )?information\b|\bnot (?:available|applicable|known|provided|specified|disclosed)\b"
    r"|\bdoes not have (?:an|any) (?:annual salary|salary|employment|education|educational)\b",
    re.IGNORECASE,
)


def _first(answer: str, *patterns: re.Pattern[str]) -> str | None:
    """Value group ``v`` of the first pattern that fits the whole answer."""
    for pattern in patterns:
        if match := pattern.fullmatch(answer):
            return match["v"].strip() or None
    return None


_NAME_PART = r"[^\W\d_][\w'’.-]*"
_NAME = (
    re.compile(rf"(?:{_POSSESSIVE}|[Tt]he) (?:full )?name(?: (?:of|associated with) .+?)? is (?P<v>.+)"),
    re.compile(rf"{_SUBJECT}(?: in the (?:image|profile))? is (?:named )?(?P<v>[A-Z].*)"),
    re.compile(rf"(?P<v>{_NAME_PART}(?: {_NAME_PART}){{1,3}})"),
)
_NAME_SHAPE = re.compile(rf"{_NAME_PART}(?: {_NAME_PART}){{0,4}}")


def _name(answer: str) -> str | None:
    value = _first(answer, *_NAME)
    fits = value is not None and _NAME_SHAPE.fullmatch(value) and value[0].isupper() and value.split()[-1][0].isupper()
    return value if fits else None


_GENDER = re.compile(
    rf"(?:(?:{_SUBJECT}|{_POSSESSIVE} gender|The gender(?: of {_SUBJECT})?) (?:is|identifies as) )"
    r"(?:an? )?(?P<v>(?i:female|male|non-binary))"
)


def _gender(answer: str) -> str | None:
    value = _first(answer, _GENDER)
    return value.lower() if value else None


_BIRTHPLACE = re.compile(rf"{_SUBJECT} was born in (?P<v>[^\d]+)")
_RESIDENCE = re.compile(rf"{_SUBJECT} (?:currently )?(?:resides|lives|is residing) in (?P<v>.+)")
_BIRTH_DATE = re.compile(
    rf"(?:{_SUBJECT} was born on|(?:{_POSSESSIVE}|The) date of birth(?: (?:of|for) {_SUBJECT})? is) "
    rf"(?P<v>(?:{_MONTH}) \d{{1,2}}, \d{{4}})"
)
_EDUCATION = re.compile(
    rf"{_SUBJECT} (?:(?:was |is )?educated at|studied at|studies at|graduated from|attended|attends) (?:the )?(?P<v>.+)"
)
_HEIGHT = re.compile(
    rf"(?:{_SUBJECT} (?:is|stands(?: at)?)|(?:{_POSSESSIVE}|The) height(?: of {_SUBJECT})? is) "
    r"(?P<v>(?:\d ?(?:feet|foot|ft)(?: \d{1,2} ?(?:inches|inch|in))?|\d'\d{1,2}\""
    r"|\d{2,3} ?cm|\d\.\d{1,2} ?(?:meters|m))"
    r"(?: \(\d{2,3} ?cm\))?)(?: tall)?"
)

_SALARY = re.compile(
    rf"(?:{_SUBJECT} (?:earns|has)(?: an annual salary of)?|(?:{_POSSESSIVE}|The) annual salary(?: of {_SUBJECT})? is) "
    r"(?P<before>[$€£]|USD |EUR |GBP )?(?P<v>\d{1,3}(?:,\d{3})+|\d{1,9})"
    r"(?P<after> USD| EUR| GBP)?(?: annually| per year)?"
)
_CURRENCY = {"$": "$", "€": "€", "£": "£", "USD": "$", "EUR": "€", "GBP": "£"}


def _salary(answer: str) -> str | None:
    """An amount without a currency, or with two different ones, has no reading."""
    match = _SALARY.fullmatch(answer)
    if match is None:
        return None
    signs = {_CURRENCY[sign.strip()] for sign in (match["before"], match["after"]) if sign}
    amount = int(match["v"].replace(",", ""))
    return f"{signs.pop()}{amount:,}" if len(signs) == 1 else None


_HEALTHY = re.compile(rf"{_SUBJECT} (?:does not have|has no|doesn['’]t have)(?: any)?(?: known)? medical conditions?")
_ILL = re.compile(rf"{_SUBJECT} (?:has|suffers from|manages|lives with|is living with) (?P<v>(?!no\b).+)")
_ALLERGIC = re.compile(rf"{_SUBJECT} is allergic to (?P<v>.+)")


def _medical_condition(answer: str) -> str | None:
    if _HEALTHY.fullmatch(answer):
        return "none"
    allergen = _first(answer, _ALLERGIC)
    return f"allergy to {allergen}" if allergen else _first(answer, _ILL)


_PROFESSION = re.compile(
    rf"(?:{_SUBJECT}|{_POSSESSIVE} (?:profession|occupation|job)) (?:is|was|works as|worked as) (?:an?|the) (?P<v>.+)"
)
_PARENT_JOB = re.compile(
    rf"(?:(?:{_POSSESSIVE}|The) (?:father|mother)|The (?:father|mother) of {_SUBJECT}) "
    r"(?:is|was|works as|worked as) (?:an? |the )?(?P<v>.+)"
)
_JOB_TAIL = re.compile(r",? (?:who|which|working|and (?:an?|works|worked))\b.*")
_LANGUAGES = frozenset({"Arabic", "Chinese", "English", "French", "German", "Italian", "Japanese", "Latin", "Spanish"})


def _job(answer: str) -> str | None:
    value = _first(answer, _PROFESSION, _PARENT_JOB)
    return _plain_case(_JOB_TAIL.sub("", value)) if value else None


def _plain_case(job: str) -> str:
    """Lower the words of a job written as a title; acronyms, languages and the employer after 'at' keep theirs.

    >>> _plain_case("Senior IT Consultant at Bosch")
    'senior IT consultant at Bosch'
    """
    title, at, employer = job.partition(" at ")
    if title[:1].isupper():
        title = re.sub(r"\b[A-Z][a-z]+", lambda m: m[0] if m[0] in _LANGUAGES else m[0].lower(), title)
    return title + at + employer


_PET_NAME = r"['‘\"]?(?P<n>[A-Z][\w.-]*(?: [A-Z][\w.-]*)*)['’\"]?"
_PET = (
    re.compile(
        rf"(?:Yes, )?{_SUBJECT} (?:has|owns|shares \w+ home with) (?P<k>an? .+?) (?:named|called) {_PET_NAME}"
        r"(?:,? (?:which|who|that) .*)?"
    ),
    re.compile(rf"{_POSSESSIVE} (?:favorite )?pet is (?P<k>an? .+?) named {_PET_NAME}"),
    re.compile(rf"(?:{_POSSESSIVE}|The person's) (?P<bare>[a-z ]+?)(?:['’]s name is| is named) {_PET_NAME}"),
    re.compile(
        rf"{_POSSESSIVE} pet(?:['’]s name is| is named) {_PET_NAME}"
        r"(?:, (?:and it(?:['’]s| is) )?(?P<k>an? .+)| the (?P<bare>[a-z ]+))"
    ),
    re.compile(rf"The name of {_POSSESSIVE} (?P<bare>[a-z ]+) is {_PET_NAME}"),
)
_NO_PET = re.compile(rf"(?:No, )?{_SUBJECT} (?:does not|doesn['’]t) have (?:any )?pets?")


def _pet(answer: str) -> str | None:
    """'a <kind> named <Name>'; the kind is 'pet' where the text does not say more."""
    if _NO_PET.fullmatch(answer):
        return "none"
    for pattern in _PET:
        if match := pattern.fullmatch(answer):
            said = match.groupdict()
            kind = said.get("k") or with_article(said["bare"])
            return f"{kind} named {match['n']}"
    return None


_SECOND_CLAUSE = re.compile(
    r",? (?:and|who|which) (?:also |often |once |even )?(?:backpacked|climbed|documents|enjoys|explored|explores|gifts"
    r"|goes|has|is|keeps|loves|maintains|often|once|owns|participates|plays|reads|scaled|spends|tries|visits|volunteers|won)\b.*"
)
_OCCASION = re.compile(
    r"(?:,? (?:on|during|in|every) (?:the )?(?:her |his |their )?(?:(?:free|spare|leisure) time|weekends?|holidays)"
    r"|,? as a hobby)$"
)
_HOBBY = (
    re.compile(
        rf"(?:In (?:her|his|their) (?:free|spare) time, )?{_SUBJECT} "
        r"(?:enjoys|loves|has a passion for|is passionate about) (?P<v>(?!to |collecting ).+)"
    ),
    re.compile(rf"{_POSSESSIVE} (?:favorite )?hobb(?:y is|ies include|ies are) (?P<v>.+)"),
)
_COLLECTION = re.compile(
    rf"{_SUBJECT} (?:is an? (?:[\w-]+ )?collector of|collects|(?:enjoys|loves) (?:collecting|to collect)"
    r"|has an? (?:[\w-]+ )?(?:love|passion|penchant) for collecting|has a collection of) (?P<v>.+)"
)


def _trimmed(answer: str, *patterns: re.Pattern[str]) -> str | None:
    value = _first(answer, *patterns)
    return _OCCASION.sub("", _SECOND_CLAUSE.sub("", value)) if value else None


_FOOD = (
    re.compile(rf"(?:{_POSSESSIVE}|The|[A-Z]\w+['’]s) favorite (?:food|dish|treat)s? (?:is|are) (?P<v>.+)"),
    re.compile(rf"{_SUBJECT} (?:enjoys|loves|likes|is (?:particularly )?fond of|is an? (?:\w+ )?fan of) (?P<v>.+)"),
)
_CUISINE = re.compile(rf"(?:{_POSSESSIVE}|The) favorite (?:type of )?cuisine is (?P<v>.+)")


def _food(answer: str) -> str | None:
    """The dish without an explanation after a comma; 'favorite cuisine is Thai' reads as 'Thai cuisine'."""
    cuisine = _first(answer, _CUISINE)
    value = (cuisine or _first(answer, *_FOOD) or "").split(",")[0].strip("'‘’\" ")
    return f"{value} cuisine" if cuisine and " " not in value else value or None


READERS: dict[str, Callable[[str], str | None]] = {
    "name": _name,
    "gender": _gender,
    "birthplace": lambda answer: _first(answer, _BIRTHPLACE),
    "birth_date": lambda answer: _first(answer, _BIRTH_DATE),
    "profession": _job,
    "height": lambda answer: _first(answer, _HEIGHT),
    "education": lambda answer: _first(answer, _EDUCATION),
    "salary": _salary,
    "residence": lambda answer: _first(answer, _RESIDENCE),
    "medical_condition": _medical_condition,
    "father_job": _job,
    "mother_job": _job,
    "hobby": lambda answer: _trimmed(answer, *_HOBBY),
    "food": _food,
    "pet": _pet,
    "collection": lambda answer: _trimmed(answer, _COLLECTION),
}

Reason = Literal["unread", "unstated", "outside", "conflict"]


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
    """

    profile_id: str
    question: str
    answer: str
    attribute: str | None
    reason: Reason


class Recovery(Record):
    """What was recovered from a file, so that nobody has to trust the rules blindly.

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
    """The recovered attributes of one person, all pairs with their attribute, and the pairs without a value."""

    attributes: dict[str, str]
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
    if asked == "leisure":
        return _read_leisure(said)
    if UNSTATED.search(said):
        return PairReading(asked, None, "unstated")
    value = READERS[asked](said)
    return PairReading(asked, value, None if value else "unread")


def _read_leisure(said: str) -> PairReading:
    for attribute in ("collection", "pet", "hobby"):
        value = READERS[attribute](said)
        if value:
            return PairReading(attribute, value, None)
    return PairReading(None, None, "unread")


def recover_person(profile_id: str, pairs: Iterable[tuple[str, str]]) -> RecoveredPerson:
    """Recover one person from (question, answer) pairs; the first value of an attribute counts."""
    attributes: dict[str, str] = {}
    qa: list[QA] = []
    gaps: list[Gap] = []
    for question, answer in pairs:
        attribute, value, reason = read(question, answer)
        qa.append(QA(question=question, answer=answer, attribute=attribute))
        if attribute and value:
            kept = attributes.setdefault(attribute, value)
            reason = "conflict" if attribute in CORE_ATTRIBUTES and kept.casefold() != value.casefold() else None
        if reason:
            gap = Gap(profile_id=profile_id, question=question, answer=answer, attribute=attribute, reason=reason)
            gaps.append(gap)
    ordered = {name: attributes[name] for name in ATTRIBUTES if name in attributes}
    return RecoveredPerson(ordered, tuple(qa), tuple(gaps))


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
