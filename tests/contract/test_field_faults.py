"""Faults seen in public code for unlearning, each with a test of ours that would fail under it.

Some are guarded by tests that stand where the code they test stands; ``ELSEWHERE`` names them. The others are here and,
where they need a model that is trained, in ``test_field_faults_training.py``.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import load_ref, sample, turns_of
from test_methods_contract import METHODS, World, label
from torch import Tensor

import mllmu
from mllmu.config.load import parse
from mllmu.config.recipe import Evaluate
from mllmu.core import plugins
from mllmu.core.errors import RecipeError
from mllmu.core.records import CandidateLogp, Response, Sample, Score, TokenStats
from mllmu.data.dataset import Dataset
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build as ask_about
from mllmu.data.sources.synthetic import Synthetic
from mllmu.evaluation.bootstrap import summarise
from mllmu.evaluation.metrics import metrics_of
from mllmu.evaluation.samples import render
from mllmu.evaluation.scoring import score_all
from mllmu.evaluation.summaries import ScoredRun, build_all
from mllmu.models.encoding import as_turn
from mllmu.models.engine.forward import Forward, run_forward
from mllmu.models.engine.plain import measure
from mllmu.models.engine.respond import respond
from mllmu.models.families import IGNORE, Turn
from mllmu.models.loading import Loaded
from mllmu.training.batches import training_turns
from mllmu.training.losses import kl_batchmean_published, kl_to_reference
from mllmu.unlearning.base import Method
from mllmu.unlearning.methods.undial import undial_loss

TESTS = Path(__file__).parents[1]

ELSEWHERE = {
    "unit/test_models_adapters.py": {
        "test_only_layers_of_the_language_model_train": "LoRA in the vision tower too",
    },
    "unit/test_models_encoding.py": {
        "test_labels_are_the_reply_and_its_end_and_nothing_else": "prompt learned, no EOS",
    },
    "unit/test_training_losses.py": {
        "test_losses_do_not_change_with": "KL summed over padding",
        "test_kl_takes_the_expectation_under_the_reference_and_averages_over_tokens": "KL turned round",
        "test_kl_of_a_model_with_itself_is_zero_even_when_logits_are_shifted": "losses of raw logits",
    },
    "contract/test_methods_contract.py": {
        "test_npo_reductions_are_per_reply_or_one_mean_of_the_batch": "NPO of a mean",
        "test_a_mask_covers_each_weight_and_leaves_something_to_train": "huge masks",
    },
    "unit/test_unlearning_trainer.py": {
        "test_jointly_every_step_has_both_sides": "gradient difference in two phases",
    },
    "unit/test_protocols.py": {
        "test_pool_examples_are_retained_people_who_are_asked_nothing_in_any_task": "examples of people who are asked",
        "test_the_test_set_shows_each_portrait_in_turn_or_one_of_a_person_and_task": "random view",
    },
    "golden/test_golden_metrics.py": {
        "test_accuracy_reads_the_reply_strictly": "the first character is the answer",
    },
    "unit/test_training_finetune.py": {
        "test_finetuning_is_reproducible_and_depends_on_the_people": "no seed",
    },
    "unit/test_judge_run.py": {
        "test_an_unreadable_verdict_is_counted_and_left_out_of_the_mean": "failures dropped",
        "test_a_missing_reply_is_counted_and_not_judged": "failures dropped",
    },
    "contract/test_families_contract.py": {
        "test_a_prompt_over_the_context_is_an_error_that_names_it_and_counts": "prompts over 4,096 tokens",
    },
    "unit/test_evaluation_field_metrics.py": {
        "test_exact_memorisation_and_extraction_strength_by_hand": "strength 1/T",
        "test_membership_scores_by_hand": "min-k is min-k++",
    },
    "unit/test_evaluation_run.py": {
        "test_no_model_is_loaded_when_all_replies_are_there": "'Skipping', computed again",
    },
    "unit/test_core_runfolder.py": {
        "test_the_same_inputs_skip_the_work": "'Skipping', computed again",
    },
    "unit/test_evaluation_scoring.py": {
        "test_ks_to_retain_model_refuses_models_scored_on_different_samples": "ratios of different questions paired",
        "test_only_the_reported_part_is_averaged_unless_asked": "selection reported",
    },
    "unit/test_models_respond.py": {
        "test_a_image_goes_with_its_question_in_any_order": "image dropped",
    },
    "unit/test_evaluation_samples.py": {
        "test_no_training_pair_is_asked": "evaluation questions taught",
    },
    "unit/test_data_source_published.py": {
        "test_evaluation_tables_are_no_training_text": "evaluation questions taught",
    },
    "unit/test_data_sources_others.py": {
        "test_umu_bench_is_used_as_published": "wrong keys of UMU-Bench",
    },
    "pipeline/test_pipeline_tune.py": {
        "test_no_reported_question_is_asked": "selection on the reported split",
    },
    "unit/test_unlearning_probing.py": {
        "test_the_gradient_is_the_mean_over_replies": "exhausted iterators",
    },
    "unit/test_models_modifiers.py": {
        "test_masks_of_another_model_are_refused": "parameter names that do not exist",
    },
}
"""Test file -> test -> the fault it guards against."""


@pytest.mark.parametrize(
    ("file", "name", "fault"), [(file, *row) for file, rows in ELSEWHERE.items() for row in rows.items()]
)
def test_a_fault_that_is_tested_elsewhere_is_tested(file: str, name: str, fault: str) -> None:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert len(found) == 1, f"no test system_prompts against: {fault}"
    assert not any("skip" in ast.unparse(mark) for mark in found[0].decorator_list)


# Defaults: what the released scripts do is there for comparison, and never what happens without being asked for.


LEAVES_ENDS = {"ce_u"}
"""It makes every trained token unlikely, also the end of a reply of one letter: then the model would not stop."""


@pytest.mark.parametrize("method", [plugins.build("methods", name, {}) for name in plugins.names("methods")], ids=label)
def test_without_being_asked_a_method_learns_replies_with_their_end_in_the_language_model_only(method: Method) -> None:
    assert (method.compat, method.loss_on, method.layers) == ("corrected", "answer", "recipe")
    assert (method.schedule, method.reference) == ("joint", "target")
    assert method.train_end is (method.name not in LEAVES_ENDS)
    for key, value in type(method).official.items():
        assert getattr(method, key) != value or (key == "train_end" and method.name in LEAVES_ENDS)


def test_npo_sums_over_a_reply_by_default() -> None:
    assert plugins.build("methods", "npo", {}).reduction == "sequence_sum"


def test_no_example_is_shown_and_no_first_character_read_by_default() -> None:
    chosen = Evaluate()
    assert set(chosen.protocol.shots.by_task.values()) == {0}
    assert chosen.protocol.shots.drawn_from == "pool"
    assert parse({"name": "x"}).evaluate == chosen
    asked = sample(1, task="classification", options={"A": "baker", "B": "artist"}, target="A", value="baker")
    for text, value in (("An artist", 0.0), ("An actor", None), ("A", 1.0)):
        reply = Response(sample_id=asked.id, text=text, num_tokens=3, finished=True)
        scores = {score.metric: score.value for score in score_all([asked], [reply], metrics_of(chosen))}
        assert scores["accuracy"] == value, text


@pytest.mark.parametrize(("word", "meant"), [("false", False), ("False", False), ("true", True)])
def test_a_switch_that_is_set_to_false_is_off(word: str, *, meant: bool) -> None:
    assert parse({"name": "x", "gate": word}).gate is meant


def test_a_switch_that_is_set_to_nonsense_is_an_error() -> None:
    with pytest.raises(RecipeError, match="gate"):
        parse({"name": "x", "gate": "nope!"})


def test_no_module_draws_from_a_generator_that_everybody_shares() -> None:
    drawing = {"random", "choice", "choices", "shuffle", "sample", "randint", "uniform", "permutation", "rand", "randn"}
    shared = {"random", "np.random", "numpy.random"}
    for path in Path(mllmu.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in drawing:
                assert ast.unparse(node.func.value) not in shared, f"{path.name}:{node.lineno}: no seed"


# Losses of real batches: a row is worth the same beside a longer one, which fills it up with padding.


@pytest.fixture(scope="module")
def still(tiny_base: Path) -> Loaded:
    """A model that no test changes."""
    return load_ref(tiny_base)


def disturbed(forward: Forward) -> Tensor:
    """[N, V] logits of an imagined reference, which depend on each token's own logits alone."""
    return forward.logits_NV.roll(1, dims=1) * 0.5


