"""Search the settings of every method of a recipe with the same budget, on the selection questions alone.

A good setting forgets like the retain_model and keeps like the target; only questions of the part ``selection`` judge
it, so the reported questions are never tuned on. Target and retain_model are those of the run folder. A trial is a
model of its own (``models/forget_10/tune_0_npo_3``) and is kept, so a stopped search continues where it was: the
sampler is seeded, and a trial that exists is not trained again.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.config.load import dump_yaml, parse
from mllmu.config.recipe import Job, PluginSpec, Recipe, jobs
from mllmu.core import plugins
from mllmu.core.errors import RecipeError, needs_extra
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.process import Progress, derive
from mllmu.core.records import KEPT, THROUGH, UTILITY, Cell, Modality, Response, Sample, Split
from mllmu.core.runfolder import RunFolder, facts_of, write_atomic
from mllmu.data.tasks import task_of
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.scoring import by_cell
from mllmu.evaluation.summaries import mean
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.known import known_to_base
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.requests import make_by_requests
from mllmu.pipeline.taken import need_retain_model
from mllmu.pipeline.unlearn import unlearn_model
from mllmu.unlearning.base import Method

FACTORS = {"learning_rate": 5.0, "epochs": 2.0}
FACTOR = 4.0
"""How far the search goes from a setting's own value, up and down: a factor."""
INSIDE = 1e-3
"""How far inside of an exclusive limit it stays, as a share: settings are rounded to four digits, which moves less."""

Scores = Mapping[tuple[Split, Modality], float]
"""Mean main score by set and modality."""


class Trial(NamedTuple):
    """One setting of one method and how good it is; ``number`` 0 is the recipe's own setting. Lower is better.

    Attributes:
        gap: mean over the modalities of |score(model, forget) - score(retain_model, forget)|, 0 to 1.
        loss: mean over the modalities of max(0, utility(target) - utility(model)), 0 to 1; utility is the mean score
            over retain and celebrity, as it is reported, and over what the same people keep, if a request is for facts.
        objective: their sum; 0 for a model that forgets like the retain_model and keeps like the target.
        seconds: training time.
    """

    method: str
    number: int
    settings: dict[str, Any]
    gap: float
    loss: float
    objective: float
    seconds: float


def tune(
    recipe: Recipe,
    root: Path,
    *,
    num_trials: int,
    key: str | None = None,
    progress: Progress,
    force: bool = False,
    check: Callable[[Pipeline], None] | None = None,
) -> list[Trial]:
    """Search all methods of the recipe; writes ``tune/trials.jsonl`` and the recipe ``tune/tuned.yaml``.

    Args:
        recipe: needs ``data.splits.selection`` above 0.
        root: the run folder; target and retain_model are made there if they are missing.
        num_trials: settings tried per method and modality, the recipe's own included; the same for all.
        key: the forget ratio in percent; the first of the recipe if not given. The best settings go into the recipe
            for all its ratios.
        progress: shows what is done.
        force: redo finished trials.
        check: called before anything is trained, as :class:`Pipeline` does.

    Returns:
        All trials, method by method, the best of each first.

    Raises:
        RecipeError: no question is kept apart for tuning, there is nothing to tune, or the ratio is unknown.
    """
    need_retain_model(recipe, "mllmu tune")
    entries = jobs(recipe)
    if recipe.data.splits.selection <= 0:
        raise RecipeError(
            "data.splits.selection: 0 keeps no question apart for tuning, and reported questions must not be tuned "
            "on. Set it, e.g. --set data.splits.selection=0.5."
        )
    if not any(search_space(job.method) for job in entries):
        raise RecipeError("unlearn.methods: no method with anything to tune. Name at least one that changes the model.")
    search = _Search(recipe, root, key, progress, force=force, check=check)
    trials: list[Trial] = []
    best: list[PluginSpec] = []
    for index, job in enumerate(entries):
        tried = search.method(index, job, num_trials) if search_space(job.method) else []
        trials += tried
        best.append(PluginSpec(name=job.plugin, **(tried[0].settings if tried else job.settings)))
    write_atomic(root / RunFolder.TRIALS_FILE, "".join(json.dumps(trial._asdict()) + "\n" for trial in trials))
    raw = recipe.model_dump(mode="json") | {"name": f"{recipe.name[:58]}-tuned"}
    raw["unlearn"]["methods"] = [spec.model_dump() for spec in best]
    parse(raw, where=RunFolder.TUNED_RECIPE)
    write_atomic(root / RunFolder.TUNED_RECIPE, dump_yaml(raw))
    return trials


