"""What a report is made from: plain values only, so a report can be rendered again without any model."""

from collections import Counter
from typing import Any, Literal, get_args

from pydantic import Field

from mllmu.core.attacked import AttackResults
from mllmu.core.controlled import ControlResults
from mllmu.core.declared import Declared
from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.names import BASELINES
from mllmu.core.records import MetricResult, Modality, Record, Split, Summary, TaskName
from mllmu.core.requested import RequestResults

Role = Literal["base", "target", "retain_model", "baseline", "unlearned"]
ROLES: tuple[Role, ...] = get_args(Role)
"""What a model is, in the order of the report."""


class ModelRow(Record):
    """One evaluated model. ``modality`` is what it was unlearned with; ``peak_mib`` is accelerator memory in MiB.

    ``trainable`` counts the parameters that were trained, ``tokens_per_s`` what their training read in all its passes;
    ``same_as_target`` is the share of responses about the people to forget that are the target's, by modality;
    ``declines``, of a model that a system prompt tells to decline them, the share that it does; ``of_target`` says what
    the target cannot do that the method asks of it, so that the loss is the target's.
    """

    name: str = Field(min_length=1)
    role: Role
    method: str = ""
    modality: Literal["image_text", "text", "both"] | None = None
    forget_ratio: float | None = Field(default=None, ge=0, le=1, description="share of people to forget, e.g. 0.05")
    seconds: float | None = Field(default=None, ge=0)
    peak_mib: float | None = Field(default=None, ge=0)
    tokens_per_s: float | None = Field(default=None, ge=0)
    trainable: int | None = Field(default=None, ge=0)
    same_as_target: dict[Modality, float] = Field(default_factory=dict)
    declines: dict[Modality, float] = Field(default_factory=dict)
    of_target: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class TrustRow(Record):
    """How far one metric can be trusted on one task and modality of the forget questions.

    Attributes:
        auc: share of pairs (model that knows, model that does not) the metric puts in the right order; 0.5 is chance.
        auc_low, auc_high: its 95 % interval as if all models were independent; those of one number share a seed.
        quantisation, relearning: 1 if nothing hidden comes back, towards 0 the more does; None where not measured, and
            for a metric without a scale from 0 to 1, whose values have no ratio.
        trust: harmonic mean of those of the three that were measured; None for a metric without such a scale.
        num_with, num_without: models with a value.
    """

    metric: str
    task: TaskName
    modality: Modality
    auc: float | None
    auc_low: float | None = None
    auc_high: float | None = None
    quantisation: float | None = None
    relearning: float | None = None
    trust: float | None = None
    num_with: int
    num_without: int


class Portrait(Record):
    """The images of one person as PNG bytes; the first is the canonical one, the others are transformed."""

    id: str
    name: str
    role: Literal["forget", "retain"]
    views: tuple[bytes, ...]


class Example(Record):
    """One question with the replies of all models. ``outcomes`` (model -> kind of reply) is optional."""

    question: str
    image: bytes | None = None
    split: Split
    task: TaskName
    modality: Modality
    truth: str
    replies: dict[str, str]
    outcomes: dict[str, str] = Field(default_factory=dict)


class ToldFact(Record):
    """A question about a person to forget that a model answers rightly and the retain_model does not."""

    person: str
    task: TaskName
    modality: Modality
    question: str
    truth: str
    reply: str


class ReportInput(Record):
    """Everything the report shows.

    Attributes:
        title: what the recipe calls the run.
        facts: what was forgotten, and by which model, in a line computed from the run.
        num_people, num_forgotten: whom the target was taught, and whom it was made to forget; 0 if unknown.
        models: one row per model; their order is the order of the report within each role.
        results: metric results of all models, and of the ``chance`` and ``majority`` baselines.
        summaries: numbers about whole models that no single reply gives.
        declared: how metrics, tasks, sets and summaries are titled, printed and laid out in tables.
        curves: model -> loss term -> logged values as (step, value), by step; a value may be infinite or not a number.
        provenance: nested plain values; ``seconds`` (stage -> seconds) and ``recipe`` (text) are shown on their own.
        warnings: what a reader must know before believing a number, e.g. that the memorisation gate is off.
        task_notes: what a reader of the scores of a task must know, by task.
        trust: how well each metric tells models that know from models that do not, if that was measured.
        controls: what the models get right without being told whom they are asked about, if that was asked.
        attacks: what attacks brought back, if any were run.
        requests: what is known after each of several requests, if the recipe has such.
        names: of people, by id.
        told: model -> person to forget -> questions that are answered rightly, and all of them.
        leaks: model -> what it says and the retain_model does not know, the first few.
        reference_rows: also print the paper's published numbers, apart and labelled as not comparable.
    """

    title: str
    facts: str = ""
    num_people: int = 0
    num_forgotten: int = 0
    models: tuple[ModelRow, ...]
    results: tuple[MetricResult, ...] = ()
    summaries: tuple[Summary, ...] = ()
    declared: Declared = Field(default_factory=Declared)
    curves: dict[str, dict[str, tuple[tuple[int, float], ...]]] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    portraits: tuple[Portrait, ...] = ()
    examples: tuple[Example, ...] = ()
    warnings: tuple[str, ...] = ()
    task_notes: dict[TaskName, str] = Field(default_factory=dict)
    reference_rows: bool = False
    trust: tuple[TrustRow, ...] = ()
    controls: ControlResults | None = None
    attacks: AttackResults | None = None
    requests: RequestResults | None = None
    names: dict[str, str] = Field(default_factory=dict)
    told: dict[str, dict[str, tuple[int, int]]] = Field(default_factory=dict)
    leaks: dict[str, tuple[ToldFact, ...]] = Field(default_factory=dict)


def check(report: ReportInput) -> None:
    """Refuse input whose numbers must not be put side by side.

    Raises:
        DataError: two models of one name; a result given twice or of an unlisted model; or two models that
            were asked a different number of questions for the same metric, split, task and modality.
    """
    names = [row.name for row in report.models]
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"report.models: '{name}' is listed {count} times. Give every model a name of its own.")
    seen: set[tuple[str, ...]] = set()
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    for result in report.results:
        model, of = result.model, (result.metric, result.split, result.task, result.modality)
        if model not in names and model not in BASELINES:
            raise DataError(
                f"report.results: model '{model}' is not in report.models.{did_you_mean(model, names)} "
                f"Known: {', '.join([*names, *BASELINES])}."
            )
        if (model, *of) in seen:
            raise DataError(f"report.results: {model}: {' '.join(of)} is given twice. Expected one result each.")
        seen.add((model, *of))
        asked = result.num + result.num_unparsed
        other, count = first.setdefault(of, (model, asked)) if model not in BASELINES else (model, asked)
        if asked != count:
            raise DataError(
                f"report.results: {result.metric} on {result.split} ({result.task}, {result.modality}): "
                f"'{other}' was asked {count} questions and '{model}' {asked}. "
                "Only models that answered the same questions can be compared; evaluate both on the same samples."
            )