TOKEN_LOSSES = {
    "undial": lambda f: undial_loss(f, disturbed(f), strength=3.0) * len(f.labels_N),
    "kl": lambda f: kl_to_reference(f.logits_NV, disturbed(f)) * len(f.labels_N),
    "kl batchmean": lambda f: kl_batchmean_published(f.logits_NV, disturbed(f), num_rows=f.num_rows) * f.num_rows,
}


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_padding_and_prompt_have_no_part_in_a_loss(still: Loaded, tiny_base: Path, name: str) -> None:
    long = Turn(prompt="Ada Bell lives in Riga, Latvia and works as a baker. Where was this person born?", reply="Oslo")
    turns = [replace(turns_of(tiny_base)[0], image=None), long]
    batches = [still.encoder.batch(each) for each in (turns, turns[:1], turns[1:])]
    assert not batches[0].inputs["attention_mask"].all()
    with torch.no_grad():
        both, *alone = [TOKEN_LOSSES[name](run_forward(still.model, batch)).item() for batch in batches]
    assert both == pytest.approx(sum(alone), rel=1e-4)
    assert min(alone) > 1e-3


def test_no_ignored_label_reaches_a_loss_where_it_would_be_counted_from_the_end(still: Loaded, tiny_base: Path) -> None:
    turns = turns_of(tiny_base)
    batch = still.encoder.batch(turns)
    assert (batch.labels == IGNORE).any()
    with torch.no_grad():
        forward = run_forward(still.model, batch)
    expected = [token for turn in turns for token in still.encoder.reply(turn.reply)]
    assert forward.labels_N.tolist() == expected
    assert min(expected) >= 0


