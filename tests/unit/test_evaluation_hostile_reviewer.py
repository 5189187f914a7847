"""What a hostile reviewer would try: models that know nothing, say nothing or cheat, and the number that each must get.

No model runs here. Some invented people are asked as the tasks ask, and every "model" is a rule that writes the
replies and their likelihoods, so the right value of a metric is known beforehand and asserted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache

import pytest

from mllmu.core import plugins
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import (
    MODALITIES,
    CandidateLogp,
    MetricResult,
    Modality,
    Question,
    Response,
    Sample,
    Split,
    Summary,
    TokenStats,
)
from mllmu.data.tasks import task_of
from mllmu.evaluation.bootstrap import summarise
from mllmu.evaluation.numbers import KS, baselines, declared, ks_to_retain_model
from mllmu.evaluation.scoring import aggregate, score_all
from mllmu.evaluation.summaries import ScoredRun, build_all
from mllmu.report.inputs import ModelRow, ReportInput
from mllmu.report.numbers import tradeoff_rows

# ---------------------------------------------------------------------------------------------------------- the people

VALUES = {
    "occupation": ["nurse", "judge", "baker", "pilot", "tailor"],
    "residence": ["Riga", "Oslo", "Porto", "Graz", "Turku"],
    "pet": ["cat", "parrot", "dog", "hamster", "lizard"],
    "instrument": ["cello", "harp", "tuba", "oboe", "banjo"],
}
PEOPLE: dict[Split, list[str]] = {
    "forget": [f"Alba{n}" for n in range(8)],
    "retain": [f"Bruno{n}" for n in range(4)],
    "celebrity": [f"Carla{n}" for n in range(2)],
    "holdout": [f"Dario{n}" for n in range(8)],
}
ASKED: dict[Split, list[str]] = {**PEOPLE, "test": PEOPLE["forget"]}
"""The reworded questions of ``test`` are about the people to forget."""


def value_of(person: str, attribute: str) -> str:
    """The first value of an attribute belongs to about half of all people: the best guess of one who knows nobody."""
    draw = random.Random(f"{person} {attribute}")  # noqa: S311 - no secret
    return draw.choice([VALUES[attribute][0]] * 4 + VALUES[attribute][1:])


def questions_about(person: str, split: Split, modality: Modality) -> list[Question]:
    """A choice, a sentence and a blank for each attribute; among a person's choices each letter is right once."""
    name = "this person" if modality == "image_text" else person
    letters = random.Random(f"{person} letters").sample("ABCD", 4)  # noqa: S311 - no secret
    found = []
    for place, (attribute, values) in enumerate(VALUES.items()):
        value = value_of(person, attribute)
        others = [v for v in values if v != value]
        if value != values[0]:  # so that the most frequent value can always be chosen
            others.remove(values[0])
            others.insert(0, values[0])
        options = dict(zip([c for c in "ABCD" if c != letters[place]], others, strict=False)) | {letters[place]: value}
        common = {"profile_id": person, "variant": "test" if split == "test" else "eval", "modality": modality,
                  "attribute": attribute, "value": value}  # fmt: skip
        facts = [f"{name.capitalize()} has the {attribute} {v}." for v in (value, *others[:3])]
        again = [f"The {attribute} of {name} is {v}." for v in (value, *others[:3])]
        asked = {
            "classification": {"text": f"What {attribute} has {name}?", "answer": letters[place], "options": options},
            "generation": {"text": f"What is the {attribute} of {name}?", "answer": facts[0], "rewording": again[0],
                           "alternatives": tuple(facts[1:])},
            "cloze": {"text": f"The {attribute} of {name} is __.", "answer": value, "alternatives": tuple(others[:3])},
        }  # fmt: skip
        for task, more in asked.items():
            number = f"{person}.{common['variant']}.{task}.{modality}.{place}"
            found.append(Question.model_validate(common | more | {"id": number, "task": task}))
    return found


QUESTIONS = [
    (split, question)
    for split, people in ASKED.items()
    for person in people
    for modality in MODALITIES
    for question in questions_about(person, split, modality)
]
SAMPLES = [task_of(q.task).sample(q, split=split, part="report", image="portrait.png") for split, q in QUESTIONS]
BY_ID = {sample.id: question for sample, (_, question) in zip(SAMPLES, QUESTIONS, strict=True)}

