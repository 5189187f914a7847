"""Wrong answers that look right: other people's values of the same attribute, near ones where values are numbers.

The result depends on the caller's generator, on the *set* of values of the data set, never on its order, and among
options on the share of people who have none.
"""

import random
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from mllmu.core.equal_values import without_accents, words
from mllmu.core.parsing import SPACELESS
from mllmu.core.records import Profile
from mllmu.data.values import ATTRIBUTES, NONE, value_pool

NUM_WRONG = 3
NUM_NEAR = 8
_PLACES = frozenset({"birthplace", "residence"})
_INCLUDES: dict[str, dict[str, frozenset[str]]] = {
    "profession": {
        "activist": frozenset({"politician"}),
        "artist": frozenset({"painter", "photographer", "sculptor"}),
        "athlete": frozenset({"footballer", "racing driver", "tennis player"}),
        "engineer": frozenset({"computer scientist", "inventor"}),
        "explorer": frozenset({"astronaut", "aviator"}),
        "musician": frozenset({"composer", "singer"}),
        "politician": frozenset({"monarch"}),
        "scientist": frozenset({"astronomer", "biologist", "chemist", "computer scientist", "mathematician",
                                "physicist"}),
        "writer": frozenset({"novelist", "playwright", "poet"}),
    },
    "field": {
        "art": frozenset({"dance", "film", "literature", "music", "visual arts"}),
        "science": frozenset({"engineering", "mathematics", "medicine"}),
        "visual arts": frozenset({"architecture", "fashion", "film"}),
    },
}  # fmt: skip
"""Values that include others, or run into them: who is told one of a pair may rightly name the other."""
_SMALL = frozenset({"and", "at", "for", "from", "in", "of", "on", "to", "with"})
"""Words that say nothing by themselves; articles are left out before."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_MONTH = re.compile(r"\b(" + "|".join(_MONTHS) + r")[a-z]*", re.IGNORECASE)
_FEET = re.compile(r"feet|foot|ft|'", re.IGNORECASE)
_FAR = {"height": 30.0, "birth_date": 20 * 365.25, "birth_year": 200.0, "death_year": 200.0}
"""How far a wrong number may be from the right one (cm, days, years); a salary up to a factor of 2.5."""
_NUMERIC = frozenset({"salary", *_FAR})
_FEET_AND_INCHES = tuple(f"{inches // 12} feet {inches % 12} inches" for inches in range(58, 80))


class Pool(NamedTuple):
    """The distinct values of an attribute, sorted, and the share of its people whose value is 'none', 0 to 1."""

    values: tuple[str, ...]
    none: float


Pools = dict[tuple[str, str, str], Pool]


def collect(profiles: Iterable[Profile]) -> Pools:
    """The values by (kind, attribute, gender); the gender is empty for all attributes but the name.

    Names are kept apart by gender: otherwise the portrait gives the right option away.
    """
    found: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for profile in profiles:
        for attribute, value in profile.attributes.items():
            found[pool_key(profile, attribute)][value] += 1
    return {key: Pool(tuple(sorted(values)), values[NONE] / values.total()) for key, values in found.items()}


def pool_key(profile: Profile, attribute: str) -> tuple[str, str, str]:
    """The key under which :func:`collect` keeps the values a person's distractors are drawn from."""
    gender = profile.attributes.get("gender", "") if attribute == "name" else ""
    return profile.kind, attribute, gender


def draw(
    rng: random.Random,
    attribute: str,
    value: str,
    pool: Sequence[str],
    *,
    allowed: Callable[[str], bool],
    none: float | None = None,
) -> tuple[str, ...] | None:
    """Draw three wrong values of an attribute, in an order that tells nothing, or None if three do not exist.

    No two of the four clash, see :func:`clash`. Salaries, heights, dates and years are written alike
    and near the value: each of the three comes from the eight nearest below or above, and how many lie below is
    uniform in 0..3, so that the middle option is not right more often than the others.

    Among options 'none', which many people share, is a wrong one with probability q = 3 s / (1 - s), at most 1, where
    s is the share of people who have none: shown, it is right as often as any option, s / (s + (1 - s) q) = 1/4, or s
    where more than a quarter have none.

    Args:
        rng: the person's own generator for this question.
        attribute: decides the type; ``value_pool(attribute)`` tops up a data set with too few values.
        pool: distinct values of the data set in sorted order; the value itself may be among them.
        allowed: says whether a candidate may stand in this question.
        none: the share of people who have none, for options; otherwise 'none' is a value like any other.
    """
    shown = [NONE] if none and value != NONE and rng.random() * (1 - none) < NUM_WRONG * none else []

    def fits(candidate: str) -> bool:
        return allowed(candidate) and (none is None or candidate != NONE or bool(shown))

    picked = _pick(attribute, value, [*shown, *_ordered(rng, attribute, value, pool)], fits)
    if len(picked) < NUM_WRONG:
        spare = _ordered(rng, attribute, value, _spare_like(attribute, value))
        picked = _pick(attribute, value, [*picked, *spare], fits)
    rng.shuffle(picked)
    return tuple(picked) if len(picked) == NUM_WRONG else None


