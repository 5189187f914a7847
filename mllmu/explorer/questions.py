"""The questions of one evaluation as columns: filtered, counted and sorted without a look at their text.

S samples, M models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.evaluated import asked_models, models_of_results
from mllmu.core.names import RETAIN_MODEL, TARGET, ratio_order
from mllmu.core.records import Profile, Sample
from mllmu.core.runfolder import RunFolder, read_lines
from mllmu.data.dataset import PROFILES
from mllmu.data.tasks import OUTCOMES
from mllmu.explorer.attacks import AttackedQuestions
from mllmu.explorer.replies import NONE, ModelReplies, SampleIds, contains, read_replies, searchable

FIELDS = ("split", "task", "modality", "attribute", "profile_id", "part")
"""What questions can be filtered by, beside outcomes and words."""
ANY, ALL = "any", "all"
"""In place of a model's name in a condition: at least one model, or every one."""
Mask = NDArray[np.bool_]


class Condition(NamedTuple):
    """What a model's reply must be, or, with ``negated``, must not be."""

    model: str
    outcome: str
    negated: bool = False


class Contrast(NamedTuple):
    """Questions forgotten by one model, but not by another one, come first."""

    forgotten_by: str
    not_by: str


@dataclass(frozen=True)
class QuestionFilter:
    """Which questions are wanted; an empty filter takes all.

    Attributes:
        fields: wanted values by the name of a field, one of :data:`FIELDS`.
        conditions: all of them must hold.
        words: all of them, in any case, must be in the prompt, the truth, or the name or id of the person, or in
            these and the reply of one model together.
        contrast: the order, if not that of the evaluation.
    """

    fields: Mapping[str, str]
    conditions: tuple[Condition, ...] = ()
    words: str = ""
    contrast: Contrast | None = None


class Selection(NamedTuple):
    """The questions that a filter takes.

    Attributes:
        rows: their indices, in order.
        counts: by field, how many questions each value would give if the filter named it.
        outcomes: by model that has been read, how many replies there are of each outcome.
        contrast: how many questions are forgotten by the first model of the contrast, but not by the second.
    """

    rows: NDArray[np.int64]
    counts: dict[str, dict[str, int]]
    outcomes: dict[str, list[int]]
    contrast: int | None

    def position(self, index: int) -> int:
        """Where a question stands among them; -1 if it does not."""
        return next(iter(np.flatnonzero(self.rows == index).tolist()), -1)


