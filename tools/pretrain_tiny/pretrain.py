"""Pre-training of the tiny model for ``python -m tools.pretrain_tiny``, in two phases that can be repeated apart.

    vision     drawn faces of 2,400 people who appear nowhere else -> vision tower, then frozen
    language   facts about 153 celebrities and some invented people, in every format -> projector and language model

Both phases are seeded, keep their result in the output folder, and are skipped if it is there.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel

from mllmu.core.process import derive, rng
from mllmu.core.records import Profile
from mllmu.data.build import CELEBRITY_PORTRAIT_SEED
from mllmu.data.portraits import transform
from mllmu.data.portraits.dicebear import features, sprites
from mllmu.data.sources.celebrities import Celebrities
from mllmu.data.sources.synthetic import Synthetic
from tools.pretrain_tiny.build import IMAGE_SIZE, build_model, build_processor, build_tokenizer
from tools.pretrain_tiny.drills import KNOWING, PHRASES, READING, Drills, Row, corpus
from tools.pretrain_tiny.language import Encoder, Exam, ImageBank, train_language
from tools.pretrain_tiny.vision import identification_rate, to_pixels, train_tower

# The seed of people and faces met in pre-training; run seeds derive theirs otherwise, so nobody is met twice.
PEOPLE_SEED = 987_654_321


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a pre-training run; the defaults made the weights in the package."""

    seed: int = 0
    num_faces: int = 2_800
    face_holdout: int = 400
    vision_steps: int = 600
    vision_batch: int = 96
    num_people: int = 160
    plain_share: float = 0.25
    reading_steps: int = 500
    reading_batch: int = 64
    language_steps: int = 3_300
    language_batch: int = 96
    learning_rate: float = 3e-3
    vocab_size: int = 4_096
    width: int = 160
    layers: int = 8
    threads: int = 2


Report = Callable[[str, int, int, dict[str, float]], None]


def face_person(index: int) -> Profile:
    """Somebody who is only a face: an id, a gender and an age."""
    draw = rng(PEOPLE_SEED, "face", index)
    born = f"May 1, {draw.randint(1954, 2002)}"
    attributes = {"name": "Nobody", "gender": draw.choice(["male", "female"]), "birth_date": born}
    return Profile(id=f"f{index:05d}", kind="fictitious", attributes=attributes)


def draw_face(index: int) -> tuple[list[Image.Image], dict[str, str]]:
    """Three drawings of a face person and the visible features."""
    profile = face_person(index)
    return sprites(profile, PEOPLE_SEED, 3, IMAGE_SIZE), features(profile, PEOPLE_SEED)


def vision_phase(plan: Plan, out: Path, report: Report) -> dict[str, float]:
    """Train the face encoder; writes ``tower.safetensors`` and returns the identification rate on unseen people."""
    with ProcessPoolExecutor(plan.threads) as pool:
        faces = list(pool.map(draw_face, range(plan.num_faces), chunksize=64))
    num_train = plan.num_faces - plan.face_holdout
    tower = CLIPVisionModel(build_model_config(plan))
    torch.manual_seed(derive(plan.seed, "tower-init"))
    tower.apply(lambda module: tower._init_weights(module))
    hold = range(num_train, plan.num_faces)
    gallery = to_pixels([transform(faces[i][0][0], rng(plan.seed, "gallery", i), 0.0) for i in hold])
    probe = to_pixels([transform(faces[i][0][1], rng(plan.seed, "probe", i), 1.0) for i in hold])

    def on_step(step: int, losses: dict[str, float]) -> None:
        if step % 50 == 49:
            report("vision", step + 1, plan.vision_steps, losses)

    train_tower(
        tower, [f[0] for f in faces[:num_train]], [f[1] for f in faces[:num_train]], transform,
        steps=plan.vision_steps, batch=plan.vision_batch, seed=plan.seed, on_step=on_step,
    )  # fmt: skip
    save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, out / "tower.safetensors")
    return {"identification_rate": identification_rate(tower.eval(), gallery, probe), "num_unseen": len(gallery)}


def build_model_config(plan: Plan) -> Any:
    """The vision configuration, taken from the one place where the model is defined."""
    tokenizer = build_tokenizer(["x"], vocab_size=300)
    return build_model(tokenizer, width=plan.width, layers=1).config.vision_config


def people_of(plan: Plan) -> list[Profile]:
    """Everyone the language phase is about: all celebrities, then the invented people."""
    invented = Synthetic(num_people=plan.num_people, id_prefix="p").profiles(PEOPLE_SEED)
    return [*Celebrities().profiles(0), *invented]


def language_phase(plan: Plan, out: Path, report: Report) -> dict[str, float]:
    """Train projector and language model on the drills; saves the whole model and processor into ``out``."""
    people = people_of(plan)
    first_plain = len(people) - int(plan.plain_share * plan.num_people)
    drills = Drills(people, plain=frozenset(range(first_plain, len(people))))
    tokenizer = build_tokenizer(corpus(people, rng(plan.seed, "corpus")), vocab_size=plan.vocab_size, phrases=PHRASES)
    torch.manual_seed(derive(plan.seed, "model-init"))
    model = build_model(tokenizer, width=plan.width, layers=plan.layers)
    model.model.vision_tower.load_state_dict(load_file(out / "tower.safetensors"))
    processor = build_processor(tokenizer)
    bank = ImageBank.draw(people, [portrait_seed(p) for p in people], model.model.vision_tower, processor)
    encoder = Encoder(model, tokenizer, bank)
    exam = Exam(people, first_plain, seed=plan.seed)

    def draw(step: int, dice: random.Random) -> list[Row]:
        reading = step < plan.reading_steps
        mix, size = (READING, plan.reading_batch) if reading else (KNOWING, plan.language_batch)
        return [drills.draw(dice, mix) for _ in range(size)]

    def on_step(step: int, loss: float) -> None:
        if step % 50 == 49:
            report("language", step + 1, plan.language_steps, {"loss": loss})
        if step % 300 == 299:
            report("exam", step + 1, plan.language_steps, exam.grade(encoder))
            save(model, processor, out / "checkpoint")

    train_language(
        encoder, draw, steps=plan.language_steps, learning_rate=plan.learning_rate, seed=plan.seed, on_step=on_step,
    )  # fmt: skip
    save(model, processor, out)
    return exam.grade(encoder)


def portrait_seed(profile: Profile) -> int:
    """The seed a person's face is drawn from in pre-training."""
    return CELEBRITY_PORTRAIT_SEED if profile.kind == "celebrity" else PEOPLE_SEED


def save(model: Any, processor: Any, folder: Path) -> None:
    """Save as bfloat16 safetensors, which is how the package carries it: half the size, loaded as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    processor.save_pretrained(folder)


def pretrain(plan: Plan, out: Path, report: Report, phases: Sequence[str] = ("vision", "language")) -> dict[str, Any]:
    """Run the phases in order and write ``pretraining.json``: settings, seconds and figures of each phase."""
    torch.set_num_threads(plan.threads)
    out.mkdir(parents=True, exist_ok=True)
    log = out / "pretraining.json"
    record: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {}
    for phase, run in (("vision", vision_phase), ("language", language_phase)):
        if phase in phases:
            start = time.monotonic()
            figures = run(plan, out, report)
            record[phase] = {"seconds": round(time.monotonic() - start), "figures": figures}
            record["plan"] = asdict(plan)
            log.write_text(json.dumps(record, indent=2) + "\n")
    return record
