"""Controls of a run: the gate asks the target, and with ``evaluate.controls`` every model is asked.

The replies are units beside those of the evaluation, in ``controls/forget_<k>/``; the rows of ``evaluate.controls`` are
``controls.json`` there.
"""

from collections.abc import Sequence
from functools import cached_property

from mllmu.config.protocol import Protocol
from mllmu.core.controlled import ControlResults, ControlRow
from mllmu.core.names import TARGET
from mllmu.core.records import MODALITIES, Sample, Split
from mllmu.core.runfolder import read_json, seal, write_json
from mllmu.evaluation.controls import control_results, control_samples
from mllmu.models.loading import family_of
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.of_models import fingerprints

FOLDER, FILE = "controls", "controls.json"


class ControlStudy:
    """The controls of one forget ratio.

    Args:
        evaluation: the recipe's own; the people to forget, and with ``evaluate.controls`` the people to retain too, are
            asked about again under the controls.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.run, self.key = evaluation.run, evaluation.key
        self.wanted = self.run.recipe.evaluate.controls
        self.asking = Evaluation(self.run, self.key, name=f"{FOLDER}/forget_{self.key}")

    @cached_property
    def plain(self) -> list[Sample]:
        """The questions as they are asked under the plain protocol, which is often that of the recipe."""
        splits: tuple[Split, ...] = ("forget", "retain") if self.wanted else ("forget",)
        return [s for s in plain_samples(self.evaluation) if s.split in splits and s.part == "report"]

    @cached_property
    def changed(self) -> list[Sample]:
        """The questions under the controls."""
        recipe = self.run.recipe
        needs_image = family_of(recipe.model).needs_image
        seed, order = recipe.seed, self.wanted
        return control_samples(self.plain, self.run.data, self.key, seed=seed, needs_image=needs_image, order=order)

    def ask(self, models: Sequence[str]) -> None:
        """Ask models what they have not been asked in just these words in the evaluation."""
        known = {sample.id: sample for sample in self.evaluation.samples}
        plain = [sample for sample in self.plain if known.get(sample.id) != sample]
        self.asking.prepare([*plain, *self.changed])
        self.asking.ask_all(models)

    def results(self, model: str) -> ControlResults:
        """The rows of a model that has been asked."""
        replies = [reply for one in (self.evaluation, self.asking) for reply in one.responses(model)]
        return control_results(model, self.plain, self.changed, replies)


def plain_samples(evaluation: Evaluation) -> list[Sample]:
    """The questions of an evaluation as the plain protocol asks them."""
    run, settings = evaluation.run, evaluation.run.recipe.evaluate
    if settings.protocol == Protocol():
        return evaluation.samples
    return Evaluation(run, evaluation.key, settings=settings.model_copy(update={"protocol": Protocol()})).render()


def gate_controls(evaluation: Evaluation) -> list[ControlRow]:
    """The controls of the target on the people to forget, in the modalities that it was taught."""
    study = ControlStudy(evaluation)
    study.ask([TARGET])
    taught = evaluation.run.recipe.finetune.modality
    rows = study.results(TARGET).rows
    return [
        row for row in rows if row.split == "forget" and row.modality in (MODALITIES if taught == "both" else [taught])
    ]


def control_run(evaluation: Evaluation) -> ControlResults:
    """Ask all models of a forget ratio under the controls; the rows are kept in ``controls.json``."""
    study, run = ControlStudy(evaluation), evaluation.run
    models = run.models
    run.progress.stage("controls", f"{len(study.changed)} questions to {len(models)} models")
    study.ask(models)
    found = [study.results(model) for model in models]
    rows, orders = (tuple(row for one in found for row in getattr(one, part)) for part in ("rows", "orders"))
    results = ControlResults(rows=rows, orders=orders, models=fingerprints(run, evaluation.key, models))
    write_json(study.asking.folder / FILE, seal(results.model_dump()))
    return results


def read_controls(evaluation: Evaluation) -> ControlResults | None:
    """What the controls of a forget ratio found, if all models have been asked."""
    found = read_json(evaluation.run.root / FOLDER / f"forget_{evaluation.key}" / FILE, sealed=True)
    return ControlResults.model_validate(found) if found else None