class QuestionTable:
    """The questions of an evaluation and the replies of its models, which are read one after the other.

    Args:
        root: the run folder.
        name: the folder of the evaluation in it.
        profiles: the people of the run, by id.

    Raises:
        DataError: nothing has been evaluated there.
    """

    def __init__(self, root: Path, name: str, profiles: Mapping[str, Profile]) -> None:
        self.root, self.folder = root, root / name
        self.samples = read_lines(self.folder / RunFolder.SAMPLES_FILE, Sample)
        self.profiles = profiles
        self.models = models_of(root, self.folder)
        if not self.models:
            raise DataError(f"{self.folder}: no model has been evaluated there. Run 'mllmu evaluate' first.")
        self.images = {image for sample in self.samples for image in sample.images}
        self.index = {sample.id: number for number, sample in enumerate(self.samples)}
        self.values = {field: list(dict.fromkeys(getattr(s, field) for s in self.samples)) for field in FIELDS}
        self._codes = {field: self._encoded(field) for field in FIELDS}

    @cached_property
    def attacked(self) -> AttackedQuestions:
        """What models replied under attack."""
        own = self.folder == self.root / RunFolder.evaluation(self.folder.name.removeprefix("forget_"))
        return AttackedQuestions(self.root, self.folder, self.models if own else ())

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=2, thread_name_prefix="replies")

    @cached_property
    def _texts(self) -> Future[Any]:
        return self._pool.submit(self._searched)

    @cached_property
    def _replies(self) -> dict[str, Future[ModelReplies]]:
        """What is being read: from when it is first wanted, so that the first questions are there before."""
        ids, pool = SampleIds(self.samples), self._pool
        self._texts  # noqa: B018 - before the replies
        found = {model: pool.submit(read_replies, self.folder, model, ids) for model in self.models}
        pool.shutdown(wait=False)
        return found

    def close(self) -> None:
        """Read no further model."""
        for future in self._replies.values():
            future.cancel()

    def _encoded(self, field: str) -> NDArray[np.int32]:
        numbers = {value: number for number, value in enumerate(self.values[field])}
        return np.array([numbers[getattr(sample, field)] for sample in self.samples], np.int32)

    @property
    def read(self) -> list[str]:
        """The models whose replies have been read so far."""
        return [model for model, future in self._replies.items() if future.done()]

    def replies(self, model: str) -> ModelReplies:
        """The replies of a model, as soon as they have been read."""
        if model not in self._replies:
            known = ", ".join(self.models)
            raise DataError(f"no replies of a model '{model}'.{did_you_mean(model, self.models)} There are: {known}.")
        return self._replies[model].result()

    def named(self, sample: Sample) -> str:
        """What a person is called; the id if nobody says."""
        person = self.profiles.get(sample.profile_id)
        return person.attributes.get("name", sample.profile_id) if person else sample.profile_id

    def _searched(self) -> Any:
        texts = ("\n".join((s.id, s.prompt, s.target, s.value, s.attribute, self.named(s))) for s in self.samples)
        return searchable(texts)

    def _says(self, words: Sequence[str]) -> Mask:
        """[S] whether all words are in a question, or in it and the reply of one model that has been read."""
        asked = [contains(self._texts.result(), word) for word in words]
        found: Mask = np.logical_and.reduce(asked)
        for model in self.read:
            texts = self.replies(model).texts
            told = [there | contains(texts, word) for there, word in zip(asked, words, strict=True)]
            found |= np.logical_and.reduce(told)
        return found

    def select(self, wanted: QuestionFilter) -> Selection:
        """The questions that a filter takes, in its order, and how many there are of each kind.

        Raises:
            DataError: it names a field, a value, a model or an outcome that does not exist.
        """
        masks = {field: self._field(field, value) for field, value in wanted.fields.items()}
        rest = np.ones(len(self.samples), bool)
        for condition in wanted.conditions:
            rest &= self._holds(condition)
        if words := wanted.words.casefold().split():
            rest &= self._says(words)
        taken = np.logical_and.reduce([rest, *masks.values()])
        counts = {
            field: self._count(field, np.logical_and.reduce([rest, *(m for f, m in masks.items() if f != field)]))
            for field in FIELDS
        }
        rows = np.flatnonzero(taken)
        surplus = self._surplus(wanted.contrast)[rows] if wanted.contrast else None
        if surplus is not None:
            rows = rows[np.argsort(-surplus, kind="stable")]
        outcomes = {model: self._outcome_counts(model, taken) for model in self.read}
        return Selection(rows, counts, outcomes, None if surplus is None else int((surplus > 0).sum()))

    def _field(self, field: str, value: str) -> Mask:
        if field not in FIELDS:
            raise DataError(f"questions cannot be filtered by '{field}'. Expected one of {', '.join(FIELDS)}.")
        if value not in self.values[field]:
            hint = did_you_mean(value, self.values[field])
            raise DataError(f"no question has the {field} '{value}'.{hint}")
        found: Mask = self._codes[field] == self.values[field].index(value)
        return found

    def _holds(self, condition: Condition) -> Mask:
        if condition.outcome not in OUTCOMES:
            raise DataError(f"no outcome '{condition.outcome}'. Expected one of {', '.join(OUTCOMES)}.")
        several = {ANY: np.logical_or, ALL: np.logical_and}.get(condition.model)
        models = self.models if several and condition.model not in self.models else [condition.model]
        found = [self._is(model, condition) for model in models]
        held: Mask = found[0] if several is None else several.reduce(found)
        return held

    def _is(self, model: str, condition: Condition) -> Mask:
        outcomes = self.replies(model).outcomes
        hit = outcomes == OUTCOMES.index(condition.outcome)
        found: Mask = (outcomes != NONE) & ~hit if condition.negated else hit
        return found

    def _surplus(self, contrast: Contrast) -> NDArray[np.int8]:
        """[S] 1 where the first model alone has forgotten, -1 where the second one has; of what the target knows."""
        known = self._is(TARGET, Condition(TARGET, "right")) if TARGET in self.models else True
        lost = [known & self._is(model, Condition(model, "right", negated=True)) for model in contrast]
        return lost[0].astype(np.int8) - lost[1].astype(np.int8)

    def _count(self, field: str, mask: Mask) -> dict[str, int]:
        numbers = np.bincount(self._codes[field][mask], minlength=len(self.values[field])).tolist()
        return dict(zip(self.values[field], numbers, strict=True))

    def _outcome_counts(self, model: str, mask: Mask) -> list[int]:
        found = self.replies(model).outcomes[mask]
        return [int(number) for number in np.bincount(found[found != NONE], minlength=len(OUTCOMES))]


def models_of(root: Path, folder: Path) -> list[str]:
    """The models evaluated in a folder, in the order of its report: target and retain model first."""
    there = asked_models(root, folder)
    order = dict.fromkeys([TARGET, RETAIN_MODEL, *models_of_results(folder), *there])
    return [model for model in order if model in there]


def evaluations_of(root: Path) -> dict[str, str]:
    """The evaluations of a run, label -> folder: one per forget ratio, and those under further protocols."""
    return {label: path.relative_to(root).as_posix() for label, path in _evaluations(root)}


def _evaluations(root: Path) -> Iterator[tuple[str, Path]]:
    places = (RunFolder.evaluation("*"), RunFolder.evaluation("*", "*"))
    found = (sorted(root.glob(place), key=lambda p: (p.parent, ratio_order(p.name))) for place in places)
    for path in (path for paths in found for path in paths if models_of(root, path)):
        protocol = "" if path.parent.parent == root else path.parent.name
        yield evaluation_label(path.name.removeprefix("forget_"), protocol), path


def evaluation_label(key: str, protocol: str = "") -> str:
    """What the evaluation of a forget ratio is called, under the recipe's own protocol or a further one."""
    return f"{key} %, {protocol}" if protocol else f"{key} %"


def profiles_of(root: Path) -> dict[str, Profile]:
    """The people of a run, by id; none where the data are gone."""
    path = root / RunFolder.DATA / PROFILES
    return {person.id: person for person in read_lines(path, Profile)} if path.is_file() else {}
