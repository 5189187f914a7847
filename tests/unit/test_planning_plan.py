"""mllmu plan: known models have their published size without a network, and advice leads to what fits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from helpers_families import build
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.config.recipe import Lora, ModelSection, Recipe
from mllmu.core.errors import ModelError, RecipeError
from mllmu.preflight.ahead import CHECKPOINT, IMAGES_GIB, _disk, needs
from mllmu.preflight.plan import rates
from mllmu.preflight.plan import workload as loads
from mllmu.preflight.plan.facts import describe, image_sizes, known, known_models
from mllmu.preflight.plan.here import Measured
from mllmu.preflight.plan.plan import PlannedStage, make_plan, training_peak
from mllmu.preflight.plan.rates import Device, MeasuredRates, Pace, find_device, pace_of
from mllmu.training.cost import step_cost

LLAVA = "llava-hf/llava-1.5-7b-hf"


def recipe(path: str, **sections: Any) -> Recipe:
    methods = [{"name": "ga", "modality": "image_text"}, {"name": "npo", "modality": "text"}, "prompting"]
    raw = {"name": "planned", "model": {"path": path}, "unlearn": {"methods": methods}, "evaluate": {"batch_size": 16}}
    return parse(raw | sections)


@pytest.mark.parametrize("name", known_models())
def test_a_model_made_from_the_known_config_has_the_published_number_of_weights(name: str) -> None:
    facts = describe(ModelSection(path=name), device="cuda")
    assert facts.parameters == known_models()[name]["parameters"]
    assert str(facts.dtype) == "torch.bfloat16"


IDEFICS, QWEN = "HuggingFaceM4/idefics2-8b", "Qwen/Qwen2.5-VL-7B-Instruct"
SMOLVLM = "HuggingFaceTB/SmolVLM-500M-Instruct"


@pytest.mark.parametrize(
    ("name", "settings", "size", "tokens", "patches"),
    [
        (LLAVA, {}, 900, 24 * 24, 24 * 24),  # 336 pixels of 14
        (LLAVA, {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}, 900, 256, 256),
        (IDEFICS, {}, 256, 64, 27 * 27),  # at least 378 pixels
        (IDEFICS, {}, 700, 64, 50 * 50),
        (IDEFICS, {"do_image_splitting": True}, 256, 5 * 64, 5 * 27 * 27),
        (QWEN, {}, 256, 9 * 9, 18 * 18),  # 9.1 cells of 28
        (QWEN, {}, 500, 18 * 18, 36 * 36),
        (QWEN, {}, 32, 2 * 2, 4 * 4),  # at least 3,136 pixels
        (QWEN, {"max_pixels": 200704}, 500, 16 * 16, 32 * 32),  # 448 * 448
        (QWEN, {"min_pixels": 560 * 560}, 256, 20 * 20, 40 * 40),
        (SMOLVLM, {}, 256, 17 * 64, 17 * 32 * 32),  # 4 * 4 tiles of 512 pixels, and the whole
        (SMOLVLM, {"size": {"longest_edge": 1536}}, 256, 10 * 64, 10 * 32 * 32),
        (SMOLVLM, {"do_image_splitting": False}, 256, 64, 32 * 32),
    ],
)
def test_tokens_and_patches_follow_the_portrait_and_the_settings(
    name: str, settings: dict[str, Any], size: int, tokens: int, patches: int
) -> None:
    facts = describe(ModelSection(path=name, image_processor=settings), device="cuda")
    assert image_sizes(facts, size) == (tokens, patches)


def test_a_setting_that_the_run_would_refuse_is_refused() -> None:
    facts = describe(ModelSection(path=QWEN, image_processor={"max_pixel": 1}), device="cuda")
    with pytest.raises(ModelError, match=r"model\.image_processor\.max_pixel: unknown .*Did you mean 'max_pixels'"):
        image_sizes(facts, 256)


@pytest.mark.parametrize(
    ("kind", "settings", "patches"),
    [("idefics2", {}, 4 * 4), ("idefics2", {"do_image_splitting": True}, 5 * 4 * 4), ("qwen2_5_vl", {}, 6 * 6)],
)
def test_patches_of_a_model_in_a_folder(tmp_path: Path, kind: str, settings: dict[str, Any], patches: int) -> None:
    """Patches of 8 pixels: of images of 32 and, at most, of 48."""
    facts = describe(ModelSection(path=str(build(kind, tmp_path)), image_processor=settings), device="cpu")
    assert image_sizes(facts, 32 if kind == "idefics2" else 64)[1] == patches


def test_portraits_have_the_size_of_the_plug_in() -> None:
    usual, large = (
        make_plan(recipe(QWEN, data={"portraits": portraits}), "a100-40gb", rough=True)
        for portraits in ({"name": "dicebear"}, {"name": "dicebear", "size": 640})
    )
    assert (usual.image_tokens, large.image_tokens) == (81, 23 * 23)
    assert "529 image tokens at 640 pixels a side" in large.assumptions[0]
    assert large.stages[0].tflop > 3 * usual.stages[0].tflop
    published = {"source": {"name": "mllmu_bench", "path": "copy"}}
    own = make_plan(recipe(QWEN, data=published), "a100-40gb", rough=True)
    assert "images that the source brings are counted at this size too" in set(own.assumptions) - {*usual.assumptions}


def test_four_bits_take_about_a_quarter_of_the_language_models_layers() -> None:
    whole = describe(ModelSection(path=LLAVA), device="cuda")
    packed = describe(ModelSection(path=LLAVA, quantize="nf4"), device="cuda")
    layers = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert whole.resident - packed.resident == pytest.approx(layers * (2 - 0.516), rel=1e-3)


def test_the_worst_moment_of_training_by_hand() -> None:
    """100 frozen; 10 trained and 20 of AdamW; a step takes 5, but gradients and the optimiser's arithmetic 2 * 10."""
    assert training_peak(100, 10, 5) == 150
    assert training_peak(100, 10, 50) == 180


