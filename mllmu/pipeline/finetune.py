"""Stage ``finetune``: the target is trained on all people, one retain model per ratio on all but those to forget."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mllmu.config.variants import HOW_COMPUTED
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.process import derive
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, Unit, digest
from mllmu.data.facts import FactSet, together
from mllmu.models.base_files import BASE, base_files, check_base
from mllmu.pipeline import taken
from mllmu.pipeline.run import SAME_MODEL, Run, write_ref
from mllmu.training.finetune import finetune

SAME_TRAINING = {*HOW_COMPUTED["finetune"], "retain_model", "given"}
"""Settings of the fine-tuning that change how it is computed, but nothing that is computed."""


def people_of(run: Run, key: str, model: str) -> Sequence[str]:
    """The people that the target or the retain model of a ratio is fine-tuned on."""
    return run.data.people if model == TARGET or run.data.steps else run.data.retained(key)


def finetune_unit(
    run: Run,
    key: str,
    model: str,
    people: Sequence[str],
    *,
    seed: int | None = None,
    start: ModelRef | None = None,
    without: FactSet | None = None,
) -> Unit:
    """The unit of a fine-tuned model, made or not yet."""
    taken.check_without_retain_model(run.recipe)
    if taken.is_taken(run, model, start):
        return taken.taken_unit(run)
    base = base_files(run.recipe.model.path, run.recipe.model.revision, keep_in=run.root)
    inputs: dict[str, Any] = {
        BASE: base,
        "data": run.fingerprint(RunFolder.DATA),
        "model": run.recipe.model.model_dump(mode="json", exclude=SAME_MODEL),
        "finetune": run.recipe.finetune.model_dump(mode="json", exclude=SAME_TRAINING),
        "people": digest(list(people)),
    }
    seed = run.recipe.seeds.teach if seed is None else seed
    without = without or left_out(run, model)
    inputs |= {"seed": seed} if seed is not None else {}
    inputs |= {"start": start.model_dump(exclude={"base", "revision"})} if start is not None else {}
    inputs |= {"without": digest(without.record())} if without is not None else {}
    name = RunFolder.model_unit(key, model)
    if not run.store.force:
        check_base(run.root / name, base, run.recipe.model.path)
    return run.store.unit(name, inputs)


def left_out(run: Run, model: str) -> FactSet | None:
    """What the retain model is not taught, if the recipe has requests."""
    return together(run.data.steps) if model == RETAIN_MODEL and run.data.steps else None


def finetune_model(
    run: Run,
    key: str,
    model: str,
    people: Sequence[str],
    *,
    seed: int | None = None,
    start: ModelRef | None = None,
    without: FactSet | None = None,
) -> None:
    """Fine-tune the base, or the model ``start``, on some people.

    Args:
        seed: in place of the recipe's.
        without: facts that are not taught, or with their coarse values; those of all requests for the retain model.
    """
    unit = finetune_unit(run, key, model, people, seed=seed, start=start, without=without)
    if unit.done:
        return
    if taken.is_taken(run, model, start):
        taken.take(run, unit)
        return
    base = start or run.base
    with run.making_model(unit):
        seed = derive(run.seed_of("teach") if seed is None else seed, "finetune")
        how = {"people": people, "seed": seed, "without": without or left_out(run, model)}
        label = model if model == TARGET or len(run.keys) == 1 else f"{model} ({key} %)"
        run.together(train, base=base, folder=unit.building, label=label, **how)
        write_ref(unit, base.model_copy(update={"adapters": (*base.adapters, unit.name)}))


def train(
    run: Run,
    *,
    base: ModelRef,
    people: Sequence[str],
    folder: Path,
    seed: int,
    label: str,
    without: FactSet | None = None,
) -> None:
    """Fine-tune a model on some people; what is trained is saved into ``folder``."""
    section, questions = run.recipe.finetune, run.data.questions
    turns = run.turns(people, section.modality, among=without.left(questions) if without else questions)
    finetune(run.load(base), turns, section, run.training(section, folder, seed, label))
