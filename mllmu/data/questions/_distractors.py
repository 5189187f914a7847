"""Wrong answers that look right: other people's values of the same attribute, near ones where values are numbers.

The result depends on the caller's generator and on the *set* of values of the data set, never on its order.
"""

import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from mllmu.core.records import Profile

NUM_WRONG = 3
NUM_NEAR = 8
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_MONTH = re.compile(r"\b(" + "|".join(_MONTHS) + r")[a-z]*", re.IGNORECASE)
_FEET = re.compile(r"feet|foot|ft|'", re.IGNORECASE)
_FAR = {"height": 30.0, "birth_date": 20 * 365.25, "birth_year": 200.0, "death_year": 200.0}
"""How far a wrong number may be from the right one (cm, days, years); a salary up to a factor of 2.5."""
_NUMERIC = frozenset({"salary", *_FAR})
_FEET_AND_INCHES = tuple(f"{inches // 12} feet {inches % 12} inches" for inches in range(58, 80))

Pools = dict[tuple[str, str, str], tuple[str, ...]]


def collect(profiles: Iterable[Profile]) -> Pools:
    """Distinct values, sorted, by (kind, attribute, gender); the gender is empty for all attributes but the name.

    Names are kept apart by gender: otherwise the portrait gives the right option away.
    """
    found: dict[tuple[str, str, str], set[str]] = {}
    for profile in profiles:
        for attribute, value in profile.attributes.items():
            found.setdefault(pool_key(profile, attribute), set()).add(value)
    return {key: tuple(sorted(values)) for key, values in found.items()}


def pool_key(profile: Profile, attribute: str) -> tuple[str, str, str]:
    """The key under which :func:`collect` keeps the values a person's distractors are drawn from."""
    gender = profile.attributes.get("gender", "") if attribute == "name" else ""
    return profile.kind, attribute, gender


def draw(
    rng: random.Random, attribute: str, value: str, pool: Sequence[str], *, allowed: Callable[[str], bool]
) -> tuple[str, ...] | None:
    """Draw three wrong values of an attribute, or None if three do not exist.

    They differ from the value and from each other after lower-casing, and none contains another (a reply
    naming one must not name two). Salaries, heights, dates and years are written alike and near the value:
    each of the three comes from the eight nearest below or above, and how many lie below is uniform in 0..3,
    so that the middle option is not right more often than the others.

    Args:
        rng: the person's own generator for this question.
        attribute: decides the type; ``value_pool(attribute)`` tops up a data set with too few values.
        pool: distinct values of the data set in sorted order; the value itself may be among them.
        allowed: says whether a candidate may stand in this question.
    """
    picked = _pick(value, _ordered(rng, attribute, value, pool), allowed)
    if len(picked) < NUM_WRONG:
        picked = _pick(value, [*picked, *_ordered(rng, attribute, value, _spare_like(attribute, value))], allowed)
    return tuple(picked) if len(picked) == NUM_WRONG else None


@cache
def _spare(attribute: str) -> tuple[str, ...]:
    """Values from the pools of made-up people; attributes that only celebrities have have none."""
    from mllmu.data.values import ATTRIBUTES, value_pool  # late: the pools are big and seldom needed

    more = _FEET_AND_INCHES if attribute == "height" else ()
    return tuple(sorted({*value_pool(attribute), *more})) if attribute in ATTRIBUTES else ()


def _spare_like(attribute: str, value: str) -> Sequence[str]:
    """Spare values, salaries in the currency of the value."""
    spare, sign = _spare(attribute), _NUMBER.split(value)[0]
    return [other.replace("$", sign) for other in spare] if attribute == "salary" and sign != "$" else spare


def _pick(value: str, candidates: Iterable[str], allowed: Callable[[str], bool]) -> list[str]:
    """The first three candidates that are allowed and neither contain nor are contained in one already taken."""
    picked: list[str] = []
    taken = [value.casefold().strip()]
    for candidate in candidates:
        plain = candidate.casefold().strip()
        if not plain or any(plain in other or other in plain for other in taken) or not allowed(candidate):
            continue
        picked.append(candidate)
        taken.append(plain)
        if len(picked) == NUM_WRONG:
            break
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
