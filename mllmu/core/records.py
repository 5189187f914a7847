"""The plain values that travel between stages. Everything on disk is a list of these, one JSON object a line.

    Profile -> Question -> Sample -> Response -> Score -> MetricResult

A record is frozen, refuses unknown fields, and never holds a tensor.
"""

from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

Modality = Literal["image_text", "text"]
Split = str
"""A set of questions that is scored on its own: a set of people, or a general benchmark by its plug-in's name."""
TaskName = str
"""The name of a task plug-in."""

PersonKind = Literal["fictitious", "celebrity"]
ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
"""The form of a person's id, which also names files."""
OTHER_ATTRIBUTE = "other"
"""The attribute of a question of which nobody says what it asks for."""
MODALITIES: tuple[Modality, ...] = ("image_text", "text")
PEOPLE_SPLITS: tuple[Split, ...] = ("forget", "test", "retain", "celebrity", "holdout")
KEPT, THROUGH = "kept", "through"
"""Sets about people of whom some facts are forgotten: what they keep, and what is forgotten, asked through that."""
FORGOTTEN: tuple[Split, ...] = ("forget", "test")
"""The sets about the people to forget: their scores are compared with the retain_model's."""
TO_FORGET: tuple[Split, ...] = (*FORGOTTEN, THROUGH)
"""The sets in which knowing is what was to be forgotten."""
UTILITY: tuple[Split, ...] = ("retain", "celebrity")
"""The sets whose mean score is the utility."""
TASKS: tuple[TaskName, ...] = ("classification", "generation", "cloze")
"""The tasks of MLLMU-Bench in the order of tables; a recipe asks them unless it names others."""
QUESTION_FORMAT = "question"
"""The training format of the benchmark, beside the tasks: a question and its answer in a sentence."""


class Cell(NamedTuple):
    """What a score is about: the questions of one task on one set, in one modality."""

    split: Split
    task: TaskName
    modality: Modality


