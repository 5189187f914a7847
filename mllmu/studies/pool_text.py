"""What pooled runs say, as Markdown: in points of 100, with intervals, ranks and verdicts."""

from collections.abc import Iterable, Sequence

from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.describe import markdown_table
from mllmu.studies.pool import PairedRow, PooledRow, PooledValue


def pool_text(rows: Sequence[PooledRow], pairs: Sequence[PairedRow], bound: float, ratio: str = "") -> str:
    """Two Markdown tables per modality, in points of 100: value and, in brackets, the 95 % interval.

    Args:
        bound: how far from 0, as a share, a difference still counts as none.
        ratio: the forget ratio of the runs in percent, where it is known.
    """

    def table(title: str, head: Sequence[str], lines: Sequence[Iterable[str]]) -> list[str]:
        return [f"**{title}**\n\n{markdown_table(head, lines, align_right=len(head) - 1)}"] if lines else []

    parts = []
    for modality, title in MODALITY_LABELS.items():
        head = ("model", "forget", "against retain_model", "verdict", "utility", "lost utility", "rank", "on the front")
        parts += table(title, head, [_pool_line(row, bound) for row in rows if row.modality == modality])
        minus = [pair for pair in pairs if pair.modality == modality]
        compared = ("method", "forget", "utility", "distance", "verdict")
        lines = [_pair_line(pair, bound) for pair in minus]
        parts += table(f"{title}, minus {minus[0].rival}" if minus else "", compared, lines)
    count = f"{rows[0].runs} run{'s' if rows[0].runs > 1 else ''}{f' at {ratio} % forgotten' if ratio else ''}"
    note = (
        f"Points of 100 over {count}; in brackets the 95 % interval of a bootstrap over runs and their people. "
        "distance: |against retain_model| + lost utility, by which models are ranked; in brackets the ranks of 95 % of "
        "the draws. The verdict is on 'against "
        "retain_model' and on 'distance'; more, less: the interval leaves out 0; equal: the 90 % interval lies within "
        f"{100 * bound:g} points of 0 (two one-sided tests); open: neither."
    )
    return "\n".join([*parts, note])


def _pool_line(row: PooledRow, bound: float) -> Iterable[str]:
    front = "" if row.front is None else f"{100 * row.front:.0f} %"
    verdict = "" if row.surplus.low == row.surplus.high == 0 else row.surplus.verdict(bound)
    forget, surplus, *others = map(points, (row.forget, row.surplus, row.utility, row.cost))
    return row.model, forget, surplus, verdict, *others, rank_text(row), front


def rank_text(row: PooledRow) -> str:
    """A rank with the ranks that it may as well be; empty for the target and the retain_model."""
    if row.rank is None:
        return ""
    rank, low, high = row.rank
    return f"{rank} ({low} to {high})" if low < high else str(rank)


def _pair_line(pair: PairedRow, bound: float) -> Iterable[str]:
    return pair.model, *map(points, (pair.forget, pair.utility, pair.distance)), pair.distance.verdict(bound)


def points(value: PooledValue) -> str:
    """A value in points of 100 with its interval."""
    span = "" if value.low is None or value.high is None else f" ({100 * value.low:z.1f} to {100 * value.high:z.1f})"
    return f"{100 * value.value:z.1f}{span}"
