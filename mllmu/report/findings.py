"""What the numbers say, in sentences computed from them. Nothing is claimed that an interval does not carry."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mllmu.core.declared import MODALITY_LABELS, THESE_PEOPLE
from mllmu.core.records import FORGOTTEN, UTILITY, Modality
from mllmu.report.inputs import TrustRow
from mllmu.report.numbers import ALL_TASKS, Interval, Numbers, TradeoffRow
from mllmu.report.printing import listing, show

_SHALLOW = 0.5
"""Forgetting counts as shallow when less than this part of it shows on reworded questions."""
_UNREAD = 0.05
"""Scores that unread replies leave open by so much or more are named."""
_UNMOVED = "For {}, the 95 % interval of the forget score still contains the target's score."
_FEW_PEOPLE = 5
"""Intervals from so many people or fewer are wide, and named so."""
_MEANT = {
    "destroyed": "utility under half of the target's",
    "undertrained": "less than a tenth of the way from the target to the retain model",
    "takes no instructions": "was told to decline these questions, and does not",
}
"""What the faults mean whose names do not say it."""
_WEAK_AUC = 0.7
"""A metric that orders fewer pairs of models correctly is called weak."""


class Finding(NamedTuple):
    """A short heading and a sentence. ``bad`` findings limit what the numbers can show."""

    head: str
    text: str
    bad: bool = False


def findings(
    numbers: Numbers, rows: Sequence[TradeoffRow], trust: Sequence[TrustRow] = ()
) -> list[tuple[str, list[Finding]]]:
    """All findings as (modality, findings); scores are means over the tasks."""
    of_all = [row for row in rows if row.task == ALL_TASKS]
    groups = [(MODALITY_LABELS[m], _of_modality(numbers, m, of_all)) for m in numbers.modalities]
    both = _between_modalities(of_all) + _weak_metrics(numbers, trust)
    about = [("The people to forget", few)] if (few := _few_people(numbers)) else []
    return [*about, *groups, ("Both modalities", both)] if both else [*about, *groups]


def _few_people(numbers: Numbers) -> list[Finding]:
    """What intervals from few people are about."""
    people = numbers.people("forget")
    if not 0 < people <= _FEW_PEOPLE:
        return []
    if people > THESE_PEOPLE:
        text = (
            f"The forget set has {people} people. The intervals take them as a sample of people like them, so they are "
            "wide: methods whose scores differ by less cannot be told apart."
        )
        return [Finding("Few people", text, bad=True)]
    who, them = ("1 person", "this person") if people == 1 else (f"{people} people", "these people")
    text = (
        f"The forget set has {who}. All numbers about it are about the questions on {them} alone: an interval says "
        f"what other questions about {them} would give, and nothing about other people."
    )
    return [Finding("These people alone", text, bad=True)]


def _of_modality(numbers: Numbers, modality: Modality, rows: Sequence[TradeoffRow]) -> list[Finding]:
    own = [row for row in rows if row.modality == modality]
    unlearned = [row for row in own if row.model.role == "unlearned"]
    unmoved = [row.model.name for row in unlearned if _reaches_target(row)]
    return [
        _gap(numbers, modality),
        *_front(unlearned, unmoved),
        *_nearest(numbers, modality, unlearned),
        *_limit(
            "Not shown to forget", ["all of them"] if unmoved and len(unmoved) == len(unlearned) else unmoved, _UNMOVED
        ),
        *_shallow(numbers, modality),
        *_collapsed(numbers, own),
        *_faulty(unlearned),
        *_unread(own),
    ]


def _gap(numbers: Numbers, modality: Modality) -> Finding:
    """How much there is to forget: nothing can be measured if target and retain_model answer alike."""
    start, ideal = (numbers.of_role(role, modality, ("forget",)) for role in ("target", "retain_model"))
    if start is None or ideal is None:
        missing = "target" if start is None else "retain_model"
        return Finding("Nothing to compare with", f"There is no forget score of a {missing}.", bad=True)
    text = (
        f"On the {numbers.forgotten} to forget, the target scores {show(start.value)} and the retain model, "
        f"which never saw them, {show(ideal.value)}: a difference of {show(start.value - ideal.value)} points."
    )
    if _clearly_above(start, ideal):
        return Finding("What there is to forget", text)
    text += " The 95 % interval of that difference reaches zero, so the differences between methods may be noise."
    return Finding("Too little was learned", text, bad=True)


def _clearly_above(a: Interval, b: Interval) -> bool:
    """Whether the 95 % interval of a - b lies above zero.

    Its lower end is a - b - sqrt((a - low_a)^2 + (high_b - b)^2), as if the two were independent; both answered the
    same questions, so the true interval is narrower. Source: Zou and Donner 2008, doi:10.1002/sim.3095.
    """
    if a.low is None or b.high is None:
        return a.value > b.value
    return a.value - b.value > math.hypot(a.value - a.low, b.high - b.value)


def _front(rows: Sequence[TradeoffRow], unmoved: list[str]) -> list[Finding]:
    front = [row.model.name for row in rows if row.on_front]
    moved, idle = [name for name in front if name not in unmoved], [name for name in front if name in unmoved]
    parts = []
    if moved:
        rivals = "No other unlearned model that works, nor the target, beats"
        who = rivals if len(rows) > 1 else "The target does not beat"
        parts.append(f"{who} {listing(moved)} in both forgetting and utility.")
    if idle:
        verb = "is" if len(idle) == 1 else "are"
        parts.append(f"{listing(idle)} {verb} {'also ' if moved else ''}on the Pareto front, but not shown to forget.")
    if rows and not front:
        parts = ["No unlearned model that works beats the target in forgetting or in utility."]
    return [Finding("Best trade-offs", " ".join(parts))] if parts else []


def _nearest(numbers: Numbers, modality: Modality, rows: Sequence[TradeoffRow]) -> list[Finding]:
    """The model closest to never having learned, and what it paid in utility."""
    candidates = [(row.gap, row.number, row) for row in rows if row.gap is not None and not row.faults]
    if not candidates or numbers.first("retain_model") is None:
        return []
    gap, _, best = min(candidates)
    text = f"{best.model.name} ends {show(gap)} points from the retain model on the {numbers.forgotten} to forget"
    start = numbers.of_role("target", modality, UTILITY)
    if start and best.utility:
        change = best.utility.value - start.value
        text += f", with utility {show(abs(change))} points {'below' if change < 0 else 'above'} the target's"
    return [Finding("Closest to the retain model", f"{text}.")]


def _reaches_target(row: TradeoffRow) -> bool:
    """Whether the forget interval of a model still holds the target's score over the same tasks."""
    if row.forget is None or row.forget.high is None or row.drop is None:
        return False
    return row.forget.high >= row.forget.value + row.drop


