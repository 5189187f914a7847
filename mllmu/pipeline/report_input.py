"""From the run folder to the input of the report, without any model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mllmu.config import load as recipes
from mllmu.config.protocol import Protocol
from mllmu.config.recipe import Job
from mllmu.core.declared import Declared
from mllmu.core.names import BASELINES, RETAIN_MODEL, TARGET
from mllmu.core.records import MetricResult, Response, Sample, Score, Summary
from mllmu.core.runfolder import UNIT_FILE, RunFolder, read_json, write_atomic
from mllmu.core.seeding import rng
from mllmu.data.dataset import image_files
from mllmu.evaluation import gate
from mllmu.evaluation.outcome import outcome
from mllmu.evaluation.scoring import ks_to_retain_model
from mllmu.evaluation.stats import Difference
from mllmu.pipeline.answers import Answers
from mllmu.pipeline.context import Context
from mllmu.pipeline.models import Models
from mllmu.pipeline.record import describe, seconds_by_stage
from mllmu.report import CurvePoint, Example, KsRow, ModelRow, Portrait, ReportInput
from mllmu.report.inputs import TrustRow
from mllmu.report.provenance import REFERENCE_KEY
from mllmu.training.loop import CURVE

METRICS_FILE = "metrics.json"
GATE_FILE = "gate.json"
NUM_PORTRAITS = 4
CURVE_POINTS = 200


def ks_rows(samples: Sequence[Sample], scores: dict[str, list[Score]]) -> list[KsRow]:
    """Distance of every model's truth ratios to the retain_model's, if truth ratios were scored."""
    if not any(score.metric == "truth_ratio" for score in scores[RETAIN_MODEL]):
        return []
    return [
        KsRow(model=name, split=split, modality=modality, value=value)
        for name, of_model in scores.items()
        for (split, modality), value in ks_to_retain_model(samples, of_model, scores[RETAIN_MODEL]).items()
    ]


def write_metrics(
    path: Path,
    results: Sequence[MetricResult],
    distances: Sequence[KsRow],
    summaries: Sequence[Summary],
    declared: Declared,
) -> None:
    """Write all numbers of one forget ratio; no times, so equal runs give equal bytes."""
    content: dict[str, Any] = {
        "results": [result.model_dump() for result in results],
        "ks_to_retain_model": [row.model_dump() for row in distances],
    }
    if summaries:
        content["summaries"] = [row.model_dump() for row in summaries]
    content["declared"] = declared.model_dump(exclude_defaults=True)
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def report_input(context: Context, models: Models, answers: Answers, jobs: Sequence[Job]) -> ReportInput:
    """Collect what the report of one forget ratio shows."""
    key, recipe = answers.key, context.recipe
    numbers = json.loads((answers.folder / METRICS_FILE).read_text(encoding="utf-8"))
    rows = model_rows(models, key, jobs)
    return ReportInput(
        title=recipe.report.title or f"{recipe.name}: forgetting {key} % of the people",
        models=rows,
        results=(
            *as_read(numbers["results"], recipe.evaluate.protocol.parser),
            *judged(answers.folder, rows),
        ),
        ks=tuple(KsRow.model_validate(row) for row in numbers["ks_to_retain_model"]),
        summaries=tuple(Summary.model_validate(row) for row in numbers.get("summaries", ())),
        curves={row.name: points for row in rows if (points := curve(models, key, row.name))},
        provenance={
            **describe(context),
            "people": len(context.dataset.people),
            "forgotten": len(context.dataset.splits[key]),
            "seconds": seconds_by_stage(context.root),
            "recipe": recipes.dump(recipe),
        },
        portraits=portraits(context, key),
        examples=examples(context, answers, [row.name for row in rows]),
        warnings=(
            *gate_warning(answers.folder / GATE_FILE),
            *protocol_warning(recipe.evaluate.protocol),
            *stale_judges(answers.folder),
        ),
        reference_rows=recipe.report.reference_rows and key == REFERENCE_KEY,
        trust=trust_rows(context.root / RunFolder.TRUST_FILE),
    )


def trust_rows(path: Path) -> tuple[TrustRow, ...]:
    """What ``mllmu trust`` has found in this run folder, if it was run."""
    return tuple(TrustRow.model_validate(row) for row in read_json(path).get("rows", []))


def as_read(results: Sequence[dict[str, Any]], parser: str) -> Iterator[MetricResult]:
    """Results for the report, where ``accuracy`` is the one of the recipe's parser."""
    names = {"accuracy": "accuracy_strict", "accuracy_first_char": "accuracy"} if parser == "first_char" else {}
    for result in results:
        baseline = result["model"] in BASELINES
        yield MetricResult.model_validate(
            result if baseline else result | {"metric": names.get(result["metric"], result["metric"])}
        )


def protocol_warning(protocol: Protocol) -> tuple[str, ...]:
    """What a reader must know of a protocol that is not the default one."""
    if protocol.name == "corrected" and protocol.parser == "strict":
        return ()
    letter = "accuracy looks at the first character of a reply alone, and what is unreadable counts as wrong"
    return (f"Asked under the protocol '{protocol.name}'{'' if protocol.parser == 'strict' else f': {letter}'}.",)


