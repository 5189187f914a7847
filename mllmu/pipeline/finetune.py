"""Stage ``finetune``: the target is trained on all people, one retain model per ratio on all but those to forget."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mllmu.core.names import TARGET
from mllmu.core.process import derive
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, Unit, digest
from mllmu.models.base_files import BASE, base_files, check_base
from mllmu.pipeline.run import SAME_MODEL, Run, write_ref
from mllmu.training.finetune import finetune

SAME_TRAINING = {"checkpoint_every_s", "micro_batch_size"}
"""Settings of the fine-tuning that change how it is computed, but nothing that is computed."""


def people_of(run: Run, key: str, model: str) -> Sequence[str]:
    """The people that the target or the retain model of a ratio is fine-tuned on."""
    return run.data.people if model == TARGET else run.data.retained(key)


def finetune_unit(
    run: Run, key: str, model: str, people: Sequence[str], *, seed: int | None = None, start: ModelRef | None = None
) -> Unit:
    """The unit of a fine-tuned model, made or not yet."""
    base = base_files(run.recipe.model.path, run.recipe.model.revision, keep_in=run.root)
    inputs: dict[str, Any] = {
        BASE: base,
        "data": run.fingerprint(RunFolder.DATA),
        "model": run.recipe.model.model_dump(mode="json", exclude=SAME_MODEL),
        "finetune": run.recipe.finetune.model_dump(mode="json", exclude=SAME_TRAINING),
        "people": digest(list(people)),
    }
    inputs |= {"seed": seed} if seed is not None else {}
    inputs |= {"start": start.model_dump(exclude={"base", "revision"})} if start is not None else {}
    name = RunFolder.model_unit(key, model)
    if not run.store.force:
        check_base(run.root / name, base, run.recipe.model.path)
    return run.store.unit(name, inputs)


def finetune_model(
    run: Run, key: str, model: str, people: Sequence[str], *, seed: int | None = None, start: ModelRef | None = None
) -> None:
    """Fine-tune the base, or the model ``start``, on some people; ``seed`` replaces the recipe's."""
    unit = finetune_unit(run, key, model, people, seed=seed, start=start)
    if unit.done:
        return
    base = start or run.base
    with run.making_model(unit):
        seed = derive(run.recipe.seed if seed is None else seed, "finetune")
        run.together(train, base=base, people=people, folder=unit.building, seed=seed, label=model)
        write_ref(unit, base.model_copy(update={"adapters": (*base.adapters, unit.name)}))


def train(run: Run, *, base: ModelRef, people: Sequence[str], folder: Path, seed: int, label: str) -> None:
    """Fine-tune a model on some people; what is trained is saved into ``folder``."""
    section = run.recipe.finetune
    finetune(run.load(base), run.turns(people, section.modality), section, run.training(section, folder, seed, label))
