"""Replies and scores of the models of a run, as units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mllmu.config.recipe import Evaluate
from mllmu.core.jsonl import dump_lines, read_lines
from mllmu.core.records import BaseLogp, ModelRef, Response, Sample, Score
from mllmu.core.runfolder import Unit, digest, write_atomic
from mllmu.evaluation import samples as sampling
from mllmu.evaluation import scoring
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.run import RESPONSES
from mllmu.models.engine.base_logp import base_logps
from mllmu.models.loading import family_of
from mllmu.pipeline import benchmarks
from mllmu.pipeline.context import Context, timed
from mllmu.pipeline.models import SAME_RESULT, Models

SAMPLES = "samples.jsonl"
SCORES = "scores.jsonl"
BASE_LOGPS = "base_logp.jsonl"


class Answers:
    """What the models of one forget ratio reply to the same samples.

    Args:
        keep: which samples are asked; all if not given.
        place: folder of the replies in the run folder.
        evaluate: what is asked, if not what the recipe says.
    """

    def __init__(
        self,
        context: Context,
        models: Models,
        key: str,
        *,
        keep: Callable[[Sample], bool] = lambda _: True,
        place: str = "eval",
        evaluate: Evaluate | None = None,
    ) -> None:
        recipe = context.recipe
        self.context = context
        self.models = models
        self.key = key
        self.place = f"{place}/forget_{key}"
        self.folder = context.root / self.place
        samples = sampling.render(
            context.dataset,
            key,
            evaluate or recipe.evaluate,
            selection=recipe.data.splits.selection,
            seed=recipe.seed,
            family=type(family_of(recipe.model)),
        )
        general = () if evaluate else benchmarks.samples(context)  # a protocol is about the questions on people
        self.samples: list[Sample] = [sample for sample in (*samples, *general) if keep(sample)]
        # without what nobody asked to be measured, so that runs made before anybody could are still the same
        self._digest = digest([s.model_dump(exclude=None if s.measured else {"measured"}) for s in self.samples])

    def ask(self, name: str, twins: Iterable[str] = ()) -> list[Response]:
        """The replies of one model.

        Args:
            name: the model.
            twins: models already asked; if one of them is the same model under another name, its replies are taken.
        """
        unit = self.unit(name)
        if not unit.done:
            ref = self.models.ref(self.key, name)
            twin = next((other for other in twins if self.models.ref(self.key, other) == ref), None)
            if twin is None:
                self.collect(unit, ref, name)
            else:
                write_atomic(unit.building / RESPONSES, dump_lines(self.replies(twin)))
                unit.commit({"seconds": 0.0})
        return self.replies(name)

    def collect(self, unit: Unit, ref: ModelRef, label: str, *, bits: int | None = None) -> None:
        """Make a unit of replies of a model; with ``bits`` its weights are rounded first."""
        write_atomic(self.folder / SAMPLES, dump_lines(self.samples))
        with timed(unit) as facts:
            self.models.reply(
                ref=ref,
                samples=self.folder / SAMPLES,
                image_folder=self.context.dataset.folder,
                batch_size=self.context.recipe.evaluate.batch_size,
                folder=unit.building,
                label=label,
                bits=bits,
            )
        unit.commit(facts)

    def distinct(self, names: Sequence[str]) -> list[str]:
        """The names without those of a model that is there under an earlier name."""
        refs = [self.models.ref(self.key, name) for name in names]
        return [name for place, name in enumerate(names) if refs[place] not in refs[:place]]

    def unit(self, name: str) -> Unit:
        """The unit of a model's replies; they depend on the model and on the samples."""
        inputs = {"model": self.models.unit(self.key, name).fingerprint, "samples": self._digest}
        backend = self.context.recipe.evaluate.backend
        inputs |= {"backend": backend} if backend != "transformers" else {}
        return self.context.store.unit(f"{self.place}/{name}/replies", inputs)

    def replies(self, name: str) -> list[Response]:
        """Replies that have been collected, with how likely the base finds them where it was asked."""
        replies = read_lines(self._path(name), Response)
        path = self.folder / name / "base_logp" / BASE_LOGPS
        if not path.is_file():
            return replies
        known = {found.sample_id: found for found in read_lines(path, BaseLogp)}
        return [reply.model_copy(update={"base_logp": known.get(reply.sample_id)}) for reply in replies]

    def score_under_base(self, names: Sequence[str], metrics: Sequence[Metric]) -> None:
        """Let the base model say how likely it finds the replies of some models, if a metric wants to know."""
        tasks = {task for metric in metrics if metric.needs_base_logp for task in metric.tasks}
        missing = [name for name in names if tasks and not self._base_logp_unit(name).done]
        if not missing:
            return
        section = self.context.recipe.model
        base = self.models.load(ModelRef(base=section.path, revision=section.revision))
        asked = [sample for sample in self.samples if sample.task in tasks]
        self.context.progress.start("replies under the base model", len(missing))
        for name in missing:
            unit = self._base_logp_unit(name)
            with timed(unit) as facts:
                found = base_logps(
                    base,
                    asked,
                    read_lines(self._path(name), Response),
                    image_folder=self.context.dataset.folder,
                    batch_size=self.context.recipe.evaluate.planned_batch_size,
                )
                write_atomic(unit.building / BASE_LOGPS, dump_lines(found))
            unit.commit(facts)
            self.context.progress.advance(1)
        self.context.progress.finish()

    def _base_logp_unit(self, name: str) -> Unit:
        section = self.context.recipe.model
        inputs = {
            "replies": self.unit(name).fingerprint,
            "base": section.model_dump(mode="json", exclude=SAME_RESULT),
        }
        return self.context.store.unit(f"{self.place}/{name}/base_logp", inputs)

    def _path(self, name: str) -> Path:
        return self.folder / name / "replies" / RESPONSES

    def judge(self, name: str, metrics: Sequence[Metric]) -> list[Score]:
        """The scores of one model by the metrics; needs no model."""
        versions = {metric.name: metric.version for metric in metrics}
        inputs = {"replies": self.unit(name).fingerprint, "metrics": versions}
        if any(metric.needs_base_logp for metric in metrics):
            inputs["base_logp"] = self._base_logp_unit(name).fingerprint
        unit = self.context.store.unit(f"{self.place}/{name}/scores", inputs)
        if not unit.done:
            with timed(unit) as facts:
                scores = scoring.score_all(self.samples, self.replies(name), metrics)
                write_atomic(unit.building / SCORES, dump_lines(scores))
            unit.commit(facts)
        return self.scores(name)

    def scores(self, name: str) -> list[Score]:
        """Scores that have been made."""
        return read_lines(self.folder / name / "scores" / SCORES, Score)
