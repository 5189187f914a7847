"""Who pays for a request: what is lost about retained people, by gender, age and origin."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

from mllmu.data.groups import groups_of
from mllmu.evaluation.summaries import RowKey, ScoredRun, Summariser, Summary, TableSpec, mean, person_of

FEWEST = 2
"""Fewer people are no group."""


class ByGroup(Summariser):
    """Points of right replies about retained people that a model loses against the target, by group of people.

    loss = mean over the questions about a group of [target right] - [model right]. Groups: the values of ``gender``,
    the decade of ``birth_date``, the country of ``birthplace``, each with two people or more.
    """

    source = "ours"
    needs = ("right",)
    range = (-1.0, 1.0)

    def summarise(self, run: ScoredRun) -> list[Summary]:
        return [
            self.row(model, mean([*v.values()]) if v else None, detail=g, split=split, modality=modality, num=len(v))
            for (model, _, g, split, modality), v in self.behind(run).items()
        ]

    def behind(self, run: ScoredRun) -> dict[RowKey, dict[str, float]]:
        """What is lost by sample id, by row."""
        groups = {person: groups_of(run.people[person]) for person in run.known_people("retain")}
        sizes = Counter(group for of_person in groups.values() for group in of_person)
        named = sorted(group for group, size in sizes.items() if size >= FEWEST)
        rows: dict[RowKey, dict[str, float]] = {}
        for model, (_, modality) in product(run.models if named else (), run.cells(["retain"])):
            losses: dict[str, dict[str, float]] = {group: {} for group in named}
            for name, loss in run.lost(model, split="retain", modality=modality).items():
                for group in losses.keys() & {*groups.get(person_of(run.samples[name].profile_id), ())}:
                    losses[group][name] = loss
            rows |= {(model, self.name, group, "retain", modality): lost for group, lost in losses.items()}
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        names = dict.fromkeys(row.detail for row in rows if row.summary == self.name)
        yield TableSpec(
            title="Who pays",
            intro="Points of right replies about retained people that a model loses against the target, by group of "
            "people; groups of one person are left out.",
            columns=tuple(self.column(name, detail=name, split="retain", show="signed", good="none") for name in names),
            order=46,
            by_modality=True,
            folded=True,
        )
