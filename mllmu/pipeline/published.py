"""Evaluate one saved model on parquet files exactly as the published evaluator does; no recipe, no run.

Writes ``responses.jsonl`` and ``metrics.json``. Replies are kept one by one, so the same command goes on where it was
stopped; ``inputs.json`` says what they depend on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from mllmu.config.recipe import ModelSection
from mllmu.core import plugins
from mllmu.core.errors import DataError, RunStoreError, did_you_mean
from mllmu.core.jsonl import Journal, parse_lines
from mllmu.core.progress import Progress
from mllmu.core.records import MetricResult, ModelRef, Question, Record, Response, Sample, TaskName
from mllmu.core.runfolder import RunFolder, difference, read_json, write_atomic
from mllmu.data.published.sets import PUBLISHED_SPLITS, PublishedSets, read_sets
from mllmu.evaluation import published, scoring
from mllmu.models.encoding import Encoder
from mllmu.models.engine.raw_prompt import check_longest, respond_raw
from mllmu.models.families import Family
from mllmu.models.loading import Loaded, family_of, load, quiet_libraries, source_of

RESPONSES, METRICS, INPUTS, PARTIAL = "responses.jsonl", "metrics.json", "inputs.json", "responses.partial.jsonl"
MORE_METRICS = ("accuracy", "right", "wrong", "refused", "garbled")
"""Beside the published scores: what a collapsed model cannot hide."""


class Reply(Record):
    """One line of ``responses.jsonl``. ``reply`` is what was cut out of the dialogue by the published rule."""

    sample_id: str
    person_id: str
    set: str
    task: TaskName
    modality: str
    question: str
    prompt: str
    reply: str
    truth: str
    num_tokens: int
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is evaluated, on what, and what the published evaluator would have drawn.

    Attributes:
        model: base model, precision and device.
        ref: the model itself, with adapters relative to ``root``.
        data: folder of the published configs.
        ratio: forgotten people in percent.
        shots: ids of the people whose questions are examples, by task.
        test_image: index of the image shown in the test set.
    """

    model: ModelSection
    ref: ModelRef
    root: Path
    data: Path
    ratio: int
    shots: Mapping[TaskName, Sequence[str]]
    test_image: int = 0

    def inputs(self) -> dict[str, Any]:
        """What the replies depend on, as plain values; files by size and time of change."""
        base = Path(source_of(self.ref.base))
        folders = [base, *(self.root / adapter for adapter in self.ref.adapters), self.data]
        return {
            "model": self.model.model_dump(mode="json", exclude={"device"}),
            "ref": self.ref.model_dump(mode="json"),
            "data": str(self.data),
            "forget_ratio": self.ratio,
            "shots": {task: sorted(ids) for task, ids in self.shots.items()},
            "test_image": self.test_image,
            "files": {str(path): stamp for folder in folders for path, stamp in _stamps(folder)},
        }