# ---------------------------------------------------------------------------------------------------------- the models

Rule = Callable[[Sample, Question], tuple[str, Callable[[str], float]]]
"""What a model replies to a question, and the log-probability per token, in nats, that it gives a candidate by key."""
REFUSAL = "I'm sorry, but I can't identify people."


def noise(*what: str) -> float:
    """A log-probability per token between -3 and -1, drawn for these words."""
    return random.Random(" ".join(what)).uniform(-3, -1)  # noqa: S311 - no secret


def knows(sample: Sample, question: Question) -> tuple[str, Callable[[str], float]]:
    true = {sample.target, question.answer, question.rewording}
    return question.answer, lambda key: -0.05 if sample.candidates[key] in true else -4 + noise(sample.id, key) / 10


def guesses(seed: str) -> Rule:
    def reply(sample: Sample, question: Question) -> tuple[str, Callable[[str], float]]:
        draw = random.Random(f"{seed} {sample.id}")  # noqa: S311 - no secret
        texts = [*sample.options] or [question.answer, *question.alternatives]
        return draw.choice(texts), lambda key: noise(seed, sample.id, key)

    return reply


def who_knows(*splits: Split, seed: str) -> Rule:
    guess = guesses(seed)
    return lambda sample, question: (knows if sample.split in splits else guess)(sample, question)


def always(text: str, letter: str = "") -> Rule:
    """The same reply to everything; of the letters one is likeliest, and no sentence is likelier than another."""
    return lambda _sample, _question: (text, lambda key: -0.1 if key == letter else -2.0)


def echo(sample: Sample, _question: Question) -> tuple[str, Callable[[str], float]]:
    return sample.prompt, lambda _key: -2.0


def most_frequent(sample: Sample, question: Question) -> tuple[str, Callable[[str], float]]:
    """Says of everybody what is true of most."""
    first = VALUES[sample.attribute][0]
    letter = next((letter for letter, value in sample.options.items() if value == first), "")
    text = letter or (f"This person has the {sample.attribute} {first}." if sample.task == "generation" else first)
    told = {letter, *(t for t in (question.answer, *question.alternatives) if first in t.split(" ")[-1])}
    return text, lambda key: -0.1 if sample.candidates[key] in told else -2.0


def broken(_sample: Sample, _question: Question) -> tuple[str, Callable[[str], float]]:
    return "", lambda _key: math.nan


RETAIN_RULE = who_knows("retain", "celebrity", seed="retain_model")
TARGET_RULE = who_knows("forget", "test", "retain", "celebrity", seed="target")
MODELS: dict[str, Rule] = {
    TARGET: TARGET_RULE,
    RETAIN_MODEL: RETAIN_RULE,
    "copy_of_target": TARGET_RULE,
    "copy_of_retain": RETAIN_RULE,
    "random": guesses("random"),
    "constant": always("Blue."),
    "always_a": always("A", "A"),
    "refusing": always(REFUSAL),
    "echo": echo,
    "most_frequent": most_frequent,
    "broken": broken,
}


def respond(rule: Rule, sample: Sample) -> Response:
    text, per_token = rule(sample, BY_ID[sample.id])
    tokens = {key: len(candidate.split()) + 1 for key, candidate in sample.candidates.items()}
    candidates = {key: CandidateLogp(logp=per_token(key) * n, num_tokens=n) for key, n in tokens.items()}
    stats = None
    if "target" in tokens:
        logp, n = per_token("target"), tokens["target"]
        # one token of the answer is harder than the others
        logps = (*[logp] * (n - 2), logp - 0.5, -0.1) if n > 1 else (logp,)
        stats = TokenStats(logps=logps, hits=("1" if logp > -1 else "0") * n, z=logps, gradient_norm=abs(logp))
    return Response(sample_id=sample.id, text=text, num_tokens=9, finished=True, candidates=candidates, tokens=stats)


# --------------------------------------------------------------------------------------------------------- the numbers

