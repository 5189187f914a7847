"""Whether a run folder says what its responses say: digests, scores and numbers are computed again, without a model.

With a model, a random share of the questions is asked again. The first difference is an error.
"""

from __future__ import annotations

import json
import math
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mllmu.config import load as recipes
from mllmu.config.recipe import PluginSpec
from mllmu.core.attacked import REPLIES_FILE, AttackPoint, AttackReply, AttackResults
from mllmu.core.content import check_samples
from mllmu.core.damage import misfit
from mllmu.core.errors import RunStoreError
from mllmu.core.manifest import check_manifest
from mllmu.core.names import TARGET
from mllmu.core.process import Progress, rng
from mllmu.core.records import Response, Sample, Score
from mllmu.core.runfolder import RunFolder, dump_lines, read_json, read_lines, seal, unit_record, write_atomic
from mllmu.evaluation import attacks, scoring
from mllmu.evaluation.metrics import metrics_of
from mllmu.evaluation.outcome import told
from mllmu.models.base_files import base_files, check_base
from mllmu.pipeline.attacks import FILE as POINTS_FILE
from mllmu.pipeline.attacks import REASON, AttackStudy, attack_jobs
from mllmu.pipeline.evaluate import LOW, Evaluation, collect_responses, precision_of
from mllmu.pipeline.reading import ReadingStore
from mllmu.pipeline.record import settle_threads
from mllmu.pipeline.run import Run
from mllmu.pipeline.score import metrics_content

ASKED_AGAIN = 0.05
"""Share of the questions that is put to every model again."""
LOGP_DIGITS = 1e-3
"""How far a log-probability may be from the stored one, in nats and relative to it; sums are rounded elsewhere."""
JUDGED_OTHERWISE = ("reversed_question", "interpolation")
"""Attacks that ask for something else than the question does, or keep the replies of their last try alone."""
MOST_OTHER = 0.1
"""Share of replies that may be others in low precision, where they depend on their batch."""


def verify_run(root: Path, progress: Progress, *, ask: bool = False) -> Iterator[str]:
    """Check a run folder; says what was checked, one sentence after the other.

    Args:
        ask: also put a random 5 % of the questions to every model again.

    Raises:
        RunStoreError: the first file, score, number or reply that is not what is stored.
    """
    yield check_files(root)
    run = Run(recipes.load(root / RunFolder.RECIPE), root, progress)
    run.store = ReadingStore(root)
    keys = RunFolder(root).evaluated_keys()
    if not keys:
        yield "nothing was evaluated in this run, so there are no numbers to compute again"
    for key in keys:
        evaluation = Evaluation(run, key)
        yield rescore(evaluation)
        if (evaluation.folder / RunFolder.ATTACKS_FILE).is_file():
            yield recount_attacks(run, key)
        if ask:
            yield ask_again(evaluation, seed=secrets.randbelow(2**31))


def check_files(root: Path) -> str:
    """Compare every file with its digest, and say how many there are."""
    found = check_manifest(root)
    for name, why in found.differences.items():
        more = f" ({len(found.differences) - 1} more files differ)" if len(found.differences) > 1 else ""
        raise RunStoreError(f"{root / name}: {why}{more}. Restore it from a copy, or make it again with 'mllmu run'.")
    if not found.hash:
        return (
            f"{found.num_files} files: those of finished units have their digests; there is no manifest (the last "
            "command was stopped, or is of an earlier version), so the others were not checked"
        )
    added = f"; {len(found.added)} were added since, the first is {found.added[0]}" if found.added else ""
    return f"{found.num_files} files have their digests, manifest {found.hash}{added}"


