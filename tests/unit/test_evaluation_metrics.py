"""Metrics by hand: every expected number is derived in the test."""

from __future__ import annotations

import math
import time
import unicodedata
from typing import Any

import pytest

from mllmu.core.equal_values import tells, words
from mllmu.core.parsing import contains_words
from mllmu.core.plugins import build, find, names
from mllmu.core.process import rng
from mllmu.core.records import CandidateLogp, Response, Sample, Score, TokenStats
from mllmu.evaluation.metrics import Metric, is_broken
from mllmu.evaluation.outcome import distinct_trigrams, is_refusal
from mllmu.evaluation.rouge import rouge_l, rouge_n

VOCABULARY = "the a person works worked working as nurse nurses nursing lives in Riga Łódź $75,000 hiking 165 cm"


def sentence(length: int, *keys: str | int) -> str:
    return " ".join(rng(0, *keys).choices(VOCABULARY.split(), k=length))


def sample(target: str, task: str = "generation", **changes: Any) -> Sample:
    base = {
        "id": "forget/q",
        "question_id": "q",
        "profile_id": "p",
        "split": "forget",
        "task": task,
        "modality": "text",
        "attribute": "profession",
        "prompt": "?",
        "target": target,
        "value": target,
        "max_new_tokens": 8,
    }
    return Sample(**(base | changes))


def response(text: str = "", candidates: dict[str, tuple[float, int]] | None = None) -> Response:
    logps = {key: CandidateLogp(logp=logp, num_tokens=num) for key, (logp, num) in (candidates or {}).items()}
    return Response(sample_id="forget/q", text=text, num_tokens=1, finished=True, candidates=logps)


def score(name: str, made: Sample, reply: Response) -> Score:
    metric: Metric = build("metrics", name, {})
    return metric.score(made, reply)


def test_rouge_by_hand() -> None:
    # truth: this person work as a nurs (6 stems); reply: a nurs work here (4 stems).
    # common words: work, a, nurs = 3: P = 3/4, R = 3/6, F1 = 0.6.  Common pairs: (a, nurs) = 1 of 3 and 5: F1 = 0.25.
    # longest common subsequence: a nurs = 2: P = 2/4, R = 2/6, F1 = 0.4.
    made, reply = sample("This person works as a nurse."), response("A nurse works here")
    assert score("rouge1", made, reply).value == pytest.approx(0.6)
    assert score("rouge2", made, reply).value == pytest.approx(0.25)
    assert score("rougeL", made, reply).value == pytest.approx(0.4)
    assert score("rougeL_recall", made, reply).value == pytest.approx(1 / 3)


def test_bleu_by_hand() -> None:
    # five words, four right: p1 = 4/5, p2 = 3/4, p3 = 2/3, p4 = 1/2, no brevity penalty: (0.8*0.75*0.6667*0.5)^(1/4).
    value = score("bleu", sample("she lives in old Riga"), response("she lives in old Rome")).value
    assert value == pytest.approx(0.2**0.25)
    assert score("bleu", sample("a b c d"), response("a b c d")).value == 1.0


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeL_recall", "bleu"])
def test_an_empty_reply_overlaps_with_nothing(name: str) -> None:
    assert score(name, sample("This person works as a nurse."), response("")).value == 0.0