def test_the_divergence_of_kl_minimisation_is_taken_under_the_reference() -> None:
    world = World()
    got = plugins.build("methods", "kl_min", {}).loss(world.step())["retain_kl"].item()
    now, then = (world.forward(w, "retain").logits_NV.log_softmax(-1) for w in (world.weights, world.reference))
    by_hand, turned = ((p.exp() * (p - q)).sum(-1).mean().item() for p, q in ((then, now), (now, then)))
    assert got == pytest.approx(by_hand, rel=1e-5)
    assert abs(by_hand - turned) > 1e-3


class Shifted(World):
    """The same model with constants added to all logits of a token, which change no probability."""

    def forward(self, weights: Tensor, side: str, *, alternative: bool = False) -> Forward:
        plain = super().forward(weights, side, alternative=alternative)
        by = 5.0 if hasattr(self, "weights") and weights is self.weights else -3.0
        shift_N = by + torch.arange(len(plain.labels_N))
        return replace(plain, logits_NV=plain.logits_NV + shift_N[:, None])


@pytest.mark.parametrize("method", [m for m in METHODS if m.trains and label(m) != "rmu"], ids=label)
def test_a_loss_is_about_probabilities_not_raw_logits(method: Method) -> None:
    plain, shifted = ({k: v.item() for k, v in method.loss(w.step()).items()} for w in (World(), Shifted()))
    assert shifted == pytest.approx(plain, rel=1e-3, abs=1e-4)