def rescore(evaluation: Evaluation) -> str:
    """Score the stored responses of all models again, and compute every number of ``metrics.json`` from them."""
    run, metrics = evaluation.run, metrics_of(evaluation.run.recipe.evaluate)
    scores: dict[str, list[Score]] = {}
    for model in run.models:
        folder = evaluation.folder / model
        check_samples(evaluation.folder / RunFolder.SAMPLES_FILE, folder / RunFolder.RESPONSES)
        _check_model(evaluation, model)
        scores[model] = scoring.score_all(evaluation.samples, evaluation.responses(model), metrics)
        stored = read_lines(folder / RunFolder.SCORES / RunFolder.SCORES_FILE, Score)
        pairs = zip(
            _plain([s.model_dump() for s in stored]), _plain([s.model_dump() for s in scores[model]]), strict=False
        )
        for old, new in pairs:
            if old != new:
                where = folder / RunFolder.SCORES / RunFolder.SCORES_FILE
                raise RunStoreError(f"{where}: {first_difference(old, new)} for {new['sample_id']}, {new['metric']}.")
        if len(stored) != len(scores[model]):
            raise RunStoreError(f"{folder}: {len(stored)} scores are stored, the responses give {len(scores[model])}.")
    path = evaluation.folder / RunFolder.METRICS_FILE
    compare(path, metrics_content(run, evaluation, scores))
    count = sum(map(len, scores.values()))
    return f"{evaluation.key} %: {count} scores of {len(scores)} models computed again, and every number of {path.name}"


def _check_model(evaluation: Evaluation, model: str) -> None:
    """The responses must be those of the model beside them, as far as that is still there."""
    asked = unit_record(evaluation.folder / model / RunFolder.RESPONSES).get("inputs", {}).get("model")
    made = evaluation.run.fingerprint(RunFolder.model_unit(evaluation.key, model))
    if asked and made and asked != made:
        raise RunStoreError(f"{evaluation.folder / model}: the responses are of another model than the one in models/.")


def recount_attacks(run: Run, key: str) -> str:
    """Judge the kept replies of attacks again, and compute what they got back, for the attacks and models of the file.

    The recipe may be without them: 'mllmu attack' leaves it alone, and a later 'mllmu run' may name others. A file of a
    version that kept no attacks is compared with those of the recipe, if its rows are of these.
    """
    path = run.root / RunFolder.evaluation(key) / RunFolder.ATTACKS_FILE
    try:
        stored = AttackResults.model_validate(read_json(path, sealed=True))
        specs = tuple(map(PluginSpec.model_validate, stored.attacks or ()))
    except ValidationError as error:
        raise misfit(path, error, "record of attacks") from None
    evaluate = run.recipe.evaluate.model_copy(update={"attack_budget": stored.budget})
    if stored.attacks is not None:
        evaluate = evaluate.model_copy(update={"attacks": specs})
    elif {row.attack for row in stored.rows} != {job.name for job in attack_jobs(evaluate.attacks)}:
        return f"{key} %: attacks not computed again: {path.name} does not say which; 'mllmu attack' writes it anew"
    attacked = Run(run.recipe.model_copy(update={"evaluate": evaluate}), run.root, run.progress)
    attacked.store = run.store
    study = AttackStudy(attacked, key, list(dict.fromkeys(row.model for row in stored.rows)))
    count = sum(_judge_again(study, name, model) for name in study.jobs for model in study.models)
    results = study.results()
    not_kept = {name for name in ("attacks", "models") if getattr(stored, name) is None}
    compare(path, results.model_dump(mode="json", exclude=not_kept))
    return f"{key} %: {len(results.rows)} results of attacks computed again, from {count} replies judged again"


def _judge_again(study: AttackStudy, name: str, model: str) -> int:
    """Judge the kept replies of an attack on a model, and compare the best of each question with the last point.

    Returns:
        How many replies there are; 0 for attacks of earlier versions, of others, and of ``JUDGED_OTHERWISE``.

    Raises:
        RunStoreError: a reply, or a question, has another score than it was given.
    """
    attack, folder = study.jobs[name].attack, study.unit(name, model).folder
    path, found = folder / REPLIES_FILE, dict[str, float]()
    own = attack is None or (
        type(attack).__module__.startswith(attacks.__name__) and attack.name not in JUDGED_OTHERWISE
    )
    if not own or not path.is_file() or (folder / REASON).is_file():
        return 0
    asked, replies = {sample.id: sample for sample in study.samples}, read_lines(path, AttackReply)
    for reply in replies:
        if (sample := asked.get(reply.sample_id)) is None:
            raise RunStoreError(f"{path}: {reply.sample_id} is no question of this run.")
        value = told(sample, Response(sample_id=sample.id, text=reply.text, num_tokens=0, finished=True))
        if value != reply.value:
            raise RunStoreError(f"{path}: {reply.sample_id}: {first_difference(reply.value, value)}.")
        found[sample.id] = max(value, found.get(sample.id, 0.0))
    points = read_lines(folder / POINTS_FILE, AttackPoint)
    if not points or points[-1].values != found:
        raise RunStoreError(f"{folder / POINTS_FILE}: {first_difference(points[-1].values if points else {}, found)}.")
    return len(replies)


