"""Make the data, load the base model, look at both, and train nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from mllmu.config.recipe import Recipe
from mllmu.core.progress import Progress
from mllmu.core.records import MODALITIES, ModelRef, Sample
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.models.parts import core
from mllmu.pipeline.pipeline import Pipeline
from mllmu.preflight.doctor import data_checks, masks, method_checks, model_checks
from mllmu.preflight.doctor.verdict import Verdict
from mllmu.training.batching import training_turns
from mllmu.unlearning.base import Method

NUM_MASKED = 8
"""Turns a modality whose labels are checked; shown are as many as are asked for."""
NUM_IMAGES = 8
"""Images that are put through the vision tower, the largest and smallest files among them."""
FINETUNE = "finetune"
T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """Something that trains: the fine-tuning (``method`` None) or a method, its turns, and where its adapters go."""

    name: str
    method: Method | None
    turns: Sequence[Turn]
    pattern: str


class Case:
    """A recipe with its data made and its base model loaded."""

    def __init__(self, recipe: Recipe, root: Path, progress: Progress) -> None:
        self.recipe = recipe
        self.pipeline = Pipeline(recipe, root, gate=False, progress=progress)
        self.pipeline.data()
        self.dataset = self.pipeline.context.dataset
        progress.stage("model", recipe.model.path)
        self.loaded: Loaded = self.pipeline.models.load(
            ModelRef(base=recipe.model.path, revision=recipe.model.revision)
        )

    @cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """The samples of all ratios, without repetition, by protocol; the recipe's own is ''."""
        found: dict[str, dict[str, Sample]] = {"": {}}
        for answers in self.pipeline.answers.values():
            found[""] |= {sample.id: sample for sample in answers.samples}
        for comparison in self.pipeline.comparisons.values():
            for label in self.recipe.evaluate.compare:
                found.setdefault(label, {}).update({s.id: s for s in comparison.answers[label].samples})
        return {label: list(samples.values()) for label, samples in found.items()}

    @cached_property
    def trained(self) -> list[Trained]:
        """The fine-tuning and every method that trains weights of the model."""
        section, family = self.recipe.finetune, self.loaded.family
        pattern = (section.lora.targets if section.lora else None) or family.lora_targets
        found = [Trained(FINETUNE, None, self.turns(self.dataset.people, section.modality), pattern)]
        lora, depth = self.recipe.unlearn.lora, int(self.loaded.model.config.get_text_config().num_hidden_layers)
        forget = sorted({person for key in self.pipeline.keys for person in self.dataset.splits[key]})
        for job in self.pipeline.jobs:
            method = job.method
            if method.trains and not method.modifies:
                pattern = method.targets(depth) or (lora.targets if lora else None) or family.lora_targets
                found.append(Trained(job.name, method, self.turns(forget, method.modality), pattern))
        return found

    def turns(self, people: Sequence[str], modality: str) -> list[Turn]:
        """Training turns of some people."""
        wanted = set(people)
        questions = [question for question in self.dataset.questions if question.profile_id in wanted]
        return training_turns(questions, self.dataset.folder / "images", modality=modality)

    @cached_property
    def system_prompts(self) -> dict[str, str]:
        """The longest system prompt that each method without weights puts before the questions."""
        named = [[self.dataset.names[person] for person in self.dataset.splits[key]] for key in self.pipeline.keys]
        found = {
            job.name: max((job.method.system_prompt(names) for names in named), key=len)
            for job in self.pipeline.jobs
            if not (job.method.trains or job.method.modifies)
        }
        return {name: text for name, text in found.items() if text}

    @cached_property
    def layers(self) -> list[str]:
        """Names of all modules of the model."""
        return [name for name, _ in core(self.loaded.model).named_modules()]


def examine(case: Case) -> Iterator[Verdict]:
    """All checks, those that need no model first; without all images the others cannot be made."""
    data = case.dataset
    yield from (data_checks.people_apart(data, key) for key in case.pipeline.keys)
    yield data_checks.evaluation_not_taught(data)
    protocols = {"": case.recipe.evaluate.protocol, **case.recipe.evaluate.compare}
    for label, samples in case.samples.items():
        yield data_checks.shots_not_asked(data, samples, protocols[label].shots.drawn_from, label)
    for one in case.trained:
        published = one.method is not None and one.method.layers == "published"
        yield model_checks.adapters_on_language(one.name, case.layers, one.pattern, published=published)
        if one.method is not None and (note := method_checks.deviations(one.name, one.method)):
            yield note
    turns = [turn for one in case.trained for turn in one.turns]
    samples = [sample for several in case.samples.values() for sample in several]
    there = data_checks.images_there(data_checks.images_of(turns, samples, data.folder))
    yield there
    if there.level == "ok":
        yield from _with_images(case, turns, samples)
    else:
        yield Verdict("labels, context, image tokens", "note", "not checked while images are missing")


def _with_images(case: Case, turns: Sequence[Turn], samples: Sequence[Sample]) -> Iterator[Verdict]:
    for one in case.trained:
        seen = [masks.masked(case.loaded, turn, one.method) for turn in spread(one.turns, NUM_MASKED)]
        everything = one.method is not None and one.method.loss_on == "all"
        no_end = one.method is not None and not one.method.train_end
        yield masks.only_reply_trained(one.name, seen, case.loaded, prompts=everything)
        yield masks.end_trained(one.name, seen, case.loaded, left_out=no_end)
    yield model_checks.fits_context(list(lengths(case, turns, samples)), case.loaded.encoder.context)
    has_image = {turn.image: turn for turn in turns if turn.image is not None}
    by_size = sorted(has_image, key=lambda path: (path.stat().st_size, path))
    chosen = _evenly(by_size, NUM_IMAGES)
    yield model_checks.image_tokens(case.loaded, {path: has_image[path] for path in chosen})


def lengths(case: Case, turns: Sequence[Turn], samples: Sequence[Sample]) -> Iterator[model_checks.Length]:
    """Every turn and sample; of raw prompts, and of those behind a system prompt, the longest per kind."""
    distinct = {(turn.prompt, turn.reply, turn.image): turn for turn in turns}
    literal = [sample for sample in samples if sample.raw_prompt]
    plain = [sample for sample in samples if not sample.raw_prompt]
    longest, folder = model_checks.longest_of_kind(samples), case.dataset.folder
    yield from model_checks.turn_lengths(case.loaded, distinct.values())
    yield from model_checks.sample_lengths(case.loaded, plain, folder)
    yield from model_checks.sample_lengths(case.loaded, model_checks.longest_of_kind(literal), folder)
    for name, system_prompt in case.system_prompts.items():
        for one in model_checks.sample_lengths(case.loaded, longest, folder, system_prompt):
            yield one._replace(what=f"{one.what} under {name}")


def spread(turns: Sequence[Turn], count: int) -> list[Turn]:
    """At most so many turns of each modality, evenly over the people and questions."""
    kinds = [[turn for turn in turns if bool(turn.images) is has_image] for has_image in (True, False)]
    return [turn for kind in kinds for turn in _evenly(kind, count)]


def _evenly(items: Sequence[T], count: int) -> list[T]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def chosen_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """For each modality so many samples of the forget set, its tasks in turn."""
    found: list[Sample] = []
    for modality in MODALITIES:
        asked = [s for s in samples if s.modality == modality and s.split == "forget"]
        by_task = {task: [s for s in asked if s.task == task] for task in dict.fromkeys(s.task for s in asked)}
        turns = [s for i in range(count) for kind in by_task.values() for s in kind[i : i + 1]]
        found += turns[:count]
    return found