def _stamps(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file():
            stat = path.stat()
            yield path, f"{stat.st_size} bytes, changed at {stat.st_mtime_ns}"


def model_at(path: str, section: ModelSection) -> tuple[ModelSection, ModelRef, Path]:
    """A saved model: 'tiny', a folder of ``save_pretrained``, a hub id, or the folder of a model in a run folder."""
    reference = Path(path) / RunFolder.MODEL_FILE
    if not reference.is_file():
        return section.model_copy(update={"path": path}), ModelRef(base=path, revision=section.revision), Path()
    ref = ModelRef.model_validate_json(reference.read_text(encoding="utf-8"))
    root = next((p.parent for p in reference.resolve().parents if p.name == "models"), reference.parent)
    return section.model_copy(update={"path": ref.base, "revision": ref.revision}), ref, root


def evaluate_published(plan: Plan, out: Path, progress: Progress, *, force: bool = False) -> list[MetricResult]:
    """Ask all questions of the four sets and score the replies; returns the numbers that ``metrics.json`` holds.

    Raises:
        DataError: a file of the data is missing or damaged, or an example person is in no set.
        ModelError: the model cannot be loaded, or a prompt does not fit its context.
        RunStoreError: the folder holds replies that depend on something else.
    """
    progress.stage("evaluate", f"{plan.ref.base}, official protocol, {plan.ratio} % forgotten")
    sets = read_sets(plan.data, plan.ratio, test_image=plan.test_image)
    asked = render(sets, plan.shots, family=family_of(plan.model))
    known = _start(out, plan.inputs(), force=force)
    replies = _ask(plan, asked, sets, known, out, progress)
    metrics = [plugins.build("metrics", name, {}) for name in (*published.METRICS, *MORE_METRICS)]
    samples = [sample for _, sample in asked]
    results = scoring.aggregate("model", samples, scoring.score_all(samples, replies, metrics), metrics)
    lines = (_line(question, sample, reply) for (question, sample), reply in zip(asked, replies, strict=True))
    write_atomic(out / RESPONSES, "".join(_one_line(line) + "\n" for line in lines))
    write_atomic(out / METRICS, json.dumps(_summary(plan, asked, results), indent=1, ensure_ascii=False) + "\n")
    (out / PARTIAL).unlink(missing_ok=True)
    return results


def render(
    sets: PublishedSets, shots: Mapping[TaskName, Sequence[str]], *, family: Family
) -> list[tuple[Question, Sample]]:
    """All questions that are asked, set by set and task by task, with the samples they become."""
    _check_shots(sets, shots)
    return [pair for split in PUBLISHED_SPLITS for pair in _of_set(sets, split, shots, family=family)]


def _of_set(
    sets: PublishedSets, split: Any, shots: Mapping[TaskName, Sequence[str]], *, family: Family
) -> Iterator[tuple[Question, Sample]]:
    tasks: tuple[TaskName, ...] = ("cloze", "classification", "generation")
    for task in tasks:
        nobody = split == "celebrity" and task == "classification"  # published: this set is asked without examples
        examples = [] if nobody else sets.shot_people(split, shots.get(task, ()))
        used = [
            published.ExampleQuestion(question=q, image=p.image)
            for p in examples
            for q in p.questions
            if q.task == task
        ]
        taken = {_place(shot.question) for shot in used}
        for person in sets.people[split]:
            for question in person.questions:
                if question.task == task and _place(question) not in taken:
                    yield (
                        question,
                        published.sample(
                            question,
                            split=split,
                            image=person.image,
                            shots=used,
                            letter_tokens=family.published_letter_tokens,
                        ),
                    )


def _place(question: Question) -> tuple[str, str, str, str]:
    """A question's place in the published lists, the same in Full_Set and Test_Set."""
    return question.profile_id, question.task, question.modality, question.id.rpartition(".")[2]


def _check_shots(sets: PublishedSets, shots: Mapping[TaskName, Sequence[str]]) -> None:
    known = {person.id for people in sets.people.values() for person in people}
    for task, ids in shots.items():
        for person in ids:
            if person not in known:
                raise DataError(
                    f"--shots {task}={','.join(ids)}: nobody with the ID '{person}' is in the four sets."
                    f"{did_you_mean(person, known)} Expected IDs of the parquet files."
                )


def _start(out: Path, inputs: dict[str, Any], *, force: bool) -> dict[str, Response]:
    """The replies that are there already; refuses a folder whose replies depend on something else."""
    before = read_json(out / INPUTS)
    if before and before != inputs and not force:
        raise RunStoreError(
            f"{out}: holds replies made with other settings: {difference(before, inputs)}. "
            "Use --force to replace them, or another folder with --out."
        )
    if force or before != inputs:
        for name in (PARTIAL, RESPONSES, METRICS):
            (out / name).unlink(missing_ok=True)
    write_atomic(out / INPUTS, json.dumps(inputs, indent=1, ensure_ascii=False) + "\n")
    return {reply.sample_id: reply for reply in _kept(out)}


def _kept(out: Path) -> Iterator[Response]:
    """Replies of an unfinished evaluation, a last line cut short left out; or those of a finished one."""
    if (out / RESPONSES).is_file():
        for line in parse_lines((out / RESPONSES).read_text(encoding="utf-8"), Reply, where=str(out / RESPONSES)):
            yield Response(
                sample_id=line.sample_id, text=line.reply, num_tokens=line.num_tokens, finished=line.finished
            )
    elif (out / PARTIAL).is_file():
        text = (out / PARTIAL).read_bytes().decode("utf-8", errors="ignore")
        yield from parse_lines(text[: text.rfind("\n") + 1], Response, where=str(out / PARTIAL))


def _ask(
    plan: Plan,
    asked: Sequence[tuple[Question, Sample]],
    sets: PublishedSets,
    known: dict[str, Response],
    out: Path,
    progress: Progress,
) -> list[Response]:
    missing = [sample for _, sample in asked if sample.id not in known]
    progress.start("replies", len(asked))
    progress.advance(len(asked) - len(missing))
    if missing:
        loaded = load_as_published(plan)
        journal = Journal(out / PARTIAL, Response)
        check_longest(loaded, missing, sets.images.open)
        for reply in respond_raw(loaded, missing, sets.images.open, system_prompt=plan.ref.system_prompt):
            journal.append([reply])
            known[reply.sample_id] = reply
            progress.advance()
    progress.finish()
    return [known[sample.id] for _, sample in asked]


def load_as_published(plan: Plan) -> Loaded:
    """The model with the library's own attention and the processor as it is stored, as the published script has it."""
    loaded = load(plan.model.model_copy(update={"attn_implementation": "sdpa"}), plan.ref, plan.root)
    with quiet_libraries():
        processor = AutoProcessor.from_pretrained(
            source_of(plan.ref.base), revision=plan.ref.revision, trust_remote_code=False
        )
    return replace(loaded, encoder=Encoder(loaded.family, processor, loaded.encoder.context))


def _line(question: Question, sample: Sample, reply: Response) -> dict[str, Any]:
    return Reply(
        sample_id=sample.id,
        person_id=sample.profile_id,
        set=sample.split,
        task=sample.task,
        modality=sample.modality,
        question=question.text,
        prompt=sample.prompt,
        reply=reply.text,
        truth=sample.target,
        num_tokens=reply.num_tokens,
        finished=reply.finished,
    ).model_dump()


def _one_line(value: dict[str, Any]) -> str:
    """JSON that stays one line for every reader: some end a line at U+0085, U+2028 or U+2029 too."""
    text = json.dumps(value, ensure_ascii=False)
    for mark in ("\x85", "\u2028", "\u2029"):
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _summary(plan: Plan, asked: Sequence[tuple[Question, Sample]], results: Sequence[MetricResult]) -> dict[str, Any]:
    return {
        "protocol": "official",
        "model": plan.ref.model_dump(mode="json"),
        "forget_ratio": plan.ratio,
        "shots": {task: list(ids) for task, ids in plan.shots.items()},
        "test_image": plan.test_image,
        "num_questions": len(asked),
        "results": [result.model_dump(mode="json", exclude={"model"}) for result in results],
        "published_layout": published.published_layout(results),
    }
