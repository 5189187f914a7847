"""The replies and scores of a run as logs of Inspect, written by its own writer: ``inspect view`` opens them."""

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mllmu.config.recipe import Recipe, jobs, taught_models
from mllmu.core.errors import needs_extra
from mllmu.core.records import Response, Sample, Score
from mllmu.core.runfolder import RunFolder, read_lines, unit_record
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
    cases = [_case(root, s, responses[s.id], judged[s.id], model) for s in samples]
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


def _case(root: Path, sample: Sample, response: Response, scores: Sequence[Score], model: str) -> Any:
    """A question with its image, the reply, and what every metric says of it."""
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ContentImage, ContentText, ModelOutput
    from inspect_ai.scorer import Score as InspectScore

    asked: list[Any] = [ContentText(text=sample.prompt)]
    if sample.image and (image := shown_image(root, sample.image)):
        encoded = base64.b64encode(image.read_bytes()).decode()
        asked.insert(0, ContentImage(image=f"data:image/png;base64,{encoded}"))
    system = [ChatMessageSystem(content=sample.system)] if sample.system else []
    return EvalSample(
        id=sample.id,
        epoch=1,
        input=[*system, ChatMessageUser(content=asked)],
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