class FixedRefusals(World):
    """The same model with refusals that no weight has a part in."""

    def forward(self, weights: Tensor, side: str, *, alternative: bool = False) -> Forward:
        return super().forward(weights.detach() if alternative else weights, side, alternative=alternative)


def test_preference_is_not_refusal_training_under_another_name() -> None:
    world = FixedRefusals()
    for name, looks_at_the_reply in (("dpo", True), ("idk", False)):
        (term,) = plugins.build("methods", name, {}).loss(world.step("forget")).values()
        assert term.requires_grad == looks_at_the_reply, name


# Evaluation: the image arrives, modes stay, every number belongs to its sample.


@pytest.mark.parametrize("share", [True, False])
def test_the_image_has_a_part_in_the_words_that_are_generated(loaded: Loaded, tiny_base: Path, *, share: bool) -> None:
    words: list[Tensor] = []
    loaded.model.lm_head.register_forward_hook(lambda *seen: words.append(seen[-1].flatten()[-320:]))
    first = []
    for number, image in enumerate(("red.png", "green.png", "blue.png", "red.png")):
        words.clear()
        list(respond(loaded, [[sample(number, image=image, max_new_tokens=3)]], image_folder=tiny_base, share=share))
        first.append(words[0].clone())
    red, green, blue, red_again = first
    assert torch.equal(red, red_again)
    assert min((red - green).abs().max(), (green - blue).abs().max(), (red - blue).abs().max()) > 1e-4


@pytest.mark.parametrize("training", [True, False])
def test_measuring_a_gradient_leaves_training_or_evaluation_as_it_was(
    loaded: Loaded, tiny_base: Path, *, training: bool
) -> None:
    loaded.model.train(training)
    asked = [sample(0, image="red.png", measured=("tokens", "gradient"))]
    measure(loaded, asked, [as_turn(asked[0], tiny_base, "")])
    assert {module.training for module in loaded.model.modules()} == {training}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in loaded.model.parameters())


def told(number: int, *wrong: float, truth: float = -1.0) -> tuple[Sample, Response]:
    names = {"target": "Riga", **{f"wrong_{n}": "Oslo" for n in range(len(wrong))}}
    likelihoods = dict(zip(names, (truth, *wrong), strict=True))
    made = sample(number, candidates=names)
    candidates = {name: CandidateLogp(logp=logp, num_tokens=1) for name, logp in likelihoods.items()}
    return made, Response(sample_id=made.id, text="x", num_tokens=1, finished=True, candidates=candidates)


@pytest.mark.parametrize("name", ["truth_ratio", "truth_ratio_arithmetic"])
def test_a_truth_ratio_is_that_of_one_question_and_scores_find_their_sample(name: str) -> None:
    metric = plugins.build("metrics", name, {})
    pairs = [told(0, -1.0, -1.0), told(1), told(2, -3.0, -3.0), told(3, -2.0, -2.0)]
    samples, replies = [made for made, _ in pairs], [reply for _, reply in pairs]
    expected = {"forget/000": 1.0, "forget/001": None, "forget/002": math.exp(-2), "forget/003": math.exp(-1)}
    for order in (replies, replies[::-1]):
        scores = score_all(samples, order, [metric])
        assert {score.sample_id: score.value for score in scores} == pytest.approx(expected)


@pytest.mark.parametrize("split", ["retain", "celebrity"])
def test_on_people_who_are_kept_a_truth_ratio_counts_for_more_where_the_truth_is_likelier(split: str) -> None:
    metric = plugins.build("metrics", "truth_ratio", {})
    sure, unsure, wrong = (metric.readable(value, split) for value in (0.1, 0.9, 3.0))
    assert sure > unsure > wrong == 0


