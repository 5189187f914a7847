"""What the numbers say, in sentences computed from them. Nothing is claimed that an interval does not carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mllmu.core.records import Modality
from mllmu.report.inputs import ModelRow, TrustRow
from mllmu.report.numbers import MAIN_METRIC, METRIC_LABELS, MODALITY_LABELS, Interval, Numbers, listing, percent
from mllmu.report.tradeoff import ALL_TASKS, TradeoffRow

_SHALLOW = 0.5
"""Forgetting counts as shallow when less than this part of it shows on reworded questions."""

_WEAK_AUC = 0.7
"""A metric that orders fewer pairs of models correctly is called weak."""


@dataclass(frozen=True)
class Reading:
    """One finding: a short heading and a sentence. ``bad`` findings limit what the numbers can show."""

    head: str
    text: str
    bad: bool = False


def headline(numbers: Numbers) -> str:
    """What was done, in one sentence."""
    made = numbers.unlearned()
    ratios = sorted({row.forget_ratio for row in made if row.forget_ratio is not None})
    part = f"{listing(f'{100 * ratio:g} %' for ratio in ratios)} of them" if ratios else "some of them"
    what = f"{len(made)} unlearned model{'' if len(made) == 1 else 's'}"
    asked = listing(MODALITY_LABELS[m] for m in numbers.modalities) if numbers.modalities else "nothing yet"
    return (
        f"A target model learned facts about people, was then made to forget {part} ({what}), "
        f"and every model was asked the same questions ({asked}) about forgotten, retained and famous people."
    )


def readings(
    numbers: Numbers, rows: list[TradeoffRow], trust: Sequence[TrustRow] = ()
) -> list[tuple[str, list[Reading]]]:
    """All findings as (what was asked, findings); tasks are averaged."""
    groups: list[tuple[str, list[Reading]]] = []
    for modality in numbers.modalities:
        of_modality = [row for row in rows if row.modality == modality and row.task == ALL_TASKS]
        unmoved = _unmoved_names(of_modality)
        found = _gap(numbers, modality)
        found += _front(of_modality, unmoved)
        found += _nearest(numbers, of_modality)
        found += _unmoved(numbers, unmoved)
        found += _shallow(numbers, modality)
        found += _collapsed(of_modality)
        found += _unreadable(of_modality)
        groups.append((MODALITY_LABELS[modality], found))
    between = [*_between_modalities(rows), *_weak_metrics(trust)]
    return [*groups, ("both", between)] if between else groups


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _gap(numbers: Numbers, modality: Modality) -> list[Reading]:
    """How much there is to forget: nothing can be measured if target and retain_model answer alike."""
    target, gold = numbers.first("target"), numbers.first("retain_model")
    start = numbers.score(target.name, modality, ("forget",)) if target else None
    ideal = numbers.score(gold.name, modality, ("forget",)) if gold else None
    if start is None or ideal is None:
        missing = "target" if start is None else "retain_model"
        return [Reading("No yardstick", f"There is no forget score of a {missing} to compare with.", bad=True)]
    text = (
        f"On the people to forget the target scores {_points(start.value)} and a model that never saw them "
        f"{_points(ideal.value)}: {_points(start.value - ideal.value)} points can be forgotten."
    )
    if not _clearly_above(start, ideal):
        text += " The 95 % interval of that difference reaches zero, so what sets methods apart below may be noise."
        return [Reading("Too little was learned", text, bad=True)]
    return [Reading("What there is to forget", text)]


def _clearly_above(a: Interval, b: Interval) -> bool:
    """Whether the 95 % interval of a - b lies above zero.

    Its lower end is a - b - sqrt((a - low_a)^2 + (high_b - b)^2), as if the two were independent; both answered the
    same questions, so the true interval is narrower. Source: Zou and Donner 2008, doi:10.1002/sim.3095.
    """
    if a.low is None or b.high is None:
        return a.value > b.value
    return a.value - b.value > math.hypot(a.value - a.low, b.high - b.value)


def _front(rows: list[TradeoffRow], unmoved: list[str]) -> list[Reading]:
    front = [row.model.name for row in rows if row.on_front]
    others = sum(row.model.role == "unlearned" for row in rows) - len(front)
    if not front:
        text = "No unlearned model that still answers is better than the target on either count."
        return [Reading("Best trade-offs", text)] if others else []
    moved, idle = [name for name in front if name not in unmoved], [name for name in front if name in unmoved]
    parts = []
    if moved:
        verb = "is" if len(moved) == 1 else "are"
        parts.append(f"{listing(moved)} {verb} not beaten on both forgetting and utility by any other model.")
    if idle:
        verb = "lies" if len(idle) == 1 else "lie"
        parts.append(f"{listing(idle)} {verb} on the front too, but only by changing little.")
    return [Reading("Best trade-offs", " ".join(parts))]


def _nearest(numbers: Numbers, rows: list[TradeoffRow]) -> list[Reading]:
    """The model closest to never having learned, and what it paid in utility."""
    target = next((row for row in rows if row.model.role == "target"), None)
    sane = [row for row in rows if row.model.role == "unlearned" and not row.collapsed and not row.partial]
    sane = [row for row in sane if row.distance is not None]
    if not sane or numbers.first("retain_model") is None:
        return []
    best = min(sane, key=lambda row: (row.distance or 0.0, row.number))
    text = f"{best.model.name} ends {_points(best.distance or 0.0)} points from the retain_model on forget people"
    if target and target.utility and best.utility:
        change = best.utility.value - target.utility.value
        text += f", with utility {_points(abs(change))} points {'below' if change < 0 else 'above'} the target's"
    return [Reading("Closest to never having learned", f"{text}.")]


def _unmoved_names(rows: list[TradeoffRow]) -> list[str]:
    """Models whose forget interval still holds the target's score over the same tasks."""
    known = [row for row in rows if row.model.role == "unlearned" and row.forget and row.drop is not None]
    return [
        r.model.name
        for r in known
        if r.forget and r.forget.high is not None and r.forget.high >= r.forget.value + (r.drop or 0.0)
    ]