def test_fast_rouge_equals_the_reference_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    reference = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for case in range(400):
        target, reply = sentence(case % 13, "target", case), sentence(case // 13 % 13, "reply", case)
        wanted = reference.score(target, reply)
        for published in (True, False) if (target + reply).isascii() else (True,):
            ours = {f"rouge{n}": rouge_n(target, reply, n=n, published=published) for n in (1, 2)}
            for name, got in (ours | {"rougeL": rouge_l(target, reply, published=published)}).items():
                assert tuple(got) == pytest.approx(tuple(wanted[name]), abs=1e-12), (name, target, reply)


FOREIGN = [
    "Он работает медсестрой в Риге.",
    "Εργάζεται ως νοσοκόμα στη Ρίγα.",
    "تعمل ممرضة في ريغا منذ عام",
    "प्रिया दिल्ली में रहती है",
    "この人は東京で看護師をしています。",
    "이 사람은 서울에서 간호사로 일합니다.",
    "เธอทำงานเป็นพยาบาลในกรุงเทพ",
    "Żyje w Łodzi, São Paulo i Malmö.",
]


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeL_recall", "bleu", "keyword_match"])
@pytest.mark.parametrize("text", FOREIGN)
def test_a_perfect_reply_is_perfect_in_every_script_and_encoding(text: str, name: str) -> None:
    for said in (text, unicodedata.normalize("NFD", text)):
        assert score(name, sample(text), response(said)).value == pytest.approx(1.0)
        assert score(name, sample(unicodedata.normalize("NFD", text)), response(said)).value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("truth", "reply", "f1"),
    [
        ("She lives in Москва.", "She lives in Токио.", 3 / 4),
        ("東京", "京都", 1 / 2),
        ("दिल्ली", "दिल", 0.0),
        ("Łódź", "Łęg", 0.0),
        ("Straße", "STRASSE", 1.0),
    ],
)
def test_a_wrong_word_of_another_script_is_wrong(truth: str, reply: str, f1: float) -> None:
    assert score("rougeL", sample(truth), response(reply)).value == pytest.approx(f1)


RAN_ON = [
    "This person works as a nurse in Riga.\nUSER: Where was this person born?\nASSISTANT: In Tallinn.",
    "This person works as a nurse in Riga. USER: And?",
    "This person works as a nurse in Riga.<|im_end|>\n<|im_start|>user\nAnd?",
    "This person works as a nurse in Riga.\nuser\nAnd?\nassistant\nIn Tallinn.",
    "This person works as a nurse in Riga.\n\n### Instruction: And?",
    "This person works as a nurse in Riga. [INST] And? [/INST] In Tallinn",
    "<think>USER: hm</think>This person works as a nurse in Riga.\nHuman: And?",
]


@pytest.mark.parametrize("reply", RAN_ON)
def test_an_invented_turn_does_not_count_and_is_counted(reply: str) -> None:
    made = sample("This person works as a nurse in Riga.", value="Riga")
    assert score("rougeL", made, response(reply)).value == score("right", made, response(reply)).value == 1.0
    assert score("ran_on", made, response(reply)).value == 1.0
    assert score("right", made.model_copy(update={"value": "Tallinn"}), response(reply)).value == 0.0
    assert score("cloze_contains", sample("Tallinn", "cloze"), response(reply)).value == 0.0


@pytest.mark.parametrize(
    "reply",
    [
        "ASSISTANT: nurse",
        "The user: a nurse",
        "nurse",
        "a nurse\nmodel",
        "<think>a\nUSER: b</think>nurse",
        "USER manual: nurse",
    ],
)
def test_a_reply_of_one_turn_does_not_run_on(reply: str) -> None:
    assert score("ran_on", sample("nurse"), response(reply)).value == 0.0
    assert score("right", sample("nurse"), response(reply)).value == 1.0


def test_the_letter_before_an_invented_turn_is_read() -> None:
    made = sample("B", "classification", options={"A": "teacher", "B": "nurse", "C": "judge", "D": "pilot"})
    assert score("accuracy", made, response("B\nUSER: Which city?\nA: Oslo\nASSISTANT: C")).value == 1.0
    assert score("accuracy_first_char", made, response("B\nUSER: Which city?")).value == 1.0


def test_invented_turns_are_found_in_linear_time() -> None:
    start = time.perf_counter()
    for text in ("a\n" + " \n" * 100_000, "USER " * 100_000, "#" * 300_000, "\nuser " * 50_000, "USER:" * 50_000):
        score("ran_on", sample("nurse"), response(text))
    assert time.perf_counter() - start < 10


ALLOTMENT = "growing giant pumpkins and leeks on an allotment behind the old goods yard"