def _limit(head: str, names: Sequence[str], text: str) -> list[Finding]:
    """A finding that limits what the numbers of some models or metrics show; none if there are no names."""
    return [Finding(head, text.format(listing(names)), bad=True)] if names else []


def _shallow(numbers: Numbers, modality: Modality) -> list[Finding]:
    """Models that forget the trained wording and portrait but much less the transformed ones."""
    names = [row.name for row in numbers.unlearned() if _is_shallow(numbers, row.name, modality)]
    other = "other portrait and words" if modality == "image_text" else "other words"
    text = f"{{}}: less than half of the drop on forget shows on test (same people, {other})."
    return _limit("Forgotten on the surface", names, text)


def _is_shallow(numbers: Numbers, model: str, modality: Modality) -> bool:
    start, start_test = (numbers.of_role("target", modality, (split,)) for split in FORGOTTEN)
    forget, test = (numbers.score(model, modality, (split,)) for split in FORGOTTEN)
    if start is None or start_test is None or forget is None or test is None:
        return False
    clear = forget.high is not None and forget.high < start.value
    return clear and start_test.value - test.value < _SHALLOW * (start.value - forget.value)


def _collapsed(numbers: Numbers, rows: Sequence[TradeoffRow]) -> list[Finding]:
    noise = numbers.metric(numbers.noise).label.lower()
    names = [f"{r.model.name} ({show(r.noise_retain)} % of retain replies {noise})" for r in rows if r.collapsed]
    text = "{}. Such a model cannot answer any more; its low forget score is damage, not unlearning."
    of_target = [r.model.name for r in rows if r.collapsed and r.model.of_target]
    text += f" In {listing(of_target)} it is the target that cannot take a system prompt." if of_target else ""
    return _limit("Collapsed", names, text)


def _faulty(rows: Sequence[TradeoffRow]) -> list[Finding]:
    """Unlearned models that are off the front for another reason than collapse."""
    names = [f"{r.model.name} ({', '.join(faults)})" for r in rows if (faults := [*r.faults][r.collapsed :])]
    of_target = [r.model.name for r in rows if r.model.of_target]
    occur = {fault.partition(":")[0] for row in rows for fault in row.faults}
    meant = "".join(f" {name.capitalize()}: {meaning}." for name, meaning in _MEANT.items() if name in occur)
    text = f"{{}}.{meant} Such a model is not on the front."
    text += f" The loss of {listing(of_target)} is the target's, not the method's." if of_target else ""
    return _limit("Broken or hardly changed", names, text)


def _unread(rows: Sequence[TradeoffRow]) -> list[Finding]:
    """Models of which so much could not be read that a score is far from certain."""
    names = []
    for row in rows:
        parts = [
            f"{name} {show(score.value)} to {show(score.best)}"
            for name, score in (("forget", row.forget), ("utility", row.utility))
            if score and score.best is not None and abs(score.best - score.value) >= _UNREAD
        ]
        names += [f"{row.model.name} ({', '.join(parts)})"] if parts else []
    text = (
        "{}: so far apart are the scores if replies that could not be read count against the model, as they do in all "
        "scores here, and if they count for it."
    )
    return _limit("Not fully readable", names, text)


def _between_modalities(rows: Sequence[TradeoffRow]) -> list[Finding]:
    """The unlearned model whose forgetting differs most between the two modalities."""
    drops: dict[str, dict[Modality, float]] = {}
    for row in rows:
        if row.model.role == "unlearned" and row.drop is not None and not row.faults:
            drops.setdefault(row.model.name, {})[row.modality] = row.drop
    both = [(drop["image_text"], drop["text"], name) for name, drop in drops.items() if len(drop) == 2]
    if not both:
        return []
    image, text, name = max(both, key=lambda drop: abs(drop[0] - drop[1]))
    points = ", ".join(f"{show(d)} with {MODALITY_LABELS[m]}" for m, d in (("image_text", image), ("text", text)))
    most = f"The difference is largest for {name}. Points forgotten" if len(both) > 1 else f"Points forgotten by {name}"
    return [Finding("Modalities compared", f"{most}: {points}.")]


def _weak_metrics(numbers: Numbers, trust: Sequence[TrustRow]) -> list[Finding]:
    """Headline metrics that hardly tell models that know from models that do not, where that was measured."""
    names = [
        f"{numbers.metric(row.metric).label} ({task.label}, {MODALITY_LABELS[row.modality]}, AUC {row.auc:.2f})"
        for row in trust
        if (task := numbers.tasks.get(row.task)) and row.metric == task.metric
        if row.auc is not None and row.auc < _WEAK_AUC
    ]
    text = "{}: hardly better than chance at telling models that know the people from models that do not."
    return _limit("Weak evidence", names, text)
