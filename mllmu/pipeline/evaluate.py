"""Stage ``evaluate``: the same samples are put to every model, and the responses are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from mllmu.config.recipe import Evaluate
from mllmu.core import ranks
from mllmu.core.errors import ProcessError
from mllmu.core.jsonl import dump_lines, read_lines
from mllmu.core.records import BaseLogp, ModelRef, Response, Sample
from mllmu.core.runfolder import RunFolder, Unit, content_digest, write_atomic
from mllmu.evaluation import samples as rendering
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.run import collect
from mllmu.models.engine.base_logp import base_logps
from mllmu.models.engine.vllm_backend import VllmEngine, VllmModel, open_model
from mllmu.models.loading import Loaded, family_of
from mllmu.models.weights import round_weights
from mllmu.pipeline import benchmarks
from mllmu.pipeline.run import SAME_MODEL, Run

BASE_LOGPS_FILE = "base_logp.jsonl"


class Evaluation:
    """What the models of one forget ratio respond to the same samples.

    Args:
        run: the run.
        key: the forget ratio in percent.
        name: folder of the evaluation relative to the run folder; by default that of the recipe's own protocol.
        settings: of the evaluation, if not the recipe's.
        keep: which of the samples are used; default: all.
    """

    def __init__(
        self,
        run: Run,
        key: str,
        *,
        name: str = "",
        settings: Evaluate | None = None,
        keep: Callable[[Sample], bool] | None = None,
    ) -> None:
        self.run = run
        self.key = key
        self.name = name or RunFolder.evaluation(key)
        self.folder = run.root / self.name
        self._settings = settings
        self._keep = keep

    def render(self) -> list[Sample]:
        """Render the samples, without a trace in the run folder."""
        recipe = self.run.recipe
        samples = rendering.render(
            self.run.data,
            self.key,
            self._settings or recipe.evaluate,
            selection=recipe.data.splits.selection,
            seed=recipe.seed,
            family=type(family_of(recipe.model)),
        )
        # a further protocol is about the questions on people
        samples += [] if self._settings else benchmarks.samples(self.run)
        return [sample for sample in samples if self._keep is None or self._keep(sample)]

    def prepare(self) -> None:
        """Render the samples and write them down for everything that follows, worker processes included."""
        self.__dict__["samples"] = self.render()
        write_atomic(self.folder / RunFolder.SAMPLES_FILE, dump_lines(self.samples))

    @cached_property
    def samples(self) -> list[Sample]:
        """The samples that have been prepared."""
        return read_lines(self.folder / RunFolder.SAMPLES_FILE, Sample)

    def unit(self, model: str) -> Unit:
        """The unit of a model's responses; they depend on the model and on the samples."""
        inputs = {
            "model": self.run.fingerprint(RunFolder.model_unit(self.key, model)),
            "samples": content_digest(self.folder / RunFolder.SAMPLES_FILE),
            "backend": self.run.recipe.evaluate.backend,
        }
        return self.run.store.unit(f"{self.name}/{model}/{RunFolder.RESPONSES}", inputs)

    def ask(self, model: str, already_asked: Iterable[str] = ()) -> list[Response]:
        """The responses of one model; those of a model already asked are taken if it is the same under another name."""
        unit = self.unit(model)
        if not unit.done:
            ref = self.run.ref(self.key, model)
            same = next((other for other in already_asked if self.run.ref(self.key, other) == ref), None)
            if same is None:
                self.collect(unit, ref, model)
            else:
                with unit.making():
                    write_atomic(unit.building / RunFolder.RESPONSES_FILE, dump_lines(self.responses(same)))
        return self.responses(model)

    def collect(self, unit: Unit, ref: ModelRef, label: str, *, bits: int | None = None) -> None:
        """Make a unit of responses of a model; with ``bits`` its weights are rounded first."""
        with unit.making():
            self.run.together(
                respond, ref=ref, samples=self.folder / RunFolder.SAMPLES_FILE, folder=unit.building, label=label,
                bits=bits,
            )  # fmt: skip

    def distinct(self, models: Sequence[str]) -> list[str]:
        """The models without those that are there under an earlier name."""
        refs = [self.run.ref(self.key, model) for model in models]
        return [model for index, model in enumerate(models) if refs[index] not in refs[:index]]

    def responses(self, model: str) -> list[Response]:
        """Responses that have been collected, with their base log-probabilities where these have been computed."""
        responses = read_lines(self.folder / model / RunFolder.RESPONSES / RunFolder.RESPONSES_FILE, Response)
        path = self.folder / model / "base_logp" / BASE_LOGPS_FILE
        if not path.is_file():
            return responses
        by_sample = {logp.sample_id: logp for logp in read_lines(path, BaseLogp)}
        return [response.model_copy(update={"base_logp": by_sample.get(response.sample_id)}) for response in responses]

    def base_logp_unit(self, model: str) -> Unit:
        """The unit of the log-probabilities of a model's responses under the base model."""
        settings = self.run.recipe.model.model_dump(mode="json", exclude=SAME_MODEL)
        inputs = {"responses": self.unit(model).fingerprint, "base": settings}
        return self.run.store.unit(f"{self.name}/{model}/base_logp", inputs)

    def score_under_base(self, models: Sequence[str], metrics: Sequence[Metric]) -> None:
        """Compute the base log-probabilities of the models' responses, if a metric needs them."""
        tasks = {task for metric in metrics if metric.needs_base_logp for task in metric.tasks}
        missing = [model for model in models if tasks and not self.base_logp_unit(model).done]
        if not missing:
            return
        run = self.run
        base = run.load(run.base)
        samples = [sample for sample in self.samples if sample.task in tasks]
        run.progress.start("responses under the base model", len(missing))
        for model in missing:
            unit = self.base_logp_unit(model)
            with unit.making():
                logps = base_logps(
                    base,
                    samples,
                    self.responses(model),
                    image_folder=run.root / RunFolder.DATA,
                    batch_size=run.recipe.evaluate.planned_batch_size,
                )
                write_atomic(unit.building / BASE_LOGPS_FILE, dump_lines(logps))
            run.progress.advance(1)
        run.progress.finish()


def respond(run: Run, *, ref: ModelRef, samples: Path, folder: Path, label: str, bits: int | None = None) -> None:
    """Put the samples in a file to a model, its weights rounded to ``bits``; its responses go into ``folder``."""

    def load() -> Loaded | VllmModel:
        if bits is None and run.recipe.evaluate.backend == "vllm":
            return _open_in_vllm(run, ref)
        loaded = run.load(ref)
        if bits is not None:
            round_weights(loaded.model, loaded.family, bits=bits)
        return loaded

    collect(
        read_lines(samples, Sample),
        load,
        image_folder=run.root / RunFolder.DATA,
        system_prompt=ref.system_prompt,
        batch_size=run.recipe.evaluate.batch_size,
        folder=folder,
        progress=run.progress,
        label=label,
    )


def _open_in_vllm(run: Run, ref: ModelRef) -> VllmModel:
    """A model in the one vLLM engine of the run.

    Raises:
        ProcessError: there are several processes; vLLM starts its own.
    """
    if ranks.count() > 1:
        raise ProcessError(
            "evaluate.backend: vllm starts its own processes. Run mllmu without torchrun, and name the GPUs by "
            "evaluate.vllm: {tensor_parallel_size: 2}."
        )
    if run.vllm_engine is None:
        base = ModelRef(base=ref.base, revision=ref.revision)
        run.vllm_engine = VllmEngine(run.recipe.model, base, run.recipe.evaluate.vllm)
    return open_model(run.vllm_engine, ref, run.root)