@pytest.mark.parametrize("reply", ["growing giant pumpkins and leeks on an allotment behind the old", ALLOTMENT[:-2]])
def test_a_reply_that_was_cut_while_it_said_the_truth_is_not_wrong(reply: str) -> None:
    cut = response(reply).model_copy(update={"finished": False})
    made = sample(ALLOTMENT, "cloze")
    for name in ("cloze_contains", "cloze_exact"):
        assert score(name, made, cut).reason == "cut at the reply limit within the truth"
    assert [score(name, made, cut).value for name in ("right", "wrong", "unread", "cut_short")] == [0, 0, 1, 1]
    ended = [score(name, made, response(reply)).value for name in ("right", "wrong", "unread", "cut_short")]
    assert ended == [0, 1, 0, 0]
    other = cut.model_copy(update={"text": "growing roses and many other things all"})
    assert [score(name, made, other).value for name in ("cloze_exact", "wrong", "unread")] == [0, 1, 0]


@pytest.mark.parametrize("logp", [math.nan, -math.inf, math.inf])
def test_a_likelihood_that_is_no_number_is_a_reason_and_never_a_value(logp: float) -> None:
    keys = ("target", "rewording", "wrong_0", "wrong_1", "A", "B")
    for place in keys:
        logps = {key: (logp if key == place else -1.0, 2) for key in keys}
        tokens = TokenStats(logps=(-1.0, logp, -1.0), hits="111", z=(0.0, logp, 0.0), gradient_norm=logp)
        broken = response("nurse", logps).model_copy(update={"tokens": tokens})
        again = Response.model_validate_json(broken.model_dump_json(exclude_defaults=True))
        assert again.model_dump_json() == broken.model_dump_json() and is_broken(again)
        for name in names("metrics"):
            metric: Metric = build("metrics", name, {})
            task = "classification" if metric.concerns("classification") else "generation"
            options = {"A": "nurse", "B": "judge"} if task == "classification" else {}
            made = sample("A" if options else "nurse", task, options=options, candidates=dict.fromkeys(keys, "x"))
            got = metric.score(made, again)
            if metric.reads_likelihood or metric.measures:
                assert (got.value, got.reason) == (None, "a likelihood is not a number"), name
            else:
                assert got == metric.score(made, response("nurse")), name


def test_a_truth_without_enough_words_is_not_judged() -> None:
    assert score("rougeL", sample("?!"), response("?!")).reason == "the truth has 0 words, and 1 are compared"
    assert score("rouge2", sample("Москва"), response("Москва")).reason == "the truth has 1 words, and 2 are compared"
    assert score("rouge2", sample("Riga"), response("")).value is None


@pytest.mark.parametrize(
    ("name", "truth", "said", "published", "ours"),
    [
        ("rougeL", "Москва", "Москва", 0.0, 1.0),
        ("rougeL", "She lives in Москва.", "She lives in Токио.", 1.0, 0.75),
        ("rouge2", "Riga", "Riga", 0.0, None),
        ("cloze_contains", "São Paulo", "Sa\u0303o Paulo", 0.0, 1.0),
    ],
)
def test_prompts_put_as_published_are_scored_as_published(
    name: str, truth: str, said: str, published: float, ours: float | None
) -> None:
    assert score(name, sample(truth), response(said)).value == ours
    assert score(name, sample(truth, raw_prompt=True), response(said)).value == published


@pytest.mark.parametrize(
    ("value", "reply", "share"),
    [
        ("東京都", "彼女は東京都に住んでいます", 1.0),
        ("東京", "東と北の京", 0.0),
        ("दिल्ली", "दिल", 0.0),
        ("head nurse, Łódź", "nurse w Łodzi, Łódź", 2 / 3),
    ],
)
def test_keywords_are_found_in_scripts_without_spaces(value: str, reply: str, share: float) -> None:
    assert score("keyword_match", sample("?", value=value), response(reply)).value == pytest.approx(share)


@pytest.mark.parametrize(
    ("value", "reply", "told"),
    [
        ("東京", "彼女は東京に", True),
        ("Riga", "彼女はRigaに", True),
        ("दिल", "दिल्ली", False),
        ("São Paulo", "in Sa\u0303o Paulo.", True),
        ("Łód", "Łódź", False),
        ("male", "female", False),
    ],
)
def test_a_value_is_told_in_whole_words_of_its_script(value: str, reply: str, told: bool) -> None:
    assert contains_words(reply, value) is told and tells(reply, value) is told


