"""Evaluate one saved model on parquet files exactly as the published evaluator does: a run of that model alone.

``responses.jsonl`` and ``metrics.json`` of the folder hold the result; the units of the run stand beside them, so the
same command continues where it was stopped.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from peft.utils import CONFIG_NAME
from transformers import AutoConfig

from mllmu.config.recipe import ModelSection, Recipe
from mllmu.core.content import content_digest
from mllmu.core.errors import DataError, ModelError, did_you_mean
from mllmu.core.names import TARGET
from mllmu.core.process import Progress
from mllmu.core.records import MetricResult, ModelRef, Question, Response, Sample, Split, TaskName
from mllmu.core.runfolder import UNIT_FILE, RunFolder, intact, read_record, seal, unit_record, write_atomic, write_json
from mllmu.data.dataset import Dataset
from mllmu.data.published.sets import write_sets
from mllmu.data.tasks import OUTCOMES
from mllmu.evaluation import published, scoring
from mllmu.evaluation.metrics import metrics_of
from mllmu.models.base_files import BASE, base_files, check_base
from mllmu.models.checkpoints import adapter_base, advice, is_adapter
from mllmu.models.encoding import Encoder
from mllmu.models.loading import (
    Loaded,
    choose_family,
    context_length,
    explain_load_faults,
    load,
    load_processor,
    source_of,
)
from mllmu.pipeline.evaluate import Evaluation, read_known
from mllmu.pipeline.record import describe, settle_threads
from mllmu.pipeline.run import SAME_MODEL, Run, write_ref

MODEL = "model"
"""Name of the evaluated model in the run."""
MORE_METRICS = ("accuracy", *OUTCOMES)
"""Beside the published scores: what a collapsed model cannot hide."""


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A model to evaluate, on what, and what the published evaluator would have drawn.

    Attributes:
        model: base model, precision and device.
        ref: the model itself, with adapters relative to ``root``.
        data: folder of the published configs.
        ratio: forgotten people in percent.
        shots: ids of the people whose questions are examples, by task, in the sets they belong to; or by task and set.
        test_image: index of the image shown in the test set, for everyone, by person, or by task and person.
        processor: folder or hub id of the processor, if none lies beside the model.
        batch_size: prompts at once. 1: each is read by itself, as the published script does; more, or ``auto``: common
            beginnings of prompts are read once, which gives the same replies in float32 and much sooner.
    """

    model: ModelSection
    ref: ModelRef
    root: Path
    data: Path
    ratio: int
    shots: Mapping[TaskName, Sequence[str] | Mapping[Split, Sequence[str]]]
    test_image: int | Mapping[str, Any] = 0
    processor: str = ""
    batch_size: int | Literal["auto"] = 1

    @property
    def recipe(self) -> Recipe:
        """The evaluation as a recipe: attention of the library, and every reply is kept before the next question."""
        shots = {"classification": 0, "cloze": 0, **self.shots}
        evaluate = {
            "protocol": {"name": "official", "shots": shots, "test_image": self.test_image},
            "metrics": [*published.METRICS, *MORE_METRICS],
            "batch_size": self.batch_size,
        }
        base = {"path": self.ref.base, "revision": self.ref.revision}
        model = self.model.model_dump() | base | {"attn_implementation": "sdpa"}
        return Recipe.model_validate({"name": "saved", "model": model, "evaluate": evaluate})


class PublishedRun(Run):
    """A run whose model reads prompts with the processor as it is stored with the model."""

    processor = ""

    def load(self, ref: ModelRef) -> Loaded:
        section, source = self.recipe.model, source_of(ref.base)
        stored, revision = (self.processor, None) if self.processor else (source, ref.revision)
        with explain_load_faults(f"model.path: '{ref.base}' cannot be loaded", partial(advice, source)):
            config = AutoConfig.from_pretrained(source, revision=ref.revision, trust_remote_code=False)
        expected = "Expected the processor that the model was trained with: name its folder by --processor DIR."
        with explain_load_faults(f"{stored}: no processor can be loaded from there", expected):
            processor = load_processor(stored, revision, {})
        family = choose_family(section.family, getattr(config, "mllmu_family", str(config.model_type)))
        return load(section, ref, self.root, Encoder(family, processor, context_length(config.get_text_config())))


