"""Stage ``report``: one page per forget ratio, and a table for the terminal, from what the run folder holds."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from rich.console import Group
from safetensors import safe_open

from mllmu.config import load as recipes
from mllmu.config.given import EMBEDDED
from mllmu.config.protocol import Protocol
from mllmu.config.requests import about_facts
from mllmu.core.attacked import AttackResults
from mllmu.core.controlled import ControlRow
from mllmu.core.declared import Declared, MetricInfo
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.probed import ProbeResults
from mllmu.core.process import rng
from mllmu.core.records import FORGOTTEN, MetricResult, Modality, Record, Response, Sample, Summary
from mllmu.core.requested import FILE, RequestResults
from mllmu.core.runfolder import RunFolder, facts_of, fingerprint_of, read_json, read_record
from mllmu.data.dataset import image_files
from mllmu.data.files import shown_image
from mllmu.evaluation import gate
from mllmu.evaluation.numbers import KS
from mllmu.evaluation.outcome import outcome
from mllmu.evaluation.probes import BY_LETTER
from mllmu.evaluation.stats import Difference
from mllmu.models.layers import adapted_outside
from mllmu.pipeline import batch_plan, probes
from mllmu.pipeline.controls import read_controls
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.known import what_is_kept
from mllmu.pipeline.leaks import what_leaks
from mllmu.pipeline.of_models import left_out, replaced
from mllmu.pipeline.protocols import ProtocolComparison, write_comparison
from mllmu.pipeline.record import describe, seconds_by_stage
from mllmu.pipeline.run import Run
from mllmu.report import Example, ModelRow, Portrait, ReportInput, render, terminal_tables
from mllmu.report.inputs import TrustRow
from mllmu.report.tables import REFERENCE_KEY
from mllmu.training.loop import CURVE

R = TypeVar("R", bound=Record)
NUM_PORTRAITS = 4
RATIO_OFF = 0.5
"""Points by which the share of forgotten people may differ from the recipe's before it is said."""


def write_reports(
    run: Run, evaluations: Mapping[str, Evaluation], comparisons: Mapping[str, ProtocolComparison]
) -> None:
    """Draw one report per forget ratio; of several, each in a folder of its own."""
    folder = run.root / RunFolder.REPORT
    run.progress.stage("report", str(folder))
    several = len(evaluations) > 1
    pages = {key: folder / f"forget_{key}" if several else folder for key in evaluations}
    for key, page in pages.items():
        render(report_input(evaluations[key]), page)
        if key in comparisons:
            write_comparison(page, comparisons[key].results(run.models))


def terminal_table(evaluations: Mapping[str, Evaluation]) -> Group:
    """The results of every ratio in a few lines for a terminal."""
    return Group(*(table for one in evaluations.values() for table in terminal_tables(report_input(one))))


