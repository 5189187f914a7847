"""Two stages, as LLaVA is trained: the projector alone on captions, then projector and an adapter on instructions.

    stage 1    captions of drawn portraits -> projector
    stage 2    the benchmark's formats, about what is seen or given -> projector, LoRA on the language model;
               and, if asked for, general questions with what the language model says to them on its own

The vision tower is that of the embedded tiny model and stays as it is. A stage that is done is kept in the output
folder and skipped; one that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.errors import ModelError
from mllmu.core.process import Progress, derive, rng
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import write_atomic
from mllmu.models.families import Turn, core
from mllmu.models.loading import Loaded, add_trainable, load, release_base, save_trained
from mllmu.models.smol import assemble, fetch
from mllmu.training.batches import forward, training_batch
from mllmu.training.loop import Schedule, Training, train
from mllmu.training.losses import answer_nll
from tools.pretrain_smol.general import own_replies, parted, questions
from tools.pretrain_smol.lessons import VISIBLE, Lessons, value_of

PROJECTOR = "multi_modal_projector."
STAGES = ("captions", "instructions")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a pre-training run."""

    seed: int = 0
    num_faces: int = 2_000
    exam_faces: int = 200
    exam_size: int = 40
    steps: tuple[int, int] = (110, 330)
    batch_size: int = 128
    micro_batch_size: int = 128
    learning_rates: tuple[float, float] = (2e-3, 1e-3)
    rank: int = 8
    general: float = 0.0
    """share of stage 2 that are general questions"""
    general_size: int | None = None
    """so many of them are asked; None: all"""

    @property
    def lora(self) -> Lora:
        """The adapter of the language model in stage 2."""
        return Lora(rank=self.rank, alpha=2 * self.rank, dropout=0.0)


class OutOfTimeError(Exception):
    """The minutes are over; the checkpoint is at most half a minute old."""


