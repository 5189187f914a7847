"""One answer for the first screen: which method, at what price, and how sure that is."""

from collections.abc import Sequence
from typing import NamedTuple

from mllmu.core.declared import MODALITY_LABELS, THESE_PEOPLE
from mllmu.core.records import UTILITY
from mllmu.report.inputs import ModelRow
from mllmu.report.numbers import ALL_TASKS, Interval, Numbers, TradeoffRow
from mllmu.report.printing import fixed, listing, show


class Recommendation(NamedTuple):
    """Three sentences: the method, its price, and how sure both are; ``model`` is empty if there is no method."""

    model: str
    method: str
    price: str = ""
    sure: str = ""


def verdict(numbers: Numbers, rows: Sequence[TradeoffRow]) -> Recommendation | None:
    """The unlearned model that is nearest to the retain_model, forgetting and utility together, over all modalities.

    Those that are broken or hardly changed, or of which some score is missing, are left out.

    None without results, or without a retain_model to compare with.
    """
    by_model: dict[str, list[TradeoffRow]] = {}
    for row in rows:
        if row.task == ALL_TASKS and row.model.role == "unlearned":
            by_model.setdefault(row.model.name, []).append(row)
    if not by_model or numbers.first("retain_model") is None:
        return None
    sound = {
        name: of for name, of in by_model.items() if all(not row.faults and row.distance is not None for row in of)
    }
    if not sound:
        none = "No method can be recommended: every one has broken or hardly changed the model, or cannot be judged."
        return Recommendation("", f"{none}{_of_target(numbers)}")
    best = min(sound, key=lambda name: _distance(numbers, sound[name][0].model))
    sure = f"{_sure(numbers, best, sound)}{_of_target(numbers)}"
    return Recommendation(best, _method(numbers, sound[best]), _price(numbers, sound[best]), sure)


def _of_target(numbers: Numbers) -> str:
    """The methods that the target, and not their own loss, keeps from being compared; empty if there are none."""
    names = [row.name for row in numbers.unlearned() if row.of_target]
    return f" Not judged: {listing(names)}, as the target itself takes no system prompt." if names else ""


def _distance(numbers: Numbers, model: ModelRow) -> float:
    return numbers.distance(model) or 0.0


def _method(numbers: Numbers, rows: Sequence[TradeoffRow]) -> str:
    parts = []
    for row in rows:
        start, aim = (numbers.of_role(role, row.modality, ("forget",)) for role in ("target", "retain_model"))
        if row.forget and start and aim:
            parts.append(
                f"{show(row.forget.value)} in {MODALITY_LABELS[row.modality]} "
                f"(target {show(start.value)}, retain model {show(aim.value)})"
            )
    return (
        f"{rows[0].model.name} comes nearest to a model that never learned the {numbers.forgotten} to forget, in "
        f"forgetting and utility together: its score on them is {' and '.join(parts)}."
    )


def _price(numbers: Numbers, rows: Sequence[TradeoffRow]) -> str:
    parts = []
    for row in rows:
        known = numbers.of_role("target", row.modality, UTILITY)
        if row.utility and known:
            change = 100 * (row.utility.value - known.value)
            word = "less" if change < 0 else "more"
            parts.append(f"{fixed(abs(change), 1)} points {word} in {MODALITY_LABELS[row.modality]}")
    return f"Price: utility ({numbers.sets(*UTILITY)}) is {' and '.join(parts)} than the target's." if parts else ""


def _sure(numbers: Numbers, best: str, sound: dict[str, list[TradeoffRow]]) -> str:
    """How far the intervals carry: against the target, and against every other sound method."""
    people = numbers.people("forget")
    who = f"{people} {'person' if people == 1 else 'people'} to forget"
    ends = [
        (row.forget.high, row.forget.value + row.drop) for row in sound[best] if row.forget and row.drop is not None
    ]
    if any(high is None for high, _ in ends):
        clear = "no interval says whether it forgets"
    elif any(high is not None and high >= start for high, start in ends):
        clear = "it is not shown to forget: its interval holds the target's score"
    else:
        clear = "its intervals lie clear of the target's score"
    parts = [f"with {who}, {clear}"]
    alike = [name for name, rows in sound.items() if name != best and _alike(sound[best], rows)]
    if alike:
        parts.append(f"{listing(alike)} cannot be told from it by the 95 % intervals")
    elif len(sound) > 1:
        parts.append("every other method that works differs from it by more than the 95 % intervals")
    whose = "this person's" if people == 1 else "these people's"
    about = f"; the numbers are about {whose} questions alone" if 0 < people <= THESE_PEOPLE else ""
    return f"How sure: {'; '.join(parts)}{about}."


def _alike(rows: Sequence[TradeoffRow], others: Sequence[TradeoffRow]) -> bool:
    """Whether the intervals of two models overlap in all scores."""
    pairs = [(a, b) for one, other in zip(rows, others, strict=True)
             for a, b in ((one.forget, other.forget), (one.utility, other.utility))]  # fmt: skip
    return all(_overlap(a, b) for a, b in pairs if a and b)


def _overlap(a: Interval, b: Interval) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return True
    return a.low <= b.high and b.low <= a.high