def search_space(method: Method) -> dict[str, tuple[float, float]]:
    """Bounds of the settings that are searched: those the method declares, but none that is switched off with 0.

    Every factor within the bounds is equally likely.
    """
    values = {key: float(getattr(method, key)) for key in method.tuned} if method.trains or method.modifies else {}
    return {key: _around(method, key, value) for key, value in values.items() if value > 0}


def _around(method: Method, key: str, value: float) -> tuple[float, float]:
    """A setting divided and multiplied by its factor, within the limits of the field; an exclusive one is not met."""
    factor, low, high = FACTORS.get(key, FACTOR), 0.0, math.inf
    for limit in type(method).model_fields[key].metadata:
        low = max(low, getattr(limit, "ge", 0.0), getattr(limit, "gt", 0.0) * (1 + INSIDE))
        high = min(high, getattr(limit, "le", math.inf), getattr(limit, "lt", math.inf) * (1 - INSIDE))
    return max(value / factor, min(low, value)), min(value * factor, max(high, value))


class _Search:
    """The target, the retain_model and their scores on the selection questions; trials are compared with these."""

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        key: str | None,
        progress: Progress,
        *,
        force: bool,
        check: Callable[[Pipeline], None] | None,
    ) -> None:
        plain = recipe.model_copy(update={"unlearn": recipe.unlearn.model_copy(update={"methods": ()})})
        pipeline = Pipeline(plain, root, gate=recipe.gate, check=check, progress=progress)
        pipeline.run("unlearn")
        self.run = pipeline.state
        self.run.store.force = force
        keys = self.run.keys
        self.key = keys[0] if key is None else key
        if self.key not in keys:
            raise RecipeError(f"--ratio {key}: not a forget ratio of the recipe. Expected one of: {', '.join(keys)}.")
        self.evaluation = Evaluation(
            self.run,
            self.key,
            name=f"{RunFolder.TUNE}/{RunFolder.evaluation(self.key)}",
            keep=known_to_base(self.run, lambda s: s.part == "selection" and s.split not in ("test", THROUGH)),
        )
        self.evaluation.prepare()
        if not {"forget", "retain"} <= {sample.split for sample in self.evaluation.samples}:
            raise RecipeError("data.splits.selection: so small that no question of forget or retain is kept apart.")
        cells, asked = by_cell(self.evaluation.samples), recipe.evaluate
        for split, task, modality in product(("forget", "retain"), asked.tasks, asked.modalities):
            if Cell(split, task, modality) not in cells:
                self.run.progress.note(f"data.splits.selection: nothing of {split}, {task}, {modality} is kept apart.")
        self.target, self.retain_model = self._scores(TARGET), self._scores(RETAIN_MODEL)

    def method(self, index: int, job: Job, num_trials: int) -> list[Trial]:
        """All trials of one method entry, the best first."""
        with needs_extra("mllmu tune", "tune"):
            import optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.run.progress.stage("tune", f"{job.plugin}, {num_trials} trials")
        label = f"{RunFolder.TUNE}_{index}_{''.join(c if c.isalnum() else '_' for c in job.plugin)}"
        sampler = optuna.samplers.TPESampler(seed=derive(self.run.recipe.seed, "tune", job.plugin) % 2**32)
        study = optuna.create_study(sampler=sampler)
        bounds = search_space(job.method)
        study.enqueue_trial({key: getattr(job.method, key) for key in bounds})
        distributions: dict[str, Any] = {
            key: optuna.distributions.FloatDistribution(low, high, log=True) for key, (low, high) in bounds.items()
        }
        trials: list[Trial] = []
        for number in range(num_trials):
            suggestion = study.ask(distributions)
            settings = job.settings | {key: float(f"{value:.4g}") for key, value in suggestion.params.items()}
            trials.append(self._trial(f"{label}_{number}", job.plugin, number, settings))
            study.tell(suggestion, trials[-1].objective)
        return sorted(trials, key=lambda trial: (trial.objective, trial.number))

    def _trial(self, label: str, plugin: str, number: int, settings: dict[str, Any]) -> Trial:
        method = plugins.build("methods", plugin, settings, where="unlearn.methods")
        self.run.jobs[label] = Job(name=label, plugin=plugin, settings=settings, method=method)
        make = make_by_requests if self.run.recipe.unlearn.requests else unlearn_model
        make(self.run, self.key, label)
        gap, loss = gap_and_loss(self._scores(label), self.target, self.retain_model)
        facts = facts_of(self.run.root / RunFolder.model_unit(self.key, label))
        seconds = float(facts.get("seconds", 0.0))
        self.run.progress.note(f"{plugin} {number}: gap {gap:.3f} + loss {loss:.3f}, {seconds:.0f} s")
        figures = {"gap": gap, "loss": loss, "objective": gap + loss, "seconds": seconds}
        return Trial(method=plugin, number=number, settings=settings, **figures)

    def _scores(self, name: str) -> Scores:
        parser = self.run.recipe.evaluate.protocol.parser
        return main_scores(self.evaluation.samples, self.evaluation.asked(name), parser)


