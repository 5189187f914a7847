"""Stage ``evaluate``: the same samples are put to every model; responses, and their scores, are kept as units."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mllmu.config.recipe import Evaluate
from mllmu.core import process
from mllmu.core.process import Progress
from mllmu.core.records import BaseLogp, ModelRef, Response, Sample, Score
from mllmu.core.runfolder import Journal, RunFolder, Unit, digest, dump_lines, facts_of, read_lines, write_atomic
from mllmu.evaluation import samples as rendering
from mllmu.evaluation import scoring
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.parts import further_sets
from mllmu.models.engine.respond import plan_batches, raw_apart, respond
from mllmu.models.engine.vllm_backend import VllmModel, open_model, start_engine
from mllmu.models.loading import Loaded, choose_device, choose_dtype, family_of
from mllmu.models.weights import round_weights
from mllmu.parallel import team
from mllmu.pipeline import batch_plan, benchmarks
from mllmu.pipeline.run import SAME_MODEL, Run

PARTIAL, OF_FOLLOWER, PARTIALS = "responses.partial.jsonl", "responses.partial.{}.jsonl", "responses.partial*.jsonl"
"""Responses so far: of the only or the leading process, of another one, and of all."""
LOW = ("bfloat16", "float16")
"""The precisions in which replies depend on their batch."""
PLANNED = 64
"""Questions of a batch as long as the free memory is unknown."""


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
        self.keep = keep

    def render(self) -> list[Sample]:
        """Render the samples, without a trace in the run folder."""
        recipe, settings = self.run.recipe, self._settings or self.run.recipe.evaluate
        how: dict[str, Any] = {
            "selection": recipe.data.splits.selection,
            "seed": self.run.seed_of("evaluate"),
            "family": type(family_of(recipe.model)),
        }
        samples = rendering.render(self.run.data, self.key, settings, **how)
        samples += further_sets(self.run.data, self.key, settings, **how) if self.run.data.further else []
        samples = rendering.with_both_parts(samples, how["seed"]) if how["selection"] else samples
        # a further protocol is about the questions on people
        samples += [] if self._settings else benchmarks.samples(self.run)
        return [sample for sample in samples if self.keep is None or self.keep(sample)]

    def prepare(self, samples: Sequence[Sample] | None = None) -> None:
        """Render the samples, unless they are given; they are written when the first model is asked."""
        self.__dict__["samples"] = self.render() if samples is None else list(samples)

    @cached_property
    def samples(self) -> list[Sample]:
        """The samples that have been prepared, or that another process has written."""
        return read_lines(self.folder / RunFolder.SAMPLES_FILE, Sample)

    def write_samples(self) -> Path:
        """The file of the samples, for the processes that ask; it is left alone if nothing changes."""
        path, text = self.folder / RunFolder.SAMPLES_FILE, dump_lines(self.samples)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)
        return path

    @cached_property
    def _samples_digest(self) -> str:
        return digest(dump_lines(self.samples))

    def unit(self, model: str) -> Unit:
        """The unit of a model's responses; they depend on the model and on the samples."""
        inputs = {
            "model": self.run.fingerprint(RunFolder.model_unit(self.key, model)),
            "samples": self._samples_digest,
            "backend": self.run.recipe.evaluate.backend,
        }
        return self.run.store.unit(f"{self.name}/{model}/{RunFolder.RESPONSES}", inputs)

    def ask(self, model: str, already_asked: Iterable[str] = ()) -> None:
        """Collect the responses of one model, or take those of an equal model already asked under another name."""
        unit = self.unit(model)
        if not unit.done:
            ref = self.run.ref(self.key, model)
            same = next((other for other in already_asked if self.run.ref(self.key, other) == ref), None)
            if same is None:
                self.collect(unit, ref, model)
            else:
                with unit.making() as facts:
                    facts |= facts_of(self.unit(same).folder)
                    write_atomic(unit.building / RunFolder.RESPONSES_FILE, dump_lines(self.responses(same)))

    def asked(self, model: str) -> list[Response]:
        """The responses of one model, which is asked if it has not been."""
        self.ask(model)
        return self.responses(model)

    def ask_all(self, models: Sequence[str]) -> None:
        """Ask all models that have not been asked; the same model under another name is asked once."""
        for index, model in enumerate(models):
            self.ask(model, already_asked=models[:index])

    def collect(self, unit: Unit, ref: ModelRef, label: str, *, bits: int | None = None) -> None:
        """Make a unit of responses of a model; with ``bits`` its weights are rounded first."""
        with unit.making() as facts:
            self.run.together(
                collect_responses,
                ref=ref,
                samples=self.write_samples(),
                folder=unit.building,
                label=label,
                bits=bits,
            )
            facts["precision"] = precision_of(self.run)
            if facts["precision"] in LOW:
                responses = read_lines(unit.building / RunFolder.RESPONSES_FILE, Response)
                facts |= batch_plan.facts(responses, batch_plan.size(self.run.recipe.evaluate.batch_size))

    def distinct(self, models: Sequence[str]) -> list[str]:
        """The models without those that are there under an earlier name."""
        refs = [self.run.ref(self.key, model) for model in models]
        return [model for index, model in enumerate(models) if refs[index] not in refs[:index]]

    def responses(self, model: str) -> list[Response]:
        """Responses that have been collected, with their base log-probabilities where these have been computed."""
        responses = read_lines(self.folder / model / RunFolder.RESPONSES / RunFolder.RESPONSES_FILE, Response)
        path = self.folder / model / RunFolder.BASE_LOGP / RunFolder.BASE_LOGP_FILE
        if not path.is_file():
            return responses
        by_sample = {logp.sample_id: logp for logp in read_lines(path, BaseLogp)}
        return [response.model_copy(update={"base_logp": by_sample.get(response.sample_id)}) for response in responses]

    def base_logp_unit(self, model: str) -> Unit:
        """The unit of the log-probabilities of a model's responses under the base model."""
        settings = self.run.recipe.model.model_dump(mode="json", exclude=SAME_MODEL)
        inputs = {"responses": self.unit(model).fingerprint, "base": settings}
        return self.run.store.unit(f"{self.name}/{model}/{RunFolder.BASE_LOGP}", inputs)

    def scores(self, model: str, metrics: Sequence[Metric]) -> list[Score]:
        """The scores of one model's responses, made unless they are there; needs no model."""
        inputs = {"responses": self.unit(model).fingerprint, "metrics": {m.name: m.version for m in metrics}}
        if any(metric.needs_base_logp for metric in metrics):
            inputs["base_logp"] = self.base_logp_unit(model).fingerprint
        unit = self.run.store.unit(f"{self.name}/{model}/{RunFolder.SCORES}", inputs)
        if not unit.done:
            with unit.making():
                scores = scoring.score_all(self.samples, self.responses(model), metrics)
                write_atomic(unit.building / RunFolder.SCORES_FILE, dump_lines(scores))
        return read_lines(unit.folder / RunFolder.SCORES_FILE, Score)


