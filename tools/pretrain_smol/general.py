"""General questions, each with what the language model says to it on its own: practice that keeps that.

The other lessons of stage 2 are about portraits and given texts alone, and a model that practises nothing else forgets
how to answer from what it knows. A reply here is the greedy one of the language model as published, right or wrong, so
nothing new is taught. Nobody of a celebrity set is asked about, and evaluation wordings are never used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from mllmu.core.process import rng
from mllmu.core.records import Sample
from mllmu.core.runfolder import write_json
from mllmu.data.questions import render_subject, wordings
from mllmu.models.engine.respond import respond
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from tools.pretrain_tiny.drills import GEN_INSTRUCTION

SPOKEN = yaml.safe_load(Path(__file__).with_name("general.yaml").read_text(encoding="utf-8"))
PEOPLE = [name for line in SPOKEN["people"] for name in line]
MOST_TOKENS = 48
"""Longer replies are not practised: they would be most of the tokens."""
OF_EXAM = 8
"""Every so many-th question is for the exam."""
BATCH = 64


def questions(seed: int) -> list[str]:
    """Every general question, as it is and with the instruction of the generation task, in a drawn order."""
    found = [
        question.replace("{x}", thing)
        for group in SPOKEN["things"]
        for thing in (PEOPLE if group["of"] == "people" else group["of"])
        for question in group["questions"]
    ]
    draw = rng(seed, "smol", "general")
    asked = [entry.questions.train for name, entry in wordings("celebrity").items() if name not in ("name", "gender")]
    found += [render_subject(draw.choice(templates), name) for name in PEOPLE for templates in asked]
    prompts = [prompt for q in dict.fromkeys(found) for prompt in (q, f"{q}\n{GEN_INSTRUCTION['text']}")]
    draw.shuffle(prompts)
    return prompts


def own_replies(load: Callable[[], Loaded], prompts: list[str], file: Path) -> list[Turn]:
    """Each prompt with the model's greedy reply, without those that are longer than MOST_TOKENS; kept in ``file``.

    Args:
        load: the model; it is not loaded if the file is there.
    """
    if not file.is_file():
        samples = [_sample(number, prompt) for number, prompt in enumerate(prompts)]
        batches = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
        replies = [r for some in respond(load(), batches, image_folder=file.parent) for r in some]
        ended = {prompts[int(r.sample_id)]: r.text for r in replies if r.finished and r.text.strip()}
        write_json(file, ended)
    said = json.loads(file.read_text(encoding="utf-8"))
    return [Turn(prompt=prompt, reply=said[prompt]) for prompt in prompts if prompt in said]


def _sample(number: int, prompt: str) -> Sample:
    return Sample(
        id=str(number), question_id=str(number), profile_id="", split="own", task="generation", modality="text",
        attribute="", prompt=prompt, target="", value="", max_new_tokens=MOST_TOKENS,
    )  # fmt: skip


def parted(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """Those to practise, and those of the exam."""
    return [t for n, t in enumerate(turns) if n % OF_EXAM], turns[::OF_EXAM]
