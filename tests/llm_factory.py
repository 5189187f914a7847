"""A stand-in for the model of the data factory: invents people, writes, rewords and answers questions, to order.

It reads nothing but the prompts, as a model would. ``spoil`` lets a test make it disobey.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from llm_server import Body

from mllmu.core.parsing import render_answer
from mllmu.data.questions import SUBJECT, render_subject, wording, wordings
from mllmu.data.sources.synthetic import Synthetic

Row = dict[str, Any]
ORDER = re.compile(
    r"number (\d+): (\w+), born in (\d+) in ([\w ]+), ([\w ]+), salary (\S+) to (\S+), height (\d+) to (\d+) cm"
)
DONORS = [person.attributes for person in Synthetic(num_people=120).profiles(77)]


def invent(body: Body, spoil: Callable[[Row, int], None] | None = None) -> str:
    """What an obedient model replies to an order; ``spoil`` changes a row, given the number of the attempt."""
    order = body["messages"][1]["content"]
    attempt = int(re.findall(r"attempt (\d+)", order)[0])
    rows = [person(*found) for found in ORDER.findall(order)]
    for row in rows:
        if spoil:
            spoil(row, attempt)
    return json.dumps({"people": rows})


def person(
    number: str, gender: str, year: str, country: str, job: str, salary: str, _: str, height: str, __: str
) -> Row:
    donor = DONORS[int(number)]
    row: Row = {
        **donor,
        "number": int(number),
        "gender": gender,
        "birthplace": f"Westham, {country}",
        "birth_date": f"March {int(number) % 28 + 1}, {year}",
        "profession": job,
        "salary": salary,
        "height": f"{height} cm",
        "residence": "Oldport, Iceland",
    }
    row["biography"] = (
        f"{row['name']} was born in Westham in {year} and works as a {job} in Oldport today. "
        + "It is a quiet life. " * 9
    )
    return row


PLACE = re.compile(r"^(\d+): (choice|sentence|cloze), (image|name), (\w+)$", re.MULTILINE)
LINE = re.compile(r"^(\d+): <question>(.*?)</question>(?: <options>(.*?)</options>)?$", re.MULTILINE)
FORMS = ("question", "options")
FACTS = ("fact_employer", "fact_home_town")
"""Facts of one's own that the stand-in can be asked."""


def factory(body: Body, spoil: Callable[[Row, int], None] | None = None) -> str:
    """What an obedient model replies to any prompt of the factory; ``spoil`` changes an entry of a reply in place."""
    system, order = (message["content"] for message in body["messages"][:2])
    if system.startswith("You invent"):
        return invent(body)
    attempt = int(re.findall(r"attempt (\d+)", order)[-1])
    if system.startswith("You write"):
        key, rows = "questions", [_written(told(order), *found) for found in PLACE.findall(order)]
    elif system.startswith("You reword"):
        key, rows = "questions", [_reworded(attempt, *found) for found in LINE.findall(order)]
    else:
        key, rows = "answers", [_answered(told(order), *found) for found in LINE.findall(order)]
    for row in rows:
        if spoil:
            spoil(row, attempt)
    return json.dumps({key: rows})


def told(order: str) -> dict[str, str]:
    """The profile in a prompt, by attribute."""
    text = json.loads(re.findall(r"<profile>(.*)</profile>", order)[0])
    return dict(line.split(": ", 1) for line in text.split("\n") if ": " in line)


def _written(profile: dict[str, str], number: str, form: str, subject: str, attribute: str) -> Row:
    entry, value = wording("fictitious", attribute), profile[attribute]
    name = profile["name"] if subject == "name" else None
    templates = entry.cloze.eval if form == "cloze" else entry.questions.eval
    template = templates[1 if form == "sentence" else 0]
    sentence = form == "sentence"
    return {
        "number": int(number),
        "question": render_subject(template, name),
        "answer": render_answer(entry.answers.train, value) if sentence else "",
        "rewording": render_answer(entry.answers.test, value) if sentence else "",
        "wrong": _wrong(attribute, value, set(profile.values()), profile),
        "support": f"{attribute}: {value}",
    }


def _wrong(attribute: str, value: str, taken: set[str], profile: dict[str, str]) -> list[str]:
    """Other people's values of the same gender, of which none contains another."""
    found: list[str] = []
    words = set(profile["name"].casefold().split())
    for donor in DONORS:
        other = donor.get(attribute, donor["education"])
        near = [value, *found, *taken]
        clash = any(other.casefold() in one.casefold() or one.casefold() in other.casefold() for one in near)
        if not clash and donor["gender"] == profile["gender"] and not words & set(other.casefold().split()):
            found.append(other)
        if len(found) == 3:
            break
    return found


def _reworded(attempt: int, number: str, question: str, _: str) -> Row:
    known = recognised(json.loads(question))
    assert known, f"no template makes {question}"
    attribute, place, cloze, name = known
    entry = wording("fictitious", attribute)
    templates = entry.cloze.test if cloze else entry.questions.test
    return {"number": int(number), "question": render_subject(templates[(place + attempt - 1) % len(templates)], name)}


def _answered(profile: dict[str, str], number: str, question: str, options: str) -> Row:
    known = recognised(json.loads(question))
    value = answer = profile[known[0]] if known else "unknown"
    if options:
        letters = [option.split(": ", 1) for option in json.loads(options).split("; ")]
        answer = next((letter for letter, option in letters if option == value), "unknown")
    return {"number": int(number), "answer": answer}


@cache
def _patterns() -> list[tuple[re.Pattern[str], str, int, bool]]:
    """Every template of evaluation and test, as a pattern with the subject as its group."""
    found = []
    for attribute in (*wordings("fictitious"), *FACTS):
        entry = wording("fictitious", attribute)
        for cloze, sentences in ((False, entry.questions), (True, entry.cloze)):
            for templates in (sentences.eval, sentences.test):
                for place, template in enumerate(templates):
                    pattern = re.escape(template.replace("{s's}", "{s}'s")).replace(re.escape("{s}"), "(.+)")
                    found.append((re.compile(pattern), attribute, place, cloze))
    return found


@cache
def recognised(text: str) -> tuple[str, int, bool, str | None] | None:
    """Which attribute a question asks, by which template, as a cloze or not, and whose name it says; None: unknown."""
    found = [(match[1], *rest) for pattern, *rest in _patterns() if (match := pattern.fullmatch(text))]
    if not found:
        return None
    subject, attribute, place, cloze = min(found, key=lambda one: len(one[0]))
    return attribute, place, cloze, None if subject.casefold() == SUBJECT else subject
