"""The plan of a recipe on a device: what every stage holds, computes and takes, and what to change if it is too much.

Memory of a training step = weights + adapters (or trained weights) + optimiser + the most that a step allocates. The
last part is simulated on the model's own code, see :mod:`mllmu.preflight.plan.simulate`; the rest is counted. Time is
operations / (peak of the device * utilisation) for training and for reading prompts, and bytes of the weights / memory
bandwidth for every token that is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from mllmu.config.recipe import Lora, Recipe, jobs
from mllmu.core.errors import RecipeError, did_you_mean
from mllmu.models.engine.image_features import MOST_BYTES
from mllmu.preflight.plan import workload as loads
from mllmu.preflight.plan.evaluation import Held, asked_at_once, features, memory, most_at_once, shares, tokens_read
from mllmu.preflight.plan.facts import BYTES, ModelFacts, describe
from mllmu.preflight.plan.images import image_sizes
from mllmu.preflight.plan.simulate import StepCost, step_cost
from mllmu.training.batches import CAPACITY, SHARE, Group, arrange

GIB = 2**30
TRAIN_UTILISATION = 0.35
READ_UTILISATION = 0.35
WRITE_UTILISATION = 0.4
OVERHEAD = 1.06
"""What an allocator holds beyond what is alive."""


class Device(BaseModel):
    """A device: memory in GiB, peak of dense operations in TFLOP/s, memory bandwidth in GB/s."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    memory: float
    tflops: float
    gb_s: float


class StagePlan(BaseModel):
    """One line of the plan. Memory in GiB, ``tokens`` through the language model, ``tflop`` in 10^12 operations."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    what: str
    weights: float
    trained: float = 0.0
    optimiser: float = 0.0
    activations: float = 0.0
    cache: float = 0.0
    images: float = 0.0
    peak: float
    tokens: int
    tflop: float
    hours: float
    fits: bool


class Plan(BaseModel):
    """All stages, and what they were computed from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: str
    model: str
    family: str
    device: str
    memory: float
    dtype: str
    parameters: int
    vision_parameters: int
    trainable: int
    image_tokens: int
    packed: bool
    gradient_checkpointing: bool
    quantize: str | None
    stages: tuple[StagePlan, ...]
    hours: float
    advice: tuple[str, ...] = Field((), description="what to change, with what it would need then")
    assumptions: tuple[str, ...] = ()


def devices() -> dict[str, Device]:
    """The known devices by name."""
    text = (resources.files("mllmu.preflight.plan") / "devices.yaml").read_text(encoding="utf-8")
    return {name: Device.model_validate(value) for name, value in yaml.safe_load(text).items()}