def report_input(evaluation: Evaluation) -> ReportInput:
    """Collect what the report of one forget ratio shows."""
    run, key = evaluation.run, evaluation.key
    recipe = run.recipe
    numbers = read_json(evaluation.folder / RunFolder.METRICS_FILE, sealed=True)
    replies = {name: {r.sample_id: r for r in evaluation.responses(name)} for name in run.models}
    probed = probes.read_probes(evaluation)
    rows = tuple(
        row.model_copy(
            update={
                "same_as_target": same_as_target(evaluation.samples, replies[TARGET], replies[row.name]),
                "declines": declines(run, key, row.name, evaluation.samples, replies[row.name]),
                "of_target": probed.of_instructions if probes.is_system_prompt(run, row.name) else "",
            }
        )
        for row in model_rows(run, key)
    )
    judged, of_judges, warnings = judgements(evaluation.folder, [row.name for row in rows])
    gated = gate.read(read_json(evaluation.folder / RunFolder.GATE_FILE, sealed=True))
    requested = read_json(evaluation.folder / FILE, sealed=True) if recipe.unlearn.requests else {}
    studied, outdated = studies(evaluation)
    declared = Declared.model_validate(numbers["declared"])
    declared = declared.model_copy(update={"metrics": declared.metrics | of_judges})
    of_letters = probed.of_letters if BY_LETTER in declared.tasks else ""
    summaries = [*numbers.get("summaries", ()), *({"summary": KS, **row} for row in numbers[KS])]
    return ReportInput(
        title=recipe.report.title or recipe.name,
        facts=facts_line(run, key),
        num_people=len(run.data.people),
        num_forgotten=len(run.data.splits[key]),
        models=rows,
        results=(*map(MetricResult.model_validate, numbers["results"]), *judged),
        summaries=tuple(map(Summary.model_validate, summaries)),
        declared=declared,
        curves={row.name: curve(run, key, row.name) for row in rows},
        provenance={
            **describe(run),
            "people": len(run.data.people),
            "forgotten": len(run.data.splits[key]),
            "memorisation gate": gate.describe(gated[0]) if gated[0] else None,
            **({"celebrity questions known to the base": kept} if (kept := what_is_kept(evaluation)) else {}),
            "seconds": seconds_by_stage(run.root),
            "recipe": recipes.dump(recipe),
        },
        portraits=portraits(run, key),
        examples=examples(evaluation, replies),
        warnings=(
            *ratio_warning(run, key),
            *gate_warning(*gated),
            *probe_warnings(probed, declared, [row.name for row in rows if row.of_target]),
            *adapter_warning(run, key),
            *protocol_warning(recipe.evaluate.protocol),
            *batch_plan.warnings(
                {row.name: facts_of(evaluation.folder / row.name / RunFolder.RESPONSES) for row in rows}
            ),
            *broken_warning(numbers.get("broken", {})),
            *warnings,
            *outdated,
        ),
        task_notes={BY_LETTER: of_letters} if of_letters else {},
        **what_leaks(run.models, run.data.names, evaluation.samples, replies),
        requests=RequestResults.model_validate(requested) if requested else None,
        reference_rows=recipe.report.reference_rows and key == REFERENCE_KEY,
        **studied,
    )


def facts_line(run: Run, key: str) -> str:
    """Who was forgotten, and by which model, in a few words."""
    people, gone = len(run.data.people), len(run.data.splits[key])
    path = run.recipe.model.path
    model = f"the embedded model '{path}'" if path in EMBEDDED else Path(path).name if Path(path).exists() else path
    what = "facts about " if about_facts(run.recipe) else ""
    return f"{what}{gone} of {people} people forgotten ({100 * gone / people:.3g} %), {model}, seed {run.recipe.seed}"


def ratio_warning(run: Run, key: str) -> tuple[str, ...]:
    """Folders are named after the forget ratio of the recipe; of few people it cannot be kept."""
    people, gone = len(run.data.people), len(run.data.splits[key])
    if abs(100 * gone / people - float(key)) <= RATIO_OFF:
        return ()
    return (
        f"The recipe asks to forget {key} % of the people, and folders are named so (forget_{key}). Of {people} people "
        f"that is {gone}, which is {100 * gone / people:.3g} %.",
    )


def adapter_warning(run: Run, key: str) -> tuple[str, ...]:
    """The models whose adapters reach outside of the language model, so that they also change how images are seen."""
    found: dict[str, list[str]] = {}
    for name in run.models:
        last = run.ref(key, name).adapters[-1:]  # those before it are other models' own
        files = (run.root / adapter / SAFETENSORS_WEIGHTS_NAME for adapter in last)
        for path in filter(Path.is_file, files):  # modifiers and whole weights have none
            with safe_open(path, framework="pt") as file:
                if line := adapted_outside(file.keys()):
                    found.setdefault(line, []).append(name)
    return tuple(
        f"{line} How images are seen changed with them in: {', '.join(names)}." for line, names in found.items()
    )


def declines(
    run: Run, key: str, model: str, samples: Sequence[Sample], replies: Mapping[str, Response]
) -> dict[Modality, float]:
    """Of a model that its system prompt tells to decline questions about the people to forget: the share declined."""
    job = run.jobs.get(model)
    if job is None or job.method.trains or job.method.modifies or not run.ref(key, model).system_prompt:
        return {}
    found: dict[Modality, list[bool]] = {}
    for sample in samples:
        if sample.split in FORGOTTEN and sample.part == "report":
            found.setdefault(sample.modality, []).append(outcome(sample, replies[sample.id]) == "refused")
    return {modality: sum(declined) / len(declined) for modality, declined in found.items()}


