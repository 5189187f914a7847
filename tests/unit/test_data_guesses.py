"""Multiple choice cannot be solved from its options alone: neither from the order of numbers nor from 'none'."""

from functools import cache, partial
from math import sqrt

import pytest

from mllmu.data.questions import QuestionOrder
from mllmu.data.questions._distractors import magnitude
from mllmu.data.questions._letters import balance_letters
from mllmu.data.questions.template import build
from mllmu.data.sources.celebrities import Celebrities
from mllmu.data.sources.synthetic import Synthetic


def ranks(values):
    """The rank of each value, 0 for the smallest."""
    return [sum(other < value for other in values) for value in values]


def between(values, at):
    """Whether all smaller values stand before all larger ones."""
    smaller = [n for n, value in enumerate(values) if value < values[at]]
    larger = [n for n, value in enumerate(values) if value > values[at]]
    return max(smaller, default=-1) < min(larger, default=len(values))


def straight(values):
    return values in (sorted(values), sorted(values, reverse=True))


GUESSES = {
    **{f"place {n}": lambda _, at, n=n: at == n for n in range(4)},
    **{f"rank {n}": lambda values, at, n=n: ranks(values)[at] == n for n in range(4)},
    "one between": lambda values, at: between(values, at),
    "a middle one between": lambda values, at: between(values, at) and ranks(values)[at] in (1, 2),
    "one at its rank": lambda values, at: ranks(values)[at] == at,
    "one without which the others are in order": lambda values, at: straight(values[:at] + values[at + 1 :]),
    "one that breaks the order": lambda values, at: at > 0 and values[at] < values[at - 1],
    "a largest so far": lambda values, at: values[at] == max(values[: at + 1]),
    "the nearest to all": lambda values, at: (
        sum(abs(v - values[at]) for v in values) == min(sum(abs(v - w) for v in values) for w in values)
    ),
    "one far from its neighbours": lambda values, at: all(
        abs(values[at] - values[n]) > 8 for n in (at - 1, at + 1) if 0 <= n < 4
    ),
}
"""Ways to guess from the numbers alone: whether the option at a place is a favourite; one of these is then taken."""


def numeric(questions):
    """The magnitudes of the options and the place of the right one, of all that have numbers."""
    rows = [
        ([magnitude(q.attribute, v) for v in q.options.values()], list(q.options).index(q.answer))
        for q in questions
        if q.task == "classification" and q.attribute in ("salary", "height", "birth_date", "birth_year", "death_year")
    ]
    return [row for row in rows if None not in row[0]]


def gain(guess, rows):
    """How many standard deviations a guess is above chance; n questions without a favourite are guessed."""
    shares = []
    for values, right in rows:
        favourites = [at for at in range(4) if guess(values, at)] or list(range(4))
        shares.append((right in favourites) / len(favourites))
    return (sum(shares) - len(rows) / 4) / sqrt(len(rows) * 0.25 * 0.75)


def listed_by_size(question):
    """The same question as a model that lists its wrong answers by size would have written it."""
    wrong = sorted((v for v in question.options.values() if v != question.value), key=partial(magnitude, "height"))
    wrong.insert(list(question.options).index(question.answer), question.value)
    return question.model_copy(update={"options": dict(zip("ABCD", wrong, strict=True))})


@cache
def asked_of(source, seed):
    """The multiple choice of one source of questions, with its letters balanced where it is evaluated."""
    known, practice = source == "celebrities", source == "practice"
    profiles = Celebrities().profiles(0) if known else Synthetic(num_people=80 if practice else 150).profiles(seed)
    order = QuestionOrder(seed, variants=("train",) if practice else ("eval", "test"), train_wordings=2)
    found = build(profiles, order._replace(train_formats=("classification",)))
    return [q for q in (found if practice else balance_letters(found, seed)) if q.options]


def of_a_model(seed):
    """The same questions, as a model writes them that lists its wrong answers by size."""
    asked = [listed_by_size(q) for q in asked_of("made-up people", seed) if q.attribute in ("height", "salary")]
    assert gain(GUESSES["a middle one between"], numeric(asked)) > 3, "as they come"
    return balance_letters(asked, seed)


@pytest.mark.parametrize("source", ["made-up people", "practice", "celebrities", "a model"])
def test_the_order_of_numbers_tells_nothing(source):
    """At 4.5 standard deviations a rule beats chance by luck in 3 of a million tries."""
    asked = [q for seed in range(3) for q in (of_a_model(seed) if source == "a model" else asked_of(source, seed))]
    rows = numeric(asked)
    assert len(rows) > 900
    gains = {name: round(gain(guess, rows), 2) for name, guess in GUESSES.items()}
    assert max(gains.values()) < 4.5, gains


@pytest.mark.parametrize("attribute", ["pet", "medical_condition"])
def test_none_among_the_options_tells_nothing(attribute):
    """Where it is shown it is right in a quarter of the questions, within 4.5 standard deviations."""
    asked = [q for seed in range(3) for q in asked_of("made-up people", seed) if q.attribute == attribute]
    shown = [q for q in asked if "none" in q.options.values()]
    right = sum(q.value == "none" for q in shown)
    assert len(shown) > len(asked) / 2 > 150
    assert abs(right - len(shown) / 4) < 4.5 * sqrt(len(shown) * 0.1875), (right, len(shown))
