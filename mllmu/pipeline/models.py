"""The models of a run as units: the target, the retain_models, and one per method, kept as references."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from mllmu.config.recipe import Finetune, Unlearn, jobs
from mllmu.core import ranks
from mllmu.core.errors import ProcessError
from mllmu.core.jsonl import read_lines
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.progress import metered
from mllmu.core.records import ModelRef, Sample
from mllmu.core.runfolder import Unit, digest, write_atomic
from mllmu.core.seeding import derive
from mllmu.evaluation.run import collect
from mllmu.models.engine.vllm_backend import VllmEngine, VllmModel, open_model
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded, load
from mllmu.models.weights import round_weights
from mllmu.parallel.team import shared
from mllmu.pipeline.context import Context, timed
from mllmu.training.batches import training_turns
from mllmu.training.finetune import finetune
from mllmu.training.loop import Training
from mllmu.unlearning.trainer import Sides, unlearn

MODEL_FILE = "model.json"
SAME_RESULT = {"device", "device_map", "gradient_checkpointing"}
"""Settings of the model that change where and how it is computed, but nothing that is computed."""
SAME_TRAINING = {"checkpoint_every_s", "micro_batch_size"}
"""The same of fine-tuning."""


def unit_name(key: str, name: str) -> str:
    """Folder of a model: the target belongs to all forget ratios, every other model to one."""
    return f"models/{TARGET}" if name == TARGET else f"models/forget_{key}/{name}"


class Models:
    """The models of a run: those that exist are found, the others are made."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = {job.name: job for job in jobs(context.recipe)}
        self.units: dict[str, Unit] = {}
        self._first: Loaded | None = None
        self._engine: VllmEngine | None = None

    def unit(self, key: str, name: str) -> Unit:
        return self.units[unit_name(key, name)]

    def ref(self, key: str, name: str) -> ModelRef:
        """The reference of a model that has been made."""
        path = self.unit(key, name).folder / MODEL_FILE
        return ModelRef.model_validate_json(path.read_text(encoding="utf-8"))

    def planned(self, key: str, name: str) -> Unit:
        """The unit of a model of the run, made or not yet; an unlearned one needs those of target and retain_model."""
        if name in {TARGET, RETAIN_MODEL}:
            return self.finetune_unit(key, name, self.people_of(key, name))
        return self.unlearn_unit(key, name)

    def make(self, key: str, name: str) -> None:
        """Make a model of the run, unless it is there."""
        if name in {TARGET, RETAIN_MODEL}:
            self.finetune(key, name, self.people_of(key, name))
        else:
            self.unlearn(key, name)

    def people_of(self, key: str, name: str) -> Sequence[str]:
        """The people that the target or the retain_model of a ratio is fine-tuned on."""
        data = self.context.dataset
        return data.people if name == TARGET else data.retained(key)

    def load(self, ref: ModelRef) -> Loaded:
        """Load a model; all models of a run share one encoder, so no text or image is prepared twice."""
        encoder = self._first.encoder if self._first else None
        loaded = load(self.context.recipe.model, ref, self.context.root, encoder)
        if self._first is None:
            self._explain(loaded)
        self._first = self._first or loaded
        return loaded

    def _explain(self, loaded: Loaded) -> None:
        """Say what is not shared among the questions of this run."""
        family, note = loaded.family, self.context.progress.note
        if not loaded.packs and self.context.recipe.model.packing == "auto":
            note(f"model.packing: models of the family '{family.name}' are trained one question a row here.")
        if not family.shares_prefix:
            note(f"evaluate: models of the family '{family.name}' read every prompt again for each of its candidates.")

    def finetune_unit(
        self, key: str, name: str, people: Sequence[str], *, seed: int | None = None, start: ModelRef | None = None
    ) -> Unit:
        """The unit of a fine-tuned model, made or not yet."""
        recipe = self.context.recipe
        inputs: dict[str, Any] = {
            "data": self.context.data_unit().fingerprint,
            "model": recipe.model.model_dump(mode="json", exclude=SAME_RESULT),
            "finetune": recipe.finetune.model_dump(mode="json", exclude=SAME_TRAINING),
            "people": digest(list(people)),
        }
        inputs |= {"seed": seed} if seed is not None else {}
        inputs |= {"start": start.model_dump()} if start is not None else {}
        return self._unit(key, name, inputs)

    def finetune(
        self, key: str, name: str, people: Sequence[str], *, seed: int | None = None, start: ModelRef | None = None
    ) -> None:
        """Fine-tune the base, or the model ``start``, on some people; ``seed`` replaces the recipe's."""
        recipe = self.context.recipe
        unit = self.finetune_unit(key, name, people, seed=seed, start=start)
        if unit.done:
            return
        base = start or ModelRef(base=recipe.model.path, revision=recipe.model.revision)
        with timed(unit) as facts, peak_memory(facts), metered(facts):
            self.train_finetuned(
                base=base,
                people=people,
                folder=unit.building,
                seed=derive(recipe.seed if seed is None else seed, "finetune"),
                label=name,
            )
        self._finish(unit, base.model_copy(update={"adapters": (*base.adapters, unit.name)}), facts)

    @shared
    def train_finetuned(self, *, base: ModelRef, people: Sequence[str], folder: Path, seed: int, label: str) -> None:
        """Fine-tune a model on some people; what is trained is saved into ``folder``."""
        section = self.context.recipe.finetune
        training = self._training(section, folder, seed, label)
        finetune(self.load(base), self._turns(people, section.modality), section, training)

    def unlearn_unit(self, key: str, name: str) -> Unit:
        """The unit of an unlearned model, made or not yet; needs the units of the target and the retain_model."""
        job, lora = self.jobs[name], self.context.recipe.unlearn.lora
        method = job.method
        inputs = {
            "start": self.unit(key, method.model).fingerprint,
            "retain_model": self.unit(key, RETAIN_MODEL).fingerprint,
            "method": job.plugin,
            "settings": method.model_dump(mode="json"),
            "lora": lora.model_dump(mode="json") if lora and method.trains else None,
            "forget": digest(self.context.dataset.splits[key]),
        }
        return self._unit(key, name, inputs)

    def unlearn(self, key: str, name: str) -> None:
        """Apply an unlearning method to the target (or take the retain_model, if that is the method)."""
        method, unit = self.jobs[name].method, self.unlearn_unit(key, name)
        if unit.done:
            return
        start = self.ref(key, method.model)
        with timed(unit) as facts, peak_memory(facts), metered(facts):
            if method.trains or method.modifies:
                frozen = self.ref(key, method.reference)
                self.train_unlearned(key=key, name=name, start=start, reference=frozen, folder=unit.building)
        if method.trains or method.modifies:
            ref = start.model_copy(update={"adapters": (*start.adapters, unit.name)})
        else:
            names = [self.context.dataset.names[person] for person in self.context.dataset.splits[key]]
            ref = start.model_copy(update={"system_prompt": method.system_prompt(names)})
        self._finish(unit, ref, facts)

    @shared
    def train_unlearned(self, *, key: str, name: str, start: ModelRef, reference: ModelRef, folder: Path) -> None:
        """Let a method train, or measure, on a model; what it changes is saved into ``folder``."""
        method, data, recipe = self.jobs[name].method, self.context.dataset, self.context.recipe
        # the usual reference is the start with the new adapter off; anything else needs a second model in memory
        apart = method.uses_reference and (method.reference != method.model or recipe.unlearn.lora is None)
        retain = self._turns(data.retained(key), method.modality) if method.uses_retain else []
        if method.preserves_text:
            retain += self._turns([*data.splits[key], *data.retained(key)], "text")
        sides = Sides(
            forget=self._turns(data.splits[key], method.modality),
            retain=retain,
            reference=self.load(reference) if apart else None,
            holdout=self._turns(data.holdout, method.modality, "eval") if method.uses_holdout else (),
        )
        training = self._training(recipe.unlearn, folder, derive(recipe.seed, "unlearn"), name)
        unlearn(self.load(start), method, sides, replace(training, reference_mib=recipe.unlearn.reference_mib))

    def _training(self, section: Finetune | Unlearn, folder: Path, seed: int, label: str) -> Training:
        return Training(
            folder=folder,
            label=label,
            seed=seed,
            progress=self.context.progress,
            lora=section.lora,
            micro_batch_size=section.micro_batch_size,
            checkpoint_every_s=self.context.recipe.finetune.checkpoint_every_s,
        )

    @shared
    def reply(
        self,
        *,
        ref: ModelRef,
        samples: Path,
        image_folder: Path,
        batch_size: int | Literal["auto"],
        folder: Path,
        label: str,
        bits: int | None = None,
    ) -> None:
        """Put the samples in a file to a model, its weights rounded to ``bits``; its replies go into ``folder``."""

        def answering() -> Loaded | VllmModel:
            if bits is None and self.context.recipe.evaluate.backend == "vllm":
                return self._in_vllm(ref)
            loaded = self.load(ref)
            if bits is not None:
                round_weights(loaded.model, loaded.family, bits=bits)
            return loaded

        collect(
            read_lines(samples, Sample),
            answering,
            image_folder=image_folder,
            system_prompt=ref.system_prompt,
            batch_size=batch_size,
            folder=folder,
            progress=self.context.progress,
            label=label,
        )

    def _in_vllm(self, ref: ModelRef) -> VllmModel:
        """A model in the one engine of the run.

        Raises:
            ProcessError: there are several processes; vLLM starts its own.
        """
        if ranks.count() > 1:
            raise ProcessError(
                "evaluate.backend: vllm starts its own processes. Run mllmu without torchrun, and name the GPUs by "
                "evaluate.vllm: {tensor_parallel_size: 2}."
            )
        recipe = self.context.recipe
        if self._engine is None:
            base = ModelRef(base=ref.base, revision=ref.revision)
            self._engine = VllmEngine(recipe.model, base, recipe.evaluate.vllm)
        return open_model(self._engine, ref, self.context.root)

    def _turns(self, people: Sequence[str], modality: str, variant: str = "train") -> list[Turn]:
        data, wanted = self.context.dataset, set(people)
        questions = [question for question in data.questions if question.profile_id in wanted]
        return training_turns(questions, data.folder / "images", modality=modality, variant=variant)

    def _unit(self, key: str, name: str, inputs: dict[str, Any]) -> Unit:
        unit = self.context.store.unit(unit_name(key, name), inputs)
        self.units[unit.name] = unit
        return unit

    def _finish(self, unit: Unit, ref: ModelRef, facts: dict[str, Any]) -> None:
        write_atomic(unit.building / MODEL_FILE, json.dumps(ref.model_dump(), indent=1) + "\n")
        unit.commit(facts)


class peak_memory:  # noqa: N801 - used as a statement
    """Context manager that adds ``peak_mib``, the accelerator's peak memory in MiB; nothing without one."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def __enter__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def __exit__(self, *error: object) -> None:
        if torch.cuda.is_available():
            self.facts["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
