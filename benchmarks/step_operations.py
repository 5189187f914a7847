"""What a training step costs whatever is in it: operations dispatched, values read back from the device, and seconds.

    python -m benchmarks.step_operations                # one minute of one core; prints one JSON line

A LLaVA of LLaVA-1.5's depth (24 vision layers, 32 language layers, 448 adapter tensors) and width 64 makes the fixed
cost of a step visible on a CPU, as its arithmetic is nothing: LoRA of rank 16 on all linear layers of the language
model, 15 questions about one person a step, 17 image tokens. Operations are those that PyTorch dispatches
eagerly, views included; a step is one of the training loop itself, so building the batch, the passes, clipping
and AdamW are in it. Seconds are those of the processor, one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import random_llava
from benchmarks.engine_work import FACTS, WORDS, people_turns
from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.process import Progress
from mllmu.core.records import ModelRef
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded, add_trainable, load
from mllmu.training.batches import forward, training_batch
from mllmu.training.loop import Schedule, Training, train
from mllmu.training.losses import answer_nll
from tools.pretrain_tiny.build import build_tokenizer

VISION_LAYERS, LAYERS, WIDTH, IMAGE_SIDE = 24, 32, 64, 56
QUESTIONS, WARM, STEPS = 15, 2, 8
READS = "aten._local_scalar_dense.default"
"""Dispatched where Python asks for a number: on a GPU it waits until everything before is done."""


class OperationCounter(TorchDispatchMode):
    """Counts what is dispatched while it is on, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def deep_llava(folder: Path, *, layers: int = LAYERS, vision_layers: int = VISION_LAYERS) -> Loaded:
    """A random, narrow LLaVA."""
    tokens = build_tokenizer(
        [*FACTS, *WORDS, "USER: ASSISTANT: What is the of person in this image? The and."], vocab_size=600
    )
    sizes = {"text": (WIDTH, layers, 2, 2 * WIDTH), "vision": (WIDTH, vision_layers, 2, 2 * WIDTH)}
    settings = random_llava.config(tokens, **sizes, image_size=IMAGE_SIDE, vocab_size=len(tokens))
    random_llava.save(folder, settings, tokens)
    return load(ModelSection(path=str(folder), device="cpu"), ModelRef(base=str(folder)), folder)


def train_steps(loaded: Loaded, turns: list[Turn], folder: Path, at_step: Callable[[int], None], steps: int) -> None:
    """Train so many steps of the turns; ``at_step`` is told the number of each before it begins."""
    model = add_trainable(loaded.model, loaded.family, Lora(), seed=0)
    make = partial(training_batch, loaded)

    def terms(step: int) -> dict[str, torch.Tensor]:
        at_step(step)
        return {"nll": answer_nll(forward(model, turns, make))}

    training = Training(folder=folder, label="step", seed=0, progress=Progress(), checkpoint_every_s=1e9)
    train(model, terms, Schedule(num_steps=steps, learning_rate=1e-3), training)


def measure(folder: Path, **depth: int) -> dict[str, Any]:
    """Operations and reads of a step in the middle of a training, and seconds of the fastest without the counter."""
    loaded, turns = deep_llava(folder, **depth), people_turns(folder, 1, QUESTIONS, IMAGE_SIDE)
    counter, starts = OperationCounter(), list[float]()

    def count(step: int) -> None:
        if step == WARM:
            counter.__enter__()
        if step == WARM + 1:
            counter.__exit__(None, None, None)
        starts.append(time.process_time())

    train_steps(loaded, turns, folder, count, WARM + 2 + STEPS)
    counted = counter.counts
    times = [after - before for before, after in zip(starts[WARM + 1 :], starts[WARM + 2 :], strict=False)]
    return {
        "operations": counted.total(),
        "host_reads": counted[READS],
        "s_a_step": round(min(times), 4),
        "most": dict(counted.most_common(12)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"torch": torch.__version__, **measure(Path(folder))}))


if __name__ == "__main__":
    main()
