"""Which metrics can be trusted: those that tell models that know from models that do not, also after an attack.

A pool of models is trained with and without the forget people, and every metric must tell the two groups apart. The
unlearned models of the recipe are then rounded to fewer bits and fine-tuned again on the forget people, to see whether
what a metric calls forgotten stays so. All models are kept in the run folder, so a stopped command continues.

Source: the meta-evaluation of OpenUnlearning, arXiv:2506.12618: faithfulness by AUC over a pool of models, robustness
to quantisation and to relearning. Values are put on a scale from 0 to 1 first, where a larger one means that more is
known; the attacks divide them, so a metric without such a scale has an AUC alone, and no trust.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mllmu.config.recipe import Recipe
from mllmu.config.requests import about_facts
from mllmu.core.errors import RecipeError
from mllmu.core.names import RETAIN_MODEL
from mllmu.core.process import Progress, derive
from mllmu.core.records import Modality, Response, TaskName
from mllmu.core.runfolder import RunFolder, read_lines, seal, write_json
from mllmu.evaluation import scoring
from mllmu.evaluation.metrics import Metric, metrics_of
from mllmu.evaluation.stats import auc, auc_interval, harmonic_mean
from mllmu.evaluation.summaries import mean
from mllmu.parallel.pool import WorkerPool
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.finetune import finetune_model, finetune_unit
from mllmu.pipeline.of_models import fingerprints
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.run import Run
from mllmu.pipeline.taken import need_retain_model
from mllmu.pipeline.workers import worker_pipeline
from mllmu.report.inputs import TrustRow

GROUPS = ("with", "without")
MIN_POOL = 2

Cell = tuple[str, TaskName, Modality]
Values = dict[Cell, float]
"""Values of one model by metric, task and modality, each as :func:`oriented` gives it."""


def trust(
    recipe: Recipe,
    root: Path,
    *,
    pool: int,
    bits: int,
    progress: Progress,
    check: Callable[[Pipeline], None] | None = None,
) -> list[TrustRow]:
    """Measure every metric of the recipe on the forget questions of its first ratio; writes ``trust/trust.json``.

    Args:
        recipe: its data, fine-tuning and methods; methods that do not train are left out.
        root: the run folder.
        pool: models of each group, each with a seed of its own.
        bits: of the rounded weights.
        progress: shows what is done.
        check: called before anything is trained, as :class:`Pipeline` does.

    Returns:
        One row per metric, task and modality, the most trustworthy first.

    Raises:
        RecipeError: the pool is smaller than two, or the recipe forgets some facts about people and not all.
    """
    need_retain_model(recipe, "mllmu trust")
    if about_facts(recipe):
        raise RecipeError(
            "mllmu trust: trains models with and without whole people, and a request of this recipe is for some facts "
            "about them. Leave attributes and coarsen out of unlearn.forget and unlearn.requests."
        )
    if pool < MIN_POOL:
        raise RecipeError(f"--pool {pool}: expected at least {MIN_POOL} models of each group, better 10 or more.")
    pipeline = Pipeline(recipe, root, gate=recipe.gate, check=check, progress=progress)
    pipeline.run("unlearn")
    study = TrustStudy(pipeline.state, bits)
    if recipe.workers > 1:
        with WorkerPool(recipe.workers, partial(_worker_task, recipe, root, bits), progress) as workers:
            workers.do(study.missing(pool))
    with_people, without = study.pool(pool)
    robustness = study.robustness([name for name, job in study.run.jobs.items() if job.method.trains])
    rows = [_row(cell, with_people, without, robustness, scaled=cell[0] in study.scaled) for cell in study.cells()]
    rows.sort(key=lambda row: (row.trust is None, -(row.trust or 0.0), row.metric, row.task, row.modality))
    models = fingerprints(study.run, study.key, study.run.models)
    content = {
        "pool": pool,
        "bits": bits,
        "key": study.key,
        "rows": [row.model_dump() for row in rows],
        "models": models,
    }
    write_json(root / RunFolder.TRUST_FILE, seal(content))
    return rows


def _row(
    cell: Cell,
    with_people: Sequence[Values],
    without: Sequence[Values],
    robustness: Mapping[str, Values],
    *,
    scaled: bool,
) -> TrustRow:
    has, lacks = ([values[cell] for values in models if cell in values] for models in (with_people, without))
    area = auc(has, lacks)
    low, high = (None, None) if area is None else auc_interval(area, len(has), len(lacks))
    parts = {attack: values.get(cell) for attack, values in robustness.items()}
    measured = [part for part in (area, *parts.values()) if part is not None]
    metric, task, modality = cell
    return TrustRow(
        metric=metric,
        task=task,
        modality=modality,
        auc=area,
        auc_low=low,
        auc_high=high,
        trust=harmonic_mean(measured) if measured and scaled else None,
        num_with=len(has),
        num_without=len(lacks),
        **parts,
    )


def _worker_task(recipe: Recipe, root: Path, bits: int, index: int, progress: Progress) -> Callable[[str, str], object]:
    """Prepare a worker process to train members of the pool; the models of the recipe exist by now."""
    return TrustStudy(worker_pipeline(Pipeline, recipe, root, index, progress).state, bits).member


class TrustStudy:
    """The models of a pool, and the values that the metrics give them.

    Args:
        run: has its unlearned models.
        bits: of the rounded weights.
    """

    def __init__(self, run: Run, bits: int) -> None:
        self.run = run
        self.bits = bits
        self.key = run.keys[0]
        # log-probabilities under the base model are not computed for the responses of a pool
        self.metrics: list[Metric] = [m for m in metrics_of(run.recipe.evaluate) if not m.needs_base_logp]
        self.scaled = {metric.name for metric in self.metrics if has_scale(metric)}
        self.evaluation = Evaluation(
            self.run,
            self.key,
            name=f"{RunFolder.TRUST}/{RunFolder.evaluation(self.key)}",
            keep=lambda sample: sample.split == "forget" and sample.part == "report",
        )
        self.evaluation.prepare()

    def cells(self) -> list[Cell]:
        """What can be measured: every metric on every task and modality it applies to."""
        pairs = sorted({(sample.task, sample.modality) for sample in self.evaluation.samples})
        return [(m.name, task, modality) for m in self.metrics for task, modality in pairs if m.concerns(task)]

    def missing(self, size: int) -> list[tuple[str, str]]:
        """The members of the pool whose responses are missing."""
        members = [(group, str(number)) for group in GROUPS for number in range(size)]
        return [member for member in members if not self._done(*member)]

    def pool(self, size: int) -> tuple[list[Values], list[Values]]:
        """Oriented values of the models trained with the forget people, and of those trained without them."""
        self.run.progress.stage("pool", f"{size} models with and {size} without the forget people")
        has, lacks = ([self.member(group, str(number)) for number in range(size)] for group in GROUPS)
        return has, lacks

    def member(self, group: str, number: str) -> Values:
        """Train and evaluate one model; both groups of a number share their seed, so only their people differ."""
        name, people, seed = self._plan(group, number)
        finetune_model(self.run, self.key, name, people, seed=seed)
        return self.values(name, self.evaluation.asked(name))

    def _plan(self, group: str, number: str) -> tuple[str, Sequence[str], int]:
        people = self.run.data.people if group == "with" else self.run.data.retained(self.key)
        seed = derive(self.run.recipe.seed, RunFolder.TRUST, int(number))
        return f"{RunFolder.TRUST}_{group}_{number}", people, seed

    def _done(self, group: str, number: str) -> bool:
        name, people, seed = self._plan(group, number)
        return finetune_unit(self.run, self.key, name, people, seed=seed).done and self.evaluation.unit(name).done

    def robustness(self, names: Sequence[str]) -> dict[str, Values]:
        """Per attack and cell, the mean over the unlearned models of what stays hidden, 0 to 1; scaled metrics only."""
        self.run.progress.stage("attack", f"{len(names)} unlearned models, {self.bits} bits, relearning")
        asked = {name: self.values(name, self.evaluation.asked(name)) for name in [*names, RETAIN_MODEL]}
        before = {name: {cell: v for cell, v in of.items() if cell[0] in self.scaled} for name, of in asked.items()}
        rounded = {name: self.values(name, self._ask_rounded(name)) for name in names}
        relearned = {name: self.values(name, self._ask_relearned(name)) for name in before}
        gain = {
            name: {cell: relearned[name][cell] - value for cell, value in old.items() if cell in relearned[name]}
            for name, old in before.items()
        }
        kept_rounded = _mean_kept([(before[name], rounded[name]) for name in names], kept_after_quantisation)
        kept_relearned = _mean_kept([(gain[name], gain[RETAIN_MODEL]) for name in names], kept_after_relearning)
        return {"quantisation": kept_rounded, "relearning": kept_relearned}

    def values(self, name: str, responses: Sequence[Response]) -> Values:
        """Aggregate the scores of responses, each as :func:`oriented` gives it."""
        scores = scoring.score_all(self.evaluation.samples, responses, self.metrics)
        metrics = {metric.name: metric for metric in self.metrics}
        return {
            (result.metric, result.task, result.modality): oriented(metrics[result.metric], result.value)
            for result in scoring.aggregate(name, self.evaluation.samples, scores, self.metrics)
            if result.value is not None
        }

    def _ask_rounded(self, name: str) -> list[Response]:
        inputs = {"model": self.run.fingerprint(RunFolder.model_unit(self.key, name)), "bits": self.bits}
        unit = self.run.store.unit(f"{self.evaluation.name}/{name}_{self.bits}_bits/{RunFolder.RESPONSES}", inputs)
        if not unit.done:
            self.evaluation.collect(unit, self.run.ref(self.key, name), f"{name}, {self.bits} bits", bits=self.bits)
        return read_lines(unit.folder / RunFolder.RESPONSES_FILE, Response)

    def _ask_relearned(self, name: str) -> list[Response]:
        """Responses after one more fine-tuning, with the target's settings, on the forget people alone."""
        relearned = f"{RunFolder.TRUST}_relearned_{name}"
        people, start = self.run.data.splits[self.key], self.run.ref(self.key, name)
        finetune_model(self.run, self.key, relearned, people, start=start)
        return self.evaluation.asked(relearned)