def model_at(path: str, section: ModelSection) -> tuple[ModelSection, ModelRef, Path]:
    """A saved model: 'tiny', a folder of ``save_pretrained``, a hub id, an adapter, or a model in a run folder.

    Raises:
        ModelError: an adapter that does not name its base, or a model whose adapters lie outside of its folder.
        RunStoreError: a model of a run whose base is another one by now.
    """
    reference = Path(path) / RunFolder.MODEL_FILE
    if is_adapter(Path(path)) and not reference.is_file():
        base, adapter = adapter_base(Path(path)), str(Path(path).resolve())
        if not base:
            raise ModelError(
                f"{path}: an adapter that names no base ({CONFIG_NAME}: base_model_name_or_path). Name it."
            )
        return section.model_copy(update={"path": base}), ModelRef(base=base, adapters=(adapter,)), Path()
    if not reference.is_file():
        return section.model_copy(update={"path": path}), ModelRef(base=path, revision=section.revision), Path()
    ref: ModelRef = read_record(reference, ModelRef)
    root = next((p.parent for p in reference.resolve().parents if p.name == "models"), reference.parent).resolve()
    outside = [name for name in ref.adapters if not (root / name).resolve().is_relative_to(root)]
    if outside and not intact(reference.parent):
        raise ModelError(
            f"{reference}: adapters: '{outside[0]}' lies outside of {root}, and no run has recorded this file. "
            "Expected folders inside of it: copy the adapter there, or evaluate the adapter itself by --model."
        )
    check_base(root / RunFolder.model_unit("", TARGET), base_files(ref.base, ref.revision), ref.base)
    return section.model_copy(update={"path": ref.base, "revision": ref.revision}), ref, root


def evaluate_published(saved: SavedModel, out: Path, progress: Progress, *, force: bool = False) -> list[MetricResult]:
    """Ask all questions of the four sets and score the replies; returns the numbers that ``metrics.json`` holds.

    Raises:
        DataError: a file of the data is missing or damaged, or an example person is in no set.
        ModelError: the model cannot be loaded, or a prompt does not fit its context.
        RunStoreError: the folder holds replies that depend on something else.
    """
    progress.stage("evaluate", f"{saved.ref.base}, official protocol, {saved.ratio} % forgotten")
    run = PublishedRun(saved.recipe, out, progress)
    run.store.force, run.processor = force or not has_responses(out), saved.processor
    run.shares_prompts = saved.batch_size != 1
    settle_threads(run)
    write_json(out / RunFolder.RECORD, seal(describe(run)))
    evaluation = Evaluation(run, str(saved.ratio))
    _make_data(run, saved)
    _check_shots(saved.shots, {profile.id for profile in run.data.profiles})
    examples = examples_by_set(saved, run.data)
    for task, by_set in examples.items():
        for split in (split for split, people in by_set.items() if not people):
            progress.note(f"--shots {task}: no listed person is in the set '{split}', so it is asked without examples.")
    _enter_model(run, saved)
    evaluation.prepare()
    responses = evaluation.asked(MODEL)
    metrics = metrics_of(run.recipe.evaluate)
    results = scoring.aggregate(MODEL, evaluation.samples, evaluation.scores(MODEL, metrics), metrics)
    questions = {question.id: question for question in run.data.questions}
    lines = (
        json_line(_line(questions[sample.question_id], sample, response))
        for sample, response in zip(evaluation.samples, responses, strict=True)
    )
    write_atomic(out / RunFolder.RESPONSES_FILE, "".join(f"{line}\n" for line in lines))
    summary = _summary(saved, examples, len(responses), results)
    write_json(out / RunFolder.METRICS_FILE, seal(summary))
    return results


def has_responses(root: Path) -> bool:
    """Whether there are responses that depend on the data and the model entered in a folder, also unfinished ones.

    Where there are none, as after a model that could not be loaded, other data and another model may take their place.
    """
    units = root.glob(f"{RunFolder.evaluation('*')}/{MODEL}/{RunFolder.RESPONSES}/{UNIT_FILE}")
    partial = root.glob(f"{RunFolder.evaluation('*')}/{MODEL}/.{RunFolder.RESPONSES}.building")
    return any(units) or any(map(read_known, partial))


