"""Who pays for a request: what is lost about retained people, by gender, age and origin."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

from mllmu.data.groups import groups_of
from mllmu.evaluation.summaries import ScoredRun, Summariser, Summary, TableSpec, mean, person_of

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
        groups = {person: groups_of(run.people[person]) for person in run.known_people("retain")}
        sizes = Counter(group for of_person in groups.values() for group in of_person)
        named = sorted(group for group, size in sizes.items() if size >= FEWEST)
        rows = []
        for model, (_, modality) in product(run.models if named else (), run.cells(["retain"])):
            losses: dict[str, list[float]] = {group: [] for group in named}
            for name, loss in run.lost(model, split="retain", modality=modality).items():
                for group in losses.keys() & {*groups.get(person_of(run.samples[name].profile_id), ())}:
                    losses[group].append(loss)
            rows += [
                self.row(model, mean(v) if v else None, detail=g, split="retain", modality=modality, num=len(v))
                for g, v in losses.items()
            ]
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
