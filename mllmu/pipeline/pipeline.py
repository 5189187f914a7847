"""A run from the first person to the report; reads like the method section of a paper.

    data -> finetune -> unlearn -> evaluate -> score -> report

Every stage makes what is missing and skips what is there, so the same command continues an interrupted run. A stage
reads the folders of earlier stages and writes units (see :mod:`mllmu.core.runfolder`) of its own::

    data/                                    people, questions, splits, images
    models/target, models/forget_10/<name>   adapters, and model.json: a reference to base, adapters and system prompt
    eval/forget_10/<name>/replies, scores    what a model replied, and how every reply was judged
    eval/forget_10/metrics.json              all numbers of one forget ratio
    protocols/<label>/forget_10/<name>       replies under the further protocols of evaluate.compare, if any
    report/                                  index.html, tradeoff.csv, plots

With ``workers: 2`` or more in the recipe, the models of a stage are made and asked by that many processes at a time;
the stage itself then finds everything there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path

import torch
from rich.console import Group

from mllmu.config.recipe import Recipe
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.progress import Progress, SilentProgress
from mllmu.core.ranks import leads
from mllmu.core.runfolder import RunFolder, RunStore, write_atomic
from mllmu.data import build
from mllmu.evaluation import gate, scoring
from mllmu.evaluation.judging import run as let_judge
from mllmu.evaluation.samples import metrics_of
from mllmu.evaluation.summaries import build_all, summarise
from mllmu.parallel.pool import WorkerPool
from mllmu.parallel.team import follow, leading, only_alone
from mllmu.pipeline import benchmarks
from mllmu.pipeline import report_input as reporting
from mllmu.pipeline.answers import Answers
from mllmu.pipeline.context import Context, timed
from mllmu.pipeline.models import Models
from mllmu.pipeline.protocols import Comparison, write_comparison
from mllmu.pipeline.record import recorded
from mllmu.report import ReportInput, render, terminal_tables
from mllmu.report.page import write_links

STAGES = ("data", "finetune", "unlearn", "evaluate", "score", "report")
CHEAP = ("score", "report")


class Pipeline:
    """One run of one recipe in one folder.

    Args:
        recipe: what to do.
        root: the run folder; may hold an earlier, unfinished or finished run of the same recipe.
        force: redo finished work (of the stage alone, if one is named), also if the settings changed.
        gate: stop before unlearning if the target has not memorised the forget people.
        progress: told what is going on.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: Path | str,
        *,
        force: bool = False,
        gate: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.recipe = recipe
        self.root = Path(root)
        self.force = force
        self.gate = gate and recipe.gate
        self.progress = progress or SilentProgress()
        self.context = Context(recipe, self.root, self.progress)
        self.models = Models(self.context)
        self.jobs = list(self.models.jobs.values())
        self.workers = WorkerPool(recipe.workers, partial(worker_task, recipe, self.root), self.progress)

    def run(self, only: str | None = None) -> Path | None:
        """Run all stages, or those up to ``only``; returns the page of the report if that was made.

        Of several processes only the leading one does; the others help it where work is shared.
        """
        if self.recipe.workers > 1:
            only_alone(f"workers: {self.recipe.workers}")
        if not leads():
            follow(self.models, self.root)
            return None
        store = self.context.store = RunStore(self.root)
        last = only or STAGES[-1]
        with leading(self.root), recorded(self.context), self.workers:
            for stage in STAGES[: STAGES.index(last) + 1]:
                # Judging and drawing are cheap, so asking for them by name does them again.
                store.force = only in (None, stage) and (self.force or (stage == only and stage in CHEAP))
                getattr(self, stage)()
        return self.root / RunFolder.REPORT / "index.html" if last == "report" else None

    def data(self) -> None:
        """People, images, questions, splits."""
        section = self.recipe.data
        self.progress.stage("data", f"{section.source.name} people, {section.portraits.name} portraits")
        unit = self.context.data_unit()
        if not unit.done:
            with timed(unit) as facts:
                facts |= build.make(section, self.recipe.seed, unit.building, self.progress)
            unit.commit(facts)

    def finetune(self) -> None:
        """Teach everybody to the target, and everybody but the forgotten to one retain_model per ratio."""
        data = self.context.dataset
        self.progress.stage("finetune", f"target on {len(data.people)} people, {len(self.keys)} retain model(s)")
        taught = [(self.keys[0], TARGET), *((key, RETAIN_MODEL) for key in self.keys)]
        self._ahead("make", taught)
        for key, name in taught:
            self.models.make(key, name)

    def unlearn(self) -> None:
        """Make the target forget, once per ratio and method; first make sure that there is something to forget."""
        for key in self.keys:
            count = len(self.context.dataset.splits[key])
            self.progress.stage("gate", f"does the target know the {count} people to forget ({key} %)?")
            self._ahead("ask", [(key, TARGET), (key, RETAIN_MODEL)])
            self._pass_gate(self.answers[key])
            self.progress.stage("unlearn", f"{count} people ({key} %), {len(self.jobs)} methods")
            self._ahead("make", [(key, job.name) for job in self.jobs])
            for job in self.jobs:
                self.models.make(key, job.name)

    def _pass_gate(self, answers: Answers) -> None:
        difference = gate.memorisation(answers.samples, answers.ask(TARGET), answers.ask(RETAIN_MODEL))
        write_atomic(answers.folder / RunFolder.GATE_FILE, json.dumps(difference._asdict(), indent=1) + "\n")
        if self.gate:
            gate.check(difference)

    def evaluate(self) -> None:
        """Put the same samples to every model and keep the replies."""
        for key, answers in self.answers.items():
            self.progress.stage("evaluate", f"{len(answers.samples)} questions to {len(self.names)} models ({key} %)")
            self._ahead("ask", [(key, name) for name in answers.distinct(self.names)])
            for place, name in enumerate(self.names):
                answers.ask(name, twins=self.names[:place])
            answers.score_under_base(self.names, metrics_of(self.recipe.evaluate))
        for key, comparison in self.comparisons.items():
            others = ", ".join(self.recipe.evaluate.compare)
            self.progress.stage("evaluate", f"the same models under other protocols: {others} ({key} %)")
            comparison.ask(self.names)

    def _ahead(self, what: str, places: Iterable[tuple[str, str]]) -> None:
        """Have the missing ones of some units made by worker processes, if the recipe wants any."""
        if self.recipe.workers > 1:
            find = self.models.planned if what == "make" else lambda key, name: self.answers[key].unit(name)
            self.workers.do([(what, key, name) for key, name in places if not find(key, name).done])

    def do(self, what: str, key: str, name: str) -> None:
        """One task of a worker process: ``make`` or ``ask`` a model."""
        for known in (TARGET, RETAIN_MODEL, name):
            self.models.planned(key, known)
        if what == "make":
            self.models.make(key, name)
        else:
            self.answers[key].ask(name)

    def score(self) -> None:
        """Judge the replies and average; needs no model."""
        metrics = metrics_of(self.recipe.evaluate)
        taught = [question for question in self.context.dataset.questions if question.variant == "train"]
        for key, answers in self.answers.items():
            self.progress.stage("score", f"{len(metrics)} metrics, {len(self.names)} models ({key} %)")
            scores = {name: answers.judge(name, metrics) for name in self.names}
            results = [
                r for name in self.names for r in scoring.aggregate(name, answers.samples, scores[name], metrics)
            ]
            results += scoring.baselines(answers.samples, taught)
            distances = reporting.ks_rows(answers.samples, scores)
            summaries = build_all(self.recipe.evaluate.summaries)
            replies = {name: answers.replies(name) for name in self.names} if summaries else {}
            about = summarise(summaries, answers.samples, scores, replies, results, seed=self.recipe.seed)
            evaluate = self.recipe.evaluate
            declared = scoring.declared(
                results,
                parser=evaluate.protocol.parser,
                benchmarks={b.name: b.info() for b in map(benchmarks.built, evaluate.benchmarks)},
                tables=[
                    *(table for summary in summaries for table in summary.tables(about)),
                    *reporting.ks_tables(distances, folded=bool(summaries)),
                ],
            )
            reporting.write_metrics(answers.folder / RunFolder.METRICS_FILE, results, distances, about, declared)
        for spec in self.recipe.evaluate.judges:
            judge = spec.build("judges", "evaluate.judges")
            let_judge(self.root, self.names, judge, progress=self.progress, force=self.context.store.force)

    def report(self) -> None:
        """Draw one report per forget ratio; with several, an index page leads to them."""
        folder = self.root / RunFolder.REPORT
        self.progress.stage("report", str(folder))
        several = len(self.keys) > 1
        pages = {key: folder / f"forget_{key}" if several else folder for key in self.keys}
        for key, page in pages.items():
            render(self._report_input(key), page)
            if key in self.comparisons:
                write_comparison(page, self.comparisons[key].results(self.names))
        if several:
            links = {f"{key} % forgotten": f"{page.name}/index.html" for key, page in pages.items()}
            title = self.recipe.report.title or self.recipe.name
            write_links(folder, title, "One report per forget ratio.", links)

    def terminal_table(self) -> Group:
        """The result of every ratio in a few lines for a terminal."""
        return Group(*(table for key in self.keys for table in terminal_tables(self._report_input(key))))

    def _report_input(self, key: str) -> ReportInput:
        return reporting.report_input(self.context, self.models, self.answers[key], self.jobs)

    @property
    def keys(self) -> list[str]:
        """The forget ratios in percent."""
        return self.context.keys

    @cached_property
    def answers(self) -> dict[str, Answers]:
        """The replies of every ratio, by key."""
        return {key: Answers(self.context, self.models, key) for key in self.keys}

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """The replies of every ratio under further protocols, by key; empty if the recipe names none."""
        wanted = self.answers.items() if self.recipe.evaluate.compare else ()
        return {key: Comparison(self.context, self.models, answers) for key, answers in wanted}

    @property
    def names(self) -> list[str]:
        """The models that are compared, in the order of the report."""
        return [TARGET, RETAIN_MODEL, *(job.name for job in self.jobs)]


def worker_task(recipe: Recipe, root: Path, index: int, progress: Progress) -> Callable[[str, str, str], None]:
    """Make this process ready to do tasks of a run."""
    return worker_pipeline(recipe, root, index, progress).do


def worker_pipeline(recipe: Recipe, root: Path, index: int, progress: Progress) -> Pipeline:
    """The pipeline of a worker process, with its share of the cores, and a GPU of its own if there are several."""
    torch.set_num_threads(max(1, torch.get_num_threads() // recipe.workers))
    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())
    return Pipeline(recipe, root, gate=False, progress=progress)