def quality(samples: Sequence[Sample], ratios: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    scores = {
        model: [Score(sample_id=name, metric="truth_ratio", value=value) for name, value in values.items()]
        for model, values in ratios.items()
    }
    rows = summarise(build_all(["forget_quality"]), ScoredRun.of(samples, scores, {}, []))
    return {row.model: row.value for row in rows if row.detail == "ks"}


def test_forget_quality_compares_with_the_model_that_never_saw_them_not_with_ones_own_retained_people() -> None:
    samples = [sample(n) for n in range(3)] + [sample(n, id=f"retain/{n}", split="retain") for n in range(3)]
    names = [each.id for each in samples]
    own_retain = dict(zip(names, (0.5, None, 0.7, 0.5, 0.6, 0.7), strict=True))
    gold = dict(zip(names, (0.1, 0.2, 0.3, 0.5, 0.6, 0.7), strict=True))
    as_gold = dict(zip(names[::-1], (9.0, 9.0, 9.0, 0.3, 0.2, 0.1), strict=True))
    found = quality(samples, {"x": own_retain, "y": as_gold, "retain_model": gold})
    assert found == {"x": 1.0, "y": 0.0, "retain_model": 0.0}


@pytest.mark.parametrize("text", ["B", "Option B", "An artist", "B or C", "artist"])
@pytest.mark.parametrize("name", [n for n in plugins.names("metrics") if n.startswith("accuracy")])
def test_a_choice_is_read_by_one_rule_whoever_is_asked_about(name: str, text: str) -> None:
    metric = plugins.build("metrics", name, {})
    options = {"A": "baker", "B": "artist", "C": "nurse", "D": "judge"}
    found = set()
    for split in ("forget", "test", "retain", "celebrity"):
        made = sample(0, split=split, task="classification", options=options, target="B", value="artist")
        reply = Response(sample_id=made.id, text=text, num_tokens=2, finished=True)
        found.add(metric.score(made, reply).value)
    assert len(found) == 1


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("faults")
    people = Synthetic(num_people=6).profiles(0)
    (folder / "images").mkdir()
    for person in people:
        for view in range(4):
            (folder / "images" / f"{person.id}_{view}.png").touch()
    return Dataset(folder, people, ask_about(people, QuestionOrder(seed=0, train_wordings=2)), {"50": ["001", "002"]})


def test_forgotten_and_kept_people_are_asked_in_the_same_way(dataset: Dataset) -> None:
    asked = render(dataset, "50", Evaluate(), selection=0.0, seed=0)
    ways: dict[str, set[Any]] = {}
    for each in asked:
        way = (each.task, each.modality, each.system, each.max_new_tokens, each.raw_prompt, each.examples)
        ways.setdefault(each.split, set()).add(way)
    assert ways["forget"] == ways["retain"]


def test_no_question_that_is_asked_was_taught_word_for_word(dataset: Dataset) -> None:
    asked = render(dataset, "50", Evaluate(), selection=0.0, seed=0)
    taught = training_turns(dataset.questions, dataset.folder, modality="both")
    pairs = {(turn.image is not None, turn.prompt) for turn in taught}
    assert len(taught) == sum(question.variant == "train" for question in dataset.questions) > 0
    texts = {question.id: question.text for question in dataset.questions}
    named = {(False, texts[each.question_id]) for each in asked if each.modality == "text"}
    assert named and not named & pairs


def test_min_k_and_min_k_plus_plus_are_two_metrics() -> None:
    tokens = TokenStats(logps=(-5.0, -1.0, -2.0), hits="000", z=(0.5, -0.25, 0.125))
    made = sample(0)
    reply = Response(sample_id=made.id, text="x", num_tokens=1, finished=True, tokens=tokens)
    got = {
        name: plugins.build("metrics", name, {}).score(made, reply).value
        for name in ("member_min_k", "member_min_k_pp")
    }
    assert got == {"member_min_k": -5.0, "member_min_k_pp": -0.25}
    assert plugins.build("metrics", "extraction_strength", {}).score(made, reply).value == 0
