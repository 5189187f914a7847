"""A run from the first person to the report; reads like the method section of a paper.

    data -> finetune -> unlearn -> evaluate -> score -> report

Every stage is a module of this package. A stage makes what is missing and skips what is there, so the same command
continues an interrupted run; it reads the folders of earlier stages and writes units of its own. The folders are those
of :class:`mllmu.core.runfolder.RunFolder`.

With ``workers: 2`` or more in the recipe, the models of a stage are made and asked by that many processes at a time;
the stage itself then finds everything there.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path

from rich.console import Group

from mllmu.config.recipe import Recipe
from mllmu.core.names import TARGET
from mllmu.core.process import Progress, SilentProgress, leads
from mllmu.core.runfolder import RunFolder, RunStore
from mllmu.evaluation.metrics import metrics_of
from mllmu.models import devices
from mllmu.models.loading import choose_device, choose_dtype, source_of
from mllmu.parallel.pool import WorkerPool, is_worker
from mllmu.parallel.team import follow, leading, only_alone
from mllmu.pipeline import report
from mllmu.pipeline.attacks import attack_run
from mllmu.pipeline.base_logp import score_under_base
from mllmu.pipeline.controls import control_run
from mllmu.pipeline.data import make_data
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.finetune import finetune_model, finetune_unit, people_of
from mllmu.pipeline.gate import pass_gate
from mllmu.pipeline.known import known_samples, known_to_base
from mllmu.pipeline.protocols import ProtocolComparison
from mllmu.pipeline.reading import ReadingStore
from mllmu.pipeline.record import recorded
from mllmu.pipeline.requests import make_by_requests, request_run
from mllmu.pipeline.run import Run
from mllmu.pipeline.score import score_run
from mllmu.pipeline.unlearn import unlearn_model, unlearn_unit
from mllmu.pipeline.workers import worker_task

STAGES = ("data", "finetune", "unlearn", "evaluate", "score", "report")
CHEAP = ("score", "report")


class Pipeline:
    """One run of one recipe in one folder.

    Args:
        recipe: what to do.
        root: the run folder; may hold an earlier, unfinished or finished run of the same recipe.
        force: redo finished work (of the stage alone, if one is named), also if the settings changed.
        gate: stop before unlearning if the target has not memorised the people to forget.
        check: called once the data are made, before anything is trained.
        progress: receives what is going on.
    """

    reads = False
    """Nothing may be made but numbers and pages of what is there."""

    def __init__(
        self,
        recipe: Recipe,
        root: Path | str,
        *,
        force: bool = False,
        gate: bool = True,
        check: Callable[["Pipeline"], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.recipe, self.check = recipe, check
        self.root = Path(root)
        self.force = force
        self.gate = gate and recipe.gate
        self.progress = progress or SilentProgress()
        self.state = Run(recipe, self.root, self.progress)
        self.workers: WorkerPool | None = None
        if recipe.workers > 1 and not is_worker():
            self.workers = WorkerPool(recipe.workers, partial(worker_task, Pipeline, recipe, self.root), self.progress)

    def run(self, only: str | None = None) -> Path | None:
        """Run all stages, or those up to ``only``; returns the page of the report if that was made.

        Of several processes only the leading one does; the others help it where work is shared.
        """
        if self.workers:
            only_alone(f"workers: {self.recipe.workers}")
        if not leads():
            follow(self.state, self.root)
            return None
        store = self.state.store = (ReadingStore if self.reads else RunStore)(self.root)
        last = only or STAGES[-1]
        with leading(self.root), recorded(self.state), self.workers or nullcontext():
            for stage in STAGES[: STAGES.index(last) + 1]:
                # scoring and drawing are cheap, so asking for them by name does them again
                store.force = only in (None, stage) and (self.force or (stage == only and stage in CHEAP))
                if stage == "finetune" and self.check:
                    self.check(self)
                getattr(self, stage)()
        return self.root / RunFolder.REPORT / "index.html" if last == "report" else None

    def data(self) -> None:
        """Make people, images, questions and splits."""
        make_data(self.state)

    def finetune(self) -> None:
        """Fine-tune the target on all people, and one retain model per ratio on all but those to be forgotten."""
        run = self.state
        models = [(run.keys[0], TARGET), *((key, model) for key in run.keys for model in run.taught[1:])]
        self.progress.stage("finetune", f"target on {len(run.data.people)} people, {len(models) - 1} retain model(s)")
        section = self.recipe.model
        device = choose_device(section.device, None if section.device_map else source_of(section.path))
        self.progress.note(devices.why(section.device, device, choose_dtype(section.dtype, device)))
        if self.recipe.evaluate.celebrity != "all":
            known_samples(run)  # too few are an error before hours of training, not after
        self._make(models)

    def unlearn(self) -> None:
        """Make the target forget, once per ratio and method; first make sure that there is something to forget."""
        run = self.state
        for key, evaluation in self.evaluations.items():
            people = len(run.data.splits[key])
            self.progress.stage("gate", f"does the target know the {people} people to forget ({key} %)?")
            evaluation.prepare()
            self._ask(evaluation, run.taught)
            pass_gate(evaluation, stop=self.gate)
            self.progress.stage("unlearn", f"{people} people ({key} %), {len(run.jobs)} methods")
            self._make([(key, model) for model in run.jobs])

    def evaluate(self) -> None:
        """Put the same samples to every model and keep the responses."""
        run = self.state
        for key, evaluation in self.evaluations.items():
            count = len(evaluation.samples)
            self.progress.stage("evaluate", f"{count} questions to {len(run.models)} models ({key} %)")
            self._ask(evaluation, run.models)
            score_under_base(evaluation, run.models, metrics_of(self.recipe.evaluate))
            if self.recipe.evaluate.controls:
                control_run(evaluation)
        for key, comparison in self.comparisons.items():
            others = ", ".join(self.recipe.evaluate.compare)
            self.progress.stage("evaluate", f"the same models under other protocols: {others} ({key} %)")
            comparison.ask(run.models)
        if self.recipe.unlearn.requests:
            request_run(run, self.evaluations)
        if self.recipe.evaluate.attacks:
            attack_run(run)

    def score(self) -> None:
        """Score the responses and average; needs no model."""
        score_run(self.state, self.evaluations)

    def report(self) -> None:
        """Draw one report per forget ratio; of several, :mod:`mllmu.studies.board_page` makes a board."""
        report.write_reports(self.state, self.evaluations, self.comparisons)

    def terminal_table(self) -> Group:
        """The result of every ratio in a few lines for a terminal."""
        return report.terminal_table(self.evaluations)

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluation of every ratio, by key."""
        keep = known_to_base(self.state) if self.recipe.evaluate.celebrity != "all" else None
        return {key: Evaluation(self.state, key, keep=keep) for key in self.state.keys}

    @cached_property
    def comparisons(self) -> dict[str, ProtocolComparison]:
        """The evaluations of every ratio under further protocols, by key; empty if the recipe names none."""
        evaluations = self.evaluations if self.recipe.evaluate.compare else {}
        return {key: ProtocolComparison(evaluation) for key, evaluation in evaluations.items()}

    def _make(self, models: Iterable[tuple[str, str]]) -> None:
        """Make models by ratio and name, by worker processes if the recipe wants any."""
        if self.workers:
            self.workers.do([("make", *model) for model in models if not self._model_done(*model)])
        for key, model in models:
            self.do("make", key, model)

    def _model_done(self, key: str, model: str) -> bool:
        run = self.state
        if model in run.jobs:
            return unlearn_unit(run, key, model).done
        return finetune_unit(run, key, model, people_of(run, key, model)).done

    def _ask(self, evaluation: Evaluation, models: Sequence[str]) -> None:
        """Collect the responses of models, by worker processes if the recipe wants any."""
        if self.workers:
            missing = [model for model in evaluation.distinct(models) if not evaluation.unit(model).done]
            if missing:
                evaluation.write_samples()
            self.workers.do([("ask", evaluation.key, model) for model in missing])
        evaluation.ask_all(models)

    def do(self, task: str, key: str, model: str) -> None:
        """One task on one model: ``make`` it, ``ask`` it, or ``score`` its responses."""
        run = self.state
        if task == "make" and model in run.jobs:
            (make_by_requests if self.recipe.unlearn.requests else unlearn_model)(run, key, model)
        elif task == "make":
            finetune_model(run, key, model, people_of(run, key, model))
        elif task == "ask":
            self.evaluations[key].ask(model)
        else:
            self.evaluations[key].scores(model, metrics_of(self.recipe.evaluate))
