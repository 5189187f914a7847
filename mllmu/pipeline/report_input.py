"""From the run folder to the input of the report, without any model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllmu.config import load as recipes
from mllmu.config.protocol import Protocol
from mllmu.config.recipe import Job
from mllmu.core.declared import ColumnSpec, Declared, MetricInfo, TableSpec
from mllmu.core.names import RETAIN_MODEL, TARGET
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
from mllmu.report import Example, ModelRow, Portrait, ReportInput
from mllmu.report.inputs import TrustRow
from mllmu.report.tables import REFERENCE_KEY
from mllmu.training.loop import CURVE

NUM_PORTRAITS = 4
KS = "ks_to_retain_model"
"""Name of the distances to the retain_model in ``metrics.json``, and of their rows among the summaries of a report."""


def ks_rows(samples: Sequence[Sample], scores: Mapping[str, Sequence[Score]]) -> list[Summary]:
    """Distance of every model's truth ratios to the retain_model's, if truth ratios were scored."""
    if not any(score.metric == "truth_ratio" for score in scores[RETAIN_MODEL]):
        return []
    return [
        Summary(model=name, summary=KS, split=split, modality=modality, value=value)
        for name, of_model in scores.items()
        for (split, modality), value in ks_to_retain_model(samples, of_model, scores[RETAIN_MODEL]).items()
    ]


def ks_tables(distances: Sequence[Summary], *, folded: bool) -> Iterator[TableSpec]:
    """How the distances of :func:`ks_rows` are shown, if there are any."""
    splits = dict.fromkeys(row.split for row in distances)
    if splits:
        yield TableSpec(
            title="Distance of truth ratios to the retain model, all sets",
            intro="Kolmogorov-Smirnov distance, 0 to 1. At 0, the model's preference for right over wrong answers is "
            "distributed as in a model that never learned them. It is sharper than the scores, which miss what a model "
            "knows but does not say.",
            columns=tuple(ColumnSpec(summary=KS, split=split, head=split, good="none") for split in splits),
            order=90,
            by_modality=True,
            folded=folded,
        )


def write_metrics(
    path: Path,
    results: Sequence[MetricResult],
    distances: Sequence[Summary],
    summaries: Sequence[Summary],
    declared: Declared,
) -> None:
    """Write all numbers of one forget ratio; no times, so equal runs give equal bytes."""
    content: dict[str, Any] = {
        "results": [result.model_dump() for result in results],
        KS: [row.model_dump(include={"model", "split", "modality", "value"}) for row in distances],
    }
    if summaries:
        content["summaries"] = [row.model_dump() for row in summaries]
    content["declared"] = declared.model_dump(exclude_defaults=True)
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def report_input(context: Context, models: Models, answers: Answers, jobs: Sequence[Job]) -> ReportInput:
    """Collect what the report of one forget ratio shows."""
    key, recipe = answers.key, context.recipe
    numbers = read_json(answers.folder / RunFolder.METRICS_FILE)
    rows = model_rows(models, key, jobs)
    judged, of_judges, warnings = judgements(answers.folder, [row.name for row in rows])
    declared = Declared.model_validate(numbers["declared"])
    declared = declared.model_copy(update={"metrics": declared.metrics | of_judges})
    summaries = [*numbers.get("summaries", ()), *({"summary": KS, **row} for row in numbers[KS])]
    return ReportInput(
        title=recipe.report.title or f"{recipe.name}: forgetting {key} % of the people",
        models=rows,
        results=(*map(MetricResult.model_validate, numbers["results"]), *judged),
        summaries=tuple(map(Summary.model_validate, summaries)),
        declared=declared,
        curves={row.name: curve(models, key, row.name) for row in rows},
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
            *gate_warning(answers.folder / RunFolder.GATE_FILE),
            *protocol_warning(recipe.evaluate.protocol),
            *warnings,
        ),
        reference_rows=recipe.report.reference_rows and key == REFERENCE_KEY,
        trust=tuple(map(TrustRow.model_validate, read_json(context.root / RunFolder.TRUST_FILE).get("rows", ()))),
    )


def protocol_warning(protocol: Protocol) -> tuple[str, ...]:
    """What a reader must know of a protocol that is not the default one."""
    if protocol.name == "corrected" and protocol.parser == "strict":
        return ()
    letter = "accuracy looks at the first character of a reply alone, and what is unreadable counts as wrong"
    return (f"Asked under the protocol '{protocol.name}'{'' if protocol.parser == 'strict' else f': {letter}'}.",)


def judgements(folder: Path, models: Sequence[str]) -> tuple[list[MetricResult], dict[str, MetricInfo], list[str]]:
    """The points that judges gave to some models of a forget ratio.

    Returns:
        The mean points, what judges declare of them, and a warning for every judge whose points are left out, as the
        replies that it has judged have been replaced since.
    """
    results: list[MetricResult] = []
    declared: dict[str, MetricInfo] = {}
    warnings: list[str] = []
    for path in sorted(folder.glob(RunFolder.JUDGE_FILES)):
        content = read_json(path)
        units = {name: read_json(folder / name / "replies" / UNIT_FILE) for name in content.get("replies", {})}
        if any(unit.get("fingerprint") != content["replies"][name] for name, unit in units.items()):
            warnings.append(
                f"The points of a judge ({path.stem.removeprefix('judge_')}) are not shown: it has judged replies that "
                "were replaced since then. Run 'mllmu judge' again with --force."
            )
        else:
            results += [MetricResult.model_validate(row) for row in content["results"] if row["model"] in models]
            declared |= Declared.model_validate(content["declared"]).metrics
    return results, declared, warnings


def model_rows(models: Models, key: str, jobs: Sequence[Job]) -> tuple[ModelRow, ...]:
    """Target, retain_model and the unlearned models, with what they cost."""
    ratio = float(key) / 100
    finetune = models.context.recipe.finetune.model_dump(mode="json")
    retrained = {"forget_ratio": ratio, **_cost(models, key, RETAIN_MODEL)}
    rows = [
        ModelRow(name=TARGET, role="target", settings=finetune, **_cost(models, key, TARGET)),
        ModelRow(name=RETAIN_MODEL, role="retain_model", settings=finetune, **retrained),
    ]
    for job in jobs:
        method = job.method
        again = method.model == RETAIN_MODEL  # the retain_model by another name has cost what that did
        rows.append(
            ModelRow(
                name=job.name,
                role="retain_model" if again else "unlearned",
                method=job.plugin,
                modality=method.modality,
                settings=method.model_dump(mode="json", exclude={"modality"}),
                **(retrained if again else {"forget_ratio": ratio, **_cost(models, key, job.name)}),
            )
        )
    return tuple(rows)


def _cost(models: Models, key: str, name: str) -> dict[str, Any]:
    facts = models.unit(key, name).facts()
    return {name: facts.get(name) for name in ("seconds", "peak_mib", "tokens_per_s", "trainable")}


def curve(models: Models, key: str, name: str) -> dict[str, tuple[tuple[int, float], ...]]:
    """The training curve of a model by loss term, as (step, value); empty if it was not trained."""
    path = models.unit(key, name).folder / CURVE
    points = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    terms = dict.fromkeys(term for point in points for term in point if term != "step")
    return {term: tuple((int(p["step"]), p[term]) for p in points if term in p) for term in terms}


def gate_warning(path: Path) -> tuple[str, ...]:
    """What the memorisation gate found, if it would have stopped the run."""
    difference = read_json(path)
    fault = gate.verdict(Difference(**difference)) if difference else ""
    text = f"The memorisation gate is not passed: {fault}. The numbers below say little about unlearning."
    return (text,) if fault else ()


def portraits(context: Context, key: str) -> tuple[Portrait, ...]:
    """Images of some people to forget and to retain."""
    data = context.dataset
    people = [("forget", person) for person in data.splits[key][:NUM_PORTRAITS]]
    people += [("retain", person) for person in data.retained(key)[:NUM_PORTRAITS]]
    views = {person: [path.read_bytes() for path in image_files(data.folder, person)] for _, person in people}
    records = ({"id": p, "name": data.names[p], "role": role, "views": views[p]} for role, p in people)
    return tuple(map(Portrait.model_validate, records))


def examples(context: Context, answers: Answers, names: Sequence[str]) -> tuple[Example, ...]:
    """Some questions with the replies of all models: for every task one of the forget and of the retain set in turn."""
    replies = {name: {r.sample_id: r for r in answers.replies(name)} for name in names}
    picked: list[Sample] = []
    reported = [sample for sample in answers.samples if sample.part == "report"]
    order = sorted(reported, key=lambda s: rng(context.recipe.seed, "example", s.id).random())
    wanted = [(split, task) for task in context.recipe.evaluate.tasks for split in ("forget", "retain")]
    while order and wanted and len(picked) < context.recipe.report.num_examples:
        for split, task in wanted:
            sample = next((s for s in order if s.split == split and s.task == task and s not in picked), None)
            picked += [sample] if sample else []
        if len(picked) < len(wanted):
            break
    return tuple(_example(context, s, replies) for s in picked[: context.recipe.report.num_examples])


def _example(context: Context, sample: Sample, replies: Mapping[str, Mapping[str, Response]]) -> Example:
    return Example(
        **sample.model_dump(include={"split", "task", "modality"}),
        question=sample.prompt,
        image=(context.dataset.folder / sample.image).read_bytes() if sample.image else None,
        truth=sample.target,
        replies={name: of_model[sample.id].text for name, of_model in replies.items()},
        outcomes={name: outcome(sample, of_model[sample.id]) for name, of_model in replies.items()},
    )
