"""Stage ``unlearn``: every method of the recipe makes the target forget, once per ratio."""

from dataclasses import replace
from pathlib import Path

from mllmu.core.names import RETAIN_MODEL
from mllmu.core.process import derive
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, Unit, digest
from mllmu.data.facts import together
from mllmu.pipeline.facts import further_inputs, narrowed, sides_of_facts
from mllmu.pipeline.run import Run, write_ref
from mllmu.unlearning.base import Method
from mllmu.unlearning.trainer import Sides, unlearn


def unlearn_unit(run: Run, key: str, model: str) -> Unit:
    """The unit of an unlearned model, made or not yet; target and retain model are finished."""
    job, lora = run.jobs[model], run.recipe.unlearn.lora
    inputs = {
        "start": run.fingerprint(RunFolder.model_unit(key, job.method.model)),
        "retain_model": run.fingerprint(RunFolder.model_unit(key, RETAIN_MODEL)),
        "method": job.plugin,
        "settings": job.method.model_dump(mode="json"),
        "lora": lora.model_dump(mode="json") if lora and job.method.trains else None,
        "forget": digest(run.data.splits[key]),
    }
    inputs |= further_inputs(run) if run.data.steps or run.recipe.seeds.unlearn is not None else {}
    return run.store.unit(RunFolder.model_unit(key, model), inputs)


def unlearn_model(run: Run, key: str, model: str) -> None:
    """Apply an unlearning method to the target (or take the retain model, if that is the method)."""
    method, unit = run.jobs[model].method, unlearn_unit(run, key, model)
    if unit.done:
        return
    start = run.ref(key, method.model)
    with run.making_model(unit):
        if method.trains or method.modifies:
            reference = run.ref(key, method.reference)
            run.together(train, key=key, model=model, start=start, reference=reference, folder=unit.building)
            write_ref(unit, start.model_copy(update={"adapters": (*start.adapters, unit.name)}))
        else:
            names = [run.data.names[person] for person in run.data.splits[key]]
            prompt = method.system_prompt(names)
            prompt = narrowed(prompt, together(run.data.steps)) if run.data.steps else prompt
            write_ref(unit, start.model_copy(update={"system_prompt": prompt}))


def sides_of(run: Run, key: str, method: Method) -> Sides:
    """All that a method reads of the data: training questions, and those about the calibration people.

    Nothing of it is asked in an evaluation, so no method is trained on, or fitted to, what it is judged by.
    """
    if run.data.steps:
        return sides_of_facts(run, method)
    forget, retained = run.data.splits[key], run.data.retained(key)
    retain = run.turns(retained, method.modality) if method.uses_retain else []
    return Sides(
        forget=run.turns(forget, method.modality),
        retain=retain + (run.turns([*forget, *retained], "text") if method.preserves_text else []),
        holdout=run.turns(run.data.calibration, method.modality, "eval") if method.uses_holdout else (),
    )


def train(run: Run, *, key: str, model: str, start: ModelRef, reference: ModelRef, folder: Path) -> None:
    """Let a method train, or measure, on a model; what it changes is saved into ``folder``."""
    method, section = run.jobs[model].method, run.recipe.unlearn
    sides = sides_of(run, key, method)
    if method.needs_second_model(lora=section.lora is not None):
        sides = replace(sides, reference=run.load(reference))
    training = run.training(section, folder, derive(run.seed_of("unlearn"), "unlearn"), model)
    unlearn(run.load(start), method, sides, replace(training, reference_mib=section.reference_mib))
