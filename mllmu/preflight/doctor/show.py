"""What the doctor shows: prompts with their label masks, adapters, frozen parts, shots and the room of the context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mllmu.core.records import Sample
from mllmu.models.engine.raw_prompt import encode
from mllmu.models.engine.respond import as_turn, opener
from mllmu.models.families import Turn
from mllmu.preflight.doctor import data_checks, masks, model_checks
from mllmu.preflight.doctor.examine import Case, Trained, chosen_samples, spread

NUM_TARGETS = 3


def shown(case: Case, count: int) -> Iterator[str]:
    """All lines; turns and samples whose images are missing are left to the checks."""
    yield "Training turns: [trained token], other|tokens, image tokens counted"
    for names, one in _distinct(case):
        yield f"  {', '.join(names)}"
        for turn in spread(one.turns, count):
            if _complete(turn.images):
                yield f"    {_modality(turn)}, {turn.person}: {_trained(case, one, turn)}"
    for label, samples in case.samples.items():
        yield f"Evaluation samples{f' under {label}' if label else ''}: [token of the right reply, scored]"
        for sample in chosen_samples(samples, count):
            turn = as_turn(sample, case.dataset.folder, "")
            if _complete(turn.images):
                yield f"  {sample.id} ({sample.task}): {_asked(case, sample, turn)}"
    yield "Adapters and frozen parts"
    yield from _adapters(case)
    yield "Shots"
    yield from _shots(case)


def _distinct(case: Case) -> Iterator[tuple[list[str], Trained]]:
    """One of those that train the same turns' tokens alike, and the names of all of them."""
    groups: dict[tuple[object, ...], list[Trained]] = {}
    for one in case.trained:
        method = one.method
        kind = ("answer", True) if method is None else (method.loss_on, method.train_end)
        groups.setdefault((*kind, frozenset(_modality(turn) for turn in one.turns)), []).append(one)
    for members in groups.values():
        yield [one.name for one in members], members[0]


def _modality(turn: Turn) -> str:
    return "image_text" if turn.images else "text"


def _complete(images: tuple[Path, ...]) -> bool:
    return all(image.is_file() for image in images)


def _trained(case: Case, one: Trained, turn: Turn) -> str:
    seen = masks.masked(case.loaded, turn, one.method)
    return masks.drawn(seen.ids, seen.trained, case.loaded)


def _asked(case: Case, sample: Sample, turn: Turn) -> str:
    if sample.raw_prompt:  # replies are written, nothing is scored
        prompt = encode(case.loaded, sample, opener(case.dataset.folder))["input_ids"][0].tolist()
        return masks.drawn(prompt, [False] * len(prompt), case.loaded)
    prompt, reply = case.loaded.encoder.prompt(turn), case.loaded.encoder.reply(sample.target)
    return masks.drawn([*prompt, *reply], [False] * len(prompt) + [True] * len(reply), case.loaded)


def _adapters(case: Case) -> Iterator[str]:
    patterns: dict[str, list[str]] = {}
    for one in case.trained:
        patterns.setdefault(one.pattern, []).append(one.name)
    for pattern, names in patterns.items():
        matched = model_checks.targets_of(case.layers, pattern)
        yield f"  {', '.join(names)}: {len(matched)} layers match {pattern}"
        yield f"    {', '.join(matched[:NUM_TARGETS])}{', ...' if len(matched) > NUM_TARGETS else ''}"
    for name, (size, adapted) in model_checks.frozen_parts(case.loaded.model, patterns).items():
        state = f"{adapted} layers are trained or adapted, the rest is frozen" if adapted else "frozen"
        yield f"  {name}: {size:,} parameters, {state}"


def _shots(case: Case) -> Iterator[str]:
    for label, samples in case.samples.items():
        people = data_checks.shot_people(case.dataset, samples)
        where = f"under {label}: " if label else ""
        most = max((len(sample.examples) for sample in samples), default=0)
        names = ", ".join(f"{person} ({case.dataset.names.get(person, 'unknown')})" for person in sorted(people))
        yield f"  {where}at most {most} before a question, about {names}" if people else f"  {where}none"
