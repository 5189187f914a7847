"""One run: its recipe, its folder, its data once they are there, and its models on disk and in memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mllmu.config.recipe import Finetune, Job, Recipe, Unlearn, jobs, taught_models
from mllmu.config.variants import HOW_COMPUTED
from mllmu.core import process
from mllmu.core.process import Progress, metered
from mllmu.core.records import ModelRef, Question
from mllmu.core.runfolder import RunFolder, RunStore, Unit, fingerprint_of, read_record, write_json
from mllmu.data import dataset
from mllmu.data.facts import as_requested
from mllmu.models.encoding import Encoder
from mllmu.models.families import Turn, unknown_attention
from mllmu.models.loading import Loaded, load
from mllmu.parallel.team import share
from mllmu.training.batches import training_turns
from mllmu.training.loop import Training

SAME_MODEL = {*HOW_COMPUTED["model"], "path", "revision"}
"""Settings of the model that change where and how it is computed; the base is known by its files, not by its path."""


class Run:
    """What all stages of a run share.

    Args:
        recipe: what to do.
        root: the run folder.
        progress: receives what is going on.
    """

    shares_prompts = True
    """Whether common beginnings of prompts are read once."""

    def __init__(self, recipe: Recipe, root: Path, progress: Progress) -> None:
        self.recipe = recipe
        self.root = root
        self.progress = progress
        self.store = RunStore(root)
        self.jobs: dict[str, Job] = {job.name: job for job in jobs(recipe)}
        self.vllm_engine: Any = None
        self._encoder: Encoder | None = None

    @cached_property
    def data(self) -> dataset.Dataset:
        """What the data stage has made; where the recipe has requests or an evaluation seed, as these see it."""
        made, unlearn = dataset.load(self.root / RunFolder.DATA), self.recipe.unlearn
        wanted = unlearn.forget or unlearn.requests or self.recipe.seeds.evaluate is not None
        return as_requested(made, self.recipe) if wanted else made

    @property
    def keys(self) -> list[str]:
        """The forget ratios in percent."""
        return self.data.keys

    @property
    def models(self) -> list[str]:
        """Names of the models that are compared at each ratio, in the order of the report."""
        return [*self.taught, *self.jobs]

    @property
    def taught(self) -> list[str]:
        """The target, and the retain model if there is one."""
        return taught_models(self.recipe)

    def fingerprint(self, unit: str) -> str:
        """Fingerprint of a unit that an earlier stage has finished."""
        return fingerprint_of(self.root / unit)

    def seed_of(self, stage: str) -> int:
        """The seed of a stage of ``seeds``: its own, or the recipe's."""
        own: int | None = getattr(self.recipe.seeds, stage)
        return self.recipe.seed if own is None else own

    @property
    def base(self) -> ModelRef:
        """The base model, before any fine-tuning."""
        return ModelRef(base=self.recipe.model.path, revision=self.recipe.model.revision)

    def ref(self, key: str, model: str) -> ModelRef:
        """The reference of a finished model of the run."""
        path = self.root / RunFolder.model_unit(key, model) / RunFolder.MODEL_FILE
        ref: ModelRef = read_record(path, ModelRef)
        return ref.model_copy(update={"base": self.base.base, "revision": self.base.revision})

    def load(self, ref: ModelRef) -> Loaded:
        """Load a model; all models of a run share one encoder, so no text or image is prepared twice."""
        loaded = load(self.recipe.model, ref, self.root, self._encoder)
        if self._encoder is None:
            self._encoder = loaded.encoder
            self._note_what_is_not_shared(loaded)
        return loaded

    def _note_what_is_not_shared(self, loaded: Loaded) -> None:
        models = unknown_attention(loaded.model.config.get_text_config()) or f"the family '{loaded.family.name}'"
        if not loaded.packs and self.recipe.model.packing == "auto":
            self.progress.note(f"model.packing: models of {models} are trained one question per row.")
        if not loaded.shares:
            self.progress.note(f"evaluate: models of {models} read every prompt again per candidate.")

    def turns(
        self, people: Sequence[str], modality: str, variant: str = "train", among: Sequence[Question] | None = None
    ) -> list[Turn]:
        """The training questions of some people, or those of another variant put in the same way; ``among`` some."""
        wanted, among = set(people), self.data.questions if among is None else among
        questions = [question for question in among if question.profile_id in wanted]
        return training_turns(questions, self.root / RunFolder.DATA, modality=modality, variant=variant)

    def training(self, section: Finetune | Unlearn, folder: Path, seed: int, label: str) -> Training:
        """How a model is trained with the settings of a section."""
        return Training(
            folder=folder,
            label=label,
            seed=seed,
            progress=self.progress,
            lora=section.lora,
            micro_batch_size=None if section.micro_batch_size == "auto" else section.micro_batch_size,
            recompute=self.recipe.model.gradient_checkpointing,
            checkpoint_every_s=self.recipe.finetune.checkpoint_every_s,
        )

    @contextmanager
    def making_model(self, unit: Unit) -> Iterator[None]:
        """Make the unit of a model, and measure its training; the block writes the reference by :func:`write_ref`."""
        with unit.making() as facts, _peak_memory(facts), metered(facts):
            yield

    def together(self, function: Callable[..., None], **arguments: Any) -> None:
        """Call ``function(self, **arguments)`` in all processes of the run, each with a run of its own."""
        if process.count() == 1:
            function(self, **arguments)
        else:
            share(function, self, arguments)


def write_ref(unit: Unit, ref: ModelRef) -> None:
    """Enter the reference of a model into its unit, where :meth:`Run.ref` finds it."""
    write_json(unit.building / RunFolder.MODEL_FILE, ref.model_dump())


@contextmanager
def _peak_memory(facts: dict[str, Any]) -> Iterator[None]:
    """Add ``peak_mib``, the accelerator's peak memory in MiB; nothing without one."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    yield
    facts["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
