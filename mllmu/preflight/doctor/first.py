"""The checks of ``mllmu doctor`` at the beginning of ``mllmu run``, once for the same recipe and model."""

from typing import Any

from mllmu.core.errors import FaultsError
from mllmu.core.runfolder import UNIT_FILE, RunFolder, digest, read_json, seal, write_json
from mllmu.models.base_files import BASE, base_files
from mllmu.models.loading import release_base
from mllmu.pipeline.pipeline import Pipeline
from mllmu.preflight.doctor.examine import Examination, examine

PARTS = ("seed", "model", "finetune", "unlearn", "evaluate")
"""Sections of a recipe that the checks look at, beside the data."""


def check_first(pipeline: Pipeline) -> None:
    """Stop a run before its first step if ``mllmu doctor`` would find a fault; results are kept in ``checks.json``.

    Nothing is checked where every model and every response is there, or where the same was checked before: the same
    data, settings, and files of the model.

    Raises:
        FaultsError: the doctor's words for every fault.
    """
    run = pipeline.state
    if not pipeline.force and all((run.root / unit / UNIT_FILE).is_file() for unit in _units(pipeline)):
        return
    path, key = run.root / RunFolder.CHECKS_FILE, _key(pipeline)
    if not pipeline.force and read_json(path).get("checked") == key:
        return
    run.progress.stage("check", "prompts, images, labels and model, before anything is trained")
    results = list(examine(Examination(pipeline)))
    if pipeline.workers:
        release_base()  # every worker has its own
    faults = [f"FAULT {one.check}: {one.text}" for one in results if one.level == "FAULT"]
    if faults:
        number = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
        advice = "Nothing was trained. Mend them ('mllmu doctor' shows prompts and labels), or go on with --no-check"
        raise FaultsError(f"{run.root}: {number} in recipe, data or model. {advice}:", faults)
    notes = [f"{one.check}: {one.text}" for one in results if one.level == "note"]
    write_json(path, seal({"checked": key, "checks": len(results), "notes": notes}))


def _units(pipeline: Pipeline) -> list[str]:
    """The folders of all models and their responses."""
    run = pipeline.state
    made = [RunFolder.model_unit(key, model) for key in run.keys for model in run.models]
    labels = ["", *pipeline.recipe.evaluate.compare]
    folders = [RunFolder.evaluation(key, label) for key in run.keys for label in labels]
    return [*made, *(f"{folder}/{model}/{RunFolder.RESPONSES}" for folder in folders for model in run.models)]


def _key(pipeline: Pipeline) -> str:
    """What the results depend on, in one digest."""
    run = pipeline.state
    settings = run.recipe.model_dump(mode="json", include=set(PARTS))
    inputs: dict[str, Any] = {"settings": settings, "data": run.fingerprint(RunFolder.DATA)}
    inputs[BASE] = base_files(run.recipe.model.path, run.recipe.model.revision, keep_in=run.root)
    return digest(inputs)
