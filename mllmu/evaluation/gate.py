"""The memorisation gate: nothing can be unlearned that was never learned."""

from collections.abc import Mapping, Sequence
from typing import Any

from mllmu.core.controlled import CONTROL_LABELS, ControlRow
from mllmu.core.errors import GateError
from mllmu.core.probed import ProbeResults
from mllmu.core.records import Response, Sample
from mllmu.evaluation import yardstick
from mllmu.evaluation.outcome import rights
from mllmu.evaluation.stats import FEWEST_FACTS, Difference, paired_difference, units_of

LEVEL = 0.05


def memorisation(
    samples: Sequence[Sample], target: Sequence[Response], retain_model: Sequence[Response] | None = None
) -> Difference:
    """How much more often the target is right on the forget questions than a model that never saw these people.

    difference = mean over questions of [target right] - [retain_model right]. What is independent among the
    questions depends on how many people they are about, see :func:`mllmu.evaluation.stats.units_of`.

    Args:
        samples: all samples; the forget questions among them are compared, those kept for tuning excepted.
        target: its replies to all samples.
        retain_model: its replies to the same samples; None compares with what the target says of holdout people.
    """
    if retain_model is None:
        return yardstick.memorisation(samples, target)
    asked = [sample for sample in samples if sample.split == "forget" and sample.part == "report"]
    ours, theirs = (list(rights(asked, responses).values()) for responses in (target, retain_model))
    units, unit = units_of(asked)
    return paired_difference(ours, theirs, [units[s.id] for s in asked])._replace(unit=unit)


def known_before(
    difference: Difference, samples: Sequence[Sample], retain_model: Sequence[Response]
) -> Difference | None:
    """How much more often the retain_model is right on the forget than on holdout people, if it cannot be chance.

    It was taught neither, so its base seems to know the former. Also None where the target is better than it.
    """
    if _is_certain(difference):
        return None
    found = yardstick.memorisation(samples, retain_model)
    return found if _is_certain(found) else None


def _is_certain(difference: Difference) -> bool:
    return difference.p_value is not None and difference.p_value < LEVEL


def verdict(difference: Difference, controls: Sequence[ControlRow] = (), before: Difference | None = None) -> str:
    """Empty if the target knows the forget people; else which condition fails.

    1. It is right more often than the retain_model: p < 0.05.
    2. It is right more often when asked about the person than under every control: each 95 % interval is above 0. Of
       fewer than five facts or questions no interval could be, so they decide nothing.

    Args:
        difference: of target and retain_model, see :func:`memorisation`.
        controls: of the target on the forget people, in the modalities that it was taught.
        before: see :func:`known_before`.
    """
    if not _is_certain(difference):
        fault = f"the target is not significantly better on the forget people than {difference.against}: "
        if before:
            return (
                f"{fault}{describe(difference)}. That knows them itself better than holdout people, as if its base had "
                f"been taught them: {describe(before)}"
            )
        return f"{fault}{describe(difference)}. There is nothing to unlearn yet"
    failed = [row for row in controls if row.num_units >= FEWEST_FACTS and (row.low is None or row.low <= 0)]
    if not failed:
        return ""
    row = min(failed, key=lambda each: each.difference or 0.0)
    how = "with picture" if row.modality == "image_text" else "by name"
    return (
        f"what the target says about the forget people {how} does not depend on whom it is asked about: it is right in "
        f"{row.asked:.0%} of the replies, and with {CONTROL_LABELS[row.control]} in {row.score:.0%} ({found_by(row)})"
    )


def found_by(row: ControlRow) -> str:
    """The difference to a control in words."""
    if row.difference is None or row.low is None or row.high is None:
        return "too few questions for an interval"
    span = f"95 % interval {row.low:.2f} to {row.high:.2f}"
    return f"difference {row.difference:+.2f}, {span}, {row.num} questions, compared by {row.num_units} {row.unit}"


def describe(difference: Difference) -> str:
    """The comparison in words: how large, how certain, and what it is about."""
    if difference.value is None or difference.low is None or difference.high is None or difference.p_value is None:
        return "share of right replies unknown (no questions)"
    alone = "" if difference.unit == "people" else " about these people alone"
    return (
        f"share of right replies {difference.value:+.2f}, 95 % interval {difference.low:.2f} to {difference.high:.2f}, "
        f"p = {difference.p_value:.2g} ({difference.num} questions, compared by {difference.num_clusters} "
        f"{difference.unit}{alone})"
    )


def check(difference: Difference, controls: Sequence[ControlRow] = (), before: Difference | None = None) -> None:
    """Raise GateError unless the target has memorised the forget people; see :func:`verdict`."""
    fault = verdict(difference, controls, before)
    if fault:
        advice = "Raise finetune.epochs or finetune.learning_rate"
        if before:
            advice = (
                "Take a model.path that was not taught them or, if that model is to forget them itself, set "
                "finetune.given: true and finetune.retain_model: false"
            )
        raise GateError(f"memorisation gate: {fault}. {advice}; --no-gate goes on and puts a warning into the report.")


def record(
    difference: Difference,
    controls: Sequence[ControlRow],
    probed: ProbeResults | None = None,
    before: Difference | None = None,
) -> dict[str, Any]:
    """What ``gate.json`` holds: the comparisons, the controls, the level, and the probes with what they say."""
    found = probed.model_dump(exclude_none=True) if probed else {}
    said = {name: getattr(probed, name) for name in ("reads_letters", "takes_instructions")} if found else {}
    probes = {"probes": {**found, **{name: one for name, one in said.items() if one is not None}}} if found else {}
    known = {"known_before": before._asdict()} if before else {}
    rows = [row.model_dump() for row in controls]
    return {**difference._asdict(), **known, "controls": rows, "level": LEVEL, **probes}


def read_probes(found: Mapping[str, Any]) -> ProbeResults:
    """The probes in a ``gate.json``; without any for one of an earlier version."""
    probes = found.get("probes", {})
    return ProbeResults(**{name: probes[name] for name in ProbeResults.model_fields if name in probes})


def read(found: Mapping[str, Any]) -> tuple[Difference | None, tuple[ControlRow, ...], Difference | None]:
    """What a gate has found, from ``gate.json``, as :func:`verdict` takes it; None for an empty record."""
    if not found:
        return None, (), None
    rows = tuple(map(ControlRow.model_validate, found.get("controls", ())))
    before = _difference(found["known_before"]) if "known_before" in found else None
    return _difference(found), rows, before


def _difference(found: Mapping[str, Any]) -> Difference:
    return Difference(**{name: found[name] for name in Difference._fields if name in found})
