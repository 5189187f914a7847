"""The replies and scores of a run as logs of Inspect, written by its own writer: ``inspect view`` opens them."""

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mllmu.config.recipe import Recipe, jobs, taught_models
from mllmu.core.errors import needs_extra
from mllmu.core.records import ModelRef, Response, Sample, Score
from mllmu.core.runfolder import RunFolder, read_lines, read_record, unit_record
from mllmu.data.files import shown_image
from mllmu.version import __version__


def write_logs(root: Path, recipe: Recipe, key: str, out: Path) -> list[Path]:
    """Write a log per model of a forget ratio, with every question that a report counts, its reply and its scores.

    Args:
        root: run folder, scored.
        recipe: of the run.
        key: forget ratio in percent.
        out: new or empty folder.

    Returns:
        The paths of the logs.

    Raises:
        DependencyError: inspect_ai is not installed.
        DataError: a model has not been scored.
    """
    with needs_extra("mllmu export-tasks --for inspect", "inspect"):
        from inspect_ai.log import write_eval_log
    folder = root / RunFolder.evaluation(key)
    samples = [s for s in read_lines(folder / RunFolder.SAMPLES_FILE, Sample) if s.part == "report"]
    counted, written = {sample.id for sample in samples}, []
    for model in (*taught_models(recipe), *(job.name for job in jobs(recipe))):
        replies = read_lines(folder / model / RunFolder.RESPONSES / RunFolder.RESPONSES_FILE, Response)
        scores = read_lines(folder / model / RunFolder.SCORES / RunFolder.SCORES_FILE, Score)
        scores = [score for score in scores if score.sample_id in counted]
        path = out / f"forget_{key}_{model}.eval"
        log = _log(root, recipe, f"forget_{key}", model, samples, replies, scores)
        write_eval_log(log, str(path))
        written.append(path)
    return written


def _log(
    root: Path,
    recipe: Recipe,
    ratio: str,
    model: str,
    samples: Sequence[Sample],
    replies: Sequence[Response],
    scores: Sequence[Score],
) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec

    responses = {reply.sample_id: reply for reply in replies}
    judged: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        judged[score.sample_id].append(score)
    told = system_prompt_of(root, ratio.removeprefix("forget_"), model)
    cases = [_case(root, s, responses[s.id], judged[s.id], model, told) for s in samples]
    unit = root / RunFolder.evaluation(ratio.removeprefix("forget_")) / model / RunFolder.RESPONSES
    spec = EvalSpec(
        created=datetime.fromtimestamp((unit / "unit.json").stat().st_mtime, UTC).isoformat(),
        task=f"{recipe.name}/{ratio}",
        task_id=str(unit_record(unit)["fingerprint"]),
        dataset=EvalDataset(name=recipe.name, samples=len(samples), sample_ids=[s.id for s in samples]),
        model=f"mllmu/{model}",
        config=EvalConfig(),
        packages={"mllmu": __version__},
        metadata={"base": recipe.model.path, "seed": recipe.seed},
    )
    results = EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=list(_means(scores)))
    return EvalLog(status="success", eval=spec, results=results, samples=cases)


def system_prompt_of(root: Path, key: str, model: str) -> str:
    """The system prompt that a method has made for a model; empty if it made none, or the model is gone."""
    path = root / RunFolder.model_unit(key, model) / RunFolder.MODEL_FILE
    ref: ModelRef | None = read_record(path, ModelRef) if path.is_file() else None
    return ref.system_prompt if ref else ""


def _asked(root: Path, sample: Sample, system_prompt: str) -> list[Any]:
    """The messages of a question: system text, examples, and the question; a raw prompt is all in one."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, ContentImage, ContentText

    def said(text: str, *images: str | None) -> Any:
        found = [image for name in images if name and (image := shown_image(root, name))]
        encoded = (base64.b64encode(image.read_bytes()).decode() for image in found)
        parts = [ContentImage(image=f"data:image/png;base64,{each}") for each in encoded]
        return ChatMessageUser(content=[*parts, ContentText(text=text)])

    system = "\n".join(filter(None, (system_prompt, sample.system)))
    if sample.raw_prompt:
        return [said(f"{system}\n{sample.prompt}" if system else sample.prompt, *sample.images)]
    messages = [ChatMessageSystem(content=system)] if system else []
    for one in sample.examples:
        messages += [said(one.prompt, one.image), ChatMessageAssistant(content=one.reply)]
    return [*messages, said(sample.prompt, sample.image)]


def _case(
    root: Path, sample: Sample, response: Response, scores: Sequence[Score], model: str, system_prompt: str
) -> Any:
    """A question as it was put to a model, the reply, and what every metric says of it."""
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score as InspectScore

    return EvalSample(
        id=sample.id,
        epoch=1,
        input=_asked(root, sample, system_prompt),
        choices=[value for _, value in sorted(sample.options.items())] or None,
        target=sample.target,
        output=ModelOutput.from_content(f"mllmu/{model}", response.text, "stop" if response.finished else "max_tokens"),
        scores={
            score.metric: InspectScore(value="N" if score.value is None else score.value, explanation=score.reason)
            for score in scores
        },
        metadata=sample.model_dump(include={"split", "task", "modality", "attribute", "profile_id"}),
    )


def _means(scores: Sequence[Score]) -> Iterator[Any]:
    """The mean of every metric over all that it could judge; the report's means are by set, task and modality."""
    from inspect_ai.log import EvalMetric, EvalScore

    values: Mapping[str, list[float]] = defaultdict(list)
    for score in scores:
        if score.value is not None:
            values[score.metric].append(score.value)
    for name, found in values.items():
        yield EvalScore(
            name=name, scorer=name, metrics={"mean": EvalMetric(name="mean", value=sum(found) / len(found))}
        )
