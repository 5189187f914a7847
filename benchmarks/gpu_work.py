"""The random model and the phases that ``benchmarks.gpu`` measures."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks import engine_evaluation as evaluation
from benchmarks import random_llava
from benchmarks.engine_work import FACTS, WORDS, people_turns
from mllmu.config.load import parse
from mllmu.config.recipe import Finetune, Lora, ModelSection
from mllmu.core import plugins
from mllmu.core.process import SilentProgress
from mllmu.core.records import ModelRef, Sample
from mllmu.models.families import IGNORE, Turn, core
from mllmu.models.loading import Loaded, add_trainable, choose_device, load
from mllmu.pipeline.evaluate import collect
from mllmu.pipeline.pipeline import Pipeline
from mllmu.preflight.plan.plan import make_plan
from mllmu.training.batches import training_batch
from mllmu.training.finetune import finetune
from mllmu.training.loop import Training
from mllmu.unlearning.trainer import Sides, unlearn
from tools.pretrain_tiny.build import build_tokenizer

Row = dict[str, Any]
QUESTIONS = 15
"""About one person, as in the training sets of the benchmark."""
WARM = 3
"""Steps before the clock starts: kernels are chosen, images are read, memory is fetched."""
PUBLISHED_BATCH = 4
NEW_TOKENS = 50


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA: width, layers, heads and inner size of the language model and of the vision tower."""

    text: tuple[int, int, int, int]
    vision: tuple[int, int, int, int]
    image_size: int = 336
    people: int = 24
    asked_people: int = 56
    steps: int = 12
    matmul: int = 8192
    batches: tuple[int, ...] = (256,)


SHAPES = {
    "7b": Shape((4096, 32, 32, 11008), (1024, 24, 16, 4096)),
    "1b": Shape((2048, 16, 16, 5632), (1024, 24, 16, 4096)),
    "tiny": Shape((64, 2, 2, 172), (32, 2, 2, 64), 56, people=2, asked_people=1, steps=1, matmul=256, batches=(8,)),
}