def protocol_warning(protocol: Protocol) -> tuple[str, ...]:
    """What a reader must know of a protocol that is not the default one."""
    if protocol.name == "corrected" and protocol.parser == "strict":
        return ()
    letter = "accuracy looks at the first character of a reply alone, and what is unreadable counts as wrong"
    return (f"Asked under the protocol '{protocol.name}'{'' if protocol.parser == 'strict' else f': {letter}'}.",)


def broken_warning(broken: Mapping[str, int]) -> tuple[str, ...]:
    """The models whose likelihoods are no numbers."""
    named = ", ".join(f"{model} ({number} responses)" for model, number in broken.items())
    text = f"Likelihoods that are no numbers: {named}. Training has broken the weights of such a model; its "
    return (f"{text}likelihood metrics are left out, and its replies are scored as they are.",) if broken else ()


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
        content = read_json(path, sealed=True)
        responses = content.get("responses", {})
        if any(fingerprint_of(folder / name / RunFolder.RESPONSES) != judged for name, judged in responses.items()):
            warnings.append(
                f"The points of a judge ({path.stem.removeprefix('judge_')}) are not shown: it has judged replies that "
                "were replaced since then. Run 'mllmu judge' again with --force."
            )
        else:
            results += [MetricResult.model_validate(row) for row in content["results"] if row["model"] in models]
            declared |= Declared.model_validate(content["declared"]).metrics
    return results, declared, warnings


def studies(evaluation: Evaluation) -> tuple[dict[str, Any], list[str]]:
    """What attacks, controls and ``mllmu trust`` found about the models of a forget ratio.

    Returns:
        The sections of a :class:`ReportInput`, without models that the recipe no longer names, and a warning for every
        one that is left out, as a model that it was made of has been replaced since.
    """
    run, key = evaluation.run, evaluation.key
    attacked = read_json(evaluation.folder / RunFolder.ATTACKS_FILE, sealed=True)
    trusted = read_json(run.root / RunFolder.TRUST_FILE, sealed=True)
    attacks, controls = AttackResults.model_validate(attacked) if attacked else None, read_controls(evaluation)
    warnings: list[str] = []

    def shown(what: str, of: str, models: Mapping[str, str] | None, command: str) -> bool:
        if old := replaced(run, of, models):
            warnings.append(left_out(what, old, command))
        return not old

    sections: dict[str, Any] = {}
    if attacks and shown("Attacks", key, attacks.models, "mllmu attack"):
        sections["attacks"] = of_models(attacks, run.models, "rows", "worst")
    if controls and shown("Controls", key, controls.models, "mllmu evaluate"):
        sections["controls"] = of_models(controls, run.models, "rows", "orders")
    if trusted and shown("Figures of trust in metrics", trusted.get("key", key), trusted.get("models"), "mllmu trust"):
        sections["trust"] = tuple(map(TrustRow.model_validate, trusted.get("rows", ())))
    return sections, warnings


def of_models(found: R, models: Sequence[str], *parts: str) -> R:
    """A record with the rows about some models alone."""
    rows = {part: tuple(row for row in getattr(found, part) if row.model in models) for part in parts}
    return found.model_copy(update=rows)


def model_rows(run: Run, key: str) -> tuple[ModelRow, ...]:
    """Target, retain_model and the unlearned models, with what they cost."""
    ratio = float(key) / 100
    finetune = run.recipe.finetune.model_dump(mode="json")
    retrained = {"forget_ratio": ratio, **_cost(run, key, RETAIN_MODEL)}
    rows = [ModelRow(name=TARGET, role="target", settings=finetune, **_cost(run, key, TARGET))]
    if RETAIN_MODEL in run.taught:
        rows.append(ModelRow(name=RETAIN_MODEL, role="retain_model", settings=finetune, **retrained))
    for job in run.jobs.values():
        method = job.method
        again = method.model == RETAIN_MODEL  # the retain_model by another name has cost what that did
        rows.append(
            ModelRow(
                name=job.name,
                role="retain_model" if again else "unlearned",
                method=job.plugin,
                modality=method.modality,
                settings=method.model_dump(mode="json", exclude={"modality"}),
                **(retrained if again else {"forget_ratio": ratio, **_cost(run, key, job.name)}),
            )
        )
    return tuple(rows)