def _unmoved(numbers: Numbers, names: list[str]) -> list[Reading]:
    if not names:
        return []
    which = "all of them" if len(names) == len(numbers.unlearned()) else listing(names)
    text = f"For {which} the 95 % interval on forget people still reaches the target's score."
    return [Reading("Not shown to forget", text, bad=True)]


def _shallow(numbers: Numbers, modality: Modality) -> list[Reading]:
    """Models that forget the trained wording and portrait but much less the transformed ones."""
    target = numbers.first("target")
    if target is None:
        return []
    names = [row.name for row in numbers.unlearned() if _is_shallow(numbers, target, row, modality)]
    if not names:
        return []
    text = (
        f"{listing(names)}: less than half of the drop on forget shows on test (same people, other portrait and words)."
    )
    return [Reading("Forgotten on the surface", text, bad=True)]


def _is_shallow(numbers: Numbers, target: ModelRow, row: ModelRow, modality: Modality) -> bool:
    forget = [numbers.score(name, modality, ("forget",)) for name in (target.name, row.name)]
    test = [numbers.score(name, modality, ("test",)) for name in (target.name, row.name)]
    if forget[0] is None or forget[1] is None or test[0] is None or test[1] is None:
        return False
    clear = forget[1].high is not None and forget[1].high < forget[0].value
    return clear and test[0].value - test[1].value < _SHALLOW * (forget[0].value - forget[1].value)


def _collapsed(rows: list[TradeoffRow]) -> list[Reading]:
    hurt = [row for row in rows if row.collapsed]
    if not hurt:
        return []
    names = listing(f"{row.model.name} ({percent(row.garbled_retain)} of retain replies garbled)" for row in hurt)
    text = f"{names}. Such a model cannot answer any more; a low forget score of it is damage, not unlearning."
    return [Reading("Collapsed", text, bad=True)]


def _unreadable(rows: list[TradeoffRow]) -> list[Reading]:
    partial = [row for row in rows if row.partial and not row.collapsed]
    if not partial:
        return []
    names = listing(f"{row.model.name} ({', '.join(row.standing.missing)})" for row in partial)
    text = (
        f"{names}: in these tasks not one reply could be read in some set, so the scores are means of the other tasks, "
        "compared with the target and the retain_model on the same. Such a model is not on the front."
    )
    return [Reading("Not all of it can be read", text, bad=True)]


def _between_modalities(rows: list[TradeoffRow]) -> list[Reading]:
    """The unlearned model whose forgetting differs most between asking with the image and asking by name."""
    drops: dict[str, dict[Modality, float]] = {}
    for row in rows:
        if (
            row.task == ALL_TASKS
            and row.model.role == "unlearned"
            and row.drop is not None
            and not row.collapsed
            and not row.partial
        ):
            drops.setdefault(row.model.name, {})[row.modality] = row.drop
    both = {name: drop for name, drop in drops.items() if len(drop) == 2}
    if not both:
        return []
    name = max(both, key=lambda n: abs(both[n]["image_text"] - both[n]["text"]))
    image, text = both[name]["image_text"], both[name]["text"]
    sentence = (
        f"The largest difference is at {name}: {_points(image)} points forgotten when asked with the portrait, "
        f"{_points(text)} when asked by name."
    )
    return [Reading("Image against name", sentence)]


def _weak_metrics(trust: Sequence[TrustRow]) -> list[Reading]:
    """Main metrics that hardly tell models that know from models that do not, where that was measured."""
    names = [
        f"{METRIC_LABELS[row.metric]} ({row.task}, {MODALITY_LABELS[row.modality]}, AUC {row.auc:.2f})"
        for row in trust
        if row.metric == MAIN_METRIC[row.task] and row.auc is not None and row.auc < _WEAK_AUC
    ]
    if not names:
        return []
    text = f"{listing(names)}: hardly better than chance at telling models that know the people from others."
    return [Reading("Weak evidence", text, bad=True)]
