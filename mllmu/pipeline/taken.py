"""A target that is taught already (``finetune.given``): adapters of others on the base, or the base itself.

The adapters are copied into the run folder, so that it holds the model that was unlearned, byte for byte.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME

from mllmu.config.recipe import Recipe, jobs, taught_models
from mllmu.core.content import content_digest
from mllmu.core.errors import ModelError, RecipeError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, Unit, explain_os_errors, intact, unit_record
from mllmu.models import foreign
from mllmu.models.base_files import BASE, base_files, check_base
from mllmu.models.checkpoints import is_adapter
from mllmu.models.modifiers import MODIFIER_FILE
from mllmu.pipeline.run import SAME_MODEL, Run, write_ref

WITH_RETAIN_MODEL = ("all", "membership", "privleak", "forget_quality", "oracle_distance", "both_ways")
"""Model summaries that cannot be computed without one."""


def taken_unit(run: Run) -> Unit:
    """The unit of a given target; adapters that are gone since it was made are those that it holds.

    Raises:
        ModelError: there is no adapter at a path.
        RunStoreError: the base or an adapter is another one by now, or the copy was changed.
    """
    section = run.recipe.model
    base = base_files(section.path, section.revision, keep_in=run.root)
    name = RunFolder.model_unit("", TARGET)
    recorded = unit_record(run.root / name).get("inputs", {}).get("given", [])
    given = [_adapter_digest(path, recorded[i] if i < len(recorded) else "") for i, path in enumerate(_paths(run))]
    inputs: dict[str, Any] = {
        BASE: base,
        "data": run.fingerprint(RunFolder.DATA),
        "model": section.model_dump(mode="json", exclude=SAME_MODEL),
        "given": given,
    }
    if not run.store.force:
        check_base(run.root / name, base, section.path)
        intact(run.root / name)
    return run.store.unit(name, inputs)


def take(run: Run, unit: Unit) -> None:
    """Copy the adapters of a given target into its unit."""
    paths = _paths(run)
    run.progress.note(f"target: taken as given ({' + '.join([run.recipe.model.path, *map(str, paths)])}), not trained")
    with run.making_model(unit):
        places = [unit.name if len(paths) == 1 else f"{unit.name}/adapter_{number}" for number in range(len(paths))]
        for path, place in zip(paths, places, strict=True):
            folder = unit.building if place == unit.name else unit.building / place.rpartition("/")[2]
            copy_adapter(path, folder)
        write_ref(unit, run.base.model_copy(update={"adapters": tuple(places)}))


def copy_adapter(path: Path, folder: Path) -> None:
    """Copy the files that make an adapter, a change of weights, or a modifier, and nothing else of its folder."""
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in adapter_files(path):
            shutil.copyfile(path / name, folder / name)


def adapter_files(path: Path) -> list[str]:
    """The names of the files that make an adapter."""
    named = (CONFIG_NAME, MODIFIER_FILE)
    return sorted(file.name for file in path.iterdir() if file.name in named or file.suffix == ".safetensors")


def _paths(run: Run) -> list[Path]:
    return list(run.recipe.finetune.given or ())


def _adapter_digest(path: Path, recorded: str) -> str:
    if recorded and not path.exists():
        return recorded
    if not path.is_dir() or not adapter_files(path):
        raise ModelError(f"finetune.given: {path}: no adapter there. Expected the folder of one, as PEFT saves it.")
    if is_adapter(path):
        foreign.check_adapter(path)
    return adapter_digest(path)


def adapter_digest(path: Path) -> str:
    """A digest of the files that make an adapter, by name and content."""
    return "+".join(f"{name}:{content_digest(path / name)}" for name in adapter_files(path))


def is_taken(run: Run, model: str, start: ModelRef | None) -> bool:
    """Whether a model is the target that the recipe gives, and not one that is trained."""
    return model == TARGET and start is None and run.recipe.finetune.given is not None


def need_retain_model(recipe: Recipe, what: str) -> None:
    """Raise RecipeError where a study compares with a retain model and the target is given."""
    if RETAIN_MODEL not in taught_models(recipe):
        raise RecipeError(f"{what}: compares with a retain_model, and this recipe has none (finetune.given, or false).")


def check_without_retain_model(recipe: Recipe) -> None:
    """Raise RecipeError for what needs a retain model as its yardstick, where there is none."""
    if RETAIN_MODEL in taught_models(recipe):
        return
    needs = [f"evaluate.summaries: {name}" for name in recipe.evaluate.summaries if name in WITH_RETAIN_MODEL]
    needs += ["unlearn.requests"] if recipe.unlearn.requests else []
    for job in jobs(recipe):
        if RETAIN_MODEL in (job.method.model, job.method.reference if job.method.trains else ""):
            needs.append(f"unlearn.methods: {job.name}")
    if needs:
        raise RecipeError(
            f"{needs[0]} needs a retain_model, and there is none (finetune.given, or finetune.retain_model: false). "
            "Leave it out."
        )
