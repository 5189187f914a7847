"""What one model replied to every question of an evaluation: the outcome of each, and the lines it can be read from.

S samples. Files are scanned once, by column; replies and scores themselves are read when a question is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mllmu.core.damage import damaged
from mllmu.core.records import Record, Response, Sample, Score
from mllmu.core.runfolder import RunFolder, intact, read_lines
from mllmu.data.tasks import OUTCOMES
from mllmu.evaluation.outcome import outcome

NONE = -1
"""The number of a reply whose outcome is not known: the task counts none."""
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class ModelReplies:
    """The replies of one model.

    Attributes:
        name: of the model.
        folder: of the model within its evaluation.
        outcomes: [S] index into :data:`OUTCOMES`, or :data:`NONE`.
        replies: the line of each sample's response.
        scores: the lines of each sample's scores; None where nothing has been scored.
        texts: [S] the replies, for searching.
    """

    name: str
    folder: Path
    outcomes: NDArray[np.int8]
    replies: LineFile
    scores: LineFile | None
    texts: Any

    def response(self, index: int) -> Response:
        """The response to a sample."""
        return self.replies.read(index, Response)[0]

    def scored(self, index: int) -> list[Score]:
        """The scores of a sample, in the order of the metrics."""
        return self.scores.read(index, Score) if self.scores else []


@dataclass(frozen=True)
class LineFile:
    """A JSON lines file in which every sample has lines of its own, one after the other.

    Attributes:
        first: [S] number of the first line of each sample; ``count``: [S] how many there are.
        ends: [L] position behind each line.
    """

    path: Path
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    ends: NDArray[np.int64]

    def read(self, index: int, kind: type[R]) -> list[R]:
        """The records of a sample."""
        first, count = int(self.first[index]), int(self.count[index])
        if not count:
            return []
        start = int(self.ends[first - 1]) if first else 0
        with self.path.open("rb") as file:
            file.seek(start)
            lines = file.read(int(self.ends[first + count - 1]) - start)
        return [kind.model_validate_json(line) for line in lines.split(b"\n") if line.strip()]


class SampleIds:
    """The ids of the samples of an evaluation, for looking up the rows of a column."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    @cached_property
    def _ids(self) -> Any:
        import pyarrow as pa

        return pa.array([sample.id for sample in self.samples], pa.string())

    def rows(self, path: Path, column: Any) -> NDArray[np.int64]:
        """[L] the index of the sample of every line; RunStoreError if a line belongs to none."""
        import pyarrow.compute as pc

        found = pc.index_in(column.combine_chunks(), value_set=self._ids)
        if found.null_count:
            unknown = column.combine_chunks()[found.is_null().index(True).as_py()].as_py()
            raise damaged(path, f"'{unknown}' is not among the {len(self.samples)} samples")
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def read_replies(folder: Path, name: str, ids: SampleIds) -> ModelReplies:
    """Scan the responses and scores of a model.

    Args:
        folder: of the evaluation.
        name: of the model.
        ids: of the samples of the evaluation.

    Raises:
        RunStoreError: a file is not as it was written, or does not belong to the samples.
    """
    where = folder / name
    path, scored = where / RunFolder.RESPONSES / RunFolder.RESPONSES_FILE, where / RunFolder.SCORES
    table = _columns(path, {"sample_id": "string", "text": "string"})
    rows = ids.rows(path, table["sample_id"])
    replies = _lines(path, rows, len(ids.samples))
    if missing := np.flatnonzero(replies.count != 1).tolist():
        raise damaged(path, f"{replies.count[missing[0]]} responses to '{ids.samples[missing[0]].id}', expected one")
    texts = searchable(table["text"].take(np.argsort(rows)).to_pylist())
    if not (scored / RunFolder.SCORES_FILE).is_file():
        return ModelReplies(name, where, _judged(path, ids.samples), replies, None, texts)
    path = scored / RunFolder.SCORES_FILE
    table = _columns(path, {"sample_id": "string", "metric": "string", "value": "float32"})
    rows = ids.rows(path, table["sample_id"])
    outcomes = _counted(table, rows, len(ids.samples))
    if (outcomes == NONE).all():  # the recipe counts no outcomes
        outcomes = _judged(replies.path, ids.samples)
    return ModelReplies(name, where, outcomes, replies, _lines(path, rows, len(ids.samples)), texts)


def searchable(texts: Iterable[str]) -> Any:
    """Texts for :func:`contains`: in one case, side by side in memory."""
    import pyarrow as pa

    return pa.array([text.casefold() for text in texts], pa.large_string())


def contains(texts: Any, word: str) -> NDArray[np.bool_]:
    """[S] whether a word, casefolded, is in each of some searchable texts."""
    import pyarrow.compute as pc

    found: NDArray[np.bool_] = pc.match_substring(texts, word).to_numpy(zero_copy_only=False)
    return found


def _columns(path: Path, kinds: dict[str, str]) -> Any:
    """Some columns of a JSON lines file."""
    import pyarrow as pa
    from pyarrow import json

    intact(path.parent, path.name)
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in kinds.items()])
    options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        return json.read_json(path, parse_options=options)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def _lines(path: Path, rows: NDArray[np.int64], num_samples: int) -> LineFile:
    """Where the lines of every sample are; RunStoreError if they do not follow each other."""
    count = np.bincount(rows, minlength=num_samples)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    if len(starts) != np.count_nonzero(count):
        raise damaged(path, "the lines of a sample do not follow each other")
    first = np.zeros(num_samples, np.int64)
    first[rows[starts]] = starts
    ends = np.flatnonzero(np.fromfile(path, np.uint8) == ord("\n")) + 1
    return LineFile(path, first, count, ends)


def _counted(table: Any, rows: NDArray[np.int64], num_samples: int) -> NDArray[np.int8]:
    """[S] the outcome that the scores count."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = np.full(num_samples, NONE, np.int8)
    kinds = pc.index_in(table["metric"].combine_chunks(), value_set=pa.array(OUTCOMES))
    hit = pc.and_(pc.is_valid(kinds), pc.equal(table["value"].combine_chunks(), pa.scalar(1.0, pa.float32())))
    at = np.flatnonzero(hit.fill_null(False).to_numpy(zero_copy_only=False))
    found[rows[at]] = kinds.take(pa.array(at)).to_numpy(zero_copy_only=False)
    return found


def _judged(path: Path, samples: Sequence[Sample]) -> NDArray[np.int8]:
    """[S] the outcome of every response, where no score counts it."""
    by_id = {response.sample_id: response for response in read_lines(path, Response)}
    kinds = [OUTCOMES.index(outcome(sample, by_id[sample.id])) for sample in samples]
    return np.array(kinds, np.int8)
