"""How far two judges agree, or a judge and people."""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from pydantic import Field, ValidationError

from mllmu.core.csvrows import csv_rows
from mllmu.core.errors import DataError
from mllmu.core.records import Record

COLUMNS = ("forget", "model", "sample_id", "score")
ReplyId = tuple[str, str, str]
"""Forget ratio in percent, model, sample: what names a reply within a run."""


class Agreement(NamedTuple):
    """Two judges on the replies that both have judged. ``kappa`` None: undefined (no replies, or no variation)."""

    kappa: float | None
    exact: float | None
    mean_difference: float | None
    num: int


class _Row(Record):
    forget: str
    model: str
    sample_id: str
    score: float = Field(ge=1, le=10)


def quadratic_kappa(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Cohen's kappa with quadratic weights: 1 = the same points, 0 = as by chance, below 0 = worse than chance.

    kappa = 1 - sum_i (a_i - b_i)^2 / n  /  ( sum_i sum_j (a_i - b_j)^2 / n^2 )

    The numerator is the mean squared disagreement, the denominator the one expected if the same points were dealt out
    at random. This is the usual definition by the confusion matrix, without the matrix, so half points (a median of
    votes) need no rounding. For 1,2 and 2,2: (1 + 0)/2 = 0.5 against (1 + 1 + 0 + 0)/4 = 0.5: kappa 0.

    Returns:
        None if there are no pairs, or if both judges gave one and the same score throughout.

    Source: Cohen 1968, doi:10.1037/h0026256.
    """
    if not a:
        return None
    observed = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    # mean_ij (a_i - b_j)^2 = mean a^2 - 2 mean a mean b + mean b^2
    expected = sum(x * x for x in a) / len(a) - 2 * mean_a * mean_b + sum(y * y for y in b) / len(b)
    return 1 - observed / expected if expected > 1e-12 else None


def agreement(first: dict[ReplyId, float], second: dict[ReplyId, float]) -> Agreement:
    """Compare the points that two judges gave to the same replies; replies that only one has judged are left out.

    ``exact`` is the share of equal points, ``mean_difference`` the mean of first - second.
    """
    pairs = [(first[reply], second[reply]) for reply in sorted(set(first) & set(second))]
    if not pairs:
        return Agreement(None, None, None, 0)
    kappa = quadratic_kappa(*zip(*pairs, strict=True))
    return Agreement(kappa, fmean(x == y for x, y in pairs), fmean(x - y for x, y in pairs), len(pairs))


def read_people(path: Path) -> dict[ReplyId, float]:
    """Points that people gave: a CSV file with the columns forget, model, sample_id and score (others are ignored).

    Rows without a score are left out; they have not been judged yet.

    Raises:
        DataError: no such file, no such columns, a score that is no number from 1 to 10, or a reply judged twice.
    """
    found: dict[ReplyId, float] = {}
    try:
        head, *lines = csv_rows(path.read_bytes().decode("utf-8-sig")) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Expected a CSV file in UTF-8.") from None
    if missing := [column for column in COLUMNS if column not in head]:
        raise DataError(f"{path}: no column '{missing[0]}'. Expected a CSV file with {', '.join(COLUMNS)}.")
    filled = ((number, dict(zip(head, line, strict=False))) for number, line in enumerate(lines, start=2))
    rows = [(number, row) for number, row in filled if row.get("score", "").strip()]
    for number, row in rows:
        try:
            judged = _Row.model_validate({column: row.get(column) for column in COLUMNS})
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise DataError(
                f"{path}:{number}: {fault['loc'][0]}: {fault['msg']}, got {str(fault['input'])[:40]!r}."
            ) from None
        reply = (judged.forget, judged.model, judged.sample_id)
        if reply in found:
            raise DataError(f"{path}:{number}: {' '.join(reply)} is judged a second time, expected one score a reply.")
        found[reply] = judged.score
    return found