def test_a_step_is_divided_until_it_fits_and_costs_more_then() -> None:
    def stage(checkpointing: bool | str, device: str) -> PlannedStage:
        model = {"path": LLAVA, "gradient_checkpointing": checkpointing}
        return make_plan(recipe(LLAVA, model=model, finetune={"batch_size": 8}), device).stages[0]

    kept, again, halves, small = (
        stage(checkpointing, device)
        for checkpointing, device in (
            (False, "h200-141gb"),
            ("auto", "a100-40gb"),
            (False, "a100-40gb"),
            ("auto", "rtx4090"),
        )
    )
    assert all(each.fits for each in (kept, again, halves, small))
    assert again.what.endswith("(activations again)")
    assert halves.what.endswith("at once)")
    assert kept.peak > 40 > again.peak
    assert kept.tflop < min(again.tflop, halves.tflop), "what is not kept is computed again"


@pytest.mark.parametrize("method", ["steering", "router"])
def test_a_modifier_is_planned_with_all_its_activations_as_it_is_trained(method: str) -> None:
    always, auto, never = (
        make_plan(
            recipe(LLAVA, model={"path": LLAVA, "gradient_checkpointing": on}, unlearn={"methods": [method]}),
            "a100-80gb",
        ).stages
        for on in (True, "auto", False)
    )
    (one,), (two,), (three,) = ([line for line in lines if line.stage == "unlearn"] for lines in (always, auto, never))
    assert one == two == three


@pytest.mark.parametrize(
    ("sequences", "tokens", "labelled", "measured"),
    [(4, 640, 60, 27.9), (1, 976, 200, 19.5), (2, 1966, 800, 36.5)],
    ids=["4 mixed", "15 of one person", "60 of 4 people"],
)
def test_a_step_takes_what_it_took_on_an_h200(sequences: int, tokens: int, labelled: int, measured: float) -> None:
    """GiB at the peak in benchmarks/gpu_h200_202611.md, to 6 %."""
    facts, lora = describe(ModelSection(path=LLAVA), device="cuda"), Lora()
    step = step_cost(facts.outline, lora, sequences, tokens, labelled, recompute=False)
    peak = training_peak(facts.resident, 4 * facts.trainable(lora), step.peak)
    assert peak / 2**30 == pytest.approx(measured, rel=0.06)


def test_what_does_not_fit_gets_advice_that_makes_it_fit() -> None:
    plan = make_plan(recipe(LLAVA), "cpu")
    assert not plan.stages[0].fits
    assert plan.advice[0].startswith("training: --set model.quantize=nf4")
    assert plan.advice[0].endswith("fits")
    changed = make_plan(recipe(LLAVA, model={"path": LLAVA, "quantize": "nf4"}), "cpu")
    assert all(stage.fits for stage in changed.stages[:-1])