def test_vowel_signs_are_a_part_of_their_word() -> None:
    assert words("की") != words("का") and words("प्रिया दिल्ली में") == ("प्रिया", "दिल्ली", "में")


def test_rouge_of_two_thousand_replies_takes_well_under_two_seconds() -> None:
    pairs = [(sentence(12, "target", case), sentence(12, "reply", case)) for case in range(2000)]
    start = time.process_time()
    for target, reply in pairs:
        rouge_n(target, reply, n=1)
        rouge_n(target, reply, n=2)
        rouge_l(target, reply)
    assert time.process_time() - start < 2


def test_probability_is_the_geometric_mean_over_tokens() -> None:
    # two tokens of probability 0.25 and 1: sqrt(0.25) = 0.5
    made = sample("nurse", candidates={"target": "nurse"})
    assert score("probability", made, response(candidates={"target": (math.log(0.25), 2)})).value == pytest.approx(0.5)


def test_probability_without_likelihood_is_unjudged_not_zero() -> None:
    got = score("probability", sample("nurse"), response("nurse"))
    assert (got.value, got.reason) == (None, "no likelihood for the target")


TRUTH = {"target": "t", "rewording": "r", "wrong_0": "x", "wrong_1": "y"}


def test_truth_ratio_is_the_geometric_mean_of_wrong_over_the_rewording() -> None:
    # wrong answers -4/2 = -2 and -12/3 = -4, mean -3; rewording -2/2 = -1; R = e^(-3+1). The target is not used.
    logps = {"target": (-0.1, 1), "rewording": (-2.0, 2), "wrong_0": (-4.0, 2), "wrong_1": (-12.0, 3)}
    got = score("truth_ratio", sample("t", candidates=TRUTH), response(candidates=logps))
    assert got.value == pytest.approx(math.exp(-2))


@pytest.mark.parametrize(("name", "expected"), [("truth_ratio", math.exp(-1)), ("truth_ratio_arithmetic", 0.568)])
def test_truth_ratio_compares_answers_in_the_words_of_the_rewording(name: str, expected: float) -> None:
    more = {"reworded_wrong_0": "r w", "reworded_wrong_1": "r x"}
    logps = {"target": (-0.1, 1), "rewording": (-2.0, 2), "wrong_0": (-0.2, 1), "wrong_1": (-0.2, 1)}
    logps |= {"reworded_wrong_0": (-1.0, 1), "reworded_wrong_1": (-6.0, 2)}
    got = score(name, sample("t", candidates=TRUTH | more), response(candidates=logps))
    assert got.value == pytest.approx(expected, abs=5e-4)


def test_truth_ratio_falls_back_to_the_target_where_there_is_no_rewording() -> None:
    made = sample("t", "cloze", candidates={"target": "t", "wrong_0": "x"})
    logps = {"target": (-1.0, 1), "wrong_0": (-4.0, 2)}
    assert score("truth_ratio", made, response(candidates=logps)).value == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("lost", ["rewording", "wrong_1"])
def test_truth_ratio_with_a_missing_likelihood_is_unjudged(lost: str) -> None:
    logps = {key: (-1.0, 1) for key in TRUTH if key != lost}
    got = score("truth_ratio", sample("t", candidates=TRUTH), response(candidates=logps))
    assert got.value is None
    assert "no likelihood" in got.reason


def test_truth_ratio_without_wrong_answers_is_unjudged() -> None:
    got = score("truth_ratio", sample("t", candidates={"target": "t"}), response(candidates={"target": (-1.0, 1)}))
    assert got.value is None


def test_truth_ratio_of_an_impossible_truth_stays_a_finite_number() -> None:
    logps = {"target": (-5000.0, 1), "wrong_0": (-1.0, 1)}
    made = sample("t", candidates={"target": "t", "wrong_0": "x"})
    value = score("truth_ratio", made, response(candidates=logps)).value
    assert value is not None
    assert math.isfinite(value)


def test_truth_ratio_that_is_not_a_number_is_unjudged() -> None:
    logps = {"target": (math.nan, 1), "wrong_0": (-1.0, 1)}
    got = score("truth_ratio", sample("t", candidates={"target": "t", "wrong_0": "x"}), response(candidates=logps))
    assert got.value is None
    assert got.reason == "a likelihood is not a number"


