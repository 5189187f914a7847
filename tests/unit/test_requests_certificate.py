"""What a certificate says of the attempts to get the facts back."""

from __future__ import annotations

import pytest

from mllmu.requests.certificate import sentences
from mllmu.requests.evidence import AttackTried, Evidence, MeasuredRow, MeasuredShare


def share(value: float, low: float, high: float) -> MeasuredShare:
    return MeasuredShare(value=value, low=low, high=high, num=40)


@pytest.mark.parametrize(
    ("worst", "said"),
    [
        (
            "asked plainly",
            "Of 2 attempts to get the facts back, none found more than plain questions, which got 40.0 %",
        ),
        (
            "asked with hints",
            "Of 2 attempts to get the facts back, the one that found most (asked with hints) got 40.0 %",
        ),
    ],
)
def test_plain_questions_are_no_attempt_to_get_facts_back(worst: str, said: str) -> None:
    """Two attempts of which one found 40 %; where asking plainly found as much, no attempt is named."""
    before, after = share(0.8, 0.6, 0.9), share(0.4, 0.2, 0.6)
    tried = [
        AttackTried(label=label, access="white box", forget=share(found, 0.1, 0.6), excess=share(found - 0.1, 0.0, 0.5))
        for label, found in (("asked with hints", 0.4), ("asked in other words", 0.3))
    ]
    evidence = Evidence(
        rows=tuple(MeasuredRow(split=split, before=before, after=after) for split in ("forget", "holdout")),
        excess=share(0.3, 0.1, 0.5),
        attacks=tuple(tried),
        worst={"white box": AttackTried(label=worst, access="white box", forget=after, excess=share(0.3, 0.1, 0.5))},
        units="people",
        num_forget=4,
        num_holdout=8,
    )
    assert sum(said in sentence for sentence in sentences(evidence)) == 1
