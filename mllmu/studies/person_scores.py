"""Raw scores of runs, person by person: what pooled tables are made from, and the CSV file that others can check.

One row per run, modality, set, task and person: the number of questions, and for every model the sum of its main scores
over them. All that ``mllmu pool`` prints follows from these rows, so the file takes the place of the run folders. The
column ``people_digest`` tells runs that ask about the same people from runs with people of their own.
"""

import csv
import io
import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

from mllmu.core import plugins
from mllmu.core.content import check_samples
from mllmu.core.csvrows import as_written, csv_rows, harmless
from mllmu.core.declared import Declared
from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.evaluated import scored_models
from mllmu.core.records import MODALITIES, UTILITY, Modality, Profile, Sample, Score, Split, TaskName
from mllmu.core.runfolder import RunFolder, digest, read_json, read_lines, write_atomic
from mllmu.data.dataset import PROFILES
from mllmu.data.tasks import task_of
from mllmu.evaluation.metrics import Metric


class PersonScore(NamedTuple):
    """The questions of one task about one person in one modality of one run.

    Attributes:
        run: which run, by name.
        questions: how many there are.
        sums: by model, the sum of the main score of the task over them; 0 to ``questions``.
        people: digest of all invented people of the run; empty if unknown.
    """

    run: str
    modality: Modality
    split: Split
    task: TaskName
    person: str
    questions: int
    sums: dict[str, float]
    people: str = ""

    @property
    def who(self) -> str:
        """The person by a name that runs share if, and only if, they ask about the same person.

        Invented people of different seeds have equal ids, so the digest of all of them counts too; where it is unknown,
        every run has people of its own. Celebrities are the same people in all runs.
        """
        return self.person if self.split == "celebrity" else f"{self.people or self.run} {self.person}"


HEAD = ("run", "modality", "set", "task", "person", "questions")
"""The first columns of the file; behind them one for every model."""
DIGEST = "people_digest"
"""The column behind :data:`HEAD`; missing in files of earlier versions, and where no run has a data folder."""
MOST_QUESTIONS = 10**9


def of_tasks(scores: Sequence[PersonScore], tasks: Sequence[str]) -> list[PersonScore]:
    """The scores of some tasks.

    Raises:
        DataError: no score is of one of them; names those there are.
    """
    there = sorted({score.task for score in scores})
    if missing := next((task for task in tasks if task not in there), None):
        raise DataError(
            f"task '{missing}': nothing is scored.{did_you_mean(missing, there)} Scored: {', '.join(there)}."
        )
    return [score for score in scores if score.task in tasks]


def not_in_mean(root: Path, key: str) -> list[TaskName]:
    """The tasks that a run declares to be in no mean over its tasks, as its target does not read letters."""
    numbers = read_json(RunFolder(root).path(RunFolder.evaluation(key), RunFolder.METRICS_FILE), sealed=True)
    declared = Declared.model_validate(numbers.get("declared", {}))
    return [name for name, task in declared.tasks.items() if not task.in_mean]


def save(path: Path, scores: Sequence[PersonScore]) -> None:
    """Write scores as CSV, exactly; a model that a run does not have is left empty there."""
    models = list(dict.fromkeys(model for score in scores for model in score.sums))
    known = any(score.people for score in scores)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(harmless, [*HEAD, *([DIGEST] if known else []), *models]))
    for *names, questions, sums, people in scores:
        cells = [*map(harmless, names), questions, *([people] if known else [])]
        writer.writerow([*cells, *(sums.get(model, "") for model in models)])
    write_atomic(path, out.getvalue())


def load(path: Path) -> list[PersonScore]:
    """Read what :func:`save` has written.

    Raises:
        DataError: the file is no such table; names the line.
    """
    try:
        head, *lines = csv_rows(path.read_bytes().decode("utf-8-sig")) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Expected the CSV file of raw scores in UTF-8.") from None
    if tuple(head[: len(HEAD)]) != HEAD:
        raise DataError(f"{path}: expected raw scores with the columns {', '.join(HEAD)}; got {', '.join(head)[:80]}.")
    scores = []
    first = len(HEAD) + (head[len(HEAD) :][:1] == [DIGEST])
    for number, line in enumerate(lines, start=2):
        try:
            *names, questions = map(as_written, line[: len(HEAD)])
            people = "".join(line[len(HEAD) : first])
            values = zip(map(as_written, head[first:]), line[first:], strict=True)
            sums = {model: float(value) for model, value in values if value}
            scores.append(_checked(PersonScore(*names, int(questions), sums, people)))  # type: ignore[arg-type, call-arg]
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: line {number} cannot be read ({error}). Write the file again.") from None
    if not scores:
        raise DataError(f"{path}: no raw scores below the names of the columns. Write the file again.")
    return scores


