"""Who else is hurt: people who are like those to forget, and facts that both share."""

from collections.abc import Iterable, Mapping, Sequence

from mllmu.core.equal_values import words
from mllmu.core.names import TARGET
from mllmu.evaluation.summaries import ScoredRun, Summariser, Summary, TableSpec, mean

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
        forgotten = {_person(sample.profile_id) for sample in run.asked("forget")}
        theirs = [facts(run.people[person]) for person in sorted(forgotten) if person in run.people]
        kept = {_person(s.profile_id) for s in run.asked("retain")} & {*run.people}
        similar = {person: similarity(facts(run.people[person]), theirs) for person in kept} if theirs else {}
        shared = {(attribute, value) for each in theirs for attribute, value in each.items()}
        rows = []
        for model in run.models if similar else ():
            for _, modality in run.cells(["retain"]):
                right, before = (
                    run.judged(name, "right", split="retain", modality=modality) for name in (model, TARGET)
                )
                by_band: dict[str, list[float]] = {band: [] for band in BANDS}
                of_shared, losses = [], dict[str, list[float]]()
                for name, value in right.items():
                    sample = run.samples[name]
                    person = _person(sample.profile_id)
                    if person not in similar:
                        continue
                    by_band[BANDS[min(similar[person], 2)]].append(value)
                    if (sample.attribute, fact(sample.attribute, sample.value)) in shared:
                        of_shared.append(value)
                    if name in before:
                        losses.setdefault(sample.profile_id, []).append(before[name] - value)
                for detail, values in (*by_band.items(), (SHARED, of_shared)):
                    number = mean(values) if values else None
                    rows.append(
                        self.row(model, number, detail=detail, split="retain", modality=modality, num=len(values))
                    )
                points = [(similar[_person(person)], mean(values)) for person, values in losses.items()]
                rows.append(
                    self.row(model, slope(points), detail=SLOPE, split="retain", modality=modality, num=len(points))
                )
        return rows

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


def _person(profile_id: str) -> str:
    """The person of a sample, who may have been drawn more than once for an interval."""
    return profile_id.partition("#")[0]


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