def main_scores(
    samples: Sequence[Sample], responses: Sequence[Response], parser: str = "strict"
) -> dict[tuple[Split, Modality], float]:
    """Score replies by the headline metric of their task, averaged within each task, then over the tasks.

    A reply that cannot be read counts as in a report, see :meth:`mllmu.evaluation.metrics.Metric.headline_value`.
    """
    by_sample = {response.sample_id: response for response in responses}
    by_task: defaultdict[tuple[Split, Modality], list[float]] = defaultdict(list)
    for cell, asked in by_cell(samples).items():
        metric: Metric = plugins.build("metrics", task_of(cell.task).headline(parser), {})
        values = [
            metric.headline_value(metric.score(sample, by_sample[sample.id]).value, cell.split) for sample in asked
        ]
        by_task[cell.split, cell.modality].append(mean(values))
    return {key: mean(means) for key, means in by_task.items()}


def gap_and_loss(model: Scores, target: Scores, retain_model: Scores) -> tuple[float, float]:
    """Compare the main scores of three models on the same samples; see :class:`Trial`.

    >>> model = {("forget", "text"): 0.5, ("retain", "text"): 0.25, ("celebrity", "text"): 0.75}
    >>> target = {("retain", "text"): 1.0, ("celebrity", "text"): 0.5}
    >>> gap_and_loss(model, target, {("forget", "text"): 0.25})
    (0.25, 0.25)
    """
    gaps = [abs(value - retain_model[cell]) for cell, value in model.items() if cell[0] == "forget"]
    known, kept = utility(target), utility(model)
    return mean(gaps), mean([max(0.0, known[modality] - kept[modality]) for modality in kept])


def utility(scores: Scores) -> dict[Modality, float]:
    """Mean score over the sets retain, celebrity and kept, as far as they were asked, by modality."""
    by_modality: defaultdict[Modality, list[float]] = defaultdict(list)
    for (split, modality), score in scores.items():
        if split in (*UTILITY, KEPT):
            by_modality[modality].append(score)
    return {modality: mean(of_sets) for modality, of_sets in by_modality.items()}
