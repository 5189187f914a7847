"""Who else is hurt: people who are like those to forget, and facts that both share."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from mllmu.core.equal_values import words
from mllmu.evaluation.summaries import Modality, RowKey, ScoredRun, Summariser, Summary, TableSpec, mean, person_of

Words = tuple[str, ...]
Points = list[tuple[float, float]]
BANDS = ("none shared", "one shared", "two or more shared")
SHARED, SLOPE = "shared facts", "loss per shared fact"
THIRDS = ("third least alike", "third between", "third most alike")
FACE_SLOPE = "loss per 0.1 of likeness"


class NearNeighbours(Summariser):
    """Share of right replies about retained people, by how like a person to forget they are: in facts, and in looks.

    shared facts of a retained person = max over people to forget of the number of attributes with the same value; of
    places (``city, country``) the country counts. Bands: none, one, two or more shared.
    shared facts: right replies to questions about a retained person whose value a person to forget has too; it must
    stay, as it is a retained person's fact.
    likeness of a retained person = max over people to forget of Pearson's r of the two portraits, as thumbnails of
    16 x 16 fields in colour (see :func:`mllmu.evaluation.faces.like_forgotten`). Bands: thirds of all retained people
    by likeness, as its scale differs from one kind of picture to another; none with fewer than three people.
    loss per shared fact, per 0.1 of likeness: slope of (target's share right - the model's) over them, by least squares
    over people; 0 = who is similar is hurt no more than others. None where all are equally similar.

    All tasks together, modalities apart.
    """

    source = "ours"
    needs = ("right",)
    range = (0.0, 1.0)

    def limits(self, detail: str) -> tuple[float, float]:
        return {SLOPE: (-1.0, 1.0), FACE_SLOPE: (-math.inf, math.inf)}.get(detail, self.range)

    def summarise(self, run: ScoredRun) -> list[Summary]:
        rows = list[Summary]()
        for model, modality, right, slope_name, points in self._parts(run):
            where = {"split": "retain", "modality": modality}
            for detail, values in right.items():
                value = mean([*values.values()]) if values else None
                rows.append(self.row(model, value, detail=detail, num=len(values), **where))
            rows.append(self.row(model, slope(points), detail=slope_name, num=len(points), **where))
        return rows

    def behind(self, run: ScoredRun) -> dict[RowKey, dict[str, float]]:
        """Right or not by sample id, by row; slopes rest on all people."""
        return {
            (model, self.name, detail, "retain", modality): values
            for model, modality, right, *_ in self._parts(run)
            for detail, values in right.items()
        }

    def _parts(self, run: ScoredRun) -> Iterator[tuple[str, Modality, dict[str, dict[str, float]], str, Points]]:
        """Model, modality, right or not of the replies of every band, and the name and the points of the slope."""
        theirs = [facts(run.people[person]) for person in sorted(run.known_people("forget"))]
        kept = run.known_people("retain") if theirs else set()
        similar = {person: similarity(facts(run.people[person]), theirs) for person in kept}
        shared = {fact_of for each in theirs for fact_of in each.items()}
        likeness = run.like_forgotten()
        bands = {person: BANDS[min(number, 2)] for person, number in similar.items()}
        for model, (_, modality) in product(run.models, run.cells(["retain"])):
            if bands:
                right = by_band(run, model, modality, bands, BANDS)
                right[SHARED] = {
                    name: value
                    for name, value in run.judged(model, "right", split="retain", modality=modality).items()
                    if (s := run.samples[name]) and (s.attribute, fact(s.attribute, s.value)) in shared
                    if person_of(s.profile_id) in bands
                }
                yield model, modality, right, SLOPE, losses(run, model, modality, similar)
            if thirds_of := thirds(likeness):
                right = by_band(run, model, modality, thirds_of, THIRDS)
                points = [(10 * like, lost) for like, lost in losses(run, model, modality, likeness)]
                yield model, modality, right, FACE_SLOPE, points

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        how = (
            "by how many facts they share with a person to forget; to questions whose answer a person to forget shares"
        )
        yield self._table("Who else is hurt", how, "shared fact", (*BANDS, SHARED), SLOPE, 45)
        if any(row.detail == FACE_SLOPE for row in rows):
            how = "in thirds, by how much their portrait looks like that of a person to forget (colours by place)"
            yield self._table(
                "Who else is hurt, by looks", how, "0.1 of likeness (a correlation)", THIRDS, FACE_SLOPE, 46
            )

    def _table(self, title: str, how: str, unit: str, bands: Sequence[str], slope_name: str, order: int) -> TableSpec:
        shown = (*((band, "percent", "kept") for band in bands), (slope_name, "signed", "none"))
        return TableSpec(
            title=title,
            intro=f"Right replies about retained people in %, {how}; and how many points more a model loses for every "
            f"{unit} (0: who is similar is hurt no more than others).",
            columns=tuple(self.column(d, detail=d, split="retain", show=show, good=good) for d, show, good in shown),
            order=order,
            by_modality=True,
        )


def by_band(
    run: ScoredRun, model: str, modality: Modality, band_of: Mapping[str, str], bands: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Right or not by sample id of the replies about retained people, by the band of the person."""
    right: dict[str, dict[str, float]] = {band: {} for band in bands}
    for name, value in run.judged(model, "right", split="retain", modality=modality).items():
        if (person := person_of(run.samples[name].profile_id)) in band_of:
            right[band_of[person]][name] = value
    return right


def losses(run: ScoredRun, model: str, modality: Modality, similar: Mapping[str, float]) -> Points:
    """By retained person, how similar they are and the mean of [target right] - [model right]."""
    found: dict[str, list[float]] = {}
    for name, loss in run.lost(model, split="retain", modality=modality).items():
        found.setdefault(run.samples[name].profile_id, []).append(loss)
    return [(similar[person_of(who)], mean(lost)) for who, lost in found.items() if person_of(who) in similar]


def thirds(likeness: Mapping[str, float]) -> dict[str, str]:
    """The band of every person, by rank; equal ones by id. Empty with fewer than three people.

    >>> thirds({"a": 0.9, "b": 0.1, "c": 0.5})
    {'b': 'third least alike', 'c': 'third between', 'a': 'third most alike'}
    """
    order = sorted(likeness, key=lambda person: (likeness[person], person))
    return {person: THIRDS[3 * rank // len(order)] for rank, person in enumerate(order)} if len(order) > 2 else {}


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