def has_scale(metric: Metric) -> bool:
    """Whether :func:`oriented` is a share between 0 and 1, so that two of its values have a ratio."""
    return all(map(math.isfinite, metric.range)) or _is_log_probability(metric)


def oriented(metric: Metric, value: float) -> float:
    """The value where a larger one means more knowledge: between 0 and 1, or on the metric's own scale if it is open.

    A bounded range becomes 0 to 1, and a log-probability in nats becomes a probability (exp; a mean of logs becomes a
    geometric mean). Other open ranges are mirrored at 0 if lower values mean more knowledge.
    """
    if _is_log_probability(metric):
        return math.exp(value)
    higher, (low, high) = (metric.known or metric.better) == "higher", metric.range
    if not has_scale(metric):
        return value if higher else -value
    return (value - low if higher else high - value) / (high - low)


def _is_log_probability(metric: Metric) -> bool:
    return metric.unit == "nats" and metric.range == (-math.inf, 0.0)


def _mean_kept(pairs: Sequence[tuple[Values, Values]], kept: Callable[[float, float], float]) -> Values:
    """Mean over the models by cell, of the cells that both values of a pair have."""
    by_cell: defaultdict[Cell, list[float]] = defaultdict(list)
    for first, second in pairs:
        for cell in (cell for cell in first if cell in second):
            by_cell[cell].append(kept(first[cell], second[cell]))
    return {cell: mean(values) for cell, values in by_cell.items()}


def kept_after_quantisation(before: float, after: float) -> float:
    """min(before / after, 1): 1 if an unlearned model with rounded weights shows no more than before the rounding.

    Both are shares between 0 and 1, and so is the result.

    >>> kept_after_quantisation(0.2, 0.4), kept_after_quantisation(0.2, 0.1), kept_after_quantisation(0.0, 0.0)
    (0.5, 1.0, 1.0)
    """
    return 1.0 if after <= before else before / after


def kept_after_relearning(gained: float, gained_retain_model: float) -> float:
    """min(gain of the retain_model / gain of the unlearned model, 1) from the same further fine-tuning.

    Both are fine-tuned on the forgotten facts; a model that gains more than one that never knew them had kept them.
    1 if it gains nothing.

    >>> kept_after_relearning(0.4, 0.1), kept_after_relearning(0.1, 0.2), kept_after_relearning(0.0, -0.1)
    (0.25, 1.0, 1.0)
    """
    return 1.0 if gained <= 0 else min(1.0, max(0.0, gained_retain_model) / gained)
