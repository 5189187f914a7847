"""The plan of a recipe on a device: the memory, operations and time of every stage, and what to change if too much.

Memory of a training step = weights + adapters (or trained weights) + optimiser + the most that a step allocates. The
last part is simulated on the model's own code, see :mod:`mllmu.training.cost`; the rest is counted. Time
follows from measured rates, see :mod:`mllmu.preflight.plan.rates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field

from mllmu.config.recipe import Finetune, Lora, Recipe, jobs, taught_models
from mllmu.config.requests import about_facts
from mllmu.core.names import RETAIN_MODEL
from mllmu.core.records import MODALITIES, Record
from mllmu.data.sources import Source
from mllmu.data.tasks import task_of
from mllmu.models import devices
from mllmu.models.encoding import DEVICE_BYTES, FEATURE_BYTES
from mllmu.models.loading import choose_dtype
from mllmu.models.weights import stored_in
from mllmu.preflight.plan import workload as loads
from mllmu.preflight.plan.facts import ModelFacts, describe, image_sizes
from mllmu.preflight.plan.here import is_cpu
from mllmu.preflight.plan.precision import refusal, sections_without_lora
from mllmu.preflight.plan.rates import find_device, pace_of
from mllmu.preflight.plan.workload import Questions, feature_bytes
from mllmu.training.batches import CAPACITY, SHARE, Group, arrange
from mllmu.training.cost import Cost, step_cost
from mllmu.training.fitting import divisions, step_bytes
from mllmu.unlearning.base import Method

GIB = 2**30
OVERHEAD = 1.06
"""What an allocator holds beyond what is alive."""


class PlannedStage(Record):
    """One line of the plan. Memory in GiB, ``tokens`` through the language model, ``tflop`` in 10^12 operations."""

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


class RecipePlan(Record):
    """All stages, and what they were computed from."""

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
    gradient_checkpointing: bool | str
    quantize: str | None
    stages: tuple[PlannedStage, ...]
    hours: float
    advice: tuple[str, ...] = Field((), description="what to change, with what it would need then")
    assumptions: tuple[str, ...] = ()


def make_plan(recipe: Recipe, device: str, *, rough: bool = False) -> RecipePlan:
    """Plan a recipe for a device; ``rough``: steps are counted by formulas, not simulated, in a moment."""
    planner = Planner(recipe, device, rough=rough)
    stages, facts = tuple(planner.stages()), planner.facts
    return RecipePlan(
        recipe=recipe.name,
        model=recipe.model.path,
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
        quantize=facts.section.quantize,
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


def rough_cost(facts: ModelFacts, lora: Lora | None, sequences: int, tokens: int, labelled: int) -> Cost:
    """The cost of a step by formulas alone, within a factor of two.

    forward = 2 * weights * tokens + 4 * layers * width * tokens * length; backward as much with adapters, else twice.
    A layer keeps about 14 numbers of its width per token and 3 of its inner width, and the head 3 per labelled token
    and word.
    """
    text, read = facts.text, sequences * tokens
    layers, hidden = int(text.num_hidden_layers), int(text.hidden_size)
    inner = int(getattr(text, "intermediate_size", 4 * hidden))
    forward = round(2 * (facts.parameters - facts.vision) * read + 4 * layers * hidden * read * tokens)
    kept = layers * read * (14 * hidden + 3 * inner) * facts.width + 12 * labelled * int(text.vocab_size)
    return Cost(kept=kept, peak=kept, forward=forward, both=forward * (2 if lora else 3))


class Planner:
    """Computes the lines of a plan."""

    def __init__(self, recipe: Recipe, device: str, *, rough: bool = False) -> None:
        self.recipe, self.name, self.device, self.rough = recipe, device, find_device(device), rough
        self.on_cpu = is_cpu(device)
        self.overhead = 1 if self.on_cpu else OVERHEAD
        self.without_lora = sections_without_lora(recipe)
        # what a run would refuse is counted as it would have to be
        model = recipe.model.model_copy(update={"dtype": "float32", "quantize": None} if self.without_lora else {})
        self.facts: ModelFacts = describe(model, device="cpu" if self.on_cpu else "cuda")
        workers = recipe.workers if self.facts.parameters < devices.SMALL else None
        self.pace = pace_of(device, int(self.facts.text.num_hidden_layers), processes=workers)
        self.work = loads.of_recipe(recipe)
        self.portrait = int(recipe.data.portraits.build("portraits", "data.portraits").size)
        self.image_tokens, self.patches = image_sizes(self.facts, self.portrait)

    def stages(self) -> Iterator[PlannedStage]:
        """The lines: fine-tuning, every method, evaluation."""
        work, planned, taught = self.work, jobs(self.recipe), taught_models(self.recipe)
        kept = [work.people - gone for gone in work.forgotten] if RETAIN_MODEL in taught else []
        what = f"target and {len(kept)} retain model(s)" if kept else "target"
        if self.recipe.finetune.given is None:
            yield self._training(what, self.recipe.finetune, [(people, 0) for people in (work.people, *kept)])
        shares = [gone / work.requests for gone in work.forgotten for _ in range(work.requests)]
        left = [work.people - gone * n // work.requests for gone in work.forgotten for n in range(1, work.requests + 1)]
        for job in planned:
            if job.method.trains:
                yield self._training(job.name, job.method, [*zip(shares, left, strict=True)])
            elif job.method.model == RETAIN_MODEL and work.requests > 1:
                again = f"{job.name}, after every request"
                yield self._training(again, self.recipe.finetune, [(people, 0) for people in left])
        yield self.evaluation(len(taught) + len(planned) * work.requests)

    def _training(self, what: str, settings: Finetune | Method, groups: Sequence[tuple[float, float]]) -> PlannedStage:
        """One line of training, by the fine-tuning or by a method.

        A step is divided as the run does it, so that it fits.

        Args:
            what: the models, in words.
            settings: of the training.
            groups: for every model the people who are taught or forgotten, and those who are retained.
        """
        section = self.recipe.unlearn if isinstance(settings, Method) else self.recipe.finetune
        most = None if section.micro_batch_size == "auto" else section.micro_batch_size
        modifies = isinstance(settings, Method) and settings.modifies
        checkpointing = not modifies and self.recipe.model.gradient_checkpointing
        tries = divisions(settings.batch_size, most, recompute=checkpointing)
        for at_once, recompute in tries:
            how = [f"{at_once} at once"] * (at_once < min(most or settings.batch_size, settings.batch_size))
            how += ["activations again"] * (recompute and checkpointing == "auto")
            text = f"{what} ({', '.join(how)})" if how else what
            line = self._divided(text, settings, groups, at_once, recompute=recompute)
            if line.fits:
                break
        return line

    def _divided(
        self,
        what: str,
        settings: Finetune | Method,
        groups: Sequence[tuple[float, float]],
        part: int,
        *,
        recompute: bool,
    ) -> PlannedStage:
        """A line of training with so many questions at once."""
        facts, batch, modality = self.facts, settings.batch_size, settings.modality
        method = settings if isinstance(settings, Method) else None
        stage, own = ("unlearn", self.recipe.unlearn.lora) if method else ("finetune", self.recipe.finetune.lora)
        lora = own or (Lora() if method and method.modifies else None)  # a modifier is as small as an adapter
        asked = [self._questions(method, modality, *group) for group in groups]
        sides = 2 if method and method.uses_retain and method.schedule == "joint" else 1
        reference = method is not None and method.uses_reference
        models = 2 if method and method.needs_second_model(lora=own is not None) else 1
        questions = round(sum(map(sum, asked)) * settings.epochs) * sides
        trained = facts.trainable(lora) * (4 if lora else facts.width)
        sequences, tokens = self.shape(part, modality, settings.questions_together)
        shape = (sequences, tokens, part * loads.TRAINED_REPLY_TOKENS)
        cost = (
            rough_cost(facts, lora, *shape)
            if self.rough
            else step_cost(facts.outline, lora, *shape, recompute=recompute)
        )
        # parts are run once more each
        both = cost.both + (cost.forward if part < batch else 0)
        step = (
            cost.peak * sides
            if self.rough
            else step_bytes(
                facts.outline,
                lora,
                [shape] * sides,
                whole=part == batch,
                logits=4.0 * sides * batch * loads.TRAINED_REPLY_TOKENS * int(facts.text.vocab_size),
                reference=reference,
                recompute=recompute,
            )
        )
        features = min(DEVICE_BYTES, feature_bytes(facts, self.work.people, self.image_tokens))
        seen = 0 if modality == "text" or not facts.packs else features
        # without adapters the trained weights are among the weights already
        weights = models * facts.resident - (0 if lora else trained)
        steps = sum(-(-count // batch) for counts in asked for count in counts) * settings.epochs
        flop = questions * (both + cost.forward * reference) / part
        flop += self.vision_flop(stage, questions, modality)
        return self._line(
            stage,
            what,
            peak=training_peak(weights, trained, step) + seen,
            flop=flop,
            seconds=self.pace.training(flop, passes=steps * sides * -(-batch // part), models=len(asked)),
            tokens=questions * sequences * tokens / part,
            weights=weights / GIB,
            trained=trained / GIB,
            optimiser=2 * trained / GIB,
            activations=max(step, 2 * trained) / GIB,
            images=seen / GIB,
        )

    def _questions(self, method: Method | None, modality: str, first: float, retained: float) -> list[int]:
        """Questions of one model in an epoch: those of every step, and, of two phases, those of the second."""
        counts = [self.work.training_questions(first, modality)]
        if method and method.uses_retain and method.schedule == "two_phase":
            everyone = self.work.training_questions(self.work.people, "text") if method.preserves_text else 0
            counts.append(self.work.training_questions(retained, modality) + everyone)
        return counts

    def _line(
        self, stage: str, what: str, *, peak: float, flop: float, seconds: float, tokens: float, **memory: float
    ) -> PlannedStage:
        """A line from bytes at the peak, operations, seconds and tokens."""
        peak = peak / GIB * self.overhead
        fits, hours = peak <= self.device.memory, seconds / 3600
        return PlannedStage(
            stage=stage, what=what, peak=peak, tokens=round(tokens), tflop=flop / 1e12, hours=hours, fits=fits, **memory
        )

    def shape(self, questions: int, modality: str, together: int) -> tuple[int, int]:
        """How many sequences of how many tokens some questions fill, ``together`` of each person side by side."""
        prefix = (0 if modality == "text" else self.image_tokens) + loads.TURN
        own = loads.TURN + loads.TRAINED_QUESTION_TOKENS + loads.TRAINED_REPLY_TOKENS
        if not self.facts.packs:
            return questions, prefix + own
        fit = min(together, max(1, (max(CAPACITY, SHARE * prefix) - prefix) // own))
        counts = [min(fit, questions - start) for start in range(0, questions, fit)]
        groups = [Group(range(prefix + count * own)) for count in counts]
        sequences = arrange(groups, int(self.facts.text.hidden_size))
        return len(sequences), max(sum(group.length for group in sequence) for sequence in sequences)

    def vision_flop(self, stage: str, questions: int, modality: str) -> float:
        """Operations of the vision tower for the images of a training."""
        if self.facts.packs and self._remembers(self.work.people):
            return self.work.people * self.look_flop if stage == "finetune" and modality != "text" else 0.0
        return questions * {"text": 0.0, "both": 0.5}.get(modality, 1.0) * self.look_flop

    @property
    def look_flop(self) -> float:
        """Operations of the vision tower for an image: 2 per weight and patch (attention adds a few per cent)."""
        return 2.0 * self.facts.vision * self.patches

    def _remembers(self, images: int) -> bool:
        """The features of all images are kept for the whole run."""
        return 0 < feature_bytes(self.facts, images, self.image_tokens) < FEATURE_BYTES

    def evaluation(self, num_models: int) -> PlannedStage:
        """The line of asking so many models everything."""
        facts, evaluate, device, people = self.facts, self.recipe.evaluate, self.device, self.work.asked
        questions, batch = Questions(evaluate, facts, self.image_tokens), evaluate.batch_size
        if batch == "auto":
            batch = questions.most_at_once(device.memory * GIB - facts.resident)
        fused = self.on_cpu
        held = max((questions.memory(b, fused=fused, people=people) for b in questions.batches(batch)), key=sum)
        read = questions.tokens_read(people, batch)
        sizes = [task_of(task).size for task in evaluate.tasks]
        written = sum(people * len(MODALITIES) * size.questions * size.reply_tokens for size in sizes)
        looks = people * (1 if self._remembers(people) else num_models)
        flop = num_models * 2 * (facts.parameters - facts.vision) * (read + written) + looks * self.look_flop
        loaded = num_models * len(self.work.forgotten)
        return self._line(
            "evaluate",
            f"{num_models} models, batches of {batch}{' (auto)' if evaluate.batch_size == 'auto' else ''}",
            peak=facts.resident + sum(held),
            flop=flop,
            seconds=self.pace.evaluation(
                flop,
                steps=num_models * written / batch * 1.5,
                rows=batch,
                read_bytes=facts.resident + held.cache,
                models=loaded,
            ),
            tokens=num_models * (read + written),
            weights=facts.resident / GIB,
            activations=held.passing / GIB,
            cache=held.cache / GIB,
            images=held.features / GIB,
        )

    def advice(self, stages: tuple[PlannedStage, ...]) -> Iterator[str]:
        """What to change for what a run refuses, or does not fit; the latter with the peak it would lead to."""
        yield from self._refused()
        *training, evaluation = stages
        if training and not (worst := max(training, key=lambda stage: stage.peak)).fits:
            yield from self._training_advice(worst)
        section = self.recipe.evaluate
        if evaluation.fits:
            return
        if section.batch_size != "auto":
            other = self._with("evaluate", batch_size="auto").evaluation(1)
            if other.fits:
                yield f"evaluate: --set evaluate.batch_size=auto: {other.peak:.1f} GiB, fits"
                return
        yield f"evaluate: the weights alone take {evaluation.weights:.1f} GiB; use a larger device"

    def _training_advice(self, worst: PlannedStage) -> Iterator[str]:
        freed = {} if self.recipe.model.gradient_checkpointing else {"gradient_checkpointing": "auto"}
        changes = [freed] if self.without_lora else [freed, freed | {"quantize": "nf4"}]
        for change in filter(None, changes):
            peak = max(stage.peak for stage in list(self._with("model", **change).stages())[:-1])
            fits = peak <= self.device.memory
            settings = " ".join(f"--set model.{k}={str(v).lower()}" for k, v in change.items())
            yield f"training: {settings}: {peak:.1f} GiB, {'fits' if fits else 'still too much'}"
            if fits:
                return
        yield (
            f"training: of {worst.peak:.1f} GiB the weights take {worst.weights:.1f}, and single questions do "
            f"not fit: {'adapters (lora), ' * bool(self.without_lora)}a smaller model, or a larger device"
        )

    def _refused(self) -> Iterator[str]:
        """Why a run on the device would refuse to train, if it would."""
        model, facts = self.recipe.model, self.facts
        small = model.device == "auto" and facts.parameters < devices.SMALL
        on_cpu = self.on_cpu or model.device == "cpu" or small
        dtype = choose_dtype(model.dtype, torch.device("cpu" if on_cpu else "cuda"))
        if refused := refusal(model, self.without_lora, dtype, stored_in(facts.config)):
            yield f"{refused} A run refuses it as it is; it is counted in float32 here."

    def _with(self, section: str, **settings: Any) -> Planner:
        """The planner of the recipe with other settings of a section."""
        changed = getattr(self.recipe, section).model_copy(update=settings)
        return Planner(self.recipe.model_copy(update={section: changed}), self.name, rough=self.rough)

    def assumptions(self) -> tuple[str, ...]:
        """What the numbers rest on."""
        tokens = loads.TEMPLATE_TOKENS + loads.TRAINED_QUESTION_TOKENS + loads.TRAINED_REPLY_TOKENS
        recipe = self.recipe
        facts = ["a request for some facts is counted as one for all"] if about_facts(recipe) else []
        more = loads.not_counted(recipe)
        asked = [f"not counted: {', '.join(more)}"] if more else []
        own = type(recipe.data.source.build("sources", "data.source")).num_views is not Source.num_views
        images = ["images that the source brings are counted at this size too"] if own else []
        return (
            f"{self.work.people} people, {self.work.trained:g} training questions each and modality; "
            f"{self.image_tokens} image tokens at {self.portrait} pixels a side; "
            f"question, template and answer about {tokens} tokens",
            *images,
            f"{self.pace.basis}; reading data, drawing images and saving are not counted",
            *facts,
            *asked,
        )