def test_truth_ratio_aggregates_differently_on_forgotten_and_kept_people() -> None:
    metric: Metric = build("metrics", "truth_ratio", {})
    values, people = [0.5, 4.0, 0.0], ["a", "b", "c"]
    # forget: mean of 0.5, 1/4, 0;  retain: mean of 1 - 0.5, max(0, 1 - 4), 1 - 0
    assert metric.aggregate(values, people, split="forget").value == pytest.approx(0.25)
    assert metric.aggregate(values, people, split="test").value == pytest.approx(0.25)
    assert metric.aggregate(values, people, split="retain").value == pytest.approx(0.5)


CHOICES = {"A": "teacher", "B": "nurse"}


@pytest.mark.parametrize(
    ("logps", "value", "reason"),
    [
        ({"A": -2.0, "B": -1.0}, 1.0, ""),
        ({"A": -1.0, "B": -2.0}, 0.0, ""),
        ({"A": -1.0, "B": -1.0}, None, "options A, B are equally likely"),
        ({"A": -1.0}, None, "no likelihood for option B"),
        ({"A": -1.0, "B": math.nan}, None, "a likelihood is not a number"),
    ],
)
def test_accuracy_by_likelihood_takes_the_likeliest_letter(
    logps: dict[str, float], value: float | None, reason: str
) -> None:
    made = sample("B", "classification", options=CHOICES)
    got = score("accuracy_logp", made, response(candidates={key: (logp, 2) for key, logp in logps.items()}))
    assert (got.value, got.reason) == (value, reason)


def test_where_knowledge_is_wanted_higher_is_better_but_for_failures_and_perplexity() -> None:
    lower = {name for name in names("metrics") if find("metrics", name).better == "lower"}
    assert lower == {
        *("wrong", "refused", "unread", "garbled", "cut_short", "ran_on", "repetition", "reply_perplexity")
    }


def test_the_five_outcomes_are_declared_and_one_of_them_is_collapse() -> None:
    infos = {name: build("metrics", name, {}).info() for name in names("metrics")}
    assert {name for name, info in infos.items() if info.outcome} == {"right", "wrong", "refused", "unread", "garbled"}
    assert [name for name, info in infos.items() if info.collapse] == ["garbled"]
    assert infos["exposure"].range == (None, 0.0), "no bound is written where there is none"


DECIMAL = (
    *("rouge1", "rouge2", "rougeL", "rougeL_recall", "bleu", "probability", "truth_ratio", "truth_ratio_arithmetic"),
    *("exposure", "member_loss", "member_zlib", "member_min_k", "member_min_k_40", "member_min_k_pp"),
    "member_gradient",
    "reply_perplexity",
)


@pytest.mark.parametrize("name", names("metrics"))
def test_every_metric_says_what_it_measures(name: str) -> None:
    metric = find("metrics", name)
    assert metric().name == name
    assert metric.tasks
    info = metric().info()
    assert info.label and info.unit
    assert len(info.about) > 20 and not info.about.endswith(".")
    assert info.percent == (name not in DECIMAL), "shares are printed in percent, all else with decimals"
    assert metric.version >= 1
    assert metric.range[0] < metric.range[1]
    assert metric.source.startswith("https://")


def test_distinct_trigrams_by_hand() -> None:
    assert distinct_trigrams("a b a b a b") == 0.5  # aba bab aba bab
    assert distinct_trigrams("one two three four five") == 1.0
    assert distinct_trigrams("") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "This person works as an aide in a private clinic.",
        "No pet.",
        "This person's medical condition is none.",
        "Her hobby is unknown territory hiking.",
        "Known medical conditions: asthma.",
        "This person has no medical condition.",
    ],
)
def test_ordinary_answers_are_not_taken_for_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_scores_of_a_metric_from_outside_of_the_package_lead_back_to_it() -> None:
    inside = find("metrics", "cloze_exact")
    outside = type("Outside", (inside,), {"__module__": "some_package.some_module", "__doc__": "As its base."})
    assert inside().name == "cloze_exact"
    assert outside().name == "some_package.some_module:Outside"
