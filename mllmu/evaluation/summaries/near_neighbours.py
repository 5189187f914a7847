"""Who else is hurt: people who are like those to forget, and facts that both share."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import product

from mllmu.core.equal_values import words
from mllmu.evaluation.summaries import Modality, ScoredRun, Summariser, Summary, TableSpec, mean, person_of

Words = tuple[str, ...]
BANDS = ("none shared", "one shared", "two or more shared")
SHARED, SLOPE = "shared facts", "loss per shared fact"


class NearNeighbours(Summariser):
    """Share of right replies about retained people, by how many facts they share with a person to forget.

    similarity of a retained person = max over people to forget of the number of attributes with the same value; of
    places (``city, country``) the country counts. Bands: none, one, two or more shared.
    shared facts: right replies to questions about a retained person whose value a person to forget has too; it must
    stay, as it is a retained person's fact.
    loss per shared fact: slope of (target's share right - the model's) over the similarity, by least squares over
    people; 0 = who is similar is hurt no more than others. None where all are equally similar.

    All tasks together, modalities apart.
    """

    source = "ours"
    needs = ("right",)
    range = (0.0, 1.0)

    def limits(self, detail: str) -> tuple[float, float]:
        return (-1.0, 1.0) if detail == SLOPE else self.range

    def summarise(self, run: ScoredRun) -> list[Summary]:
        theirs = [facts(run.people[person]) for person in sorted(run.known_people("forget"))]
        kept = run.known_people("retain") if theirs else set()
        similar = {person: similarity(facts(run.people[person]), theirs) for person in kept}
        shared = {fact_of for each in theirs for fact_of in each.items()}
        cells = product(run.models if similar else (), run.cells(["retain"]))
        return [row for model, (_, modality) in cells for row in self._rows(run, model, modality, similar, shared)]

    def _rows(
        self,
        run: ScoredRun,
        model: str,
        modality: Modality,
        similar: Mapping[str, int],
        shared: Container[tuple[str, Words]],
    ) -> Iterator[Summary]:
        right: dict[str, list[float]] = {detail: [] for detail in (*BANDS, SHARED)}
        for name, value in run.judged(model, "right", split="retain", modality=modality).items():
            sample = run.samples[name]
            if (person := person_of(sample.profile_id)) in similar:
                right[BANDS[min(similar[person], 2)]].append(value)
                if (sample.attribute, fact(sample.attribute, sample.value)) in shared:
                    right[SHARED].append(value)
        losses: dict[str, list[float]] = {}
        for name, loss in run.lost(model, split="retain", modality=modality).items():
            losses.setdefault(run.samples[name].profile_id, []).append(loss)
        points = [(similar[person_of(who)], mean(lost)) for who, lost in losses.items() if person_of(who) in similar]
        where = {"split": "retain", "modality": modality}
        for detail, values in right.items():
            yield self.row(model, mean(values) if values else None, detail=detail, num=len(values), **where)
        yield self.row(model, slope(points), detail=SLOPE, num=len(points), **where)

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        shown = (*((band, "percent") for band in BANDS), (SHARED, "percent"), (SLOPE, "signed"))
        yield TableSpec(
            title="Who else is hurt",
            intro="Right replies about retained people in %, by how many facts they share with a person to forget; to "
            "questions whose answer a person to forget shares; and how many points more a model loses for every shared "
            "fact (0: who is similar is hurt no more than others).",
            columns=tuple(
                self.column(
                    detail, detail=detail, split="retain", show=show, good="none" if detail == SLOPE else "kept"
                )
                for detail, show in shown
            ),
            order=45,
            by_modality=True,
        )


def fact(attribute: str, value: str) -> Words:
    """A value as it is compared; of a place the country."""
    return words(value.rpartition(",")[2] if attribute in ("birthplace", "residence") else value)


def facts(attributes: Mapping[str, str]) -> dict[str, Words]:
    """The comparable values of a person, without the name."""
    return {name: fact(name, value) for name, value in attributes.items() if name != "name" and value.strip()}


def similarity(person: Mapping[str, Words], others: Sequence[Mapping[str, Words]]) -> int:
    """The largest number of equal values with any of the others."""
    return max(sum(other.get(name) == value for name, value in person.items()) for other in others)


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Least-squares slope of the second over the first; None if the first is the same everywhere.

    >>> slope([(0, 0.0), (1, 0.1), (2, 0.2)]), slope([(1, 0.1), (1, 0.3)])
    (0.1, None)
    """
    if not points:
        return None
    x, y = (mean(side) for side in zip(*points, strict=True))
    spread = sum((a - x) ** 2 for a, _ in points)
    return sum((a - x) * (b - y) for a, b in points) / spread if spread else None