def precision_of(run: Run) -> str:
    """Precision in which models are asked here, or 'vllm', which chooses it and plans its batches itself."""
    if run.recipe.evaluate.backend == "vllm":
        return "vllm"
    section = run.recipe.model
    return str(choose_dtype(section.dtype, choose_device(section.device))).removeprefix("torch.")


def collect_responses(
    run: Run, *, ref: ModelRef, samples: Path, folder: Path, label: str, bits: int | None = None
) -> None:
    """Put the samples in a file to a model, its weights rounded to ``bits``; its responses go into ``folder``."""

    def load() -> Loaded | VllmModel:
        if bits is None and run.recipe.evaluate.backend == "vllm":
            run.vllm_engine = run.vllm_engine or start_engine(run.recipe.model, ref, run.recipe.evaluate.vllm)
            return open_model(run.vllm_engine, ref, run.root)
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
        share=run.shares_prompts,
        low_precision=precision_of(run) in LOW,
    )


def collect(
    samples: Sequence[Sample],
    load: Callable[[], Loaded | VllmModel],
    *,
    image_folder: Path,
    system_prompt: str,
    batch_size: int | Literal["auto"],
    folder: Path,
    progress: Progress,
    label: str,
    share: bool = True,
    low_precision: bool = False,
) -> list[Response]:
    """Respond to every sample; responses are written batch by batch and read back after an interruption.

    A batch is kept or asked as a whole, so an interruption changes no digit. Of several processes each takes a share of
    the batches, so that no response depends on their number; each keeps its responses in a file of its own, and the
    leading one puts them together.

    Args:
        load: loads the model; called only if a response is missing.
        image_folder: the folder the samples' image paths start from.
        system_prompt: system prompt of the model.
        batch_size: questions at once; ``auto`` shares them out in batches of :data:`PLANNED`, and then asks as many at
            once as this process has memory for, in low precision no more than :data:`batch_plan.PLANNED`.
        folder: gets ``responses.jsonl``, in the order of the samples.
        share: read common beginnings of prompts once, see :func:`mllmu.models.engine.respond.respond`.
        low_precision: replies depend on their batch, see :mod:`mllmu.pipeline.batch_plan`.

    Returns:
        All responses; nothing where this process does not lead.
    """
    if low_precision:
        planned = raw_apart(plan_batches(samples, batch_plan.size(batch_size)))
    else:
        planned = plan_batches(samples, PLANNED if batch_size == "auto" else batch_size)
    known = read_known(folder)
    if process.count() > 1:
        team.wait_for_all()  # no process may write before all have read
    if low_precision or any(response.planned_with for response in known.values()):
        known = batch_plan.resume(folder, PARTIALS, known, planned if low_precision else None)
    if process.count() > 1:
        planned = [planned[index] for index in team.own_share([batch_plan.weight(batch) for batch in planned])]
    total = sum(map(len, planned))
    progress.start(label, total)
    if batches := [batch for batch in planned if not all(sample.id in known for sample in batch)]:
        journal = Journal(folder / (PARTIAL if process.leads() else OF_FOLLOWER.format(process.rank())), Response)
        journal.resume()
        loaded = load()
        how: dict[str, Any] = {"image_folder": image_folder, "system_prompt": system_prompt}
        if batch_size == "auto":
            fits = batch_plan.at_once(folder, loaded, [sample for batch in planned for sample in batch], how)
            batches = batch_plan.cut(batches, fits) if low_precision else batch_plan.regroup(planned, known, fits)
        progress.advance(total - sum(map(len, batches)))
        if isinstance(loaded, VllmModel):
            made = loaded.respond(batches, **how)
        else:
            made = respond(loaded, batches, share=share, **how)
        made = batch_plan.marked(made, planned) if low_precision else made
        for responses in made:
            journal.append(responses)
            progress.advance(len(responses))
    progress.finish()
    if process.count() > 1:
        team.wait_for_all()
    return _put_together(samples, folder) if process.leads() else []


def _put_together(samples: Sequence[Sample], folder: Path) -> list[Response]:
    """The responses of all processes in one file, in the order of the samples."""
    known = read_known(folder)
    responses = [known[sample.id] for sample in samples]
    write_atomic(folder / RunFolder.RESPONSES_FILE, dump_lines(responses))
    for path in folder.glob(PARTIALS.removesuffix(".jsonl")):
        path.unlink()
    return responses


def read_known(folder: Path) -> dict[str, Response]:
    """Responses of an interrupted evaluation, of all its processes, by sample."""
    found = [response for path in sorted(folder.glob(PARTIALS)) for response in Journal(path, Response).read()]
    return {response.sample_id: response for response in found}
