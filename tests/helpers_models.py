"""A random LLaVA small enough to build, train and save in milliseconds, three images, and records about nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.process import SilentProgress
from mllmu.core.records import ModelRef, Sample
from mllmu.models.encoding import EncodedPrompt
from mllmu.models.engine import plain
from mllmu.models.engine.respond import read_and_write
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded, load
from mllmu.training.loop import Training
from tools.pretrain_tiny.build import build_model, build_processor, build_tokenizer

TEXT = (
    "Ada Bell lives in Riga, Latvia and works as a baker. Where was this person born? Tallinn. Which is the hat's "
    "colour: red, blue or green? A: B: C: D: USER: ASSISTANT: Say no more than you must."
)
COLOURS = ("red", "green", "blue")
LORA = Lora(rank=4, alpha=8, dropout=0.0)


def make_base(folder: Path, *, width: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """Save a random model with its processor and the images ``red.png``, ``green.png``, ``blue.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer([TEXT], vocab_size=320)
    torch.manual_seed(seed)
    model = build_model(tokenizer, width=width, layers=layers, vision_width=32)
    # the embeddings are the output layer too and stay frozen: at their initial size no training could make
    # any token likely
    model.get_input_embeddings().weight.data.mul_(8)
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    for number, colour in enumerate(COLOURS):
        Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5 + number), 20).convert("RGB").save(folder / f"{colour}.png")
    return folder


def load_ref(base: Path, *adapters: str, root: Path | None = None, encoder: Any = None, **settings: Any) -> Loaded:
    """Load a base, with adapters from a run folder on top; settings are those of the recipe's model section."""
    ref = ModelRef(base=str(base), adapters=adapters)
    return load(ModelSection(path=str(base), device="cpu", **settings), ref, root or base, encoder)


def training(folder: Path, **settings: Any) -> Training:
    """A training of a model called x, with small adapters and without a word; settings replace its fields."""
    folder.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = {"folder": folder, "label": "x", "seed": 3, "progress": SilentProgress(), "lora": LORA}
    return Training(**(plain | settings))


def turns_of(base: Path) -> list[Turn]:
    """Six exchanges: each image asked for two facts of its own, replies of different lengths."""
    homes = {"red": "Riga, Latvia", "green": "Tallinn", "blue": "Oslo is right"}
    facts = [("Where was this person born?", homes), ("Which colour?", {colour: colour for colour in COLOURS})]
    return [Turn(prompt=q, reply=a[colour], image=base / f"{colour}.png") for colour in COLOURS for q, a in facts]


def logits(model: Any, loaded: Loaded, turn: Turn) -> torch.Tensor:
    """[T, V] logits of one unpadded turn."""
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.no_grad():
        return core(**loaded.encoder.batch([turn]).inputs).logits[0]


def nll(loaded: Loaded, turns: list[Turn]) -> float:
    """Mean negative log-likelihood in nats a reply token, turn by turn without padding."""
    losses = []
    for turn in turns:
        reply = loaded.encoder.reply(turn.reply)
        predicted = logits(loaded.model, loaded, turn)[-len(reply) - 1 : -1]
        losses += F.cross_entropy(predicted, torch.tensor(reply), reduction="none").tolist()
    return sum(losses) / len(losses)


def sample(number: int, **settings: Any) -> Sample:
    """A text sample; settings replace its fields."""
    fields = {
        "id": f"forget/{number:03d}",
        "question_id": f"{number:03d}",
        "profile_id": "001",
        "split": "forget",
        "task": "generation",
        "modality": "image_text" if settings.get("image") else "text",
        "attribute": "residence",
        "prompt": "Where?",
        "target": "Riga",
        "value": "Riga",
        "max_new_tokens": 6,
    }
    return Sample.model_validate(fields | settings)


def answers(
    loaded: Loaded, samples: Sequence[Sample], turns: Sequence[Turn], *, share: bool
) -> tuple[list[list[int]], list[float]]:
    """Tokens of the replies to turns up to their end, and log-probabilities of all candidates of the samples."""
    candidates = [(i, text) for i, sample in enumerate(samples) for text in sample.candidates.values()]
    limits = [sample.max_new_tokens for sample in samples]
    if share:
        prompts = [EncodedPrompt(loaded.encoder.prompt(turn), turn) for turn in turns]
        replies = [loaded.encoder.reply(text) for _, text in candidates]
        written, logps = read_and_write(loaded, prompts, limits, loaded.ends, [i for i, _ in candidates], replies)
    else:
        written, logps = plain.generate(loaded, turns, limits), plain.score(loaded, turns, candidates)
    lengths = [next((n for n, token in enumerate(ids, start=1) if token in loaded.ends), len(ids)) for ids in written]
    return [ids[:length] for ids, length in zip(written, lengths, strict=True)], logps


class Watcher(SilentProgress):
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.done = 0
        self.facts: dict[str, float] = {}
        self.notes: list[str] = []

    def advance(self, n: int = 1, **facts: float) -> None:
        self.done += n
        self.facts = facts

    def note(self, text: str) -> None:
        self.notes.append(text)


class Killer(Watcher):
    """Stands for a process that is killed after some batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after + 1  # the first report is about what was there before

    def advance(self, n: int = 1, **facts: float) -> None:
        super().advance(n, **facts)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