def judged(folder: Path, rows: Sequence[ModelRow]) -> list[MetricResult]:
    """The means that judges gave to the models of the report, if any judge has been asked.

    Points for replies that have been collected anew since are left out, see :func:`stale_judges`.
    """
    names = {row.name for row in rows}
    found = [content for content, old in _judge_files(folder) if not old]
    results = [MetricResult.model_validate(result) for content in found for result in content["results"]]
    return [result for result in results if result.model in names]


def stale_judges(folder: Path) -> tuple[str, ...]:
    """A warning for every judge whose replies have been replaced."""
    return tuple(
        f"The points of a judge ({path.stem.removeprefix('judge_')}) are not shown: it has judged replies that were "
        "replaced since then. Run 'mllmu judge' again with --force."
        for path, (_, old) in zip(_judge_paths(folder), _judge_files(folder), strict=True)
        if old
    )


def _judge_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("judge_*.json"))


def _judge_files(folder: Path) -> list[tuple[dict[str, Any], bool]]:
    """What every judge wrote, and whether any of the replies that it has judged is not there any more."""
    found = []
    for path in _judge_paths(folder):
        content = read_json(path)
        units = {name: read_json(folder / name / "replies" / UNIT_FILE) for name in content.get("replies", {})}
        old = any(unit.get("fingerprint") != content["replies"][name] for name, unit in units.items())
        found.append((content, old))
    return found


def model_rows(models: Models, key: str, jobs: Sequence[Job]) -> tuple[ModelRow, ...]:
    """Target, retain_model and the unlearned models, with what they cost."""
    ratio = float(key) / 100
    finetune = models.context.recipe.finetune.model_dump(mode="json")
    rows = [
        ModelRow(name=TARGET, role="target", settings=finetune, **_cost(models, key, TARGET)),
        ModelRow(
            name=RETAIN_MODEL,
            role="retain_model",
            forget_ratio=ratio,
            settings=finetune,
            **_cost(models, key, RETAIN_MODEL),
        ),
    ]
    for job in jobs:
        method = job.method
        rows.append(
            ModelRow(
                name=job.name,
                role="retain_model" if method.model == RETAIN_MODEL else "unlearned",
                method=job.plugin,
                modality=method.modality,
                forget_ratio=ratio,
                settings=method.model_dump(mode="json", exclude={"modality"}),
                # what is the retain_model by another name has cost what that did
                **_cost(models, key, method.model if method.model == RETAIN_MODEL else job.name),
            )
        )
    return tuple(rows)


def _cost(models: Models, key: str, name: str) -> dict[str, Any]:
    facts = models.unit(key, name).facts()
    return {name: facts.get(name) for name in ("seconds", "peak_mib", "tokens_per_s", "trainable")}


def curve(models: Models, key: str, name: str) -> tuple[CurvePoint, ...]:
    """The training curve of a model, thinned to what a plot can show; empty if it was not trained."""
    path = models.unit(key, name).folder / CURVE
    if not path.is_file():
        return ()
    points = json.loads(path.read_text(encoding="utf-8"))
    every = max(1, len(points) // CURVE_POINTS)
    return tuple(
        CurvePoint(step=int(point["step"]), name=term, value=value)
        for point in points[::every]
        for term, value in point.items()
        if term != "step"
    )


def gate_warning(path: Path) -> tuple[str, ...]:
    """What the memorisation gate found, if it would have stopped the run."""
    if not path.is_file():
        return ()
    fault = gate.verdict(Difference(**json.loads(path.read_text(encoding="utf-8"))))
    return (f"The memorisation gate is not passed: {fault}. The numbers below say little about unlearning.",) * bool(
        fault
    )


def portraits(context: Context, key: str) -> tuple[Portrait, ...]:
    """Images of some people to forget and to retain."""
    data = context.dataset
    shown = [(person, "forget") for person in data.splits[key][:NUM_PORTRAITS]]
    shown += [(person, "retain") for person in data.retained(key)[:NUM_PORTRAITS]]
    return tuple(
        Portrait(
            id=person,
            name=data.names[person],
            role=role,  # type: ignore[arg-type]
            views=tuple(path.read_bytes() for path in image_files(data.folder, person)),
        )
        for person, role in shown
    )


def examples(context: Context, answers: Answers, names: Sequence[str]) -> tuple[Example, ...]:
    """Some questions with everybody's reply: for every task one of the forget and one of the retain set in turn."""
    replies = {name: {r.sample_id: r for r in answers.replies(name)} for name in names}
    picked: list[Sample] = []
    reported = [sample for sample in answers.samples if sample.part == "report"]
    order = sorted(reported, key=lambda s: rng(context.recipe.seed, "example", s.id).random())
    kinds = [(split, task) for task in context.recipe.evaluate.tasks for split in ("forget", "retain")]
    while order and kinds and len(picked) < context.recipe.report.num_examples:
        for split, task in kinds:
            found = next((s for s in order if s.split == split and s.task == task and s not in picked), None)
            picked += [found] if found else []
        if len(picked) < len(kinds):
            break
    return tuple(_example(context, s, replies) for s in picked[: context.recipe.report.num_examples])


def _example(context: Context, sample: Sample, replies: dict[str, dict[str, Response]]) -> Example:
    image = (context.dataset.folder / sample.image).read_bytes() if sample.image else None
    return Example(
        question=sample.prompt,
        image=image,
        split=sample.split,
        task=sample.task,
        modality=sample.modality,
        truth=sample.target,
        replies={name: known[sample.id].text for name, known in replies.items()},
        outcomes={name: outcome(sample, known[sample.id]) for name, known in replies.items()},
    )