@pytest.mark.parametrize("stage", ["finetune", "unlearn"])
@pytest.mark.parametrize(
    ("model", "why", "change"),
    [
        ({}, "model.dtype: auto makes them bfloat16", "set model.dtype: float32"),
        ({"dtype": "bfloat16"}, "model.dtype: bfloat16 makes them bfloat16", "set model.dtype: float32"),
        ({"quantize": "nf4"}, "model.quantize: nf4 holds them in few bits", "leave model.quantize out and set"),
    ],
)
def test_weights_that_a_run_would_not_train_are_named_and_counted_in_float32(
    stage: str, model: dict[str, Any], why: str, change: str
) -> None:
    null = {
        "unlearn": {"methods": ["ga"]},
        stage: {"lora": None, **({"methods": ["ga"]} if stage == "unlearn" else {})},
    }
    plan, float32 = (
        make_plan(recipe(LLAVA, model={"path": LLAVA} | settings, **null), "rtx4090", rough=True)
        for settings in (model, {"dtype": "float32"})
    )
    assert why in plan.advice[0] and change in plan.advice[0]
    assert plan.advice[0].startswith(f"{stage}.lora: null trains the weights themselves")
    assert (plan.stages, plan.advice[1:]) == (float32.stages, float32.advice)
    assert (plan.dtype, plan.quantize) == ("float32", None)
    trained = next(each for each in plan.stages if each.stage == stage)
    assert trained.weights > 0
    # all weights; what is trained, twice for the optimiser and twice while it steps; and 1 GiB of features of images
    layers = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert trained.peak == pytest.approx(1.06 * (4 * (7063427072 + 4 * layers) / 2**30 + 1), rel=1e-6)
    assert "nf4" not in " ".join(float32.advice)


def test_weights_that_a_run_trains_are_planned_without_objection() -> None:
    """In float32; on a CPU; a small model, which runs there; and a modifier, which is no change of weights."""
    null = {"finetune": {"lora": None}}
    for path, device, sections in (
        (LLAVA, "h200-141gb", null | {"model": {"path": LLAVA, "dtype": "float32"}}),
        ("tiny", "cpu", null),
        ("tiny", "rtx4090", null),
        (LLAVA, "a100-80gb", {"unlearn": {"lora": None, "methods": ["steering", "retrain"]}}),
    ):
        assert not make_plan(recipe(path, **sections), device, rough=True).advice


def test_what_is_given_or_not_wanted_is_not_planned() -> None:
    both, alone, given = (
        make_plan(recipe("tiny", finetune=finetune), "cpu", rough=True).stages
        for finetune in ({}, {"retain_model": False}, {"given": []})
    )
    assert [stages[0].what for stages in (both, alone, given)] == ["target and 1 retain model(s)", "target", "ga"]
    assert [stages[-1].what[:8] for stages in (both, alone, given)] == ["5 models", "4 models", "4 models"]
    # 500 and 450 people, or 500
    assert both[0].tokens == pytest.approx(1.9 * alone[0].tokens, rel=1e-3)


def test_text_that_is_to_be_kept_is_retained_besides() -> None:
    """10 of 100 people: 924 questions to forget, 92.4 about each, 8,316 of the others, 9,240 about everyone."""
    methods = ["ga", {"name": "mmunlearner", "schedule": "two_phase", "batch_size": 4}]
    data = {"source": {"name": "synthetic", "num_people": 100}}
    ga, kept, _ = make_plan(recipe("tiny", data=data, unlearn={"methods": methods}), "cpu", rough=True).stages[1:]
    assert kept.tokens / ga.tokens == pytest.approx((924 + 8316 + 9240) / 924, rel=1e-3)


def test_stages_are_the_runs_own_and_more_teaching_takes_longer() -> None:
    plan = make_plan(recipe("tiny"), "cpu")
    assert [stage.what for stage in plan.stages[1:-1]] == ["ga", "npo"]
    longer = make_plan(recipe("tiny", finetune={"epochs": 10}), "cpu")
    assert longer.stages[0].hours == pytest.approx(2 * plan.stages[0].hours, rel=1e-3)
    assert longer.stages[-1] == plan.stages[-1]


RATES = MeasuredRates(matmul=100, share=0.5, pass_s=0.4, write_s=0.05, row_s=0.001, model_s=3)


def test_times_by_hand() -> None:
    pace = Pace(Device(memory=80, tflops=200, gb_s=1000, measured=RATES), RATES, 32, "")
    # 50e12 operations a second; 10 passes take 4 s at least
    assert pace.training(100e12, passes=10, models=1) == pytest.approx(4 + 3)
    assert pace.training(500e12, passes=10, models=2) == pytest.approx(10 + 2 * 3)
    # half the layers are started in half the time
    assert pace._replace(layers=16).training(50e12, passes=10, models=0) == pytest.approx(2)
    # a step of 50 replies takes 0.05 + 50 * 0.001 s; reading 60 GB at 40 % of 1000 GB/s 0.15 s
    asked = {"steps": 20, "rows": 50, "models": 1}
    assert pace.evaluation(100e12, read_bytes=1e9, **asked) == pytest.approx(2 + 20 * 0.1 + 3)
    assert pace.evaluation(100e12, read_bytes=60e9, **asked) == pytest.approx(2 + 20 * 0.15 + 3)