class StepClock(SilentProgress):
    """Measures a training from the end of its step WARM to its end, with the device synchronised at both."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.done = 0
        self.begun = self.seconds = 0.0
        self.notes: list[str] = []

    def start(self, label: str, total: int) -> None:  # noqa: ARG002
        self.hook = register_optimizer_step_post_hook(lambda *_: self.step())

    def step(self) -> None:
        self.done += 1
        if self.done == WARM:
            self.begun = now(self.device)

    def finish(self) -> None:
        self.hook.remove()
        self.seconds = (now(self.device) - self.begun) / max(1, self.done - WARM)

    def note(self, text: str) -> None:
        self.notes.append(text)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Bench:
    """The random model in a folder, and what is asked of it. A phase is a method that yields rows."""

    folder: Path
    shape: Shape
    out: Path
    profiles: bool = False
    matmul_tflops: float = 0.0
    device: torch.device = field(default_factory=lambda: choose_device("auto"))

    # -- the card and the model

    def card(self) -> Iterator[Row]:
        """The rates that all shares are of."""
        size, kind = self.shape.matmul, torch.bfloat16 if self.device.type == "cuda" else torch.float32
        a, b = (torch.randn(size, size, device=self.device, dtype=kind) for _ in range(2))
        seconds = min(self.timed(lambda: a @ b) for _ in range(13))
        self.matmul_tflops = 2 * size**3 / seconds / 1e12
        source, target = a.repeat(8, 1), b.repeat(8, 1)
        copied = min(self.timed(lambda: target.copy_(source)) for _ in range(13))
        rate = 2 * source.nbytes / copied / 1e12
        yield {"matmul_tflops": round(self.matmul_tflops, 1), "copy_tb_s": round(rate, 2), "size": size}

    def timed(self, work: Callable[[], Any]) -> float:
        start = now(self.device)
        work()
        return now(self.device) - start

    @cached_property
    def base(self) -> Path:
        """The folder of the random model, as ``save_pretrained`` leaves one; made at the first use."""
        folder = self.folder / "base"
        if not (folder / "config.json").exists():
            self.questions_folder.mkdir(parents=True, exist_ok=True)
            texts = [
                one.prompt for name in evaluation.PROTOCOLS.values() for one in evaluation.asked(self.data, name, 1)
            ]
            tokenizer = build_tokenizer([*texts, *FACTS, *WORDS, "USER: ASSISTANT: this person"], vocab_size=4000)
            sizes = {"text": self.shape.text, "vision": self.shape.vision, "image_size": self.shape.image_size}
            random_llava.save(folder, random_llava.config(tokenizer, **sizes), tokenizer, device=self.device)
        return folder

    @property
    def questions_folder(self) -> Path:
        return self.folder / "people"

    @cached_property
    def data(self) -> Any:
        self.questions_folder.mkdir(parents=True, exist_ok=True)
        return evaluation.dataset(self.questions_folder, self.shape.asked_people, self.shape.image_size)

    @cached_property
    def turns(self) -> list[Turn]:
        folder = self.folder / "turns"
        folder.mkdir(exist_ok=True)
        return people_turns(folder, self.shape.people, QUESTIONS, self.shape.image_size)

    def load(self, *adapters: str, packing: str = "auto") -> Loaded:
        section = ModelSection.model_validate({"path": str(self.base), "device": str(self.device), "packing": packing})
        loaded = load(section, ModelRef(base=str(self.base), adapters=adapters), self.folder, self._encoder)
        self._encoder = loaded.encoder
        return loaded

    _encoder: Any = None

    def switch(self) -> Iterator[Row]:
        """Seconds until a model can answer: the first, and others of the same base."""
        seconds = self.timed(lambda: self.base)
        yield {"model": "made and saved", "s": round(seconds, 2)}
        self._encoder = None
        yield {"model": "base, first time", "s": round(self.timed(self.load), 2)}
        for name in ("one", "two"):
            self.training(name, self.turns[:2], steps=1, batch_size=2)
        for names in (("one",), ("two",), ("one", "two"), (), ("one",)):
            seconds = self.timed(lambda names=names: self.load(*names))  # type: ignore[misc]
            yield {"model": f"base and {len(names)} adapters", "s": round(seconds, 2)}
        if torch.cuda.is_available():
            yield {"model": "held on the card", "gib": round(torch.cuda.memory_allocated() / 2**30, 1)}

    # -- training

    def train(self) -> Iterator[Row]:
        """Seconds a question, by the published loop and by ours."""
        mixed = random.Random(0).sample(self.turns, len(self.turns))  # noqa: S311
        published = self.published_training(mixed[: PUBLISHED_BATCH * 6])
        yield {"way": "published", "questions a step": PUBLISHED_BATCH, **published}
        base_ms = published["ms_a_question"]
        cases: tuple[tuple[str, int, int, str], ...] = (
            ("plain, mixed", 4, 1, "off"),
            ("engine, mixed", 4, 1, "auto"),
            ("engine, one person", 15, 15, "auto"),
            ("engine, 4 people", 60, 15, "auto"),
            ("engine, mixed", 64, 1, "auto"),
            ("engine, one text question", 1, 1, "auto"),
        )
        for way, batch_size, together, packing in cases:
            turns = self.turns if batch_size > 1 else [Turn(prompt=t.prompt, reply=t.reply) for t in self.turns[:30]]
            steps = self.shape.steps if batch_size < 60 else max(2, self.shape.steps // 2)
            row = self.training("row", turns, steps + WARM, batch_size, together=together, packing=packing)
            yield {"way": way, "questions a step": batch_size, **row,
                   "times published": round(base_ms / row["ms_a_question"], 1)}  # fmt: skip
        if self.profiles:
            with profiled(self.out / "profile_train.txt"):
                self.training("row", self.turns, 4, 15, together=15)

    def training(
        self, name: str, turns: Sequence[Turn], steps: int, batch_size: int, *, together: int = 1, packing: str = "auto"
    ) -> Row:
        """Fine-tune a fresh adapter for some steps; its folder has the name."""
        folder = self.empty(name)
        per_epoch = -(-len(turns) // batch_size)
        section = Finetune(epochs=steps / per_epoch, batch_size=batch_size, questions_together=together)
        loaded, clock = self.load(packing=packing), StepClock(self.device)
        self.peak(reset=True)
        training = Training(folder=folder, label=name, seed=0, progress=clock, lora=Lora())
        finetune(loaded, turns, section, training)
        tokens, labels = counted(loaded, turns, batch_size, together)
        return self.step_row(clock.seconds, batch_size, core(loaded.model), tokens, labels) | self.peak()

    def empty(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir(parents=True)
        return self.folder / name

    def step_row(self, seconds: float, questions: int, model: Any, tokens: float, labels: float) -> Row:
        layers = sum(p.numel() for n, p in model.named_parameters() if "language_model.layers" in n and "lora" not in n)
        head = sum(p.numel() for n, p in model.named_parameters() if n.startswith("lm_head"))
        flop = 4 * (layers * tokens + head * labels)
        share = flop / seconds / 1e12 / self.matmul_tflops if self.matmul_tflops and seconds else None
        return {
            "s_a_step": round(seconds, 4),
            "ms_a_question": round(1000 * seconds / questions, 2),
            "tokens a step": round(tokens),
            "share of matmul": share and round(share, 3),
        }

    def peak(self, *, reset: bool = False) -> Row:
        if self.device.type != "cuda":
            return {}
        if reset:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)}

    def published_training(self, turns: list[Turn]) -> Row:
        """Own restatement of the published loop: everything prepared anew, one row a question, loss on all text."""
        loaded = self.load(packing="off")
        model = add_trainable(loaded.model, loaded.family, Lora(), seed=0).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-5)
        processor, mark = loaded.encoder.processor, loaded.image_token_id
        self.peak(reset=True)
        start, done = 0.0, 0
        for first in range(0, len(turns), PUBLISHED_BATCH):
            if first == PUBLISHED_BATCH * 2:
                start, done = now(self.device), 0
            some = turns[first : first + PUBLISHED_BATCH]
            texts = [f"USER: <image>\n{turn.prompt}\nASSISTANT: {turn.reply}</s>" for turn in some]
            images = [Image.open(turn.image).convert("RGB") for turn in some if turn.image]
            inputs = processor(text=texts, images=images, padding=True, return_tensors="pt").to(self.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(loaded.model.dtype)
            labels = inputs["input_ids"].clone()
            labels[(inputs["attention_mask"] == 0) | (labels == mark)] = IGNORE
            names = ("input_ids", "attention_mask", "pixel_values")
            model(**{key: inputs[key] for key in names}, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
        seconds = (now(self.device) - start) / done
        tokens = int(inputs["attention_mask"].sum()), int((labels != IGNORE).sum())
        return self.step_row(seconds, PUBLISHED_BATCH, core(model), *tokens) | self.peak()

    def methods(self) -> Iterator[Row]:
        """Steps of unlearning methods: all questions about one person, and as many about the others."""
        forget, retain = self.turns[:QUESTIONS], self.turns[QUESTIONS:]
        for name in ("ga", "npo", "kl_min"):
            method = plugins.build("methods", name, {"batch_size": len(forget), "epochs": self.shape.steps + WARM})
            loaded, clock = self.load(), StepClock(self.device)
            self.peak(reset=True)
            training = Training(folder=self.empty("row"), label=name, seed=0, progress=clock, lora=Lora())
            seconds = self.timed(lambda: unlearn(loaded, method, Sides(forget=forget, retain=retain), training))  # noqa: B023
            yield {"method": name, "s_a_step": round(clock.seconds, 3), "steps": clock.done, "s": round(seconds, 1),
                   **self.peak(), "notes": clock.notes}  # fmt: skip

    # -- evaluation

    def evaluate(self) -> Iterator[Row]:
        """New tokens a second of greedy replies, by the published loop and by ours."""
        for protocol, name in evaluation.PROTOCOLS.items():
            samples = evaluation.asked(self.data, name, NEW_TOKENS)
            loaded = self.load()
            few = random.Random(0).sample(samples, min(len(samples), 3))  # noqa: S311
            ask = partial(self.published_reply, loaded)
            seconds = [self.timed(partial(ask, sample)) for sample in few]
            published = sum(seconds[1:]) / len(seconds[1:])
            yield {"protocol": protocol, "way": "published", "s_a_question": round(published, 3)}
            for batch_size in (*(self.shape.batches if protocol == "zero-shot" else ()), "auto"):
                row = self.asking(loaded, samples, batch_size)
                yield {"protocol": protocol, "way": "engine", "batch_size": batch_size, **row,
                       "times published": round(published / row["s_a_question"], 1)}  # fmt: skip
            if self.profiles:
                some = [sample.model_copy(update={"max_new_tokens": 20}) for sample in samples]
                with profiled(self.out / f"profile_{protocol}.txt"):
                    self.asking(loaded, some, self.shape.batches[-1])
        scored = [one for one in evaluation.rendered(self.data, "corrected") if one.candidates]
        yield {"protocol": "zero-shot", "way": "engine, with candidates", **self.asking(self.load(), scored, "auto")}

    def asking(self, loaded: Loaded, samples: Sequence[Sample], batch_size: Any) -> Row:
        """Ask all samples as ``mllmu run`` does, images prepared beforehand as for all but the first model of a run."""

        def ask(some: Sequence[Sample]) -> list[Any]:
            how: Any = {"image_folder": self.questions_folder, "system_prompt": "", "batch_size": batch_size}
            how["low_precision"] = self.device.type == "cuda"
            with tempfile.TemporaryDirectory() as folder:
                return collect(some, lambda: loaded, folder=Path(folder), progress=SilentProgress(), label="x", **how)

        ask(samples[: max(8, len(samples) // 10)])
        self.peak(reset=True)
        start = now(self.device)
        responses = ask(samples)
        seconds = now(self.device) - start
        tokens = sum(response.num_tokens for response in responses)
        return {
            "questions": len(samples),
            "s_a_question": round(seconds / len(samples), 5),
            "new tokens a s": round(tokens / seconds),
            **self.peak(),
        }

    @torch.inference_mode()
    def published_reply(self, loaded: Loaded, sample: Sample) -> Tensor:
        processor = loaded.encoder.processor
        mark = "<image>\n" if sample.image else ""
        text = sample.prompt if sample.raw_prompt else f"USER: {mark}{sample.prompt}\nASSISTANT:"
        names = [*(one.image for one in sample.examples), sample.image] if sample.image else []
        images = [Image.open(self.questions_folder / name).convert("RGB") for name in names] or None
        inputs = processor(text=text, images=images, return_tensors="pt").to(self.device)
        inputs = {k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values") if k in inputs}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(loaded.model.dtype)
        output: Tensor = loaded.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        return output

    # -- whole things

    def equality(self) -> Iterator[Row]:
        """The tests marked ``gpu``, in a process of their own."""
        files = [
            str(path) for path in Path("tests").rglob("test_*.py") if "mark.gpu" in path.read_text(encoding="utf-8")
        ]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-rA", "-p", "no:cacheprovider", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        (self.out / "gpu_tests.txt").write_text(done.stdout[-60_000:] + done.stderr[-5_000:])
        outcomes = [line for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED", "ERROR"))]
        yield {"tests": outcomes, "exit": done.returncode}

    def slice(self) -> Iterator[Row]:
        """A small run of the paper's kind, stage by stage, beside its plan."""
        recipe = parse(slice_recipe(self.base, self.shape))
        device = next((name for name in ("h200-141gb", "h100-80gb", "a100-80gb") if card_is(name)), "cpu")
        planned: dict[str, float] = {}
        for stage in make_plan(recipe, device).stages:
            planned[stage.stage] = planned.get(stage.stage, 0.0) + 3600 * stage.hours
        pipeline = Pipeline(recipe, self.empty("run"), gate=False)
        total = 0.0
        for stage_name in ("data", "finetune", "unlearn", "evaluate", "score", "report"):
            seconds = self.timed(lambda name=stage_name: pipeline.run(only=name))  # type: ignore[misc]
            total += seconds if stage_name in planned else 0
            yield {"stage": stage_name, "s": round(seconds, 1), "planned_s": round(planned.get(stage_name, 0), 1)}
        # the gate of stage unlearn asks two of the models, which the plan counts as evaluation
        yield {"stage": "planned stages together", "s": round(total, 1), "planned_s": round(sum(planned.values()), 1),
               "device": device}  # fmt: skip

    def smoke(self) -> Iterator[Row]:
        """The whole line on the embedded model."""
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "mllmu", "run", "recipes/smoke.yaml", "--out", folder]
            start = time.perf_counter()
            quiet = {**os.environ, "NO_COLOR": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)  # noqa: S603
            seconds = time.perf_counter() - start
        yield {"recipe": "smoke", "s": round(seconds, 1), "exit": done.returncode, "stderr": done.stderr[-300:]}