def find_device(name: str) -> Device:
    """A device by name; an unknown one raises RecipeError with the nearest."""
    known = devices()
    if name not in known:
        raise RecipeError(f"--device: no '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[name]


def make_plan(recipe: Recipe, device: str) -> Plan:
    """Plan a recipe for a device."""
    planner = Planner(recipe, device)
    stages = tuple(planner.stages())
    facts = planner.facts
    return Plan(
        recipe=recipe.name,
        model=facts.name,
        family=facts.family.name,
        device=device,
        memory=planner.device.memory,
        dtype=str(facts.dtype).removeprefix("torch."),
        parameters=facts.parameters,
        vision_parameters=facts.vision,
        trainable=facts.trainable(recipe.finetune.lora),
        image_tokens=planner.image_tokens,
        packed=facts.packs,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        quantize=recipe.model.quantize,
        stages=stages,
        hours=sum(stage.hours for stage in stages),
        advice=tuple(planner.advice(stages)),
        assumptions=planner.assumptions(),
    )


def training_peak(weights: float, trained: float, step: float) -> float:
    """Bytes at the worst moment of training.

    weights + trained + 2 * trained (AdamW's two averages) + max(step, 2 * trained)

    Args:
        weights: of the frozen part.
        trained: of what is trained.
        step: the most that forward and backward pass allocate. When they are done only the gradients are left, and
            the optimiser's arithmetic takes as much again.
    """
    return weights + 3 * trained + max(step, 2 * trained)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A part of a step as it is run at once: questions, and the sequences and tokens they fill."""

    questions: int
    sequences: int
    tokens: int


class Planner:
    """Computes the lines of a plan; simulated steps are remembered by their shape."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.recipe = recipe
        self.name = device
        self.device = find_device(device)
        self.facts: ModelFacts = describe(recipe.model, device="cpu" if device == "cpu" else "cuda")
        self.work = loads.of_recipe(recipe)
        size = int(recipe.data.portraits.settings.get("size", 336))
        self.image_tokens, self.patches = image_sizes(recipe.model, self.facts, size)
        self._steps: dict[Any, StepCost] = {}

    def stages(self) -> Iterator[StagePlan]:
        """The lines: fine-tuning, every method, evaluation."""
        section, work = self.recipe.finetune, self.work
        taught = [work.people] + [work.people - gone for gone in work.forgotten]
        questions = sum(work.training_questions(people, section.modality) for people in taught)
        yield self._training(
            "finetune",
            f"target and {len(work.forgotten)} retain model(s)",
            questions=round(questions * section.epochs),
            batch=section.batch_size,
            at_once=section.micro_batch_size,
            modality=section.modality,
            lora=section.lora,
            together=section.questions_together,
        )
        for job in jobs(self.recipe):
            if job.method.trains:
                yield self._unlearning(job)
        yield self._evaluation(2 + len(jobs(self.recipe)))

    def _unlearning(self, job: Any) -> StagePlan:
        method = job.method
        forgotten = sum(self.work.training_questions(people, method.modality) for people in self.work.forgotten)
        sides = 1 + int(method.uses_retain)
        lora = self.recipe.unlearn.lora
        # without an adapter to switch off, or with another model as reference, a second one is in memory
        apart = method.uses_reference and (method.reference != method.model or lora is None)
        return self._training(
            "unlearn",
            job.name,
            questions=round(forgotten * method.epochs) * sides,
            batch=method.batch_size,
            at_once=self.recipe.unlearn.micro_batch_size,
            modality=method.modality,
            lora=lora,
            together=method.questions_together,
            sides=sides,
            reference=method.uses_reference,
            models=2 if apart else 1,
        )

    def _training(
        self,
        stage: str,
        what: str,
        *,
        questions: int,
        batch: int,
        at_once: int | None,
        modality: str,
        lora: Lora | None,
        together: int = 1,
        sides: int = 1,
        reference: bool = False,
        models: int = 1,
    ) -> StagePlan:
        facts, model = self.facts, self.recipe.model
        trained = facts.trainable(lora) * (4 if lora else BYTES[facts.dtype])
        shape = self.shape(min(batch, at_once or batch), modality, together)
        cost = self.step(shape, lora).whole(checkpointing=model.gradient_checkpointing)
        # the sides wait for each other, and for the logits of the reference
        logits = batch * loads.TRAINED_REPLY_TOKENS * int(facts.text.vocab_size) * 4
        if shape.questions < batch:
            # nothing waits but all logits with their gradient, and every part is run once more
            cost = replace(cost, kept=2 * logits, peak=cost.peak + 2 * logits, both=cost.both + cost.forward)
        step = cost.peak + (sides - 1) * cost.kept + sides * logits * reference
        seen = 0 if modality == "text" or not facts.packs else features(facts, self.work.people, self.image_tokens)
        activations = max(step, 2 * trained)
        # without adapters the trained weights are among the weights already
        weights = models * facts.resident - (0 if lora else trained)
        per_question = cost.both + cost.forward * int(reference)
        flop = questions * per_question / shape.questions + self._vision(stage, questions, modality)
        peak = (training_peak(weights, trained, step) + seen) / GIB * (OVERHEAD if self.name != "cpu" else 1)
        return StagePlan(
            stage=stage,
            what=what,
            weights=weights / GIB,
            trained=trained / GIB,
            optimiser=2 * trained / GIB,
            activations=activations / GIB,
            images=seen / GIB,
            peak=peak,
            tokens=round(questions * shape.sequences * shape.tokens / shape.questions),
            tflop=flop / 1e12,
            hours=flop / (self.device.tflops * 1e12 * TRAIN_UTILISATION) / 3600,
            fits=peak <= self.device.memory,
        )

    def shape(self, questions: int, modality: str, together: int = 1) -> Shape:
        """The sequences of questions of different people, ``together`` of each, put side by side as in training."""
        shown = 0 if modality == "text" else self.image_tokens
        prefix = shown + loads.TEMPLATE_TOKENS // 2
        own = loads.TEMPLATE_TOKENS // 2 + loads.QUESTION_TOKENS["question"] + loads.TRAINED_REPLY_TOKENS
        if not self.facts.packs:
            return Shape(questions=questions, sequences=questions, tokens=prefix + own)
        fit = min(together, max(1, (max(CAPACITY, SHARE * prefix) - prefix) // own))
        counts = [min(fit, questions - start) for start in range(0, questions, fit)]
        groups = [Group(range(prefix + count * own)) for count in counts]
        sequences = arrange(groups, int(self.facts.text.hidden_size))
        longest = max(sum(group.length for group in sequence) for sequence in sequences)
        return Shape(questions=questions, sequences=len(sequences), tokens=longest)

    def step(self, shape: Shape, lora: Lora | None) -> StepCost:
        """The simulated cost of one part of a step."""
        key = (shape, lora)
        if key not in self._steps:
            self._steps[key] = step_cost(
                self.facts.config,
                self.facts.build,
                self.facts.family,
                lora,
                sequences=shape.sequences,
                tokens=shape.tokens,
                labelled=shape.questions * loads.TRAINED_REPLY_TOKENS,
                packed=self.facts.packs,
            )
        return self._steps[key]

    def _vision(self, stage: str, questions: int, modality: str) -> float:
        """Operations of the vision tower for the images of a stage."""
        if self.facts.packs and self._remembers(self.work.people):
            return self.work.people * self._look if stage == "finetune" and modality != "text" else 0.0
        return questions * {"text": 0.0, "both": 0.5}.get(modality, 1.0) * self._look

    @property
    def _look(self) -> float:
        """Operations of the vision tower for an image: 2 per weight and patch (attention adds a few per cent)."""
        return 2.0 * self.facts.vision * self.patches

    def _remembers(self, images: int) -> bool:
        """The features of all images are kept for the whole run."""
        return 0 < features(self.facts, images, self.image_tokens) < MOST_BYTES

    def _evaluation(self, num_models: int) -> StagePlan:
        facts, evaluate = self.facts, self.recipe.evaluate
        people = sum(sum(sets.values()) for sets in self.work.asked)
        batch, held = self._batch_of_evaluation(people)
        read = tokens_read(evaluate, facts, self.image_tokens, people, batch)
        written = sum(people * loads.ASKED_PER_PERSON[task] * loads.REPLY_TOKENS[task] for task in evaluate.tasks)
        looks = people * (1 if self._remembers(people) else num_models)
        flop = num_models * 2 * facts.language * (read + written) + looks * self._look
        steps = num_models * written / batch * 1.5
        writing = steps * (facts.resident + held.cache) / (self.device.gb_s * 1e9 * WRITE_UTILISATION)
        reading = flop / (self.device.tflops * 1e12 * READ_UTILISATION)
        peak = self._with_overhead(held)
        return StagePlan(
            stage="evaluate",
            what=f"{num_models} models, batches of {batch}{' (auto)' if evaluate.batch_size == 'auto' else ''}",
            weights=facts.resident / GIB,
            activations=held.passing / GIB,
            cache=held.cache / GIB,
            images=held.features / GIB,
            peak=peak,
            tokens=round(num_models * (read + written)),
            tflop=flop / 1e12,
            hours=(reading + writing) / 3600,
            fits=peak <= self.device.memory,
        )

    def _batch_of_evaluation(self, people: int) -> tuple[int, Held]:
        """Questions at once and what they take at the most."""
        facts, evaluate, batch = self.facts, self.recipe.evaluate, self.recipe.evaluate.batch_size
        if batch == "auto":
            batch = most_at_once(evaluate, facts, self.image_tokens, self.device.memory * GIB - facts.resident)
        shared, fused = shares(facts, evaluate), self.name == "cpu"
        kinds = asked_at_once(evaluate, facts, self.image_tokens, batch)
        needs = [memory(facts, kind, shared=shared, fused=fused, people=people) for kind in kinds]
        return batch, max(needs, key=lambda held: held.whole)

    def _with_overhead(self, held: Held) -> float:
        """GiB of weights and what a batch holds as they are in memory."""
        return (self.facts.resident + held.whole) / GIB * (OVERHEAD if self.name != "cpu" else 1)

    def advice(self, stages: tuple[StagePlan, ...]) -> Iterator[str]:
        """What to change for what does not fit, each with the peak it would lead to."""
        worst = max(stages, key=lambda stage: stage.peak if stage.stage != "evaluate" else 0)
        if not worst.fits:
            yield from self._training_advice(worst)
        evaluation, section = stages[-1], self.recipe.evaluate
        if evaluation.fits:
            return
        if section.batch_size != "auto":
            update = {"evaluate": section.model_copy(update={"batch_size": "auto"})}
            other = Planner(self.recipe.model_copy(update=update), self.name)._evaluation(1)
            if other.fits:
                yield f"evaluate: --set evaluate.batch_size=auto: {other.peak:.1f} GiB, fits"
                return
        yield f"evaluate: the weights alone take {evaluation.weights:.1f} GiB; use a larger device"

    def _training_advice(self, worst: StagePlan) -> Iterator[str]:
        tried: tuple[dict[str, Any], ...] = (
            {"gradient_checkpointing": True},
            {"gradient_checkpointing": True, "quantize": "nf4"},
        )
        for change in tried:
            model = self.recipe.model.model_copy(update=change)
            other = Planner(self.recipe.model_copy(update={"model": model}), self.name)
            peak = max(stage.peak for stage in other.stages() if stage.stage != "evaluate")
            settings = " ".join(f"--set model.{k}={str(v).lower()}" for k, v in change.items())
            fits = "fits" if peak <= self.device.memory else "still too much"
            yield f"training: {settings}: {peak:.1f} GiB, {fits}"
            if peak <= self.device.memory:
                return
        yield (
            f"training: of {worst.peak:.1f} GiB the weights take {worst.weights:.1f}: parts of a step "
            f"({worst.stage}.micro_batch_size=1, same result), a smaller model, or a larger device"
        )

    def assumptions(self) -> tuple[str, ...]:
        """What the numbers rest on."""
        return (
            f"{self.work.people} people, {self.work.trained:g} training questions each and modality; "
            f"{self.image_tokens} image tokens; question, template and answer about "
            f"{loads.TEMPLATE_TOKENS + loads.QUESTION_TOKENS['question'] + loads.TRAINED_REPLY_TOKENS} tokens",
            f"time at {TRAIN_UTILISATION:.0%} of {self.device.tflops:g} TFLOP/s; writing at {WRITE_UTILISATION:.0%} of "
            f"{self.device.gb_s:g} GB/s; reading data, drawing images and saving are not counted",
        )
