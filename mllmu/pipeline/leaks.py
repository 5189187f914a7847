"""What models still say of the people to forget, for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from mllmu.core.names import RETAIN_MODEL
from mllmu.core.records import FORGOTTEN, Response, Sample
from mllmu.evaluation.outcome import outcome
from mllmu.report.inputs import ToldFact

MOST_FACTS = 40
"""Facts that are shown of a model, word for word."""
LONGEST = 300
"""Letters of a question or a reply."""


def what_leaks(
    models: Sequence[str],
    names: Mapping[str, str],
    samples: Sequence[Sample],
    replies: Mapping[str, Mapping[str, Response]],
) -> dict[str, Any]:
    """The fields ``names``, ``told`` and ``leaks`` of :class:`mllmu.report.inputs.ReportInput`."""
    asked = [sample for sample in samples if sample.split in FORGOTTEN and sample.part == "report"]
    right = {model: {s.id for s in asked if outcome(s, replies[model][s.id]) == "right"} for model in models}
    told: dict[str, dict[str, tuple[int, int]]] = {}
    leaks: dict[str, tuple[ToldFact, ...]] = {}
    for model in models:
        of_model = told[model] = {}
        for sample in asked:
            count, total = of_model.get(sample.profile_id, (0, 0))
            of_model[sample.profile_id] = (count + (sample.id in right[model]), total + 1)
        more = [s for s in asked if s.id in right[model] - right.get(RETAIN_MODEL, set())]
        leaks[model] = tuple(_fact(sample, replies[model][sample.id].text) for sample in more[:MOST_FACTS])
    people = dict.fromkeys(sample.profile_id for sample in asked)
    return {"names": {person: names[person] for person in people}, "told": told, "leaks": leaks}


def _fact(sample: Sample, reply: str) -> ToldFact:
    return ToldFact(
        person=sample.profile_id,
        task=sample.task,
        modality=sample.modality,
        question=sample.prompt[:LONGEST],
        truth=sample.target,
        reply=reply[:LONGEST],
    )