def test_the_rates_of_the_measured_card_are_its_measurements() -> None:
    """Seconds a step of 15 questions, and new tokens a second in batches of 64 and 256: measured, to 5 %."""
    pace = pace_of("h200-141gb", 32)
    assert pace.basis.startswith("rates measured on h200-141gb")
    assert pace.training(0, passes=1, models=0) == pytest.approx(pace.rates.pass_s)
    for rows in (64, 256):
        second = 1 / (pace.rates.write_s + rows * pace.rates.row_s)
        assert pace.evaluation(0, steps=second, rows=rows, read_bytes=0, models=0) == pytest.approx(1)


def test_a_card_that_was_not_measured_is_scaled_and_the_plan_says_so() -> None:
    card, other = pace_of("h200-141gb", 32), pace_of("rtx3090", 32)
    assert other.rates.matmul == pytest.approx(card.rates.matmul * 71 / 989)
    assert other.rates.row_s == pytest.approx(card.rates.row_s * 4800 / 936)
    assert (other.rates.share, other.rates.pass_s) == (card.rates.share, card.rates.pass_s)
    slow, fast = (make_plan(recipe(LLAVA), name) for name in ("rtx3090", "h200-141gb"))
    assert slow.hours > 3 * fast.hours
    assert "not measured on rtx3090: rates of h200-141gb, scaled" in slow.assumptions[1]
    assert "rates measured on h200-141gb" in fast.assumptions[1]