def _checked(score: PersonScore) -> PersonScore:
    """ValueError unless the modality is one, there are questions, and the sums are numbers."""
    if score.modality not in MODALITIES:
        raise ValueError(f"modality '{score.modality}', expected {' or '.join(MODALITIES)}")
    if not 1 <= score.questions <= MOST_QUESTIONS:
        raise ValueError("expected 1 question or more")
    if odd := next((model for model, value in score.sums.items() if not math.isfinite(value)), None):
        raise ValueError(f"{odd}: {score.sums[odd]}, expected a number")
    return score


def person_scores(
    root: Path, key: str, name: str, splits: Container[Split] = ("forget", *UTILITY)
) -> list[PersonScore]:
    """The raw scores of one run.

    Args:
        root: a run folder that was scored.
        key: the forget ratio in percent.
        name: what the run is called.
        splits: the sets; of a general benchmark every question is a person.

    Raises:
        DataError: the run has no scores of that ratio.
    """
    samples, by_model = _main_scores(RunFolder(root), key, splits)
    found: dict[tuple[Modality, str, str, str], list[str]] = {}
    for sample in samples:
        cell = (sample.modality, sample.split, sample.task, sample.profile_id)
        found.setdefault(cell, []).append(sample.id)
    people = _people_digest(root)
    return [
        PersonScore(name, *cell, len(ids), {m: sum(of[i] for i in ids) for m, of in by_model.items()}, people)
        for cell, ids in found.items()
    ]


def _people_digest(root: Path) -> str:
    """Digest of the ids and attributes of all invented people of a run; empty if its data are gone.

    Of all people together, so that it tells nothing about any one of them.
    """
    path = root / RunFolder.DATA / PROFILES
    if not path.is_file():
        return ""
    invented = {p.id: p.attributes for p in read_lines(path, Profile) if p.kind == "fictitious"}
    return f"people-{digest(invented)}"


def _main_scores(
    folder: RunFolder, key: str, splits: Container[Split]
) -> tuple[list[Sample], dict[str, dict[str, float]]]:
    """Samples of some sets of a run, and by model the headline score of every sample.

    A reply that could not be read counts as in a report, see :meth:`mllmu.evaluation.metrics.Metric.headline_value`.
    """
    evaluation = folder.path(folder.evaluation(key))
    models = scored_models(evaluation)
    if not models:
        raise DataError(f"{evaluation}: no scores. Expected a finished run with the forget ratio {key} %.")
    every = read_lines(evaluation / folder.SAMPLES_FILE, Sample)
    samples = [s for s in every if s.part == "report" and s.split in splits]
    numbers = read_json(evaluation / folder.METRICS_FILE, sealed=True)
    declared = Declared.model_validate(numbers.get("declared", {}))
    names = {cell: _headline(declared, *cell) for cell in {(s.split, s.task) for s in samples}}
    metrics: dict[str, Metric] = {name: plugins.build("metrics", name, {}) for name in set(names.values())}
    by_model: dict[str, dict[str, float]] = {}
    for model in models:
        check_samples(evaluation / folder.SAMPLES_FILE, evaluation / model / folder.RESPONSES)
        kept = read_lines(evaluation / model / folder.SCORES / folder.SCORES_FILE, Score)
        scores = {(score.sample_id, score.metric): score.value for score in kept}
        by_model[model] = {
            s.id: metrics[name].headline_value(scores[s.id, name], s.split)
            for s in samples
            for name in [names[s.split, s.task]]
        }
    return samples, by_model


def _headline(declared: Declared, split: Split, task: TaskName) -> str:
    """The metric that judges the questions of a task in a set."""
    own = declared.splits[split].metric if split in declared.splits else ""
    return own or (declared.tasks[task].metric if task in declared.tasks else task_of(task).headline())
