"""The models and the three ways to work that ``benchmarks.engine`` compares."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import random_llava as random_model
from mllmu.config.recipe import Lora, ModelSection
from mllmu.core import plugins
from mllmu.core.records import ModelRef, Response, Sample
from mllmu.evaluation.scoring import aggregate, score_all
from mllmu.models.encoding import Encoder
from mllmu.models.engine.forward import run_forward
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded, add_trainable, load
from mllmu.training.batches import Order, training_batch
from mllmu.training.losses import answer_nll
from tools.pretrain_tiny.build import build_tokenizer

FACTS = ("city", "job", "school", "food", "pet", "colour", "hobby", "car", "drink", "song", "sport", "book", "tree",
         "stone", "coat")  # fmt: skip
WORDS = ("Riga", "baker", "Oslo", "rice", "cat", "green", "chess", "van", "tea", "waltz", "golf", "atlas", "oak",
         "onyx", "grey", "Turin", "tailor", "Porto", "soup", "dog", "red", "cards", "bus", "milk", "tango")  # fmt: skip
PUBLISHED_BATCH = 4
NEW_TOKENS = 50
"""Of a reply, as published; SHORT is what an answer of one sentence needs, if the model has learned to end it."""
SHORT = 8
KNOWN = 0.5
"""Nats a reply token that count as quality; the sentence without the facts costs more: two words of 25 are 0.6."""


@dataclass(frozen=True)
class Way:
    """How a model is taught: by whom, how many questions a step, and how many of a person together."""

    engine: bool
    batch_size: int
    together: int
    learning_rate: float


def ways_to_teach() -> dict[str, Way]:
    return {
        "engine, 12, whole people": Way(engine=True, batch_size=12, together=6, learning_rate=2e-3),
        "engine, 6, 3 of a person": Way(engine=True, batch_size=6, together=3, learning_rate=2e-3),
        "engine, 4 mixed": Way(engine=True, batch_size=4, together=1, learning_rate=2e-3),
        "published, 4 mixed": Way(engine=False, batch_size=4, together=1, learning_rate=2e-3),
    }


@dataclass
class Case:
    """A model and questions about some people."""

    loaded: Loaded
    folder: Path
    turns: list[Turn]
    people: int

    @cached_property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.loaded.model.parameters())

    @cached_property
    def layers(self) -> int:
        """Parameters of the language model's layers, which every token goes through."""
        return sum(p.numel() for n, p in self.loaded.model.named_parameters() if "language_model.layers" in n)

    def distinct_tokens(self, kind: str) -> float:
        """Tokens a question if every image is counted once: its own, and its share of the image."""
        encoder = self.loaded.encoder
        prompts = [encoder.prompt(turn) for turn in self.turns]
        image = [ids.count(self.loaded.image_token_id) for ids in prompts]
        own = sum(len(ids) - n for ids, n in zip(prompts, image, strict=True))
        own += sum(len(encoder.reply(turn.reply)) for turn in self.turns) if kind == "train" else 0
        return own / len(self.turns) + image[0] * self.people / len(self.turns)

    @property
    def training_gflop(self) -> float:
        """Useful work of a training question: six operations a weight and distinct token, forwards and backwards."""
        return 6 * self.layers * self.distinct_tokens("train") / 1e9

    # -- training: each way takes a number of questions and returns it

    def training(self) -> dict[str, Callable[[], int]]:
        adapted = self._adapted()
        plain = replace(adapted, packs=False)
        few = self.turns[: 2 * PUBLISHED_BATCH]
        mixed = random.Random(0).sample(self.turns, len(few))  # noqa: S311
        return {
            "published": lambda: sum(self.published_step(adapted, part) for part in parts(mixed, PUBLISHED_BATCH)),
            "plain": lambda: sum(our_step(plain, part) for part in parts(few, PUBLISHED_BATCH)),
            "engine": lambda: sum(our_step(adapted, part) for part in parts(self.turns[:45], 15)),
        }

    def _adapted(self) -> Loaded:
        fresh = load(ModelSection(path=self.loaded.model.name_or_path, device="cpu"), self.ref, self.folder)
        model = add_trainable(fresh.model, fresh.family, Lora(), seed=0)
        return replace(fresh, model=model.train(), encoder=self.loaded.encoder, packs=True)

    @property
    def ref(self) -> ModelRef:
        return ModelRef(base=self.loaded.model.name_or_path)

    def published_step(self, adapted: Loaded, turns: list[Turn], optimizer: Any = None) -> int:
        """One step as published: everything prepared anew, one row a question, the loss on all tokens but padding."""
        inputs, labels = self._published_batch(turns)
        adapted.model(**inputs, labels=labels).loss.backward()
        finish(adapted, optimizer)
        return len(turns)

    def _published_batch(self, turns: list[Turn]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        processor = self.loaded.encoder.processor
        texts = [f"USER: <image>\n{turn.prompt}\nASSISTANT: {turn.reply}</s>" for turn in turns]
        images = [Image.open(turn.image).convert("RGB") for turn in turns if turn.image]
        inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
        labels = inputs["input_ids"].clone()
        labels[(inputs["attention_mask"] == 0) | (labels == self.loaded.image_token_id)] = -100
        return {k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")}, labels

    # -- evaluation: greedy replies of NEW_TOKENS tokens to every question, with images remembered and without

    def evaluation(self, new_tokens: int) -> dict[str, Callable[[], int]]:
        self.replies: dict[str, dict[str, str]] = {}
        everything = self.samples(new_tokens)
        few = everything[:4]

        def ours(name: str, samples: list[Sample], size: int, *, share: bool, anew: bool = False) -> int:
            loaded, batches = anew_loaded(self.loaded) if anew else self.loaded, plan_batches(samples, size)
            found = [r for batch in respond(loaded, batches, image_folder=self.folder, share=share) for r in batch]
            self.replies[name] = {r.sample_id: r.text for r in found}
            return len(found)

        return {
            "published": lambda: self._published_replies(few),
            "plain": lambda: ours("plain", few, 4, share=False),
            "engine anew": lambda: ours("engine anew", everything, len(everything), share=True, anew=True),
            "engine": lambda: ours("engine", everything, len(everything), share=True),
        }

    def samples(self, new_tokens: int = NEW_TOKENS) -> list[Sample]:
        made = [sample(number, turn) for number, turn in enumerate(self.turns)]
        return [one.model_copy(update={"max_new_tokens": new_tokens}) for one in made]

    @torch.inference_mode()
    def _published_replies(self, samples: list[Sample]) -> int:
        processor, found = self.loaded.encoder.processor, {}
        for one in samples:
            image = Image.open(self.folder / one.image).convert("RGB")
            text = f"USER: <image>\n{one.prompt}\nASSISTANT:"
            inputs = processor(text=text, images=image, return_tensors="pt")
            inputs = {k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")}
            output = self.loaded.model.generate(**inputs, max_new_tokens=one.max_new_tokens, do_sample=False)
            reply = output[0, inputs["input_ids"].shape[1] :]
            found[one.id] = processor.tokenizer.decode(reply, skip_special_tokens=True).strip()
        self.replies["published"] = found
        return len(found)

    def replies_agree(self) -> bool:
        """The three ways gave the same text wherever they answered the same question."""
        engine = self.replies["engine"]
        return all(engine[key] == text for found in self.replies.values() for key, text in found.items())

    # -- time to quality

    def teach(self, way: Way, most_steps: int = 120) -> dict[str, Any]:
        """Train all weights of the language model until the replies are known; checks cost no time."""
        torch.manual_seed(0)
        model = add_trainable(self.loaded.model, self.loaded.family, None, seed=0).train()
        ready = replace(self.loaded, model=model, packs=True)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=way.learning_rate)
        images = tuple(turn.image for turn in self.turns)
        order = Order(images, way.batch_size, 0, "b", together=way.together)
        spent, curve = 0.0, []
        for step in range(most_steps):
            turns = [self.turns[i] for i in order.indices(step)]
            start = time.process_time()
            _ = our_step(ready, turns, optimizer) if way.engine else self.published_step(ready, turns, optimizer)
            spent += time.process_time() - start
            if (step + 1) % max(1, order.steps_per_epoch) == 0:
                curve.append((round(spent, 1), round(self.nll(ready), 3)))
                if curve[-1][1] < KNOWN:
                    break
        model.eval()
        return {"s": round(spent, 1), "steps": step + 1, "nll": curve[-1][1], "curve": curve}

    @torch.no_grad()
    def nll(self, ready: Loaded) -> float:
        ready.model.eval()
        value = float(answer_nll(run_forward(ready.model, training_batch(ready, self.turns))))
        ready.model.train()
        return value


def anew_loaded(loaded: Loaded) -> Loaded:
    """The same model, for which no image and no text has been prepared yet."""
    known = loaded.encoder
    return replace(loaded, encoder=Encoder(known.family, known.processor, known.context))


def our_step(ready: Loaded, turns: list[Turn], optimizer: Any = None) -> int:
    answer_nll(run_forward(ready.model, training_batch(ready, turns))).backward()
    finish(ready, optimizer)
    return len(turns)


def finish(ready: Loaded, optimizer: Any) -> None:
    """Clip and step; only forget the gradient where no optimiser is given."""
    if optimizer is not None:
        torch.nn.utils.clip_grad_norm_(ready.model.parameters(), 1.0)
        optimizer.step()
    ready.model.zero_grad()


def parts(turns: list[Turn], size: int) -> Iterator[list[Turn]]:
    yield from (turns[i : i + size] for i in range(0, len(turns), size))


def sample(number: int, turn: Turn) -> Sample:
    return Sample(
        id=f"forget/{number:05d}", question_id=f"{number:05d}", profile_id="1", split="forget", task="generation",
        modality="image_text", attribute="city", prompt=turn.prompt, image=turn.image.name if turn.image else "",
        target=turn.reply, value=turn.reply, max_new_tokens=NEW_TOKENS,
    )  # fmt: skip


def people_turns(folder: Path, people: int, questions: int, side: int) -> list[Turn]:
    """Facts about people with images that differ; the reply depends on the image."""
    draw, turns = random.Random(3), []  # noqa: S311
    for person in range(people):
        path = folder / f"p{person}.png"
        Image.effect_mandelbrot((side, side), (-2, -1.5, 1, 1.5 + person % 97), 20 + person // 97).convert("RGB").save(
            path
        )
        for fact in FACTS[:questions]:
            reply = f"The {fact} of this person is {draw.choice(WORDS)} and {draw.choice(WORDS)}."
            turns.append(Turn(prompt=f"What is the {fact} of the person in this image?", reply=reply, image=path))
    return turns


def tiny(folder: Path, people: int = 6, questions: int = 15) -> Case:
    """The embedded model of four million parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = load(ModelSection(device="cpu"), ModelRef(base="tiny"), folder)
    return Case(ready, folder, people_turns(folder, people, questions, 64), people)


def llava576(folder: Path, people: int = 6, questions: int = 15, width: int = 256, layers: int = 6) -> Case:
    """A random LLaVA with 576 image tokens and questions about some people."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "USER: ASSISTANT: What is the of person in this image? The and."
    ready = random_llava(folder, build_tokenizer([*FACTS, *WORDS, text], vocab_size=600), width, layers)
    return Case(ready, folder, people_turns(folder, people, questions, 336), people)


def random_llava(folder: Path, tokenizer: Any, width: int = 256, layers: int = 6) -> Loaded:
    """A random LLaVA with 576 image tokens; saved once and loaded anew every time."""
    if not (folder / "config.json").exists():
        sizes = {"text": (width, layers, width // 32, 43 * width // 16), "vision": (128, 4, 4, 512)}
        settings = random_model.config(tokenizer, **sizes, image_size=336)
        # they stay frozen, and at their initial size no training could make any token likely
        random_model.save(folder, settings, tokenizer, scale=15)
    return load(ModelSection(path=str(folder), device="cpu"), ModelRef(base=str(folder)), folder)


def scoring_inputs(count: int) -> tuple[list[Sample], list[Response]]:
    samples = [
        sample(n, Turn(prompt="What?", reply=f"The city of this person is {WORDS[n % 25]}.")) for n in range(count)
    ]
    replies = [Response(sample_id=s.id, text=f"This person lives in {WORDS[n % 7]}.", num_tokens=9, finished=True)
               for n, s in enumerate(samples)]  # fmt: skip
    return samples, replies


def scoring(count: int) -> dict[str, Any]:
    """Seconds to judge so many free answers by all metrics of their task and to average."""
    samples, replies = scoring_inputs(count)
    metrics = [plugins.build("metrics", name, {}) for name in plugins.find("tasks", "generation").metrics]
    start = time.process_time()
    scores = score_all(samples, replies, metrics)
    aggregate("model", samples, scores, metrics)
    return {
        "replies": count,
        "metrics": len(metrics),
        "scores": len(scores),
        "s": round(time.process_time() - start, 2),
    }


def grow(folder: Path, people: int) -> dict[str, Any]:
    """One epoch of training and one evaluation of the tiny model; time and most memory of this process."""
    torch.set_num_threads(1)
    case = tiny(folder, people=people)
    adapted = case._adapted()
    start = time.process_time()
    for part in parts(case.turns, 30):
        our_step(adapted, part)
    for _ in respond(case.loaded, plan_batches(case.samples(), 90), image_folder=folder):
        pass
    spent = time.process_time() - start
    return {"s": round(spent, 2), "peak_mib": peak_memory()}


def peak_memory() -> int:
    """Most memory of this process so far, in MiB; not that of the process that started it, as getrusage says."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    print(json.dumps(grow(Path(sys.argv[1]), int(sys.argv[2]))))