def compare(path: Path, again: Mapping[str, Any]) -> None:
    """Raise RunStoreError if a sealed file holds something else than what was computed again."""
    stored, found = read_json(path, sealed=True), _plain({k: v for k, v in seal(again).items() if k != "record_digest"})
    if _plain(stored) != found:
        raise RunStoreError(f"{path}: {first_difference(stored, found)}.")


def _plain(value: Any) -> Any:
    """A value as JSON has it, numbers that are none as their names, so that equal ones are equal."""
    return json.loads(json.dumps(value), parse_constant=str)


def first_difference(stored: Any, again: Any, place: str = "") -> str:
    """Where two JSON values first differ, and how.

    >>> first_difference({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]})
    'a.1.b: 2 is stored, computed again it is 3'
    """
    if isinstance(stored, dict) and isinstance(again, dict):
        pairs = ((key, stored.get(key), again.get(key)) for key in dict.fromkeys([*stored, *again]))
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        pairs = ((str(index), a, b) for index, (a, b) in enumerate(zip(stored, again, strict=True)))
    else:
        return f"{place or 'value'}: {stored!r:.80} is stored, computed again it is {again!r:.80}"
    key, a, b = next((each for each in pairs if each[1] != each[2]), ("", stored, again))
    return first_difference(a, b, f"{place}.{key}".strip("."))


def ask_again(evaluation: Evaluation, *, seed: int) -> str:
    """Put a random share of the questions to every model again, and compare the replies and likelihoods.

    Raises:
        RunStoreError: a reply is another one, or a likelihood is farther away than rounding explains.
    """
    run = evaluation.run
    target = run.root / RunFolder.model_unit(evaluation.key, TARGET)
    check_base(target, base_files(run.recipe.model.path, run.recipe.model.revision), run.recipe.model.path)
    settle_threads(run)
    low, models, total = precision_of(run) in LOW, evaluation.distinct(run.models), 0
    for model in models:
        stored = {response.sample_id: response for response in evaluation.responses(model)}
        every = [sample for sample in evaluation.samples if sample.id in stored]
        drawn = rng(seed, "asked again", model).sample(every, max(1, round(ASKED_AGAIN * len(every))))
        others = [said for said in _compared(evaluation, model, drawn, stored) if said]
        if len(others) > (MOST_OTHER * len(drawn) if low else 0):
            raise RunStoreError(
                f"{evaluation.folder / model}: {len(others)} of {len(drawn)} questions asked again get another "
                f"reply, the first: {others[0]} (seed {seed}). Expected the model, base and processor "
                "that were asked before; on other hardware single replies can differ by rounding."
            )
        total += len(drawn)
    return f"{evaluation.key} %: {total} questions to {len(models)} models asked again (seed {seed}): the same replies"


def _compared(
    evaluation: Evaluation, model: str, drawn: Sequence[Sample], stored: Mapping[str, Response]
) -> Iterator[str]:
    """What differs in the new response to each question; empty where nothing does."""
    run = evaluation.run
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_atomic(folder / RunFolder.SAMPLES_FILE, dump_lines(drawn))
        ref, samples = run.ref(evaluation.key, model), folder / RunFolder.SAMPLES_FILE
        collect_responses(run, ref=ref, samples=samples, folder=folder, label=f"{model} again")
        again = read_lines(folder / RunFolder.RESPONSES_FILE, Response)
    for new in again:
        old = stored[new.sample_id]
        if old.text != new.text:
            yield f"{new.sample_id}: {old.text!r:.60} is stored, now {new.text!r:.60}"
        else:
            yield next((f"{new.sample_id}: {text}" for text in _other_likelihoods(old, new)), "")


def _other_likelihoods(old: Response, new: Response) -> Iterator[str]:
    for name, one in old.candidates.items():
        other = new.candidates[name].logp if name in new.candidates else math.nan
        if math.isnan(one.logp) or math.isclose(one.logp, other, rel_tol=LOGP_DIGITS, abs_tol=LOGP_DIGITS):
            continue
        yield f"log-probability of {name}: {one.logp:.4f} is stored, now {other:.4f}"