def counted(loaded: Loaded, turns: Sequence[Turn], batch_size: int, together: int) -> tuple[float, float]:
    """Unpadded and labelled tokens of a step, each shared prefix once."""
    rng = random.Random(1)  # noqa: S311
    chosen = list(turns[:batch_size]) if together > 1 else rng.sample(list(turns), min(batch_size, len(turns)))
    batch = training_batch(loaded, chosen)
    return float(batch.num_tokens), float((batch.labels != IGNORE).sum())


def slice_recipe(base: Path, shape: Shape) -> dict[str, Any]:
    return {
        "name": "slice",
        "data": {
            "source": {"name": "synthetic", "num_people": min(8, shape.people)},
            "portraits": {"name": "dicebear", "size": shape.image_size},
            "splits": {"forget_ratios": [0.25], "holdout": 0},
        },
        "model": {"path": str(base)},
        "finetune": {"epochs": 1, "batch_size": 4, "modality": "image_text"},
        "evaluate": {"max_profiles": {"retain": 2, "celebrity": 2}},
        "gate": False,
        "unlearn": {"methods": [{"name": "ga", "epochs": 1}, {"name": "npo", "epochs": 1}, "prompting"]},
    }


def card_is(name: str) -> bool:
    return torch.cuda.is_available() and name.split("-")[0] in torch.cuda.get_device_name().lower()


@contextmanager
def profiled(path: Path) -> Iterator[None]:
    """Write the costliest operations of what happens inside, by their own time on the device and on the host."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        yield
    averages = profile.key_averages()
    keys = ["self_cpu_time_total", *(["self_cuda_time_total"] if torch.cuda.is_available() else [])]
    path.write_text("\n\n".join(averages.table(sort_by=key, row_limit=45, max_name_column_width=70) for key in keys))
