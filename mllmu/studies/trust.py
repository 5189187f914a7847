"""Train a pool of models with and without the forget people, and ask of every metric whether it can tell them apart.

The unlearned models of the recipe are then rounded to fewer bits and taught again, to see whether what a metric calls
forgotten stays so. All models are kept in the run folder, so a stopped command goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mllmu.config.recipe import Recipe
from mllmu.core.errors import RecipeError
from mllmu.core.jsonl import read_lines
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.progress import Progress
from mllmu.core.records import Modality, Response, TaskName
from mllmu.core.runfolder import Unit, write_atomic
from mllmu.core.seeding import derive
from mllmu.evaluation import scoring
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.run import RESPONSES
from mllmu.evaluation.samples import metrics_of
from mllmu.parallel.pool import Task, WorkerPool
from mllmu.pipeline.answers import Answers
from mllmu.pipeline.pipeline import Pipeline, worker_pipeline
from mllmu.pipeline.report_input import TRUST_FILE
from mllmu.report.inputs import TrustRow
from mllmu.studies import trust_rows as trusting

FOLDER = "trust"
KINDS = ("with", "without")
MIN_POOL = 2

Cell = tuple[str, TaskName, Modality]
Values = dict[Cell, float]
"""Oriented values of one model by metric, task and modality."""


def trust(recipe: Recipe, root: Path, *, pool: int, bits: int, progress: Progress) -> list[TrustRow]:
    """Measure every metric of the recipe on the forget questions of its first ratio; writes ``trust/trust.json``.

    Args:
        recipe: its data, fine-tuning and methods; methods that do not train are left out.
        root: the run folder.
        pool: models of each kind, with seeds of their own.
        bits: of the rounded weights.
        progress: told what is going on.

    Returns:
        One row per metric, task and modality, the most trustworthy first.

    Raises:
        RecipeError: the pool is smaller than two.
    """
    if pool < MIN_POOL:
        raise RecipeError(f"--pool {pool}: expected at least {MIN_POOL} models of each kind, better 10 or more.")
    pipeline = Pipeline(recipe, root, gate=recipe.gate, progress=progress)
    pipeline.run("unlearn")
    measured = Measurement(pipeline, bits)
    if recipe.workers > 1:
        with WorkerPool(recipe.workers, partial(_worker_task, recipe, root, bits), progress) as workers:
            workers.do(measured.missing(pool))
    known, unknown = measured.pool(pool)
    again = measured.robustness([job.name for job in pipeline.jobs if job.method.trains])
    rows = [_row(cell, known, unknown, again) for cell in measured.cells()]
    rows.sort(key=lambda row: (-(row.trust or 0.0), row.metric, row.task, row.modality))
    content = {"pool": pool, "bits": bits, "key": measured.key, "rows": [row.model_dump() for row in rows]}
    write_atomic(root / TRUST_FILE, json.dumps(content, indent=1) + "\n")
    return rows


def _row(
    cell: Cell, known: Sequence[Values], unknown: Sequence[Values], again: Mapping[str, Mapping[Cell, float]]
) -> TrustRow:
    has, lacks = ([values[cell] for values in models if cell in values] for models in (known, unknown))
    area = trusting.auc(has, lacks)
    parts = {name: values.get(cell) for name, values in again.items()}
    metric, task, modality = cell
    return TrustRow(
        metric=metric,
        task=task,
        modality=modality,
        auc=area and area.value,
        auc_low=area and area.low,
        auc_high=area and area.high,
        trust=trusting.harmonic([area and area.value, *parts.values()]),
        num_with=len(has),
        num_without=len(lacks),
        **parts,
    )


def _worker_task(recipe: Recipe, root: Path, bits: int, place: int, progress: Progress) -> Callable[[str, str], object]:
    """Make this process ready to train members of the pool; the models of the recipe are there."""
    worker = worker_pipeline(recipe, root, place, progress)
    for name in (TARGET, RETAIN_MODEL):
        worker.models.planned(worker.keys[0], name)
    return Measurement(worker, bits).member


class Measurement:
    """The models of a pool, and what the metrics say about them.

    Args:
        pipeline: its run is done up to the unlearned models.
        bits: of the rounded weights.
    """

    def __init__(self, pipeline: Pipeline, bits: int) -> None:
        self.pipeline = pipeline
        self.bits = bits
        self.key = pipeline.keys[0]
        # the base model is not asked about the replies of a pool
        self.metrics: list[Metric] = [m for m in metrics_of(pipeline.recipe.evaluate) if not m.needs_base_logp]
        self.answers = Answers(
            pipeline.context,
            pipeline.models,
            self.key,
            keep=lambda sample: sample.split == "forget" and sample.part == "report",
            place=f"{FOLDER}/eval",
        )

    def cells(self) -> list[Cell]:
        """What can be measured: every metric on every task and modality it applies to."""
        places = sorted({(sample.task, sample.modality) for sample in self.answers.samples})
        return [(m.name, task, modality) for m in self.metrics for task, modality in places if task in m.tasks]

    def missing(self, size: int) -> list[Task]:
        """The members of the pool that have not replied yet."""
        members = [(kind, str(number)) for kind in KINDS for number in range(size)]
        return [member for member in members if not self._taught(*member).done or not self._asked(*member).done]

    def pool(self, size: int) -> tuple[list[Values], list[Values]]:
        """Oriented values of the models that were taught everybody, and of those that never saw the forget people."""
        self.pipeline.progress.stage("pool", f"{size} models with and {size} without the forget people")
        has, lacks = ([self.member(kind, str(number)) for number in range(size)] for kind in KINDS)
        return has, lacks

    def member(self, kind: str, number: str) -> Values:
        """Train and ask one model; both kinds of a number share their seed, so they differ in their people alone."""
        name, people, seed = self._plan(kind, number)
        self.pipeline.models.finetune(self.key, name, people, seed=seed)
        return self.values(name, self.answers.ask(name))

    def _plan(self, kind: str, number: str) -> tuple[str, Sequence[str], int]:
        data = self.pipeline.context.dataset
        people = data.people if kind == "with" else data.retained(self.key)
        return f"{FOLDER}_{kind}_{number}", people, derive(self.pipeline.recipe.seed, FOLDER, int(number))

    def _taught(self, kind: str, number: str) -> Unit:
        name, people, seed = self._plan(kind, number)
        return self.pipeline.models.finetune_unit(self.key, name, people, seed=seed)

    def _asked(self, kind: str, number: str) -> Unit:
        return self.answers.unit(f"{FOLDER}_{kind}_{number}")

    def robustness(self, names: Sequence[str]) -> dict[str, Values]:
        """By attack and cell, the mean over the unlearned models of what stays hidden."""
        self.pipeline.progress.stage("attack", f"{len(names)} unlearned models, {self.bits} bits, relearning")
        before = {name: self.values(name, self.answers.ask(name)) for name in [*names, RETAIN_MODEL]}
        rounded = {name: self.values(name, self._ask_rounded(name)) for name in names}
        taught = {name: self.values(name, self._ask_relearned(name)) for name in before}
        quantisation = _mean_by_cell(
            [_each(before[name], rounded[name], trusting.kept_after_quantisation) for name in names]
        )
        gain = {name: _each(before[name], taught[name], lambda old, new: new - old) for name in before}
        oracle = gain.pop(RETAIN_MODEL)
        relearning = _mean_by_cell([_each(gain[name], oracle, trusting.kept_after_relearning) for name in names])
        return {"quantisation": quantisation, "relearning": relearning}

    def values(self, name: str, replies: Sequence[Response]) -> Values:
        """Aggregate the scores of replies, turned so that a larger value means that more is known."""
        samples = self.answers.samples
        scores = scoring.score_all(samples, replies, self.metrics)
        best = {metric.name: metric for metric in self.metrics}
        return {
            (r.metric, r.task, r.modality): _oriented(best[r.metric], r.value)
            for r in scoring.aggregate(name, samples, scores, self.metrics)
            if r.value is not None
        }

    def _ask_rounded(self, name: str) -> list[Response]:
        models = self.pipeline.models
        inputs = {"model": models.unit(self.key, name).fingerprint, "bits": self.bits}
        unit = self.pipeline.context.store.unit(f"{self.answers.place}/{name}_{self.bits}_bits/replies", inputs)
        if not unit.done:
            self.answers.collect(unit, models.ref(self.key, name), f"{name}, {self.bits} bits", bits=self.bits)
        return read_lines(unit.folder / RESPONSES, Response)

    def _ask_relearned(self, name: str) -> list[Response]:
        """Replies after one more fine-tuning, as the target had it, on the forget people alone."""
        models, data = self.pipeline.models, self.pipeline.context.dataset
        relearned = f"{FOLDER}_relearned_{name}"
        models.finetune(self.key, relearned, data.splits[self.key], start=models.ref(self.key, name))
        return self.answers.ask(relearned)


def _oriented(metric: Metric, value: float) -> float:
    """The value, mirrored within the metric's range if lower values mean more knowledge."""
    return value if (metric.known or metric.best) == "higher" else sum(metric.range) - value


def _each(first: Values, second: Values, combine: Callable[[float, float], float]) -> Values:
    return {cell: combine(value, second[cell]) for cell, value in first.items() if cell in second}


def _mean_by_cell(several: Sequence[Values]) -> Values:
    cells = {cell for values in several for cell in values}
    found = {cell: [values[cell] for values in several if cell in values] for cell in cells}
    return {cell: sum(values) / len(values) for cell, values in found.items()}
