"""A run folder as large as one likes, with made-up replies: what the explorer is measured on.

``python -m benchmarks.explorer_run DIR --questions 20754 --models 20``
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml
from PIL import Image

from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.runfolder import RunFolder, RunStore, seal, write_atomic, write_json

SPLITS = ("forget", "test", "retain", "celebrity", "holdout")
SHARES = (0.1, 0.1, 0.6, 0.15, 0.05)
TASKS = {
    "classification": ("accuracy", "accuracy_logp", "accuracy_first_char"),
    "generation": ("rougeL", "rouge1", "rouge2", "rougeL_recall", "bleu", "probability", "truth_ratio"),
    "cloze": ("cloze_contains", "cloze_exact", "probability", "truth_ratio"),
}
HEADLINES = {"classification": "accuracy", "generation": "rougeL", "cloze": "cloze_contains"}
OUTCOMES = ("right", "wrong", "refused", "unread", "garbled")
ENDINGS = ("cut_short", "ran_on")
ATTRIBUTES = (
    "salary",
    "job",
    "education",
    "residence",
    "birth_date",
    "pet",
    "mother_job",
    "father_job",
    "hobby",
    "food",
)
WORDS = ("harbour", "pilot", "Lisbon", "archive", "$58,000", "nurse", "Helsinki", "grey", "parrot", "botanist",
         "Denver", "12 June 1993", "chess", "mushroom", "soup", "surveyor", "Riga", "glass", "Turin")  # fmt: skip
FORGETS = {TARGET: 0.05, RETAIN_MODEL: 0.75}
"""Share of the questions about people to forget that a model does not answer right; others differ by their number."""


def samples(count: int, people: int, draw: Random) -> Iterator[dict[str, Any]]:
    """Questions of all sets, tasks and modalities, person by person."""
    edges = [sum(SHARES[: i + 1]) for i in range(len(SHARES))]
    for number in range(count):
        person = number * people // count
        split = next(s for s, edge in zip(SPLITS, edges, strict=True) if (person + 0.5) / people <= edge)
        task = list(TASKS)[number % 3]
        modality = ("image_text", "text")[number // 3 % 2]
        attribute = ATTRIBUTES[number // 6 % len(ATTRIBUTES)]
        options = {letter: " ".join(draw.sample(WORDS, 2)) for letter in "ABCD"} if task == "classification" else {}
        value = options["B"] if options else " ".join(draw.sample(WORDS, 2))
        who = "this person" if modality == "image_text" else f"Person {person}"
        asked = f"What is recorded as the {attribute.replace('_', ' ')} of {who} in source {number}?"
        prompt = "\n".join([asked, *(f"{k}: {v}" for k, v in options.items()), "Answer as briefly as you can."])
        target = "B" if options else f"It is {value}." if task == "generation" else value
        keys = options or {"target": target, "rewording": value, "wrong_0": "grey", "wrong_1": "Riga"}
        name = f"p{person:04d}.eval.{task}.{modality}.{number}"
        yield {
            **{"id": f"{split}/{name}", "question_id": name, "profile_id": f"p{person:04d}", "split": split},
            **{"task": task, "modality": modality, "attribute": attribute, "prompt": prompt, "target": target},
            **({"image": f"images/p{person:04d}_0.png"} if modality == "image_text" else {}),
            **{"value": value, "candidates": {k: k if options else v for k, v in keys.items()}, "max_new_tokens": 50},
            **({"options": options} if options else {}),
        }


def reply(sample: dict[str, Any], forgets: float, draw: Random) -> tuple[str, str]:
    """A reply and its outcome."""
    concerned = sample["split"] in ("forget", "test")
    if draw.random() >= (forgets if concerned else forgets / 4):
        return sample["target"], "right"
    outcome = draw.choice(OUTCOMES[1:])
    words = " ".join(draw.choices(WORDS, k=2 if sample["task"] != "generation" else 12))
    return {"wrong": words, "refused": "I do not know.", "unread": f"Well, {words}", "garbled": "zxq " * 9}[
        outcome
    ], outcome


def write_model(store: RunStore, folder: str, asked: list[dict[str, Any]], forgets: float, draw: Random) -> None:
    """The responses and scores of one model, as units."""
    responses, scores = [], []
    for sample in asked:
        text, outcome = reply(sample, forgets, draw)
        logps = {key: {"logp": round(-8 * draw.random(), 6), "num_tokens": 3} for key in sample["candidates"]}
        line = {"sample_id": sample["id"], "text": text, "num_tokens": len(text) // 4, "finished": outcome != "unread"}
        responses.append(json.dumps({**line, "candidates": logps}, separators=(",", ":")))
        right = outcome == "right"
        values: dict[str, float | None] = {
            m: (1.0 if right else round(draw.random(), 4)) for m in TASKS[sample["task"]]
        }
        if sample["task"] == "classification":
            values |= {m: float(right) for m in TASKS["classification"]}
        values |= {o: float(o == outcome) for o in OUTCOMES} | dict.fromkeys(ENDINGS, 0.0)
        if outcome == "unread" and sample["task"] == "classification":
            values["accuracy"] = None
        for metric, value in values.items():
            reason = ',"reason":"the reply names no option"' if value is None else ""
            number = "null" if value is None else value
            scores.append(f'{{"sample_id":"{sample["id"]}","metric":"{metric}","value":{number}{reason}}}')
    for name, file, lines in (
        (RunFolder.RESPONSES, RunFolder.RESPONSES_FILE, responses),
        (RunFolder.SCORES, RunFolder.SCORES_FILE, scores),
    ):
        unit = store.unit(f"{folder}/{name}", {})
        if not unit.done:
            with unit.making():
                write_atomic(unit.building / file, "\n".join(lines) + "\n")


def write_run(root: Path, *, questions: int, models: int, people: int = 500) -> Path:
    """Write the run folder; what is there is kept."""
    draw = Random(0)  # noqa: S311 - nothing secret
    asked = list(samples(questions, people, draw))
    names = [TARGET, RETAIN_MODEL, *(f"method_{number:02d}" for number in range(1, models - 1))]
    evaluation = RunFolder.evaluation("10")
    write_atomic(root / ".mllmu", "Made by mllmu, which may write here.\n")
    methods = [{"name": "npo", "label": name} for name in names[2:]]
    recipe = {"name": "large", "data": {"splits": {"forget_ratios": [0.1]}}, "unlearn": {"methods": methods}}
    write_atomic(root / RunFolder.RECIPE, yaml.safe_dump(recipe))
    write_people(root, asked)
    lines = "".join(json.dumps(sample, separators=(",", ":")) + "\n" for sample in asked)
    write_atomic(root / evaluation / RunFolder.SAMPLES_FILE, lines)
    for number, name in enumerate(names):
        write_model(RunStore(root), f"{evaluation}/{name}", asked, FORGETS.get(name, number / models), draw)
    write_json(root / evaluation / RunFolder.METRICS_FILE, seal({"results": [], "declared": declared()}))
    return root


def write_people(root: Path, asked: list[dict[str, Any]]) -> None:
    """The data folder: people, and a small portrait of each."""
    unit = RunStore(root).unit(RunFolder.DATA, {})
    if unit.done:
        return
    people = dict.fromkeys(sample["profile_id"] for sample in asked)
    with unit.making():
        lines = [{"id": p, "kind": "fictitious", "attributes": {"name": f"Person {int(p[1:])}"}} for p in people]
        write_atomic(unit.building / "profiles.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        for number, person in enumerate(people):
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64), (number * 7 % 256, number * 13 % 256, number * 29 % 256)).save(buffer, "PNG")
            write_atomic(unit.building / "images" / f"{person}_0.png", buffer.getvalue())


def declared() -> dict[str, Any]:
    """What the metrics, tasks and sets are called."""
    metrics = {name: {"label": name} for name in dict.fromkeys(m for own in TASKS.values() for m in own)}
    metrics |= {name: {"label": name.capitalize(), "outcome": True} for name in OUTCOMES}
    tasks = {name: {"label": name.capitalize(), "metric": metric} for name, metric in HEADLINES.items()}
    return {"metrics": metrics, "tasks": tasks, "splits": {name: {"label": name.capitalize()} for name in SPLITS}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=20_754)
    parser.add_argument("--models", type=int, default=20)
    given = parser.parse_args()
    print(write_run(given.folder, questions=given.questions, models=given.models))