class Record(BaseModel):
    """Base of all records: frozen, keyword-only, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # NaN is no JSON


class QA(Record):
    """One training pair about one attribute of one person; ``question`` says 'this person'."""

    question: str
    answer: str
    attribute: str | None = Field(description="canonical attribute, or None if it could not be recovered")


class Profile(Record):
    """One person. ``attributes`` maps canonical attribute names to printable values.

    ``also`` has further values that are true of the person, by attribute: they are never asked for, and never wrong.
    """

    id: str = Field(pattern=ID_PATTERN)
    kind: PersonKind
    attributes: dict[str, str]
    also: dict[str, tuple[str, ...]] = {}
    biography: str = ""
    training_qa: tuple[QA, ...] = Field(default=(), description="published text where the source has it, else empty")

    @property
    def name(self) -> str:
        return self.attributes["name"]


class Question(Record):
    """A raw question about one attribute of one person, before any prompt is rendered.

    Attributes:
        id: unique, ``<profile>.<variant>.<task>.<modality>.<n>``.
        variant: ``train`` (used in fine-tuning), ``eval`` (evaluated on forget, retain, celebrity, holdout),
            ``test`` (reworded question and answer, asked with a transformed portrait).
        text: 'this person' in image_text, the name in text. A cloze has the blank ``__``.
        answer: option letter (classification), full sentence (generation), value (cloze), sentence (train).
        value: the private value itself, e.g. '$58,000'; contained in ``answer`` except for classification.
        options: letter -> value, classification only.
        alternatives: wrong answers in the same wording and of the same type (generation, cloze): truth ratio.
        rewording: the right answer in other words (generation only; empty elsewhere).
        support: the passage of the profile that proves the answer, where a model wrote the question.
        coarse: how coarse the value may still be told after the recipe's request, see :mod:`mllmu.data.coarse`.
        view: which image of the person the question is about; None leaves it to the split (the portrait, or the
            transformed views in turn on test).
    """

    id: str
    profile_id: str
    variant: Literal["train", "eval", "test"]
    task: TaskName
    modality: Modality
    attribute: str
    text: str
    answer: str
    value: str
    options: dict[str, str] = {}
    alternatives: tuple[str, ...] = ()
    rewording: str = ""
    view: int | None = Field(default=None, ge=0)
    support: str = ""
    coarse: str = ""


class Exchange(Record):
    """A question with its right reply, shown as an example; ``image`` as in :class:`Sample`."""

    prompt: str
    reply: str
    image: str = ""


class Sample(Record):
    """A question as it is put to a model: the user turn (without chat template) and the image.

    Attributes:
        question_id: the question it was rendered from. ``id`` is ``<split>/<question_id>``.
        part: ``report`` (counted) or ``selection`` (only for tuning).
        prompt: text of the user turn; the image, if any, comes before it.
        system: system text, empty if none.
        image: path of the image relative to the data folder; empty in text modality.
        examples: exchanges that come before the question, in order.
        raw_prompt: the prompt is the whole text, examples and marks of all images included, and is put as it is.
        target: the reply that counts as right, as trained and scored (letter, value or sentence).
        candidates: replies whose log-probability is wanted: option letters; or the target, its rewording
            and its wrong alternatives, keyed ``target``, ``rewording``, ``wrong_0`` ...
        measured: what is wanted besides: ``tokens`` of the target, and the ``gradient`` of its nll.
        coarse: as in :class:`Question`.
    """

    id: str
    question_id: str
    profile_id: str
    split: Split
    part: Literal["report", "selection"] = "report"
    task: TaskName
    modality: Modality
    attribute: str
    prompt: str
    system: str = ""
    image: str = ""
    examples: tuple[Exchange, ...] = ()
    raw_prompt: bool = False
    target: str
    value: str
    options: dict[str, str] = {}
    candidates: dict[str, str] = {}
    measured: tuple[str, ...] = ()
    coarse: str = ""
    max_new_tokens: int = Field(gt=0)

    @property
    def images(self) -> list[str]:
        """The images in the order of their marks in the prompt: those of the examples, then its own."""
        return [image for image in (*(example.image for example in self.examples), self.image) if image]


def fact_of(asked: Question | Sample) -> tuple[str, ...]:
    """What a question asks about: person and attribute, or, where nobody says which attribute, the value too."""
    unknown = asked.attribute == OTHER_ATTRIBUTE
    return (asked.profile_id, asked.attribute, *((asked.value.casefold(),) if unknown else ()))


class CandidateLogp(Record):
    """Log-probability of one candidate: ``logp`` in nats, summed over ``num_tokens`` tokens.

    The end of the reply is one of them, except where the candidate is the letter of an option.
    """

    logp: float
    num_tokens: int = Field(gt=0)


class TokenStats(Record):
    """The target under teacher forcing, token by token, end-of-sequence included; only where a metric asks for it.

    Attributes:
        logps: log p of each token given all before it, in nats.
        hits: '1' where the token is the likeliest one, else '0'.
        z: log p standardised by mean and deviation of log p over the vocabulary under the model's own prediction.
        gradient_norm: norm of the gradient of the mean nll with respect to the embeddings; None if not asked for.
    """

    logps: tuple[float, ...] = Field(min_length=1)
    hits: str = Field(pattern="^[01]+$")
    z: tuple[float, ...]
    gradient_norm: float | None = None

    def without_end(self) -> Self:
        """The statistics of the content: the end of the sequence, which nearly any model finds likely, left out."""
        return self.model_copy(update={"logps": self.logps[:-1], "hits": self.hits[:-1], "z": self.z[:-1]})


class BaseLogp(Record):
    """Log-probability of a reply under the base model, in nats, summed over ``num_tokens`` tokens including EOS."""

    sample_id: str
    logp: float
    num_tokens: int = Field(gt=0)


class Response(Record):
    """What a model replied to a sample (greedy), and how likely it found each candidate; a likelihood may be NaN.

    ``base_logp``: how likely the base model finds the reply, if that was asked; kept in a file of its own.
    ``asked_with``, ``planned_with``: in low precision the samples that were asked at once, and those of the batch that
    was planned; 0 in float32.
    """

    sample_id: str
    text: str
    num_tokens: int
    finished: bool = Field(description="the reply ended by itself (EOS), not by the token limit")
    candidates: dict[str, CandidateLogp] = {}
    tokens: TokenStats | None = None
    base_logp: BaseLogp | None = None
    asked_with: int = 0
    planned_with: int = 0


class Score(Record):
    """The judgement of one metric on one response. ``value`` None means: could not be judged, see ``reason``."""

    sample_id: str
    metric: str
    value: float | None
    reason: str = ""


class ModelRef(Record):
    """A model on disk without its weights: what to load and what to put on top, in order.

    Attributes:
        base: 'tiny', 'smol', a folder, or a hub id.
        adapters: folders of adapters or weight changes, relative to the run folder, applied in this order.
        system_prompt: system prompt put before every question; empty for none.
    """

    base: str
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    system_prompt: str = ""


class MetricResult(Record):
    """One number over many samples, with everything needed to doubt it.

    ``ci_low``, ``ci_high``: 95 % interval, clustered by profile; of one or two people by question. ``num`` counts the
    judged samples, ``num_unparsed`` those that could not be judged (not in the mean), ``num_profiles`` the clusters.

    ``worst``, with its interval, is the mean over all samples in which what could not be judged counts against the
    model: as known on forget and test, as wrong elsewhere; it is the headline score. In ``best`` it counts for the
    model. None where the metric has no such end, or averages on another scale than that of its range.
    """

    model: str
    metric: str
    split: Split
    task: TaskName
    modality: Modality
    value: float | None
    ci_low: float | None
    ci_high: float | None
    num: int
    num_unparsed: int
    num_profiles: int
    worst: float | None = None
    worst_low: float | None = None
    worst_high: float | None = None
    best: float | None = None


class Summary(Record):
    """A number about a whole model that no single reply gives: a ranking, a pairing of questions, a comparison.

    ``split`` and ``modality`` are empty, and ``detail`` says more, where that is what the number is about. ``value``
    None: it cannot be computed, ``note`` says why. ``low``, ``high``: 95 % interval over people, None where there is
    none; then ``note`` says why, if it has nothing else to say. ``num`` counts what it rests on.
    """

    model: str
    summary: str
    detail: str = ""
    split: Split | Literal[""] = ""
    modality: Modality | Literal[""] = ""
    value: float | None
    low: float | None = None
    high: float | None = None
    num: int = 0
    note: str = ""