def test_a_small_model_runs_on_one_core_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores of 0.1 TFLOP/s at 60 %: one process has 0.06 TFLOP/s of them, three have 0.18, nine all 0.24."""
    monkeypatch.setattr(rates, "measured_here", lambda: Measured(memory=8, tflops=0.4, gb_s=10))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    seconds = [pace_of("here", 8, processes=count).computing(1.8e12) for count in (1, 3, 9, None)]
    assert seconds == pytest.approx([30, 10, 7.5, 7.5])
    one, two = (make_plan(recipe("tiny", workers=count), "here") for count in (1, 2))
    assert any("for 1 of 4 cores" in line for line in one.assumptions)
    assert one.stages[0].hours == pytest.approx(2 * two.stages[0].hours, rel=0.3)  # loading the models is not halved


def test_models_steps_and_sides_take_their_time() -> None:
    """500 people have 7,700 questions, 475 have 7,315, and 25 to forget 385; a step of text takes the least time."""
    plain = {"epochs": 1, "batch_size": 4, "modality": "text"}
    methods = [{"name": name, **plain} for name in ("ga", "grad_diff")]
    methods += [{"name": "grad_diff", **plain, "compat": "official", "epochs": 3}]
    published = {"source": {"name": "mllmu_bench", "path": "copy"}, "splits": {"forget_ratios": [0.05]}}
    taught_by_text = {"modality": "text"}
    settings = {"data": published, "finetune": taught_by_text, "unlearn": {"methods": methods}}
    plan = make_plan(recipe(LLAVA, **settings), "h200-141gb")
    rates = find_device("h200-141gb").measured
    assert rates is not None
    taught, ga, grad_diff, official = (3600 * stage.hours for stage in plan.stages[:-1])
    assert taught == pytest.approx(5 * (1925 + 1829) * rates.pass_s + 2 * rates.model_s)
    assert ga == pytest.approx(97 * rates.pass_s + rates.model_s)
    assert grad_diff == pytest.approx(2 * 97 * rates.pass_s + rates.model_s)
    # an epoch of the one side, then one of all of the other
    assert official == pytest.approx(3 * (97 + 1829) * rates.pass_s + rates.model_s)
    assert plan.stages[3].tokens == pytest.approx(3 * (385 + 7315) / 385 * plan.stages[1].tokens, rel=1e-3)
    assert plan.stages[3].activations == plan.stages[1].activations < plan.stages[2].activations


def test_an_unknown_device_and_an_unknown_model_say_what_there_is() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'h100-80gb'"):
        find_device("h100-80")
    with pytest.raises(ModelError, match="Expected 'tiny', 'smol', a folder"):
        describe(ModelSection(path="/no/such/folder"), device="cpu")
    assert all(find_device(name).memory > 0 for name in known("devices.yaml"))


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "planned", "unlearn": {"methods": ["ga"]}}))
    for width in ("80", "140"):
        shown = CliRunner().invoke(app, ["plan", str(path), "--device", "cpu"], env={"COLUMNS": width})
        assert shown.exit_code == 0, shown.output
        assert "finetune" in shown.output, f"at {width} columns"
    assert "assumed:" in shown.output
    machine = CliRunner().invoke(app, ["plan", str(path), "--device", "cpu", "--json"])
    stages = json.loads(machine.stdout)["stages"]
    assert [stage["stage"] for stage in stages] == ["finetune", "unlearn", "evaluate"]
    wrong = CliRunner().invoke(app, ["plan", str(path), "--device", "abacus"])
    assert wrong.exit_code == 2


def test_facts_are_taught_in_all_wordings_unless_the_text_is_published(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,city\nAda Bell,Rome\nIan Fox,Bern\n", encoding="utf-8")
    ours = [
        {"name": "synthetic"},
        {"name": "people", "path": str(tmp_path / "people.csv")},
        {"name": "llm", "model": "m", "base_url": "http://localhost:1"},
    ]
    published = [{"name": name, "path": "copy"} for name in ("mllmu_bench", "clear", "fiubench", "umu_bench")]
    for sources, trained in ((ours, 3 * 15.4), (published, 15.4)):
        for source in sources:
            work = loads.of_recipe(recipe("tiny", data={"source": source, "train_wordings": 3}))
            assert work.trained == pytest.approx(trained), source["name"]


def test_requests_one_after_the_other_are_more_models_to_make_and_to_ask() -> None:
    methods = {"methods": ["npo", "retrain"]}
    attacked = {"batch_size": 16, "attacks": ["paraphrase"], "controls": True}
    once, four = (
        make_plan(recipe("tiny", unlearn=methods | more, evaluate=attacked), "cpu", rough=True)
        for more in ({}, {"requests": 4})
    )
    assert [stage.what.partition(" (")[0] for stage in four.stages[1:-1]] == ["npo", "retrain, after every request"]
    assert four.stages[2].hours > 3 * four.stages[0].hours / 2, (
        "four fine-tunings beside those of target and retain model"
    )
    assert once.stages[-1].what.startswith("4 models") and four.stages[-1].what.startswith("10 models")
    assert once.assumptions[-1] == "not counted: evaluate.controls, evaluate.attacks"


def test_what_is_asked_beyond_the_plan_is_named() -> None:
    evaluate = {
        "compare": {"official": {"name": "official"}},
        "benchmarks": [{"name": "llava_bench", "path": "copy"}],
        "batch_size": 16,
    }
    asked = recipe("tiny", evaluate=evaluate)
    planned = make_plan(asked, "cpu", rough=True)
    assert planned.assumptions[-1] == "not counted: evaluate.compare, evaluate.benchmarks"
    line = needs(asked, Path())
    assert " on this machine without evaluate.compare, evaluate.benchmarks; " in line


@pytest.mark.parametrize(
    ("given", "ratios", "requests", "kept"),
    [
        (None, [0.1], 1, 2 * 2 + (3 + 5)),  # target and retain model, and two methods
        (None, [0.1, 0.2], 1, 3 * 2 + 2 * (3 + 5)),
        (None, [0.1], 4, 2 * 2 + 4 * (3 + 5)),
        (["adapter"], [0.1], 4, 4 * (2 + 3 + 5)),  # the target is there: every line is a method
    ],
)
def test_the_room_on_the_disk_is_for_a_model_per_method_ratio_and_request(
    given: list[str] | None, ratios: list[float], requests: int, kept: float
) -> None:
    """Lines of 2, 0 (asking), 3 and 5 GiB; the largest is also in a checkpoint, and there are 20 people."""
    asked = recipe(
        "tiny", data={"source": {"name": "synthetic", "num_people": 20}, "splits": {"forget_ratios": ratios}}
    )
    asked = asked.model_copy(update={"finetune": asked.finetune.model_copy(update={"given": given})})
    planned: Any = SimpleNamespace(stages=[SimpleNamespace(trained=size) for size in (2, 0, 3, 5)])
    assert _disk(asked, planned, requests) == pytest.approx(kept + 5 * CHECKPOINT + 20 * IMAGES_GIB)


def test_people_by_name_and_facts_are_counted() -> None:
    ratio, named = (
        make_plan(recipe("tiny", unlearn={"methods": ["npo"]} | more), "cpu", rough=True)
        for more in ({}, {"forget": {"people": ["001", "002"], "attributes": ["salary"]}})
    )
    assert named.stages[1].tokens < ratio.stages[1].tokens
    assert named.assumptions[-1] == "a request for some facts is counted as one for all"