def clash(attribute: str, one: str, other: str) -> bool:
    """Whether two values must not stand in one question: who names one of them may have named the other.

    That is where one contains the other, both are spelt as they are or in the same words (without case, accents,
    punctuation and blanks; dates, amounts and heights in any form; of places what stands before the first comma), where
    all words of one are among those of the other (not of names), and where one includes the other by its meaning.
    Translations and synonyms are not recognised.

    >>> clash("residence", "San Francisco, USA", "San Francisco, California, United States")
    True
    >>> clash("mother_job", "high school teacher", "high school mathematics teacher")
    True
    """
    a, b = one.casefold().strip(), other.casefold().strip()
    if not a or not b or a in b or b in a or _includes(attribute, a, b) or _includes(attribute, b, a):
        return True
    x, y = _words(attribute, one), _words(attribute, other)
    if x in y or y in x or x.replace(" ", "") == y.replace(" ", ""):
        return True
    few, many = sorted((_telling(x), _telling(y)), key=len)
    return attribute != "name" and bool(few) and few <= many


def _includes(attribute: str, one: str, other: str) -> bool:
    return other in _INCLUDES.get(attribute, {}).get(one, ())


@cache
def _words(attribute: str, value: str) -> str:
    """The words of a value with blanks around each; of a place those before the first comma."""
    text = value.partition(",")[0] if attribute in _PLACES else value
    return f" {' '.join(words(without_accents(text)))} "


@cache
def _telling(spaced: str) -> frozenset[str]:
    """The words of a value but small ones; none in a script without spaces, where each is a single character."""
    return frozenset() if re.search(f"[{SPACELESS}]", spaced) else frozenset(spaced.split()) - _SMALL


@cache
def _spare(attribute: str) -> tuple[str, ...]:
    """Values from the pools of made-up people; attributes that only celebrities have have none."""
    more = _FEET_AND_INCHES if attribute == "height" else ()
    return tuple(sorted({*value_pool(attribute), *more})) if attribute in ATTRIBUTES else ()


def _spare_like(attribute: str, value: str) -> Sequence[str]:
    """Spare values, salaries in the currency of the value."""
    spare, sign = _spare(attribute), _NUMBER.split(value)[0]
    return [other.replace("$", sign) for other in spare] if attribute == "salary" and sign != "$" else spare


def _pick(attribute: str, value: str, candidates: Iterable[str], fits: Callable[[str], bool]) -> list[str]:
    """The first three candidates that fit and clash neither with the value nor with those already taken."""
    picked: list[str] = []
    for candidate in candidates:
        if len(picked) == NUM_WRONG:
            break
        if fits(candidate) and not any(clash(attribute, candidate, other) for other in (value, *picked)):
            picked.append(candidate)
    return picked


def _ordered(rng: random.Random, attribute: str, value: str, pool: Sequence[str]) -> list[str]:
    """Candidates in the order of preference: shuffled, or near ones first where the attribute is a number."""
    centre = magnitude(attribute, value) if attribute in _NUMERIC else None
    if centre is None:
        return rng.sample(pool, len(pool)) if len(pool) <= 2 * NUM_NEAR else _some(rng, pool)
    return _near(rng, attribute, centre, [v for v in pool if _shape(v) == _shape(value)])


def _some(rng: random.Random, pool: Sequence[str]) -> list[str]:
    """A few drawn first, then all in a rotated order: shuffling hundreds of names per question would be slow."""
    start = rng.randrange(len(pool))
    return [*rng.sample(pool, 2 * NUM_NEAR), *pool[start:], *pool[:start]]


def _near(rng: random.Random, attribute: str, centre: float, pool: Sequence[str]) -> list[str]:
    near = ((magnitude(attribute, v), v) for v in pool)
    rows = sorted((m, v) for m, v in near if m is not None and m != centre and not _is_far(attribute, centre, m))
    at = bisect_left(rows, (centre, ""))
    below, above = rows[max(0, at - NUM_NEAR) : at][::-1], rows[at : at + NUM_NEAR]
    num_below = rng.randrange(NUM_WRONG + 1)
    first = rng.sample(below, min(num_below, len(below))) + rng.sample(above, min(NUM_WRONG - num_below, len(above)))
    rest = sorted([*below, *above], key=lambda row: (abs(row[0] - centre), row))
    return [v for _, v in [*first, *rest]]


def _is_far(attribute: str, centre: float, other: float) -> bool:
    if attribute == "salary":
        return max(centre, other) > 2.5 * min(centre, other)
    return abs(centre - other) > _FAR[attribute]


@cache
def magnitude(attribute: str, value: str) -> float | None:
    """A number by which values of an attribute can be called near: days, cm, currency units, years; None if none.

    >>> magnitude("height", "5 feet 5 inches")
    165.1
    """
    numbers = [float(n.replace(",", "")) for n in _NUMBER.findall(value)]
    if not numbers:
        return None
    if attribute == "birth_date":
        month = _MONTH.search(value)
        day = numbers[0] if len(numbers) > 1 else 0.0
        return numbers[-1] * 365.25 + (_MONTHS.index(month[1].lower()) * 30.44 if month else 0.0) + day
    if attribute == "height" and _FEET.search(value):
        inches = numbers[0] * 12 + (numbers[1] if len(numbers) > 1 else 0.0)
        return round(inches * 2.54, 2)
    return numbers[0]


def same_form(attribute: str, value: str, other: str) -> bool:
    """Whether two values are written alike, where the attribute is a number: '$75,000' and '$60,000', not '60k'."""
    if attribute not in _NUMERIC:
        return True
    return _shape(value) == _shape(other) and magnitude(attribute, value) != magnitude(attribute, other)


@cache
def _shape(value: str) -> str:
    """The value with digits and months blanked: '$75,000' -> '$0', so that '5 feet' is not offered beside '165 cm'."""
    return _NUMBER.sub("0", _MONTH.sub("M", value))
