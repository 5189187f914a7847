"""What the doctor shows: prompts with their label masks, adapters, frozen parts and few-shot examples."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from mllmu.core.records import MODALITIES, Sample
from mllmu.models.encoding import as_turn
from mllmu.models.engine.raw_prompt import encode
from mllmu.models.families import Turn, core
from mllmu.models.loading import Loaded
from mllmu.preflight.doctor.checks import label_mask, matching, people_in_shots
from mllmu.preflight.doctor.examine import Examination, TrainingJob, spread


def describe(examination: Examination, count: int) -> Iterator[str]:
    """All lines, with ``count`` turns and samples per modality; those with a missing image are left out."""
    yield "Training turns: [trained token], other|tokens, image tokens counted"
    for names, job in _distinct(examination.jobs):
        yield f"  {', '.join(names)}"
        for turn in filter(_readable, spread(job.turns, count)):
            mask = label_mask(examination.loaded, turn, job.method)
            tokens = draw_tokens(mask.ids, mask.trained, examination.loaded)
            yield f"    {_modality(turn)}, {turn.person}: {tokens}"
    for label, samples in examination.samples.items():
        yield f"Evaluation samples{f' under {label}' if label else ''}: [token of the right reply, scored]"
        for sample in _forget_samples(samples, count):
            turn = as_turn(sample, examination.dataset.folder, "")
            if _readable(turn):
                yield f"  {sample.id} ({sample.task}): {_sample(examination, sample, turn)}"
    yield "Parts of the model"
    yield from _parts(examination)
    yield "Few-shot examples"
    yield from _shots(examination)


def _distinct(jobs: Iterable[TrainingJob]) -> Iterator[tuple[list[str], TrainingJob]]:
    """One of the jobs that train the same tokens of the same modalities, and the names of all of them."""
    groups: dict[tuple[object, ...], list[TrainingJob]] = {}
    for job in jobs:
        labels = (job.method.loss_on, job.method.train_end) if job.method else ("answer", True)
        groups.setdefault((*labels, frozenset(map(_modality, job.turns))), []).append(job)
    for members in groups.values():
        yield [job.name for job in members], members[0]


def _modality(turn: Turn) -> str:
    return "image_text" if turn.images else "text"


def _readable(turn: Turn) -> bool:
    return all(image.is_file() for image in turn.images)


def _forget_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """For each modality ``count`` samples of the forget set, its tasks in turn."""
    chosen: list[Sample] = []
    for modality in MODALITIES:
        forget = [s for s in samples if s.modality == modality and s.split == "forget"]
        by_task = {task: [s for s in forget if s.task == task] for task in dict.fromkeys(s.task for s in forget)}
        in_turn = [s for i in range(count) for of_task in by_task.values() for s in of_task[i : i + 1]]
        chosen += in_turn[:count]
    return chosen


def _sample(examination: Examination, sample: Sample, turn: Turn) -> str:
    loaded = examination.loaded
    if sample.raw_prompt:  # its reply is generated, nothing is scored
        prompt = encode(loaded, sample, examination.dataset.folder)["input_ids"][0].tolist()
        return draw_tokens(prompt, [False] * len(prompt), loaded)
    prompt, reply = loaded.encoder.prompt(turn), loaded.encoder.reply(sample.target)
    return draw_tokens([*prompt, *reply], [False] * len(prompt) + [True] * len(reply), loaded)


def _parts(examination: Examination) -> Iterator[str]:
    adapted = {name for job in examination.jobs for name in matching(examination.modules, job.pattern)}
    for name, part in core(examination.loaded.model).model.named_children():
        size = sum(parameter.numel() for parameter in part.parameters())
        count = sum(module.startswith(f"model.{name}.") for module in adapted)
        state = f"{count} layers are trained or adapted, the rest is frozen" if count else "frozen"
        yield f"  model.{name}: {size:,} parameters, {state}"


def _shots(examination: Examination) -> Iterator[str]:
    names = examination.dataset.names
    for label, samples in examination.samples.items():
        people = sorted(people_in_shots(examination.dataset, samples))
        most = max((len(sample.examples) for sample in samples), default=0)
        listed = ", ".join(f"{person} ({names.get(person, 'unknown')})" for person in people)
        text = f"at most {most} before a question, about {listed}" if people else "none"
        yield f"  {f'under {label}: ' if label else ''}{text}"


def draw_tokens(ids: Sequence[int], trained: Sequence[bool], loaded: Loaded) -> str:
    """A row of tokens: ``[trained]``, other tokens separated by ``|``, image tokens counted.

    ``<image> x576|Where|is|...|ANT|:[ Riga][</s>]``
    """
    drawn = ""
    tokenizer, image = loaded.encoder.processor.tokenizer, loaded.image_token_id
    runs = groupby(enumerate(zip(ids, trained, strict=True)), key=lambda item: item[1] if item[1][0] == image else item)
    for _, run in runs:
        items = list(run)
        token, counts = items[0][1]
        text = _token_text(tokenizer, token) + (f" x{len(items)}" if len(items) > 1 else "")
        separator = "|" if drawn and not counts and not drawn.endswith("]") else ""
        drawn += f"[{text}]" if counts else f"{separator}{text}"
    return drawn


def _token_text(tokenizer: Any, token: int) -> str:
    """A token as text with the blank before it; what is not printable is escaped."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    text = str(tokenizer.decode([token]))
    if piece[:1] in ("▁", "Ġ") and not text.startswith(" "):
        text = f" {text}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
