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


def verdict(difference: Difference, controls: Sequence[ControlRow] = ()) -> str:
    """Empty if the target knows the forget people; else which condition fails.

    1. It is right more often than the retain_model: p < 0.05.
    2. It is right more often when asked about the person than under every control: each 95 % interval is above 0. Of
       fewer than five facts or questions no interval could be, so they decide nothing.

    Args:
        difference: of target and retain_model, see :func:`memorisation`.
        controls: of the target on the forget people, in the modalities that it was taught.
    """
    if difference.p_value is None or difference.p_value >= LEVEL:
        return (
            f"the target is not significantly better on the forget people than {difference.against}: "
            f"{describe(difference)}. There is nothing to unlearn yet"
        )
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


def check(difference: Difference, controls: Sequence[ControlRow] = ()) -> None:
    """Raise GateError unless the target has memorised the forget people; see :func:`verdict`."""
    fault = verdict(difference, controls)
    if fault:
        raise GateError(
            f"memorisation gate: {fault}. Raise finetune.epochs or finetune.learning_rate; "
            "--no-gate goes on and puts a warning into the report."
        )


def record(
    difference: Difference, controls: Sequence[ControlRow], probed: ProbeResults | None = None
) -> dict[str, Any]:
    """What ``gate.json`` holds: the comparison, the controls, the level, and the probes with what they say."""
    found = probed.model_dump(exclude_none=True) if probed else {}
    said = {name: getattr(probed, name) for name in ("reads_letters", "takes_instructions")} if found else {}
    probes = {"probes": {**found, **{name: one for name, one in said.items() if one is not None}}} if found else {}
    return {**difference._asdict(), "controls": [row.model_dump() for row in controls], "level": LEVEL, **probes}


def read_probes(found: Mapping[str, Any]) -> ProbeResults:
    """The probes in a ``gate.json``; without any for one of an earlier version."""
    probes = found.get("probes", {})
    return ProbeResults(**{name: probes[name] for name in ProbeResults.model_fields if name in probes})


def read(found: Mapping[str, Any]) -> tuple[Difference | None, tuple[ControlRow, ...]]:
    """What a gate has found, from ``gate.json``; None for an empty record."""
    if not found:
        return None, ()
    rows = tuple(map(ControlRow.model_validate, found.get("controls", ())))
    return Difference(**{name: found[name] for name in Difference._fields if name in found}), rows