def pretrain(
    plan: Plan, out: Path, progress: Progress, *, device: str = "auto", minutes: float | None = None
) -> dict[str, Any]:
    """Run the stages that are not done, then write parts, model and ``pretraining.json``; returns what it says.

    Args:
        plan: must stay the same when a stopped run goes on.
        out: gets ``base``, ``faces``, a folder per stage, ``parts`` (for the package) and ``model`` (a ``model.path``).
        minutes: stop after so many; the same call goes on.

    Raises:
        OutOfTimeError: the minutes are over.
        ModelError: the language weights are not there, or ``out`` holds a training with other settings.
    """
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU
    out.mkdir(parents=True, exist_ok=True)
    base = base_folder(out, progress)
    record = _read(out)
    settings = json.loads(json.dumps(asdict(plan)))
    if record.setdefault("plan", settings) != settings:
        raise ModelError(
            f"{out}: holds a training with other settings: {record['plan']}. Repeat them, or name a new --out."
        )
    write_atomic(out / "pretraining.json", json.dumps(record, indent=2) + "\n")
    for number, stage in enumerate(STAGES):
        if stage in record:
            continue
        start = time.monotonic()
        facts = run_stage(plan, number, out, base, progress, device, deadline)
        record[stage] = {"last_call_s": round(time.monotonic() - start, 1), **facts}
        (out / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
    return finish(plan, out, base, progress, device, record)


def _read(out: Path) -> dict[str, Any]:
    path = out / "pretraining.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def base_folder(out: Path, progress: Progress) -> Path:
    """The model before training: language weights, vision tower, random projector."""
    base = out / "base"
    if not (base / "config.json").is_file():
        if not fetch.language_file().is_file():
            raise assemble.missing()
        assemble.assemble(fetch.language_file(), out / "nothing", base, progress)
    return base


def run_stage(
    plan: Plan, number: int, out: Path, base: Path, progress: Progress, device: str, deadline: float
) -> dict[str, Any]:
    """Train one stage and write its weights into its folder; returns losses and seconds per step."""
    folder, earlier = out / STAGES[number], out / STAGES[0]
    folder.mkdir(exist_ok=True)
    loaded = load_with(base, device, earlier if number else None)
    model = loaded.model
    if number:
        model = add_trainable(model, loaded.family, plan.lora, seed=derive(plan.seed, "smol", "adapter"))
    else:
        model.requires_grad_(requires_grad=False)
    core(model).model.multi_modal_projector.requires_grad_(requires_grad=True)
    general = general_turns(plan, out, base, device)[0] if number else ()
    lessons = Lessons(out / "faces", range(plan.num_faces), general=general, share=plan.general)
    if loaded.device.type == "cuda":  # a step takes less time than its portraits
        lessons.draw_all(processes=os.cpu_count() or 1)
    draw = lessons.mixed if number else lessons.captions
    training = Training(
        folder=folder, label=STAGES[number], seed=plan.seed, progress=progress, lora=plan.lora if number else None,
        checkpoint_every_s=30.0, batch_size=plan.batch_size, micro_batch_size=plan.micro_batch_size,
    )  # fmt: skip
    times: list[float] = []
    terms = partial(step_loss, plan, training, loaded, model, draw, deadline, times)
    schedule = Schedule(num_steps=plan.steps[number], learning_rate=plan.learning_rates[number], warmup=0.03)
    curve = train(model, terms, schedule, training)
    if number:
        save_trained(model, folder)
    save_projector(model, folder)
    return figures_of(curve, times)


def general_turns(plan: Plan, out: Path, base: Path, device: str) -> tuple[list[Turn], list[Turn]]:
    """General questions to practise, and those of the exam, with the replies of the base; none if the plan has none."""
    if not plan.general:
        return [], []
    prompts = questions(plan.seed)[: plan.general_size]
    return parted(own_replies(partial(load_with, base, device, None), prompts, out / "general.json"))


def step_loss(
    plan: Plan,
    training: Training,
    loaded: Loaded,
    model: Any,
    draw: Callable[[random.Random, int], list[Turn]],
    deadline: float,
    times: list[float],
    step: int,
) -> dict[str, Tensor]:
    """The loss of a step: mean over its reply tokens of -log p, in nats."""
    times.append(time.monotonic())
    if times[-1] > deadline:
        raise OutOfTimeError(f"{training.label}: stopped before step {step + 1}")
    turns = draw(rng(plan.seed, "smol", training.label, step), plan.batch_size)
    batches = partial(training_batch, loaded)
    return {"nll": answer_nll(forward(model, turns, batches, at_once=training.micro_batch_size))}


def figures_of(curve: list[dict[str, float]], times: list[float]) -> dict[str, Any]:
    """First and last losses (means over up to 20 steps, nats per token), and the median seconds of a step."""
    losses, gaps = [each["nll"] for each in curve], sorted(b - a for a, b in pairwise(times))
    size = min(20, len(losses))
    return {
        "steps": len(losses),
        "first_loss": round(sum(losses[:size]) / size, 4),
        "last_loss": round(sum(losses[-size:]) / size, 4),
        "seconds_per_step": round(gaps[len(gaps) // 2], 3) if gaps else None,
    }


def load_with(base: Path, device: str, parts: Path | None) -> Loaded:
    """A model of its own on the base, with the projector of an earlier stage."""
    section = ModelSection(path=str(base), device=device, dtype="float32")
    loaded = load(section, ModelRef(base=str(base)), base)
    release_base()  # its projector is about to be changed in place
    if parts:
        held = load_file(parts / assemble.PARTS)
        loaded.model.model.load_state_dict(held, strict=False)
    return loaded


def save_projector(model: Any, folder: Path) -> None:
    """Write the projector as bfloat16."""
    state = core(model).model.state_dict()
    held = {
        name: value.to("cpu", torch.bfloat16).contiguous()
        for name, value in state.items()
        if name.startswith(PROJECTOR)
    }
    save_file(held, folder / assemble.PARTS)


def finish(
    plan: Plan, out: Path, base: Path, progress: Progress, device: str, record: dict[str, Any]
) -> dict[str, Any]:
    """Put the parts of the package together, make the model of them, and examine it on faces and texts unseen."""
    parts, trained = out / "parts", out / STAGES[1]
    parts.mkdir(exist_ok=True)
    (parts / assemble.PARTS).write_bytes((trained / assemble.PARTS).read_bytes())
    adapter = json.loads((trained / "adapter_config.json").read_text())
    adapter["base_model_name_or_path"] = "smol"  # not a path of this machine
    (parts / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n")
    held = load_file(trained / "adapter_model.safetensors")
    save_file({name: value.to(torch.bfloat16) for name, value in held.items()}, parts / "adapter_model.safetensors")
    assemble.assemble(fetch.language_file(), parts, out / "model", progress)
    for name, folder in (("before", base), ("after", out / "model")):
        if name not in record.get("exam", {}):
            record.setdefault("exam", {})[name] = exam(plan, out, base, folder, device)
    text = json.dumps(record, indent=2) + "\n"
    for folder in (out, parts):
        (folder / "pretraining.json").write_text(text)
    return record


@torch.no_grad()
def exam(plan: Plan, out: Path, base: Path, folder: Path, device: str) -> dict[str, float]:
    """Share of replies whose every token is the most likely one, on faces that were not shown and texts of other draws.

    ``visible`` questions show a portrait, ``text`` ones hold the answer in the prompt: ``text/choice`` says whether the
    model reads letters at all (chance: 0.25). ``general`` ones were not practised; right is what the base says.
    """
    general = general_turns(plan, out, base, device)[1][: plan.exam_size]
    loaded = load_with(folder, device, None)
    lessons = Lessons(out / "faces", range(plan.num_faces, plan.num_faces + plan.exam_faces))
    figures = {}
    for kind in ("question", "generation", "cloze", "choice"):
        draw = rng(plan.seed, "smol", "exam", kind)
        faces = [draw.choice(lessons.faces) for _ in range(plan.exam_size)]
        figures[f"visible/{kind}"] = share_exact(loaded, [_about(lessons, face, kind, draw) for face in faces])
        if kind != "question":
            texts = [lessons.fact(draw, kind) for _ in range(plan.exam_size)]
            figures[f"text/{kind}"] = share_exact(loaded, texts)
    if general:
        figures["general"] = share_exact(loaded, general)
    return figures


def _about(lessons: Lessons, face: int, kind: str, draw: random.Random) -> Turn:
    seen = lessons.seen(face)
    feature = draw.choice([feature for feature in VISIBLE if value_of(seen, feature)])
    return lessons.visible(feature, seen, kind, draw, lessons.portrait(face, draw))


def share_exact(loaded: Loaded, turns: list[Turn]) -> float:
    """Share of replies that greedy decoding would give token for token."""
    out = forward(loaded.model, turns, partial(training_batch, loaded), at_once=16)
    wrong_N = out.logits_NV.argmax(1) != out.labels_N
    wrong = set(out.row_N[wrong_N].tolist())
    return round(1 - len(wrong) / len(turns), 4)
