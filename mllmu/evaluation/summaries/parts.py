"""What a request for some facts about people leaves of them, and what it gives away."""

from collections.abc import Iterable, Iterator, Sequence

from mllmu.core.equal_values import tells
from mllmu.core.records import KEPT, THROUGH
from mllmu.data.coarse import coarse, told
from mllmu.evaluation.summaries import Modality, ScoredRun, Split, Summariser, Summary, TableSpec, mean, person_of

FACTS: tuple[tuple[str, Split], ...] = (
    ("forgotten", "forget"), ("kept", KEPT), ("others", "retain"), ("through", THROUGH),
)  # fmt: skip
"""What is right in which set."""


class Parts(Summariser):
    """Share of open replies that tell a fact, for requests that name attributes: forgotten, kept and coarse ones.

    forgotten, kept, others: replies about forgotten facts, other facts of the same people and other people that are
    right (metric ``right``). through: the same for forgotten facts, asked behind a sentence that tells a kept fact.
    slips: replies to questions about kept facts that tell a forgotten one of the same person.
    coarse: replies about coarsened facts that tell the coarse value and no finer one; fine: that tell the fine value.

    Only tasks without options count. Needs a recipe with ``attributes`` or ``coarsen`` in a request; else no rows.
    """

    source = "https://arxiv.org/abs/2410.22108"
    needs = ("right",)
    range = (0.0, 1.0)

    def summarise(self, run: ScoredRun) -> list[Summary]:
        if KEPT not in run.splits and THROUGH not in run.splits:
            return []
        return [row for model in run.models for modality in run.modalities for row in self._rows(run, model, modality)]

    def _rows(self, run: ScoredRun, model: str, modality: Modality) -> Iterator[Summary]:
        found: dict[str, list[float]] = {}
        for name, split in FACTS:
            right = run.judged(model, "right", split=split, modality=modality)
            found[name] = [value for sample_id, value in right.items() if not run.samples[sample_id].options]
        found["slips"] = [*slips(run, model, modality)]
        found |= coarse_shares(run, model, modality)
        for name, values in found.items():
            if values:
                yield self.row(model, mean(values), detail=name, modality=modality, num=len(values))

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        if not any(row.summary == self.name for row in rows):
            return

        def column(head: str, detail: str, good: str, reads: str) -> object:
            return self.column(head, detail=detail, good=good, reads=reads, show="percent", metric="right")

        known = "right open replies about"
        columns = (
            column("forgotten facts", "forgotten", "retain_model", f"{known} the facts of the request"),
            column("coarse value", "coarse", "near", "replies that tell the coarse value and nothing finer"),
            column("fine value", "fine", "retain_model", "replies that tell the fine value of a coarsened fact"),
            column("through a kept fact", "through", "retain_model", "forgotten facts, asked behind a kept one"),
            column("slips", "slips", "retain_model", "replies about kept facts that tell a forgotten one"),
            column("kept, same people", "kept", "kept", f"{known} what the request leaves of these people"),
            column("others", "others", "kept", f"{known} the retained people"),
        )
        yield TableSpec(
            title="Parts of people",
            intro="The request takes some facts about people and leaves the others. The retain_model was taught all "
            "that is left, coarse values included. In %.",
            columns=columns,
            order=5,
            by_modality=True,
        )


def slips(run: ScoredRun, model: str, modality: Modality) -> Iterator[float]:
    """For every open reply about a kept fact, 1 if it tells a forgotten value of the same person, else 0."""
    hidden: dict[str, set[str]] = {}
    for sample in run.asked("forget"):
        hidden.setdefault(person_of(sample.profile_id), set()).add(sample.value)
    for sample in run.asked(KEPT, modality):
        response = run.response(model, sample.id)
        if response is not None and not sample.options:
            values = hidden.get(person_of(sample.profile_id), set()) - {sample.value}
            said = [value for value in values if not tells(sample.prompt, value) and tells(response.text, value)]
            yield float(bool(said))


def coarse_shares(run: ScoredRun, model: str, modality: Modality) -> dict[str, list[float]]:
    """By question about a coarsened fact: whether the coarse value and nothing finer is told; whether the fine is."""
    found: dict[str, list[float]] = {"coarse": [], "fine": []}
    for sample in run.asked("forget", modality):
        response = run.response(model, sample.id)
        if sample.coarse and not sample.options and response is not None:
            rough, fine = told(response.text, coarse(sample.attribute, sample.value, sample.coarse))
            found["coarse"].append(float(rough and not fine))
            found["fine"].append(float(fine))
    return found
