"""Let a judge give points to the kept responses of a run; needs no model, no GPU, and no second response.

    eval/forget_10/<model>/judge_<name>/scores.jsonl     one Score per response, metric factuality_<name>
    eval/forget_10/judge_<name>.json                     means with intervals, modalities apart, and the cost

Only free answers are judged, those of tasks that say so. Every verdict is on disk before the next is waited for, so
an interrupted run continues where it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mllmu.core.content import check_samples
from mllmu.core.declared import Declared, MetricInfo
from mllmu.core.errors import DataError
from mllmu.core.process import Progress
from mllmu.core.records import KEPT, PEOPLE_SPLITS, THROUGH, MetricResult, Response, Sample, Score
from mllmu.core.replies import said
from mllmu.core.runfolder import (
    Journal,
    RunFolder,
    RunStore,
    dump_lines,
    facts_of,
    fingerprint_of,
    read_json,
    read_lines,
    seal,
    write_atomic,
    write_json,
)
from mllmu.data.tasks import task_of
from mllmu.evaluation import scoring
from mllmu.evaluation.agreement import ReplyId
from mllmu.evaluation.judges import HIGHEST, LOWEST, Case, Judge, JudgeSession
from mllmu.evaluation.metrics import Metric

PARTIAL = "scores.partial.jsonl"
SPENT = "spent.json"


def judgement(judge: str) -> str:
    """Unit of the verdicts of a judge below a model, and the name without suffix of the file of their means."""
    return f"judge_{judge}"


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
        return "judged by mllmu judge"

    def info(self) -> MetricInfo:
        named = {"label": f"Factuality, judge {self.judge.name}", "about": self.judge.about}
        return super().info().model_copy(update={**named, "decimals": 1, "table": True})


class Judged(NamedTuple):
    """What a judge found at one forget ratio."""

    key: str
    results: list[MetricResult]
    spent: dict[str, float]
    path: Path


class JudgingJob(NamedTuple):
    """The responses of one model at one forget ratio; ``fingerprint`` names the unit that they are from."""

    key: str
    model: str
    samples: list[Sample]
    cases: list[Case]
    fingerprint: str


def judging_jobs(root: Path, models: Sequence[str]) -> list[JudgingJob]:
    """What a run folder holds to be judged, by forget ratio and model; models without responses are left out.

    Raises:
        DataError: there are no responses at all, or none to a free question, or they belong to other samples.
    """
    folder = RunFolder(root)
    jobs = [
        _job(folder, key, model)
        for key in folder.evaluated_keys()
        for model in models
        if fingerprint_of(folder.path(folder.evaluation(key), model, folder.RESPONSES))
    ]
    if not any(job.cases for job in jobs):
        raise DataError(
            f"{root / 'eval'}: no replies to free questions. Run 'mllmu evaluate' first, with 'generation' among "
            "evaluate.tasks."
        )
    return jobs


def _job(folder: RunFolder, key: str, model: str) -> JudgingJob:
    place = folder.path(folder.evaluation(key))
    samples = read_lines(place / folder.SAMPLES_FILE, Sample)
    samples = [sample for sample in samples if task_of(sample.task).judged and sample.part == "report"]
    unit = place / model / folder.RESPONSES
    responses = {response.sample_id: response for response in read_lines(unit / folder.RESPONSES_FILE, Response)}
    cases = [_case(sample, responses[sample.id]) for sample in samples if sample.id in responses]
    if samples and not cases:
        raise DataError(f"{unit}: holds no reply to any sample of {place}. Run 'mllmu evaluate --force'.")
    check_samples(place / folder.SAMPLES_FILE, unit)
    return JudgingJob(key, model, samples, cases, fingerprint_of(unit))


def _case(sample: Sample, response: Response) -> Case:
    """The question without its last line, which tells the model how to answer and not what."""
    bare = sample.split not in (
        *PEOPLE_SPLITS,
        KEPT,
        THROUGH,
    )  # a general benchmark adds no such line to an open question
    reply = response.text if sample.raw_prompt else said(response.text)
    question = sample.prompt if bare else sample.prompt.rpartition("\n")[0] or sample.prompt
    return Case(sample_id=sample.id, question=question, reference=sample.target, value=sample.value, reply=reply)


def run(root: Path, models: Sequence[str], judge: Judge, *, progress: Progress, force: bool = False) -> list[Judged]:
    """Judge what has not been judged yet, and average; one result per forget ratio.

    Args:
        root: the run folder.
        models: names of the models, in the order of the tables.
        judge: gives the points.
        progress: shows every verdict, with the rate and the money where there is any.
        force: judge again, also what is done. Replies of an endpoint still come from the cache.

    Raises:
        DataError: there is nothing to judge.
        EndpointError, BudgetError: the endpoint cannot be used, or the budget is reached; the verdicts are kept.
    """
    jobs, store = judging_jobs(root, models), RunStore(root, force=force)
    with judge.session() as session:
        judged = [(job, *_judge(store, job, judge, session, progress)) for job in jobs]
    return [
        _averaged(root, key, judge, [pair for pair in judged if pair[0].key == key])
        for key in dict.fromkeys(job.key for job in jobs)
    ]


def _judge(
    store: RunStore, job: JudgingJob, judge: Judge, session: JudgeSession, progress: Progress
) -> tuple[list[Score], dict[str, float]]:
    """The scores of one model and what they cost; resumes after the last verdict that was written."""
    name = f"{RunFolder.evaluation(job.key)}/{job.model}/{judgement(judge.name)}"
    unit = store.unit(name, {"responses": job.fingerprint, "judge": judge.identity()})
    if not unit.done:
        with unit.making() as facts:
            account, before = unit.building / SPENT, session.spent()
            try:
                scores = _verdicts(job, judge, session, Journal(unit.building / PARTIAL, Score), progress)
            finally:  # the cost of interrupted attempts counts too
                now = {name: amount - before.get(name, 0.0) for name, amount in session.spent().items()}
                facts |= added(read_json(account), now)
                write_json(account, seal(facts))
            write_atomic(unit.building / RunFolder.SCORES_FILE, dump_lines(scores))
            (unit.building / PARTIAL).unlink()
    return read_lines(unit.folder / RunFolder.SCORES_FILE, Score), facts_of(unit.folder)


def _verdicts(
    job: JudgingJob, judge: Judge, session: JudgeSession, journal: Journal[Score], progress: Progress
) -> list[Score]:
    """One score per sample of a job; a case that the journal does not hold is judged and written to it."""
    metric, scores = Factuality(judge=judge), {score.sample_id: score for score in journal.resume()}
    progress.start(f"{judge.name}: {job.model} ({job.key} %)", len(job.cases))
    progress.advance(len(scores))
    for verdict in session.judge([case for case in job.cases if case.sample_id not in scores]):
        score = Score(metric=metric.name, **verdict.model_dump())
        journal.append([score])
        scores[score.sample_id] = score
        progress.advance(1, **session.figures())
    progress.finish()
    return [scores.get(sample.id) or metric.score(sample, None) for sample in job.samples]


def added(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Add two accounts by name.

    >>> added({"requests": 2}, {"requests": 1, "cost": 0.5})
    {'requests': 3, 'cost': 0.5}
    """
    return {name: round(first.get(name, 0) + second.get(name, 0), 6) for name in {**first, **second}}


