"""Intervals of numbers about whole models, whatever these are: the same people drawn again and again.

A summary may pair questions, rank people or compare models, so no formula gives its error. Here everybody who was asked
is drawn with replacement, with all questions about a person and the replies of all models to them, and every summary is
computed once more from those drawn (a cluster bootstrap). All models meet the same people in a draw, so what compares
models stays paired. The models are taken as they are: the intervals are about other people, not about another training.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mllmu.core.records import Summary
from mllmu.evaluation.crowd import Crowd
from mllmu.evaluation.scored_run import ScoredRun
from mllmu.evaluation.stats import drawn_interval

if TYPE_CHECKING:
    from mllmu.evaluation.summaries import Summariser

DRAWS = 150
UNDEFINED = 0.05
"""A number that cannot be computed in a larger share of the draws has no interval."""
ROUNDING = 1e-12
"""Sums of the same numbers in another order differ by less."""

Key = tuple[str, str, str, str, str]
"""Model, summary, detail, split and modality."""
Table = NDArray[np.float64]


def with_intervals(
    summaries: Sequence[Summariser], everything: ScoredRun, *, seed: int = 0, draws: int = DRAWS
) -> list[Summary]:
    """Run summaries and give each of their numbers its 95 % interval over people.

    The bounds are percentiles of what the draws give, further out where there are few people, see
    :func:`mllmu.evaluation.stats.drawn_interval`; people are counted in the smallest group that a number rests on.

    Args:
        summaries: what to run.
        everything: the scores and replies of all models.
        seed: of the draws.
        draws: how often everybody is drawn.

    Returns:
        The rows of all summaries. ``low`` and ``high`` are None, and the note says why unless it says something else,
        where the summary says so, where a number rests on one person, cannot be computed in more than 5 % of the draws
        or is the same in all, and where the draws do not reach the number: then they are off by more than they spread.
    """
    found = [(summary, summary.summarise(everything)) for summary in summaries]
    why = {_key(row): summary.no_interval(row.detail) for summary, rows in found for row in rows}
    known = {_key(row): row.value for _, rows in found for row in rows if row.value is not None}
    keys = [key for key in known if not why[key] and key[0] in everything.values]
    again = [summary for summary, rows in found if any(not why[_key(row)] for row in rows)]
    crowd = Crowd.of(everything)
    with _uncollected():
        drawn_DK = np.array([_values(again, crowd.drawn(seed, number), keys) for number in range(draws if keys else 0)])
        rests_on = _rests_on(again, crowd, keys, known)
    bounds = {key: _interval(drawn_DK[:, k], known[key], rests_on[k]) for k, key in enumerate(keys)}
    return [_bounded(row, bounds.get(_key(row), why[_key(row)])) for _, rows in found for row in rows]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: it would look through all scores of a run every few draws, a fifth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _key(row: Summary) -> Key:
    return (row.model, row.summary, row.detail, row.split, row.modality)


def _values(summaries: Sequence[Summariser], everything: ScoredRun, keys: Sequence[Key]) -> Table:
    """The numbers of some rows, NaN where there is none."""
    found = {_key(row): row.value for summary in summaries for row in summary.summarise(everything)}
    values = (found.get(key) for key in keys)
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _rests_on(summaries: Sequence[Summariser], crowd: Crowd, keys: Sequence[Key], known: dict[Key, float]) -> list[int]:
    """People in the smallest group that each number rests on: it changes, or is gone, without them."""
    now_K = np.array([known[key] for key in keys])
    smallest_K = np.full(len(keys), np.inf)
    for group, people in crowd.groups.items():
        changed_K = _values(summaries, crowd.without(group), keys) != now_K
        smallest_K[changed_K] = np.minimum(smallest_K[changed_K], len(people))
    fewest = min(map(len, crowd.groups.values()), default=0)
    return [fewest if np.isinf(count) else int(count) for count in smallest_K]


def _interval(drawn_D: Table, value: float, people: int) -> tuple[float, float] | str:
    """The interval, or why there is none."""
    if people < 2:
        return "no interval from one person"
    defined = drawn_D[np.isfinite(drawn_D)]
    if len(defined) < (1 - UNDEFINED) * len(drawn_D):
        return f"no interval: cannot be computed in {1 - len(defined) / len(drawn_D):.0%} of the draws of people"
    if np.allclose(defined, value, rtol=ROUNDING, atol=ROUNDING):
        return "no interval: the same in every draw of people"
    low, high = drawn_interval(defined.tolist(), people)
    if not low - ROUNDING <= value <= high + ROUNDING:
        return "no interval: moves one way when people are drawn twice"
    return min(low, value), max(high, value)


def _bounded(row: Summary, found: tuple[float, float] | str) -> Summary:
    if isinstance(found, str):
        return row.model_copy(update={"note": row.note or found}) if found and row.value is not None else row
    return row.model_copy(update={"low": found[0], "high": found[1]})