def _make_data(run: Run, saved: SavedModel) -> None:
    inputs = {
        "forget_ratio": saved.ratio,
        "test_image": _one_image(saved),
        "files": dict(_stamps(saved.data)) or unit_record(run.root / RunFolder.DATA).get("inputs", {}).get("files", {}),
    }
    unit = run.store.unit(RunFolder.DATA, inputs)
    if not unit.done:
        with unit.making():
            write_sets(saved.data, saved.ratio, unit.building, test_image=_one_image(saved))


def _one_image(saved: SavedModel) -> int:
    """The index that everyone must have; those by person are looked up when questions are put."""
    return saved.test_image if isinstance(saved.test_image, int) else 0


def examples_by_set(saved: SavedModel, data: Dataset) -> dict[TaskName, dict[Split, list[str]]]:
    """Whose questions are examples, by task and set, of the sets that have any."""
    forget = data.splits[str(saved.ratio)]
    members: dict[Split, Sequence[str]] = {"forget": forget, "test": forget, "retain": data.retained(str(saved.ratio))}
    found: dict[TaskName, dict[Split, list[str]]] = {}
    for task, people in saved.shots.items():
        by_set = people if isinstance(people, Mapping) else dict.fromkeys(members, people)
        found[task] = {
            split: [person for person in by_set.get(split, ()) if person in members[split]] for split in members
        }
    return found


def _check_shots(shots: Mapping[TaskName, Sequence[str] | Mapping[Split, Sequence[str]]], known: set[str]) -> None:
    for task, listed in shots.items():
        ids = [*chain(*listed.values())] if isinstance(listed, Mapping) else listed
        for person in ids:
            if person not in known:
                raise DataError(
                    f"--shots {task}={','.join(ids)}: nobody with the ID '{person}' is in the four sets."
                    f"{did_you_mean(person, known)} Expected IDs of the parquet files."
                )


def _enter_model(run: Run, saved: SavedModel) -> None:
    """Make the saved model one of the run; its files stay where they are."""
    ref = saved.ref.model_copy(
        update={"adapters": tuple(str((saved.root / adapter).resolve()) for adapter in saved.ref.adapters)}
    )
    inputs = {
        BASE: base_files(ref.base, ref.revision, keep_in=run.root),
        "model": run.recipe.model.model_dump(mode="json", exclude=SAME_MODEL),
        "adapters": [content_digest(Path(adapter)) for adapter in ref.adapters],
        "system_prompt": ref.system_prompt,
        "shots": examples_by_set(saved, run.data),
        "processor": base_files(saved.processor, setting="--processor") if saved.processor else {},
    }
    unit = run.store.unit(RunFolder.model_unit(str(saved.ratio), MODEL), inputs)
    if not unit.done:
        with unit.making():
            write_ref(unit, ref)


def _stamps(folder: Path) -> Iterator[tuple[str, str]]:
    """Size and time of change of all files in a folder, by path: their contents are too large to read every time."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file():
            stat = path.stat()
            yield path.relative_to(folder).as_posix(), f"{stat.st_size} bytes, changed at {stat.st_mtime_ns}"


def _line(question: Question, sample: Sample, response: Response) -> dict[str, Any]:
    """A line of ``responses.jsonl``; ``reply`` is what was cut out of the dialogue by the published rule."""
    return {
        "sample_id": sample.id,
        "person_id": sample.profile_id,
        "set": sample.split,
        "task": sample.task,
        "modality": sample.modality,
        "question": question.text,
        "prompt": sample.prompt,
        "reply": response.text,
        "truth": sample.target,
        "num_tokens": response.num_tokens,
        "finished": response.finished,
    }


def json_line(value: dict[str, Any]) -> str:
    """JSON that stays one line for every reader: some end a line at U+0085, U+2028 or U+2029 too."""
    text = json.dumps(value, ensure_ascii=False)
    for mark in ("\x85", "\u2028", "\u2029"):
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _summary(
    saved: SavedModel, examples: Mapping[TaskName, Any], num_questions: int, results: Sequence[MetricResult]
) -> dict[str, Any]:
    return {
        "protocol": "official",
        "model": saved.ref.model_dump(mode="json"),
        "forget_ratio": saved.ratio,
        "shots": examples,
        "test_image": saved.test_image,
        "num_questions": num_questions,
        "results": [result.model_dump(mode="json", exclude={"model"}) for result in results],
        "published_layout": published.published_layout(results),
    }
