"""``--method auto``: five settings are tried, and judged on facts and people that the evidence does not ask about.

A trial is judged as in :mod:`mllmu.studies.tune`, with people no model was taught in the place of the retain model:

    gap = mean over the modalities of |score(trial, forget) - score(target, calibration people)|
    loss = mean over the modalities of max(0, utility(target) - utility(trial))
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from mllmu.config.recipe import Job, Recipe
from mllmu.core import plugins
from mllmu.core.errors import DataError
from mllmu.core.records import Sample
from mllmu.core.runfolder import RunFolder, facts_of, write_atomic
from mllmu.data.dataset import HOLDOUT
from mllmu.evaluation import samples as rendering
from mllmu.models.loading import family_of
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.known import known_to_base
from mllmu.pipeline.run import Run
from mllmu.pipeline.unlearn import unlearn_model
from mllmu.studies.tune import Trial, gap_and_loss, main_scores, utility

METHOD = {"name": "npo", "modality": "both", "retain_weight": 2.0, "batch_size": 32}
TRIALS = ((0.75, 2), (0.4, 2), (1.5, 2), (0.75, 4), (0.4, 4))
"""Learning rate as a share of that of the fine-tuning, and passes over what is to be forgotten."""


def settings_tried(recipe: Recipe) -> list[dict[str, Any]]:
    """The settings of all trials."""
    rate = recipe.finetune.learning_rate
    return [{**METHOD, "learning_rate": float(f"{share * rate:.4g}"), "epochs": epochs} for share, epochs in TRIALS]


def choose(run: Run) -> tuple[dict[str, Any], list[Trial]]:
    """Try all settings on a run whose target is there; the best setting, and all trials, the best first.

    Raises:
        DataError: so few facts are to be forgotten, or stay, that none could be set aside.
    """
    (key,) = run.keys
    evaluation = Evaluation(run, key, name=f"{RunFolder.TUNE}/{RunFolder.evaluation(key)}")
    evaluation.prepare(trial_samples(run, key))
    parser = run.recipe.evaluate.protocol.parser

    def scores(model: str) -> dict[tuple[str, Any], float]:
        return main_scores(evaluation.samples, evaluation.asked(model), parser)

    on = "facts and people that the evidence leaves out" if run.recipe.data.splits.selection else "the same few facts"
    run.progress.stage("choose", f"{len(TRIALS)} settings, on {on}")
    target = scores("target")
    if not utility(target) or all(sample.split != "forget" for sample in evaluation.samples):
        raise DataError(
            "--method auto: of so few facts none could be set aside to choose settings by. Name a method with its "
            "settings, e.g. --method '{name: npo, epochs: 2}'."
        )
    untaught = {("forget", modality): value for (split, modality), value in target.items() if split == HOLDOUT}
    trials = []
    for number, entry in enumerate(settings_tried(run.recipe)):
        settings = {name: value for name, value in entry.items() if name != "name"}
        label, plugin = f"{RunFolder.TUNE}_{number}", str(entry["name"])
        method = plugins.build("methods", plugin, settings, where="--method auto")
        run.jobs[label] = Job(name=label, plugin=plugin, settings=settings, method=method)
        unlearn_model(run, key, label)
        gap, loss = gap_and_loss(scores(label), target, untaught)
        seconds = float(facts_of(run.root / RunFolder.model_unit(key, label)).get("seconds", 0.0))
        trials.append(Trial(plugin, number, settings, gap, loss, gap + loss, seconds))
        run.progress.note(f"setting {number + 1}: distance {gap:.3f} + lost {loss:.3f}")
    trials.sort(key=lambda trial: (trial.objective, trial.number))
    lines = "".join(json.dumps({**trial._asdict(), "seconds": None}) + "\n" for trial in trials)
    write_atomic(run.root / RunFolder.TRIALS_FILE, lines)
    return {"name": trials[0].method, **trials[0].settings}, trials


def trial_samples(run: Run, key: str) -> list[Sample]:
    """The questions that trials are judged by: facts set aside, and calibration people in the place of holdout ones.

    Where so few facts are to be forgotten that none is set aside, trials are judged by the questions of the evidence.
    """
    data, recipe = run.data, run.recipe
    every = [s for s in Evaluation(run, key, keep=known_to_base(run)).render() if s.split not in ("test", HOLDOUT)]
    aside = [s for s in every if s.part == "selection"] if recipe.data.splits.selection else every
    others = replace(data, splits={**data.splits, HOLDOUT: data.calibration})
    rendered = rendering.render(
        others, key, recipe.evaluate, selection=recipe.data.splits.selection, seed=recipe.seed,
        family=type(family_of(recipe.model)),
    )  # fmt: skip
    return aside + [sample for sample in rendered if sample.split == HOLDOUT]