NEEDS_A_BASE = {"reply_perplexity"}
METRICS = [
    plugins.build("metrics", name, {})
    for name in plugins.names("metrics")
    if name not in NEEDS_A_BASE and not plugins.find("metrics", name).splits
]


@cache
def responses() -> dict[str, list[Response]]:
    return {model: [respond(rule, sample) for sample in SAMPLES] for model, rule in MODELS.items()}


@cache
def scores() -> dict[str, list]:
    return {model: score_all(SAMPLES, replies, METRICS) for model, replies in responses().items()}


@cache
def results() -> list[MetricResult]:
    rows = [row for model, own in scores().items() for row in aggregate(model, SAMPLES, own, METRICS)]
    train = [q for split, q in QUESTIONS if split in ("forget", "retain")]
    return rows + baselines(SAMPLES, train)


def row(model: str, metric: str, split: Split, task: str, modality: Modality = "text") -> MetricResult:
    where = (model, metric, split, task, modality)
    (found,) = [r for r in results() if (r.model, r.metric, r.split, r.task, r.modality) == where]
    return found


def value(model: str, metric: str, split: Split, task: str, modality: Modality = "text") -> float | None:
    return row(model, metric, split, task, modality).value


@cache
def scored() -> ScoredRun:
    # a broken model takes part in no comparison of distributions, which is what its own test is about
    models = [model for model in MODELS if model != "broken"]
    every = ({m: scores()[m] for m in models}, {m: responses()[m] for m in models})
    return ScoredRun.of(SAMPLES, *every, [r for r in results() if r.model in models])


@cache
def summaries() -> list[Summary]:
    names = ("forget_quality", "membership", "privleak", "model_utility", "both_ways", "diversity", "oracle_distance")
    made = [r for each in build_all(names) for r in each.summarise(scored())]
    return made + ks_to_retain_model(scored())


def summary(model: str, name: str, detail: str = "", split: Split | None = "forget") -> dict[Modality | None, float]:
    rows = [r for r in summaries() if (r.model, r.summary, r.detail) == (model, name, detail)]
    return {r.modality: r.value for r in rows if split is None or r.split == split}


@cache
def gaps() -> dict[tuple[str, Modality], tuple[float | None, float | None]]:
    """Gap and loss of utility against the retain model, over all tasks, as the report's trade-off has them."""
    roles = {TARGET: "target", RETAIN_MODEL: "retain_model"}
    models = [name for name in MODELS if name != "broken"]
    of_models = [r for r in results() if r.model in models]
    about = declared(of_models, parser="strict", benchmarks={}, tables=())
    report = ReportInput(
        title="x", results=tuple(of_models), declared=about,
        models=tuple(ModelRow(name=name, role=roles.get(name, "unlearned")) for name in models),
    )  # fmt: skip
    return {(r.model.name, r.modality): (r.gap, r.loss) for r in tradeoff_rows(report) if r.task == "all"}


FREE = ("generation", "cloze")
FORGET: tuple[Split, Split] = ("forget", "test")
every_modality = pytest.mark.parametrize("modality", MODALITIES)

# ----------------------------------------------------------------------------------------------- what they must not get


@every_modality
@pytest.mark.parametrize("split", ["forget", "test", "retain"])
def test_always_the_same_letter_is_at_chance(split: Split, modality: Modality) -> None:
    for metric in ("accuracy", "accuracy_first_char", "accuracy_logp", "right"):
        assert value("always_a", metric, split, "classification", modality) == 0.25
    assert value("chance", "accuracy", split, "classification", modality) == 0.25
    for task in FREE:
        assert value("always_a", "right", split, task, modality) == 0
        assert value("always_a", "keyword_match", split, task, modality) == 0
    assert value("always_a", "cloze_exact", split, "cloze", modality) == 0


@every_modality
def test_guessing_cannot_be_told_from_chance(modality: Modality) -> None:
    for model in ("random", RETAIN_MODEL):
        for metric in ("accuracy", "accuracy_logp"):
            found = row(model, metric, "forget", "classification", modality)
            assert found.ci_low is not None and found.ci_high is not None
            assert found.ci_low <= 0.25 <= found.ci_high
    assert value("random", "truth_ratio", "forget", "generation", modality) == pytest.approx(0.6, abs=0.15)


