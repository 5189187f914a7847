"""What a question of the user's own asks for: the person it is about, and the true value, where they are known."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.records import OTHER_ATTRIBUTE, Modality, Profile, Question

_WORD = re.compile(r"[^\W_]+")


class KnownTruth(NamedTuple):
    """A true value and how it is known.

    Attributes:
        attribute: what it answers; empty where the user has given the value.
        value: the value itself.
        sentence: a sentence of the data that states it, as models were taught it; empty if there is none.
    """

    attribute: str
    value: str
    sentence: str = ""


def find_person(name: str, profiles: Mapping[str, Profile]) -> Profile:
    """The person of an id or a name, in any case.

    Raises:
        DataError: nobody, or several people, are called so.
    """
    if name in profiles:
        return profiles[name]
    named = [person for person in profiles.values() if person.name.casefold() == name.casefold()]
    if len(named) == 1:
        return named[0]
    if named:
        raise DataError(f"'{name}' is the name of {len(named)} people: {', '.join(p.id for p in named)}. Name an id.")
    hint = did_you_mean(name, [*profiles, *(person.name for person in profiles.values())])
    raise DataError(f"'{name}' is neither a file nor the id or name of a person of this run.{hint}")


def person_in(question: str, profiles: Mapping[str, Profile]) -> Profile | None:
    """The one person whose name is in a question; None if it is nobody's, or that of several."""
    text = question.casefold()
    named = [person for person in profiles.values() if person.name.casefold() in text]
    return named[0] if len(named) == 1 else None


def truth_of(question: str, person: Profile | None, wordings: Mapping[str, Mapping[str, float]]) -> KnownTruth | None:
    """What is true of a person in answer to a question; None if it is not known what is asked.

    The attribute is the one whose questions in the data share the most telling words with this one: a word counts
    1/n if the questions of n attributes use it. None if there is no such word, or two attributes share as much.

    Args:
        wordings: from :func:`telling_words`.
    """
    if person is None:
        return None
    asked = _words(question) - _words(person.name)
    sums = {name: sum(own.get(word, 0.0) for word in asked) for name, own in wordings.items()}
    best = sorted(sums.items(), key=lambda item: -item[1])[:2]
    clear = best and best[0][1] > 0 and (len(best) == 1 or best[0][1] > best[1][1])
    name = best[0][0] if clear else ""
    return KnownTruth(name, person.attributes[name]) if name in person.attributes else None


def telling_words(questions: Iterable[Question], profiles: Mapping[str, Profile]) -> dict[str, dict[str, float]]:
    """By attribute, the words of its questions and its name, each with 1 / the number of attributes that use it.

    Words that more than half of them use tell nothing and are left out, and so are names.
    """
    used: defaultdict[str, set[str]] = defaultdict(set)
    names = {person.id: _words(person.name) for person in profiles.values()}
    for question in questions:
        if question.attribute != OTHER_ATTRIBUTE:
            asked = question.text if not question.options else question.text.partition("\n")[0]
            used[question.attribute] |= _words(asked) - names.get(question.profile_id, set())
    for attribute, words in used.items():
        words |= _words(attribute.replace("_", " "))
    count: defaultdict[str, int] = defaultdict(int)
    for words in used.values():
        for word in words:
            count[word] += 1
    kept = {word: 1 / number for word, number in count.items() if number <= max(1, len(used) // 2)}
    return {name: {word: kept[word] for word in words if word in kept} for name, words in used.items()}


def sentence_of(questions: Iterable[Question], person: str, attribute: str, modality: Modality) -> str:
    """The sentence in which the data answer a question about an attribute: as trained, or else as evaluated."""
    told = [
        question
        for question in questions
        if (question.profile_id, question.attribute, question.modality) == (person, attribute, modality)
        and question.task == "generation"
    ]
    told.sort(key=lambda question: question.variant != "train")
    return told[0].answer if told else ""


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))
