"""``evaluate.celebrity: known_to_base``: of the questions about celebrities, those that the base model answers right.

Utility then measures what the model has. The base is asked once per run, at the first forget ratio, before anything is
trained; its replies are the unit ``base/celebrity/base/responses``.
"""

from collections import Counter
from collections.abc import Callable

from mllmu.core import plugins
from mllmu.core.errors import DataError
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import RunFolder, Unit, digest, dump_lines, read_lines
from mllmu.data.tasks import task_of
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.outcome import told
from mllmu.models.base_files import BASE, base_files
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.run import SAME_MODEL, Run

FOLDER, LABEL = "base/celebrity", "celebrity questions to the base model"
FEWEST = 5
"""With fewer questions utility would measure nothing."""


def wants_known(run: Run) -> bool:
    """Whether the recipe keeps only those questions about celebrities that the base answers right."""
    return run.recipe.evaluate.celebrity == "known_to_base"


def known_to_base(run: Run, among: Callable[[Sample], bool] | None = None) -> Callable[[Sample], bool] | None:
    """Which samples are kept, of those ``among`` which they are; None for all.

    The base is asked, unless it has been, when the first question about a celebrity is looked at.
    """
    if not wants_known(run):
        return among
    known: set[str] = set()

    def keep(sample: Sample) -> bool:
        if among is not None and not among(sample):
            return False
        if sample.split != "celebrity":
            return True
        if not known:
            known.update(known_samples(run))
        return sample.id in known

    return keep


def known_samples(run: Run) -> set[str]:
    """The ids of the celebrity questions that the base answers right; it is asked unless it has been.

    Raises:
        DataError: there are fewer than five of them.
    """
    asking = Evaluation(run, run.keys[0], name=FOLDER, keep=lambda sample: sample.split == "celebrity")
    asking.prepare([sample.model_copy(update={"measured": ()}) for sample in asking.render()])
    if not asking.samples:
        return set()
    unit = _unit(run, asking)
    asked = unit.done
    if not asked:
        run.progress.stage("base", f"which of {len(asking.samples)} celebrity questions does {run.base.base} know?")
        asking.collect(unit, run.base, LABEL)
    replies = {r.sample_id: r for r in read_lines(unit.folder / RunFolder.RESPONSES_FILE, Response)}
    known = [sample for sample in asking.samples if is_known(sample, replies[sample.id])]
    counts = counted(asking.samples, {sample.id for sample in known})
    if len(known) < FEWEST:
        raise DataError(
            f"evaluate.celebrity: known_to_base keeps {len(known)} of {len(asking.samples)} celebrity questions "
            f"({counts}), as the base model {run.base.base} answers no more right; expected at least {FEWEST}. "
            "Set evaluate.celebrity: all, or take a base model that knows celebrities."
        )
    if not asked:
        run.progress.note(f"evaluate.celebrity: known to the base: {counts}")
    return {sample.id for sample in known}


def _unit(run: Run, asking: Evaluation) -> Unit:
    section = run.recipe.model
    inputs = {
        BASE: base_files(section.path, section.revision, keep_in=run.root),
        "model": section.model_dump(mode="json", exclude=SAME_MODEL),
        "samples": digest(dump_lines(asking.samples)),
        "backend": run.recipe.evaluate.backend,
    }
    return run.store.unit(f"{FOLDER}/base/{RunFolder.RESPONSES}", inputs)


def is_known(sample: Sample, response: Response) -> bool:
    """Whether a reply is right: it tells the truth; in a task that is judged by likelihood, the right option leads."""
    metric: Metric = plugins.build("metrics", task_of(sample.task).headline(), {})
    if metric.reads_likelihood and sample.options:
        return metric.score(sample, response).value == 1.0
    return told(sample, response) == 1.0


def counted(samples: list[Sample], known: set[str]) -> str:
    """How many questions are kept, by task: ``cloze 3 of 12, generation 5 of 12``."""
    every = Counter(sample.task for sample in samples)
    kept = Counter(sample.task for sample in samples if sample.id in known)
    return ", ".join(f"{task} {kept[task]} of {number}" for task, number in every.items())


def what_is_kept(evaluation: Evaluation) -> str:
    """The same of a finished evaluation, for its report; empty where all questions are asked."""
    path = evaluation.run.root / FOLDER / RunFolder.SAMPLES_FILE
    if not wants_known(evaluation.run) or not path.is_file():
        return ""
    return counted(read_lines(path, Sample), {sample.id for sample in evaluation.samples})
