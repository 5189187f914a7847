"""Let a judge give points to the kept replies of a run; needs no model, no GPU, and no second reply.

    eval/forget_10/<model>/judge_<name>/scores.jsonl     one Score a reply, metric factuality_<name>
    eval/forget_10/judge_<name>.json                     means with intervals, image and text apart, and the cost

Only free answers (the generation task) are judged. Every verdict is on disk before the next is waited for, so an
interrupted run continues where it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.declared import Declared, MetricInfo
from mllmu.core.errors import DataError
from mllmu.core.jsonl import dump_lines, parse_lines, read_lines
from mllmu.core.progress import Progress
from mllmu.core.records import PEOPLE_SPLITS, MetricResult, Response, Sample, Score
from mllmu.core.runfolder import UNIT_FILE, RunStore, Unit, explain_os_errors, read_json, write_atomic
from mllmu.evaluation import scoring
from mllmu.evaluation.agreement import ReplyId
from mllmu.evaluation.judges import HIGHEST, LOWEST, Case, Judge, Session, Verdict
from mllmu.evaluation.metrics import Metric

SCORES = "scores.jsonl"
PARTIAL = "scores.partial.jsonl"
SPENT = "spent.json"
NO_RESPONSE = "no response"


class Factuality(Metric):
    """Mean points, 1 to 10, that a judge gave to free answers; higher means more of the truth was told."""

    source = "https://arxiv.org/abs/2410.22108"
    tasks = ("generation",)
    label = "Factuality"
    unit = "points"
    range = (float(LOWEST), float(HIGHEST))

    judge: Judge

    @property
    def name(self) -> str:
        return f"factuality_{self.judge.name}"

    def value(self, sample: Sample, response: Response) -> float | str:
        """Not used: the points are already given, see :func:`run`."""
        del sample, response
        return "judged by mllmu judge"

    def info(self) -> MetricInfo:
        info = {
            "label": f"Factuality, judge {self.judge.name}",
            "about": self.judge.about,
            "decimals": 1,
            "table": True,
        }
        return super().info().model_copy(update=info)


class Judged(NamedTuple):
    """What a judge found at one forget ratio."""

    key: str
    results: list[MetricResult]
    spent: dict[str, float]
    path: Path


class Docket(NamedTuple):
    """The replies of one model at one forget ratio."""

    key: str
    model: str
    samples: list[Sample]
    cases: list[Case]
    fingerprint: str


def dockets(root: Path, models: Sequence[str]) -> list[Docket]:
    """What there is to judge in a run folder, by forget ratio and model; models without replies are left out.

    Raises:
        DataError: there are no replies at all, or none to a free question, or they belong to other samples.
    """
    found = [
        _docket(folder, model)
        for folder in sorted((root / "eval").glob("forget_*"))
        for model in models
        if (folder / model / "replies" / UNIT_FILE).is_file()
    ]
    if not any(docket.cases for docket in found):
        raise DataError(
            f"{root / 'eval'}: no replies to free questions. Run 'mllmu evaluate' first, with 'generation' among "
            "evaluate.tasks."
        )
    return found


def _docket(folder: Path, model: str) -> Docket:
    samples = [s for s in read_lines(folder / "samples.jsonl", Sample) if s.task == "generation" and s.part == "report"]
    path = folder / model / "replies" / "responses.jsonl"
    replies = {response.sample_id: response for response in read_lines(path, Response)}
    if samples and not any(sample.id in replies for sample in samples):
        raise DataError(f"{path}: holds no reply to any sample of {folder}. Run 'mllmu evaluate --force'.")
    cases = [_case(sample, replies[sample.id]) for sample in samples if sample.id in replies]
    fingerprint = str(read_json(path.parent / UNIT_FILE).get("fingerprint", ""))
    return Docket(folder.name.removeprefix("forget_"), model, samples, cases, fingerprint)


def _case(sample: Sample, response: Response) -> Case:
    """The question without its last line, which tells the model how to answer and not what."""
    bare = sample.split not in PEOPLE_SPLITS  # a general benchmark adds no such line to an open question
    question = sample.prompt if bare else sample.prompt.rpartition("\n")[0] or sample.prompt
    return Case(
        sample_id=sample.id, question=question, reference=sample.target, value=sample.value, reply=response.text
    )


def run(root: Path, models: Sequence[str], judge: Judge, *, progress: Progress, force: bool = False) -> list[Judged]:
    """Judge what has not been judged yet, and average; one result per forget ratio.

    Args:
        root: the run folder.
        models: names of the models, in the order of the tables.
        judge: who judges.
        progress: told about every verdict, with the rate and the money where there is any.
        force: judge again, also what is done. Replies of an endpoint still come from the cache.

    Raises:
        DataError: there is nothing to judge.
        EndpointError, BudgetError: the endpoint cannot be used, or the budget is reached; the verdicts are kept.
    """
    todo = dockets(root, models)
    store = RunStore(root, force=force)
    with judge.session() as session:
        units = [_judge(store, docket, judge, session, progress) for docket in todo]
    return [
        _summary(root, key, judge, [pair for pair in zip(todo, units, strict=True) if pair[0].key == key])
        for key in dict.fromkeys(docket.key for docket in todo)
    ]


def _judge(store: RunStore, docket: Docket, judge: Judge, session: Session, progress: Progress) -> Unit:
    """The unit with the verdicts on one model; resumes after the last verdict that was written."""
    inputs = {"replies": docket.fingerprint, "judge": judge.identity()}
    unit = store.unit(f"eval/forget_{docket.key}/{docket.model}/judge_{judge.name}", inputs)
    if unit.done:
        return unit
    partial = unit.building / PARTIAL
    known = {score.sample_id: score for score in _read_partial(partial)}
    progress.start(f"{judge.name}: {docket.model} ({docket.key} %)", len(docket.cases))
    progress.advance(len(known))
    write_atomic(partial, dump_lines(known.values()))
    with _accounts(unit, session) as facts:
        for verdict in session.judge([case for case in docket.cases if case.sample_id not in known]):
            score = _score(judge, verdict)
            _append(partial, score)
            known[score.sample_id] = score
            progress.advance(1, **session.figures())
    progress.finish()
    ordered = [known.get(sample.id) or _no_response(judge, sample) for sample in docket.samples]
    write_atomic(unit.building / SCORES, dump_lines(ordered))
    partial.unlink()
    unit.commit(facts)
    return unit


def _score(judge: Judge, verdict: Verdict) -> Score:
    return Score(sample_id=verdict.sample_id, metric=_metric(judge).name, value=verdict.value, reason=verdict.reason)


def _no_response(judge: Judge, sample: Sample) -> Score:
    return Score(sample_id=sample.id, metric=_metric(judge).name, value=None, reason=NO_RESPONSE)


def _metric(judge: Judge) -> Factuality:
    return Factuality(judge=judge)


@contextmanager
def _accounts(unit: Unit, session: Session) -> Iterator[dict[str, Any]]:
    """Add up seconds and cost of the work on a unit, those of interrupted attempts included."""
    path = unit.building / SPENT
    earlier, before, began = read_json(path), session.spent(), time.monotonic()
    facts: dict[str, Any] = {}
    try:
        yield facts
    finally:
        now = {name: amount - before.get(name, 0.0) for name, amount in session.spent().items()}
        facts |= added(earlier, {**now, "seconds": time.monotonic() - began})
        write_atomic(path, json.dumps(facts))


def added(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Add two accounts by name.

    >>> added({"requests": 2}, {"requests": 1, "cost": 0.5})
    {'requests': 3, 'cost': 0.5}
    """
    return {name: round(first.get(name, 0) + second.get(name, 0), 6) for name in {**first, **second}}


