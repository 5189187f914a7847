"""Search the settings of every method of a recipe with the same budget, on the selection questions alone.

Target and retain_model are those of the run folder. A trial is a model of its own (``models/forget_10/tune_npo_3``)
and is kept, so a search that was stopped goes on where it was: the sampler is seeded, and a trial that exists is not
trained again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mllmu.config.load import parse
from mllmu.config.recipe import Job, PluginSpec, Recipe, jobs
from mllmu.core import plugins
from mllmu.core.errors import RecipeError, needs_extra
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.progress import Progress
from mllmu.core.runfolder import write_atomic
from mllmu.core.seeding import derive
from mllmu.pipeline.answers import Answers
from mllmu.pipeline.pipeline import Pipeline
from mllmu.studies.objective import main_scores, standing
from mllmu.unlearning.base import Method

TRIALS_FILE = "trials.jsonl"
BEST_FILE = "tuned.yaml"
FOLDER = "tune"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting of one method and where it led; ``number`` 0 is the recipe's own setting."""

    method: str
    number: int
    settings: dict[str, Any]
    gap: float
    loss: float
    objective: float
    seconds: float


def tune(
    recipe: Recipe, root: Path, *, num_trials: int, key: str | None = None, progress: Progress, force: bool = False
) -> list[Trial]:
    """Search all methods of the recipe; writes ``tune/trials.jsonl`` and the recipe ``tune/tuned.yaml``.

    Args:
        recipe: needs ``data.splits.selection`` above 0.
        root: the run folder; target and retain_model are made there if they are missing.
        num_trials: settings tried per method and modality, the recipe's own included; the same for all.
        key: the forget ratio in percent; the first of the recipe if not given. The best settings go into the recipe
            for all its ratios.
        progress: told what is going on.
        force: redo finished trials.

    Returns:
        All trials, method by method, the best of each first.

    Raises:
        RecipeError: no question is kept apart for tuning, there is nothing to tune, or the ratio is unknown.
    """
    entries = jobs(recipe)
    if recipe.data.splits.selection <= 0:
        raise RecipeError(
            "data.splits.selection: 0 keeps no question apart for tuning, and reported questions must not be tuned "
            "on. Set it, e.g. --set data.splits.selection=0.5."
        )
    if not any(space(job.method) for job in entries):
        raise RecipeError("unlearn.methods: no method with anything to tune. Name at least one that changes the model.")
    search = _Search(recipe, root, key, progress, force=force)
    trials: list[Trial] = []
    best: list[PluginSpec] = []
    for index, job in enumerate(entries):
        results = search.method(index, job, num_trials) if space(job.method) else []
        trials += results
        best.append(PluginSpec(name=job.plugin, **(results[0].settings if results else job.settings)))
    folder = root / FOLDER
    write_atomic(folder / TRIALS_FILE, "".join(json.dumps(asdict(trial)) + "\n" for trial in trials))
    raw = recipe.model_dump(mode="json") | {"name": f"{recipe.name[:58]}-tuned"}
    raw["unlearn"]["methods"] = [spec.model_dump() for spec in best]
    parse(raw, where=BEST_FILE)
    write_atomic(folder / BEST_FILE, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    return trials


class Range(NamedTuple):
    """Bounds of a searched setting; every factor within them is equally likely."""

    low: float
    high: float


FACTORS = {"learning_rate": 5.0, "epochs": 2.0}
FACTOR = 4.0
"""How far the search goes from a setting's own value, up and down: a factor."""


def space(method: Method) -> dict[str, Range]:
    """What is searched of a method: the settings it declares, but none that is switched off with 0."""
    values = {key: float(getattr(method, key)) for key in method.tuned} if method.trains or method.modifies else {}
    return {key: _around(method, key, value) for key, value in values.items() if value > 0}


def _around(method: Method, key: str, value: float) -> Range:
    factor = FACTORS.get(key, FACTOR)
    most = [limit.le for limit in type(method).model_fields[key].metadata if hasattr(limit, "le")]
    return Range(value / factor, min(value * factor, *most) if most else value * factor)


class _Search:
    def __init__(self, recipe: Recipe, root: Path, key: str | None, progress: Progress, *, force: bool) -> None:
        plain = recipe.model_copy(update={"unlearn": recipe.unlearn.model_copy(update={"methods": ()})})
        pipeline = Pipeline(plain, root, gate=recipe.gate, progress=progress)
        pipeline.run("unlearn")
        self.recipe, self.progress = recipe, progress
        self.context, self.models = pipeline.context, pipeline.models
        self.context.store.force = force
        keys = self.context.keys
        self.key = keys[0] if key is None else key
        if self.key not in keys:
            raise RecipeError(f"--ratio {key}: not a forget ratio of the recipe. Expected one of: {', '.join(keys)}.")
        self.answers = Answers(
            self.context, self.models, self.key, keep=lambda sample: sample.part == "selection", place=f"{FOLDER}/eval"
        )
        if not {"forget", "retain"} <= {sample.split for sample in self.answers.samples}:
            raise RecipeError("data.splits.selection: so small that no question of forget or retain is kept apart.")
        self.target, self.gold = self._scores(TARGET), self._scores(RETAIN_MODEL)

    def method(self, index: int, job: Job, num_trials: int) -> list[Trial]:
        """All trials of one method entry, the best first."""
        optuna = _optuna()
        self.progress.stage("tune", f"{job.plugin}, {num_trials} trials")
        name = f"{FOLDER}_{index}_{''.join(c if c.isalnum() else '_' for c in job.plugin)}"
        sampler = optuna.samplers.TPESampler(seed=derive(self.recipe.seed, "tune", name) % 2**32)
        study = optuna.create_study(sampler=sampler)
        trials = []
        for number, tried in enumerate(_settings(optuna, study, job, num_trials)):
            trials.append(self._trial(f"{name}_{number}", job.plugin, number, tried[1]))
            study.tell(tried[0], trials[-1].objective)
        return sorted(trials, key=lambda trial: (trial.objective, trial.number))

    def _trial(self, name: str, method: str, number: int, settings: dict[str, Any]) -> Trial:
        built = plugins.build("methods", method, settings, where="unlearn.methods")
        self.models.jobs[name] = Job(name=name, plugin=method, settings=settings, method=built)
        self.models.unlearn(self.key, name)
        found = standing(self._scores(name), self.target, self.gold)
        seconds = float(self.models.unit(self.key, name).facts().get("seconds", 0.0))
        self.progress.note(f"{method} {number}: gap {found.gap:.3f} + loss {found.loss:.3f}, {seconds:.0f} s")
        return Trial(
            method=method,
            number=number,
            settings=settings,
            gap=found.gap,
            loss=found.loss,
            objective=found.objective,
            seconds=seconds,
        )

    def _scores(self, name: str) -> dict[Any, float]:
        return main_scores(self.answers.samples, self.answers.ask(name))


def _settings(optuna: Any, study: Any, job: Job, num_trials: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Trials of a study with the settings to try; the recipe's own come first."""
    ranges = space(job.method)
    study.enqueue_trial({key: getattr(job.method, key) for key in ranges})
    distributions = {key: optuna.distributions.FloatDistribution(r.low, r.high, log=True) for key, r in ranges.items()}
    for _ in range(num_trials):
        trial = study.ask(distributions)
        yield trial, job.settings | {key: float(f"{value:.4g}") for key, value in trial.params.items()}


def _optuna() -> Any:
    with needs_extra("mllmu tune", "tune"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