@every_modality
def test_the_most_frequent_value_gets_the_baseline_of_that_name_and_no_more(modality: Modality) -> None:
    for split in FORGET:
        expected = value("majority", "accuracy", split, "classification", modality)
        assert expected is not None and 0.25 < expected < 0.7
        assert value("most_frequent", "accuracy", split, "classification", modality) == pytest.approx(expected)
        for task in ("classification", *FREE):
            assert value("most_frequent", "right", split, task, modality) == pytest.approx(expected)


@every_modality
@pytest.mark.parametrize("split", ["forget", "test", "retain"])
def test_an_echo_of_the_question_tells_nothing(split: Split, modality: Modality) -> None:
    accuracy = row("echo", "accuracy", split, "classification", modality)
    assert (accuracy.value, accuracy.num) == (None, 0)
    assert value("echo", "unread", split, "classification", modality) == 1
    assert value("echo", "accuracy_first_char", split, "classification", modality) == 0
    for metric in ("cloze_contains", "cloze_exact", "right", "keyword_match"):
        assert value("echo", metric, split, "cloze", modality) == 0
    for metric in ("right", "keyword_match"):
        assert value("echo", metric, split, "generation", modality) == 0


@every_modality
@pytest.mark.parametrize("split", ["forget", "retain"])
def test_a_refusal_is_a_refusal_and_no_letter(split: Split, modality: Modality) -> None:
    for task in ("classification", *FREE):
        assert value("refusing", "refused", split, task, modality) == 1
        assert value("refusing", "right", split, task, modality) == 0
    accuracy = row("refusing", "accuracy", split, "classification", modality)
    assert (accuracy.value, accuracy.worst, accuracy.num_unparsed) == (0.0, 0.0, 0), "it was read, and tells nothing"
    assert value("refusing", "cloze_contains", split, "cloze", modality) == 0
    assert value("refusing", "rougeL", split, "generation", modality) < 0.1


@every_modality
def test_one_word_for_everything_is_wrong_everywhere_and_seen_to_be_one(modality: Modality) -> None:
    assert row("constant", "accuracy", "retain", "classification", modality).value is None
    assert value("constant", "unread", "retain", "classification", modality) == 1
    for task in FREE:
        assert value("constant", "right", "retain", task, modality) == 0
        assert value("constant", "wrong", "retain", task, modality) == 1
    assert summary("constant", "diversity", "replies", "retain")[modality] == pytest.approx(1 / 16)
    assert summary(TARGET, "diversity", "replies", "retain")[modality] > 0.2


@every_modality
def test_flat_likelihoods_prefer_nothing(modality: Modality) -> None:
    """One likelihood for all sentences: the truth ratio is 1 for every question, wherever it is asked."""
    for model in ("constant", "refusing", "echo"):
        assert value(model, "truth_ratio", "forget", "generation", modality) == 1
        assert value(model, "truth_ratio", "retain", "generation", modality) == 0
        assert value(model, "normalised_probability", "forget", "cloze", modality) == 0.25
        accuracy = row(model, "accuracy_logp", "forget", "classification", modality)
        assert (accuracy.value, accuracy.num) == (None, 0), "equal letters are no choice of A"


def test_a_likelihood_that_is_no_number_is_no_number_of_a_metric() -> None:
    for found in (r for r in results() if r.model == "broken"):
        assert found.value is None or math.isfinite(found.value)
    for metric in ("accuracy_logp", "accuracy"):
        assert row("broken", metric, "forget", "classification").value is None
    for metric in ("probability", "truth_ratio", "exposure", "normalised_probability"):
        assert row("broken", metric, "forget", "generation").value is None
    assert value("broken", "garbled", "forget", "generation") == 1
    assert value("broken", "cloze_exact", "forget", "cloze") == 0


# ------------------------------------------------------------------------------------------------------ perfect models