def _averaged(
    root: Path, key: str, judge: Judge, judged: Sequence[tuple[JudgingJob, list[Score], dict[str, float]]]
) -> Judged:
    """Average the verdicts of one forget ratio and write them down."""
    metric, results = Factuality(judge=judge), list[MetricResult]()
    spent: dict[str, float] = {}
    for job, scores, cost in judged:
        results += scoring.aggregate(job.model, job.samples, scores, [metric])
        spent = added(spent, cost)
    content = {
        "judge": judge.identity(),
        "responses": {job.model: job.fingerprint for job, *_ in judged},
        "results": [result.model_dump() for result in results],
        "spent": spent,
        "declared": Declared(metrics={metric.name: metric.info()}).model_dump(exclude_defaults=True),
    }
    path = root / RunFolder.evaluation(key) / f"{judgement(judge.name)}.json"
    write_json(path, seal(content))
    return Judged(key, results, spent, path)


def verdicts(root: Path, models: Sequence[str], name: str) -> dict[ReplyId, float]:
    """The points that a judge has given in a run folder; replies it could not judge are left out.

    Raises:
        DataError: it has not judged this run.
    """
    folder = RunFolder(root)
    files = {
        (key, model): folder.path(folder.evaluation(key), model, judgement(name), folder.SCORES_FILE)
        for key in folder.evaluated_keys()
        for model in models
    }
    made = {job: read_lines(path, Score) for job, path in files.items() if path.is_file()}
    if not made:
        raise DataError(f"{root}: no verdicts of a judge '{name}'. Let it judge first, or name a CSV file of scores.")
    return {(*job, s.sample_id): s.value for job, scores in made.items() for s in scores if s.value is not None}