def _cost(run: Run, key: str, name: str) -> dict[str, Any]:
    facts = facts_of(run.root / RunFolder.model_unit(key, name))
    return {name: facts.get(name) for name in ("seconds", "peak_mib", "tokens_per_s", "trainable")}


def curve(run: Run, key: str, name: str) -> dict[str, tuple[tuple[int, float], ...]]:
    """The training curve of a model by loss term, as (step, value); empty if it was not trained."""
    path = run.root / RunFolder.model_unit(key, name) / CURVE
    points = read_record(path, list[dict[str, float]]) if path.is_file() else []
    terms = dict.fromkeys(term for point in points for term in point if term != "step")
    return {term: tuple((int(p["step"]), p[term]) for p in points if term in p) for term in terms}


def same_as_target(
    samples: Sequence[Sample], target: Mapping[str, Response], model: Mapping[str, Response]
) -> dict[Modality, float]:
    """Share of the responses about the people to forget that are the target's, letter by letter, by modality."""
    same: dict[Modality, list[bool]] = {}
    for sample in samples:
        if sample.split in FORGOTTEN and sample.part == "report":
            same.setdefault(sample.modality, []).append(target[sample.id].text == model[sample.id].text)
    return {modality: sum(alike) / len(alike) for modality, alike in same.items()}


def gate_warning(
    difference: Difference | None, controls: Sequence[ControlRow], before: Difference | None
) -> tuple[str, ...]:
    """What the memorisation gate found, if it would have stopped the run."""
    fault = gate.verdict(difference, controls, before) if difference else ""
    text = f"The memorisation gate is not passed: {fault}. The numbers below say little about unlearning."
    return (text,) if fault else ()


def probe_warnings(probed: ProbeResults, declared: Declared, prompted: Sequence[str]) -> Iterator[str]:
    """What the probes of the gate say of the numbers; ``prompted``: the models that are a system prompt."""
    letters = declared.tasks.get(BY_LETTER)
    if letters and probed.of_letters:
        also = ""
        if probed.reads_letters is False and letters.in_mean:
            also = (
                " The means over the tasks hold its scores by letter, which say nothing about what it knows; task "
                "option_text asks the same without letters."
            )
        elif probed.reads_letters is False:
            also = " So the means over the tasks leave its scores by letter out; option_text asks the same."
        yield f"{letters.label}: {probed.of_letters}{also}"
    if prompted and probed.of_instructions:
        yield f"{', '.join(prompted)}: {probed.of_instructions} So the loss is the model's, not the method's."


def portraits(run: Run, key: str) -> tuple[Portrait, ...]:
    """Images of some people to forget and to retain."""
    data = run.data
    people = [("forget", person) for person in data.splits[key][:NUM_PORTRAITS]]
    people += [("retain", person) for person in data.retained(key)[:NUM_PORTRAITS]]
    views = {person: [path.read_bytes() for path in image_files(data.folder, person)] for _, person in people}
    records = ({"id": p, "name": data.names[p], "role": role, "views": views[p]} for role, p in people)
    return tuple(map(Portrait.model_validate, records))


def examples(evaluation: Evaluation, replies: Mapping[str, Mapping[str, Response]]) -> tuple[Example, ...]:
    """Some questions with the replies of all models: for every task one of the forget and of the retain set in turn."""
    reported = [sample for sample in evaluation.samples if sample.part == "report"]
    order = sorted(reported, key=lambda s: rng(evaluation.run.recipe.seed, "example", s.id).random())
    wanted = [(split, task) for task in evaluation.run.recipe.evaluate.tasks for split in ("forget", "retain")]
    rows = [[s for s in order if (s.split, s.task) == cell] for cell in wanted]
    picked = [sample for turn in zip_longest(*rows) for sample in turn if sample]
    return tuple(_example(evaluation.run, s, replies) for s in picked[: evaluation.run.recipe.report.num_examples])


def _example(run: Run, sample: Sample, replies: Mapping[str, Mapping[str, Response]]) -> Example:
    image = shown_image(run.root, sample.image) if sample.image else None
    return Example(
        **sample.model_dump(include={"split", "task", "modality"}),
        question=sample.prompt,
        image=image.read_bytes() if image else None,
        truth=sample.target,
        replies={name: of_model[sample.id].text for name, of_model in replies.items()},
        outcomes={name: outcome(sample, of_model[sample.id]) for name, of_model in replies.items()},
    )
