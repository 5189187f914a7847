"""Stage ``score``: responses are scored and averaged into the numbers of ``metrics.json``; needs no model."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mllmu.core.declared import ColumnSpec, TableSpec
from mllmu.core.records import MetricResult, Score, Summary
from mllmu.core.runfolder import RunFolder, seal, write_json
from mllmu.evaluation import numbers, scoring
from mllmu.evaluation.bootstrap import summarise
from mllmu.evaluation.faces import like_forgotten
from mllmu.evaluation.judging import run as let_judge
from mllmu.evaluation.metrics import BROKEN, metrics_of
from mllmu.evaluation.numbers import KS
from mllmu.evaluation.summaries import ScoredRun, build_all
from mllmu.pipeline import benchmarks, probes
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.run import Run


def score_run(run: Run, evaluations: Mapping[str, Evaluation]) -> None:
    """Score the responses of all models at all ratios, write the numbers, and let the recipe's judges grade."""
    for evaluation in evaluations.values():
        _score_ratio(run, evaluation)
    for spec in run.recipe.evaluate.judges:
        judge = spec.build("judges", "evaluate.judges")
        let_judge(run.root, run.models, judge, progress=run.progress, force=run.store.force)


def _score_ratio(run: Run, evaluation: Evaluation) -> None:
    metrics = metrics_of(run.recipe.evaluate)
    run.progress.stage("score", f"{len(metrics)} metrics, {len(run.models)} models ({evaluation.key} %)")
    scores = {model: evaluation.scores(model, metrics) for model in run.models}
    content = metrics_content(run, evaluation, scores)
    for model, number in content.get("broken", {}).items():
        run.progress.note(f"{model}: the likelihoods of {number} responses are no numbers; the weights are broken.")
    write_json(evaluation.folder / RunFolder.METRICS_FILE, seal(content))


def metrics_content(run: Run, evaluation: Evaluation, scores: Mapping[str, Sequence[Score]]) -> dict[str, Any]:
    """All numbers of one forget ratio, as ``metrics.json`` holds them; no times, so equal runs give equal bytes.

    Args:
        scores: of the responses of every model, by every metric of the recipe.
    """
    settings, metrics = run.recipe.evaluate, metrics_of(run.recipe.evaluate)
    results: list[MetricResult] = []
    for model in run.models:
        results += scoring.aggregate(model, evaluation.samples, scores[model], metrics)
    trained = [question for question in run.data.questions if question.variant == "train"]
    results += numbers.baselines(evaluation.samples, trained)
    summaries = build_all(settings.summaries)
    responses = {model: evaluation.responses(model) for model in run.models} if summaries else {}
    faces = partial(like_forgotten, run.data, evaluation.key)
    scored = ScoredRun.of(evaluation.samples, scores, responses, results, run.data.profiles, faces)
    rows = summarise(summaries, scored, seed=run.seed_of("evaluate"))
    distances = numbers.ks_to_retain_model(scored)
    declared = numbers.declared(
        results,
        parser=settings.protocol.parser,
        benchmarks={benchmark.name: benchmark.info() for benchmark in map(benchmarks.built, settings.benchmarks)},
        tables=[
            *(table for summary in summaries for table in summary.tables(rows)),
            *ks_tables(distances, folded=bool(summaries)),
        ],
    )
    content: dict[str, Any] = {
        "results": [result.model_dump() for result in results],
        KS: [row.model_dump(include={"model", "split", "modality", "value"}) for row in distances],
    }
    if rows:
        content["summaries"] = [row.model_dump() for row in rows]
    if broken := broken_models(scores):
        content["broken"] = broken
    content["declared"] = probes.judged(declared, evaluation).model_dump(exclude_defaults=True)
    return content


def broken_models(scores: Mapping[str, Sequence[Score]]) -> dict[str, int]:
    """How many responses of a model have a likelihood that is no number; without the models that have none."""
    found = {model: len({s.sample_id for s in own if s.reason == BROKEN}) for model, own in scores.items()}
    return {model: number for model, number in found.items() if number}


def ks_tables(distances: Sequence[Summary], *, folded: bool) -> Iterator[TableSpec]:
    """How the distances to the retain model are shown, if there are any."""
    splits = dict.fromkeys(row.split for row in distances)
    if splits:
        yield TableSpec(
            title="Distance of truth ratios to the retain model, all sets",
            intro="Kolmogorov-Smirnov distance, 0 to 1. At 0, the model's preference for right over wrong answers is "
            "distributed as in a model that never learned them. It is sharper than the scores, which miss what a model "
            "knows but does not say.",
            columns=tuple(ColumnSpec(summary=KS, split=split, head=split, good="none", decimals=3) for split in splits),
            order=90,
            by_modality=True,
            folded=folded,
        )
