"""The evaluation that ``benchmarks.engine`` measures: the benchmark's own questions, put in the benchmark's own ways.

A person is asked 18 questions: 10 multiple choice, 4 free, 4 cloze, of each half with image and half by name. The
people and questions are made as in every run (``mllmu data``), and put in two ways: ``zero-shot``, the default prompts,
and ``published``, the published prompts, where a multiple choice question comes behind 5 solved ones of another
person and a cloze behind 4, each with its image.

The published loop costs the same for every question of a kind, so one question of each kind is measured, and counted
as often as it is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.engine_work import anew_loaded
from mllmu.config.recipe import Evaluate
from mllmu.core.parsing import after_marker
from mllmu.core.records import Sample
from mllmu.data.dataset import Dataset
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions import template as asking
from mllmu.data.sources.synthetic import Synthetic
from mllmu.evaluation import samples as sampling
from mllmu.models.encoding import as_turn
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.loading import Loaded

PROTOCOLS = {"zero-shot": "corrected", "published": "official"}
KEY = "50"
"""Forget ratio in percent under which the people are kept; all that are asked are of the forget set."""


def dataset(folder: Path, people: int, side: int) -> Dataset:
    """People with images that differ, and their questions."""
    profiles = Synthetic(num_people=people).profiles(0)
    (folder / "images").mkdir(exist_ok=True)
    for number, person in enumerate(profiles):
        path = folder / "images" / f"{person.id}_0.png"
        if not path.exists():
            shape = (-2, -1.5, 1, 1.5 + number % 97)
            Image.effect_mandelbrot((side, side), shape, 20 + number // 97).convert("RGB").save(path)
    found = asking.build(profiles, QuestionOrder(seed=0, variants=("eval",)))
    return Dataset(folder, profiles, found, {KEY: [person.id for person in profiles], "holdout": []})


def rendered(data: Dataset, protocol: str) -> list[Sample]:
    """The samples of one protocol, as every run puts them."""
    evaluate = Evaluate.model_validate({"protocol": protocol})
    found = sampling.render(data, KEY, evaluate, selection=0.0, seed=0)
    return [sample for sample in found if sample.split == "forget"]


def asked(data: Dataset, protocol: str, new_tokens: int) -> list[Sample]:
    """The samples of one protocol, without candidates, which the published loop does not score."""
    update = {"max_new_tokens": new_tokens, "candidates": {}}
    return [sample.model_copy(update=update) for sample in rendered(data, protocol)]


@dataclass
class Evaluation:
    """All questions of one protocol to one model, asked in three ways; replies are kept to be compared."""

    loaded: Loaded
    folder: Path
    samples: list[Sample]
    batch_size: int

    def __post_init__(self) -> None:
        self.kinds: dict[tuple[str, str], list[Sample]] = {}
        for sample in self.samples:
            self.kinds.setdefault((sample.task, sample.modality), []).append(sample)
        # not the first, so that nobody's image is the one that is prepared anyway
        self.chosen = {kind: samples[len(samples) // 2] for kind, samples in self.kinds.items()}
        self.replies: dict[str, dict[str, str]] = {}

    def engine(self) -> dict[str, float]:
        """Seconds a question when everything is asked, by a model that has seen no image yet."""
        return seconds(lambda: self._ask("engine", self.samples, self.batch_size, share=True), len(self.samples))

    def plain(self) -> dict[str, float]:
        """Seconds a question without sharing anything."""
        return self._weighted(lambda sample: self._ask("plain", [sample], 1, share=False))

    def published(self) -> dict[str, float]:
        """Seconds a question one after the other, each prepared anew, by the library's generate."""
        replies = self.replies.setdefault("published", {})
        return self._weighted(lambda sample: replies.update({sample.id: self._published_reply(sample)}))

    def _weighted(self, ask: Callable[[Sample], None]) -> dict[str, float]:
        total = {"s_a_question": 0.0, "wall_s_a_question": 0.0}
        for kind, sample in self.chosen.items():
            share = len(self.kinds[kind]) / len(self.samples)
            for name, spent in seconds(lambda: ask(sample), 1).items():  # noqa: B023 - called at once
                total[name] += spent * share
        return total

    def _ask(self, way: str, samples: Sequence[Sample], size: int, *, share: bool) -> None:
        fresh = anew_loaded(self.loaded)
        found = respond(fresh, plan_batches(samples, size), image_folder=self.folder, share=share)
        self.replies.setdefault(way, {}).update({reply.sample_id: reply.text for batch in found for reply in batch})

    @torch.inference_mode()
    def _published_reply(self, sample: Sample) -> str:
        processor = self.loaded.encoder.processor
        mark = "<image>\n" if sample.image else ""
        text = sample.prompt if sample.raw_prompt else f"USER: {mark}{sample.prompt}\nASSISTANT:"
        names = [*(one.image for one in sample.examples), sample.image] if sample.image else []
        images = [Image.open(self.folder / name).convert("RGB") for name in names] or None
        inputs = processor(text=text, images=images, return_tensors="pt")
        inputs = {k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values") if k in inputs}
        output = self.loaded.model.generate(**inputs, max_new_tokens=sample.max_new_tokens, do_sample=False)[0]
        if sample.raw_prompt:
            return after_marker(processor.decode(output[2:], skip_special_tokens=True))
        return str(processor.decode(output[inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    def replies_agree(self) -> bool:
        """The three ways gave the same text wherever they answered the same question."""
        engine = self.replies["engine"]
        return all(engine[key] == text for way in ("plain", "published") for key, text in self.replies[way].items())

    def facts(self) -> dict[str, Any]:
        """What was asked: how many questions, how many people, and the tokens of their prompts, images included."""
        fresh = anew_loaded(self.loaded)
        tokens = [self._prompt_tokens(fresh, sample) for sample in self.samples]
        return {
            "questions": len(self.samples),
            "people": len({sample.profile_id for sample in self.samples}),
            "batch_size": self.batch_size,
            "prompt_tokens": round(sum(tokens) / len(tokens)),
            "longest_prompt": max(tokens),
        }

    def _prompt_tokens(self, fresh: Loaded, sample: Sample) -> int:
        if not sample.raw_prompt:
            return len(fresh.encoder.prompt(as_turn(sample, self.folder, "")))
        images = len(sample.examples) + 1 if sample.image else 0
        ids = fresh.encoder.processor.tokenizer(sample.prompt)["input_ids"]
        return len(ids) + images * (int(fresh.model.config.image_seq_length) - 1)


def seconds(work: Callable[[], None], count: int) -> dict[str, float]:
    """Processor and wall seconds a question."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    own, wall = time.process_time() - own, time.perf_counter() - wall
    return {"s_a_question": own / count, "wall_s_a_question": wall / count}