def _summary(root: Path, key: str, judge: Judge, judged: Sequence[tuple[Docket, Unit]]) -> Judged:
    """Average the verdicts of one forget ratio and write them down."""
    metric, results = _metric(judge), list[MetricResult]()
    spent: dict[str, float] = {}
    for docket, unit in judged:
        scores = read_lines(unit.folder / SCORES, Score)
        results += scoring.aggregate(docket.model, docket.samples, scores, [metric])
        spent = added(spent, unit.facts())
    path = root / "eval" / f"forget_{key}" / f"judge_{judge.name}.json"
    content = {
        "judge": judge.identity(),
        "replies": {docket.model: docket.fingerprint for docket, _ in judged},
        "results": [result.model_dump() for result in results],
        "spent": spent,
        "declared": Declared(metrics={metric.name: metric.info()}).model_dump(exclude_defaults=True),
    }
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return Judged(key, results, spent, path)


def verdicts(root: Path, models: Sequence[str], name: str) -> dict[ReplyId, float]:
    """The points that a judge has given in a run folder; replies it could not judge are left out.

    Raises:
        DataError: it has not judged this run.
    """
    found: dict[ReplyId, float] = {}
    folders = sorted((root / "eval").glob(f"forget_*/*/judge_{name}"))
    for folder in folders:
        key, model = folder.parent.parent.name.removeprefix("forget_"), folder.parent.name
        if model in models:
            scores = read_lines(folder / SCORES, Score)
            found |= {(key, model, s.sample_id): s.value for s in scores if s.value is not None}
    if not folders:
        raise DataError(f"{root}: no verdicts of a judge '{name}'. Let it judge first, or name a CSV file of scores.")
    return found


def _read_partial(path: Path) -> list[Score]:
    """Verdicts of an interrupted run; a last line cut short is dropped."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", errors="ignore")
    return list(parse_lines(text[: text.rfind("\n") + 1], Score, where=str(path)))


def _append(path: Path, score: Score) -> None:
    """Add a line to a file and force it to disk, so that a killed process loses no verdict."""
    with explain_os_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(dump_lines([score]))
        file.flush()
        os.fsync(file.fileno())