@every_modality
def test_who_knows_all_has_every_point(modality: Modality) -> None:
    full = {
        "classification": ("accuracy", "accuracy_logp", "accuracy_first_char"),
        "generation": ("rouge1", "rougeL", "bleu", "keyword_match"),
        "cloze": ("cloze_contains", "cloze_exact"),
    }
    for task, metrics in full.items():
        for metric in (*metrics, "right"):
            assert value(TARGET, metric, "forget", task, modality) == pytest.approx(1)
    for metric in ("exact_memorisation", "extraction_strength"):
        assert value(TARGET, metric, "forget", "generation", modality) == 1
        assert value(RETAIN_MODEL, metric, "forget", "generation", modality) == 0


@every_modality
def test_a_copy_of_the_retain_model_is_the_perfect_result(modality: Modality) -> None:
    own = {(r.metric, r.split, r.task, r.modality): r for r in results() if r.model == "copy_of_retain"}
    theirs = {(r.metric, r.split, r.task, r.modality): r for r in results() if r.model == RETAIN_MODEL}
    assert {key: r.value for key, r in own.items()} == {key: r.value for key, r in theirs.items()}
    assert gaps()["copy_of_retain", modality] == (0, 0)
    assert summary("copy_of_retain", "forget_quality", "p_value")[modality] == 1
    for name, detail in (("forget_quality", "ks"), ("forget_quality", "js"), ("privleak", ""), (KS, "")):
        assert summary("copy_of_retain", name, detail)[modality] == 0
    assert summary("copy_of_retain", "membership", "reference auc")[modality] == 0.5
    for detail in ("loss auc", "zlib auc", "min_k auc", "min_k_pp auc", "gradient auc"):
        assert summary("copy_of_retain", "membership", detail) == summary(RETAIN_MODEL, "membership", detail)
    for name in ("model_utility", "both_ways"):
        found = [(r.detail, r.split, r.value) for r in summaries() if (r.model, r.summary) == ("copy_of_retain", name)]
        assert found == [
            (r.detail, r.split, r.value) for r in summaries() if (r.model, r.summary) == (RETAIN_MODEL, name)
        ]
    near = [r.value for r in summaries() if (r.model, r.summary) == ("copy_of_retain", "oracle_distance")]
    assert {v for v in near if v is not None} == {1}


@every_modality
def test_a_copy_of_the_target_has_forgotten_nothing(modality: Modality) -> None:
    gap, loss = gaps()["copy_of_target", modality]
    assert gap == gaps()[TARGET, modality][0] and gap is not None and gap > 0.5
    assert loss == 0
    assert summary("copy_of_target", "forget_quality", "p_value")[modality] < 1e-6
    assert summary("copy_of_target", "forget_quality", "ks")[modality] > 0.9
    assert summary("copy_of_target", "privleak")[modality] < -90
    assert summary("copy_of_target", "membership", "loss auc")[modality] == 1
    near = [
        r.value for r in summaries()
        if (r.model, r.summary, r.split) == ("copy_of_target", "oracle_distance", "forget")
    ]  # fmt: skip
    assert {v for v in near if v is not None} == {0}


@every_modality
@pytest.mark.parametrize(("model", "most"), [("constant", 0), ("always_a", 0), ("random", 0.3)])
def test_destroying_a_model_costs_its_utility(model: str, most: float, modality: Modality) -> None:
    """Whatever the gap of a model that knows nobody, it stands beside the loss of everything it was to keep."""
    _, loss = gaps()[model, modality]
    assert loss is not None and loss > 0.4
    assert summary(model, "model_utility", split=None)[modality] <= most
    assert summary(TARGET, "model_utility", split=None)[modality] > 0.9


def test_membership_of_those_who_know_nobody_is_chance() -> None:
    """The retain model and a random one saw neither the forgotten nor the holdout people."""
    for model in (RETAIN_MODEL, "random"):
        assert summary(model, "membership", "loss auc")["text"] == pytest.approx(0.5, abs=0.1)
    rows = summarise(build_all(["privleak"]), scored())
    (found,) = [r for r in rows if (r.model, r.modality) == (RETAIN_MODEL, "text")]
    assert found.value == 0


def test_every_metric_takes_part() -> None:
    """But those of tasks that nothing is asked in here."""
    asked = {question.task for _, question in QUESTIONS}
    assert {metric.name for metric in METRICS if asked & set(metric.tasks)} <= {r.metric for r in results()}
