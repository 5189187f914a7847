"""Probes of a run: the gate asks the target whether it reads letters, and whether it takes a system prompt.

The replies are units of their own, in ``probes/forget_<k>/<probe>/``; what they say is in ``gate.json``.
"""

from collections.abc import Callable, Sequence

from mllmu.core.declared import Declared
from mllmu.core.names import TARGET
from mllmu.core.probed import ProbeResults, ProbeShare
from mllmu.core.records import MODALITIES, Modality, Sample
from mllmu.core.runfolder import UNIT_FILE, RunFolder, read_json
from mllmu.evaluation import gate
from mllmu.evaluation.probes import (
    BY_LETTER,
    BY_TEXT,
    INSTRUCTIONS,
    LETTERS,
    instruction_samples,
    letter_samples,
    share_chosen,
    share_right,
)
from mllmu.pipeline.controls import plain_samples
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.reading import ReadingStore
from mllmu.pipeline.run import Run

FOLDER = "probes"


def probe_target(evaluation: Evaluation) -> ProbeResults:
    """Ask the target what its scores by letter, and under a system prompt, depend on; what it fails is noted.

    Letters are probed where the recipe has the task, instructions where a method is a system prompt.
    """
    run, seed = evaluation.run, evaluation.run.recipe.seed
    samples, replies = evaluation.samples, evaluation.responses(TARGET)
    modalities = taught_modalities(run)
    found: dict[str, ProbeShare | None] = {}
    if BY_LETTER in run.recipe.evaluate.tasks:
        found["letters"] = _asked(evaluation, LETTERS, lambda: letter_samples(plain_samples(evaluation), seed=seed))
        found["by_letter"] = share_chosen(samples, replies, BY_LETTER, modalities)
        found["by_text"] = share_chosen(samples, replies, BY_TEXT, modalities)
    if any(is_system_prompt(run, name) for name in run.jobs):
        found["instructions"] = _asked(
            evaluation, INSTRUCTIONS, lambda: instruction_samples(samples, replies, seed=seed)
        )
    probed = ProbeResults(**found) if any(found.get(probe) for probe in (LETTERS, INSTRUCTIONS)) else ProbeResults()
    for note in filter(None, (probed.of_letters, probed.of_instructions)):
        run.progress.note(note)
    return probed


def taught_modalities(run: Run) -> tuple[Modality, ...]:
    """The modalities in which the target was taught."""
    taught = run.recipe.finetune.modality
    return MODALITIES if taught == "both" else (taught,)


def is_system_prompt(run: Run, model: str) -> bool:
    """Whether a model is the target behind a system prompt, and nothing else."""
    method = run.jobs[model].method if model in run.jobs else None
    return method is not None and not (method.trains or method.modifies) and bool(method.system_prompt(["Ada"]))


def _asked(evaluation: Evaluation, probe: str, render: Callable[[], Sequence[Sample]]) -> ProbeShare | None:
    """What the target replies to a probe; None where there is nothing to ask, or a run that is only read has none."""
    run = evaluation.run
    asking = Evaluation(run, evaluation.key, name=f"{FOLDER}/forget_{evaluation.key}/{probe}")
    unit = asking.folder / TARGET / RunFolder.RESPONSES
    if isinstance(run.store, ReadingStore) and not (unit / UNIT_FILE).is_file():
        return None
    samples = render()
    if not samples:
        return None
    asking.prepare(samples)
    return share_right(samples, asking.asked(TARGET))


def read_probes(evaluation: Evaluation) -> ProbeResults:
    """What the probes of a forget ratio found; nothing for a run of an earlier version."""
    return gate.read_probes(read_json(evaluation.folder / RunFolder.GATE_FILE, sealed=True))


def judged(declared: Declared, evaluation: Evaluation) -> Declared:
    """What tables need to know of the tasks: letters that the target cannot read are no part of the means over tasks.

    Only where the same questions are asked by the text of the options too; elsewhere nothing would stand for them.
    """
    if not {BY_LETTER, BY_TEXT} <= declared.tasks.keys() or read_probes(evaluation).reads_letters is not False:
        return declared
    apart = declared.tasks[BY_LETTER].model_copy(update={"in_mean": False})
    return declared.model_copy(update={"tasks": {**declared.tasks, BY_LETTER: apart}})
