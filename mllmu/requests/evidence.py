"""What a request's run shows: the numbers of the certificate, computed from the stored replies alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmu.core.attacked import PLAIN, AttackResults
from mllmu.core.names import TARGET
from mllmu.core.records import KEPT, MODALITIES, THROUGH, UTILITY, Record
from mllmu.core.runfolder import RunFolder, read_json
from mllmu.evaluation import yardstick
from mllmu.evaluation.metrics import Estimate
from mllmu.evaluation.outcome import rights
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.run import Run

SHOWN = ("forget", "test", THROUGH, yardstick.HOLDOUT, KEPT, *UTILITY)
"""The sets of the certificate, in its order."""
IN_WORDS = {
    "paraphrase": "asked in other words",
    "hints": "asked with hints",
    "prefix_injection": "asked with the beginning of the reply dictated",
    PLAIN: "asked plainly",
    "role_play": "asked within a story",
    "rounding": "the model made smaller, its numbers rounded to four bits",
    "relearn_retain": "the model trained a little more, on other people",
}
"""What attacks do, for readers who are no engineers."""


class MeasuredShare(Record):
    """A share of right answers, 0 to 1, with its 95 % interval, and the number of questions."""

    value: float | None
    low: float | None = None
    high: float | None = None
    num: int = 0


class MeasuredRow(Record):
    """One set of questions: before and after; ``modality`` is empty for both together."""

    split: str
    modality: str = ""
    before: MeasuredShare
    after: MeasuredShare


class AttackTried(Record):
    """One attack: what it got about the people to forget and about the yardstick people, and the difference."""

    label: str
    access: str
    forget: MeasuredShare
    excess: MeasuredShare
    reason: str = ""


class Evidence(Record):
    """All numbers of a certificate.

    Attributes:
        rows: the people to forget (``forget``), the same in other words (``test``) and behind another fact of theirs
            (``through``), yardstick people (``holdout``), and what must stay: other facts of the same people
            (``kept``), and other people (``retain``, ``celebrity``).
        excess: after, people to forget minus yardstick people before.
        attacks: every attack; ``worst``: the one with the largest excess, at each access level.
        units: what is independent: people, or facts of few people.
        partial: single facts are to be forgotten, not people as a whole.
        reused: the settings were chosen by the questions of these rows, as too few facts were there to hold some back.
    """

    rows: tuple[MeasuredRow, ...]
    excess: MeasuredShare
    attacks: tuple[AttackTried, ...]
    worst: dict[str, AttackTried]
    units: str
    num_forget: int
    num_holdout: int
    partial: bool = False
    reused: bool = False


def evidence_of(run: Run, key: str, model: str) -> Evidence:
    """The numbers of one unlearned model of a run without a retain model."""
    evaluation = Evaluation(run, key)
    samples = [sample for sample in evaluation.samples if sample.part == "report"]
    shown = [sample for sample in samples if sample.split in SHOWN]
    before, after = (rights(shown, evaluation.responses(name)) for name in (TARGET, model))
    few = yardstick.are_few(samples)
    rows = []
    for split in SHOWN:
        for modality in ("", *MODALITIES):
            own = [s for s in samples if s.split == split and modality in ("", s.modality)]
            if own:
                pair = (_measured(yardstick.mean_of(values, own, split, few=few)) for values in (before, after))
                rows.append(MeasuredRow(split=split, modality=modality, before=next(pair), after=next(pair)))
    sides = (
        yardstick.mean_of(after, samples, "forget", few=few),
        yardstick.mean_of(before, samples, "holdout", few=few),
    )
    tried, worst = _attacks(run, key, model)
    return Evidence(
        rows=tuple(rows), excess=_measured(yardstick.apart(*sides)), attacks=tried, worst=worst,
        units="facts" if few else "people",
        num_forget=len({s.profile_id for s in samples if s.split == "forget"}),
        num_holdout=len({s.profile_id for s in samples if s.split == "holdout"}),
        partial=any(facts.partial for facts in run.data.steps),
        reused=not run.recipe.data.splits.selection and (run.root / RunFolder.TRIALS_FILE).is_file(),
    )  # fmt: skip


def _measured(estimate: Estimate) -> MeasuredShare:
    value, low, high = estimate[:3]
    return MeasuredShare(value=value, low=low, high=high, num=estimate.num)


def _attacks(run: Run, key: str, model: str) -> tuple[tuple[AttackTried, ...], dict[str, AttackTried]]:
    content: Mapping[str, Any] = read_json(run.root / RunFolder.evaluation(key) / RunFolder.ATTACKS_FILE)
    if not content:
        return (), {}
    results = AttackResults.model_validate(content)
    tried = {}
    for row in results.rows:
        if row.model == model and row.attack != PLAIN:
            told = MeasuredShare(value=row.after, low=row.after_low, high=row.after_high, num=row.num)
            excess = MeasuredShare(value=row.excess, low=row.excess_low, high=row.excess_high, num=row.num)
            tried[row.attack] = AttackTried(
                label=IN_WORDS.get(row.attack, row.label),
                access=row.access,
                forget=told,
                excess=excess,
                reason=row.reason,
            )
    worst: dict[str, AttackTried] = {}
    for one in results.worst:
        if one.model == model and one.attack:
            excess = MeasuredShare(value=one.excess, low=one.excess_low, high=one.excess_high)
            plain = next(row for row in results.rows if row.model == model and row.attack == one.attack)
            told = MeasuredShare(value=plain.after, low=plain.after_low, high=plain.after_high, num=plain.num)
            label = IN_WORDS.get(plain.attack, plain.label)
            worst[one.access] = AttackTried(label=label, access=one.access, forget=told, excess=excess)
    return tuple(tried.values()), worst
