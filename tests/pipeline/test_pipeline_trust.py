"""The pool of models on a mini run: what it trains, that it can be stopped, and that its numbers mean something."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import mini_run
import pytest

from mllmu.config import load as recipes
from mllmu.core import plugins
from mllmu.core.errors import RecipeError
from mllmu.core.process import SilentProgress
from mllmu.core.runfolder import RunFolder
from mllmu.report.inputs import TrustRow
from mllmu.studies import trust as trusting

TAUGHT = ("finetune.epochs=4", "evaluate.tasks=[generation]", "finetune.lora=null", "data.celebrities=null",
          "evaluate.extra_metrics=[member_loss,member_zlib]")  # fmt: skip
METHODS = "unlearn.methods=[{name: ga, learning_rate: 0.02, epochs: 4}, prompting]"


def measure(base: Path, root: Path, pool: int = 2) -> list[TrustRow]:
    recipe = recipes.parse(mini_run.settings(base, METHODS, *TAUGHT))
    return trusting.trust(recipe, root, pool=pool, bits=4, progress=SilentProgress())


@pytest.fixture(scope="module")
def measured(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrustRow]]:
    root = tmp_path_factory.mktemp("trust") / "run"
    return root, measure(base, root)


def test_the_probability_of_the_answer_tells_taught_models_from_others(measured: tuple[Path, list[TrustRow]]) -> None:
    found = {(row.metric, row.modality): row for row in measured[1]}
    row = found["probability", "text"]
    assert (row.auc, row.num_with, row.num_without) == (1.0, 2, 2)
    assert row.quantisation is not None
    assert row.relearning is not None
    assert 0 <= row.quantisation <= 1
    assert 0 <= row.relearning <= 1


def test_only_forget_questions_are_asked_and_the_file_holds_the_rows(measured: tuple[Path, list[TrustRow]]) -> None:
    root, rows = measured
    content = json.loads((root / RunFolder.TRUST_FILE).read_text())
    assert (content["pool"], content["bits"], content["key"]) == (2, 4, "40")
    assert [TrustRow.model_validate(row) for row in content["rows"]] == rows
    asked = (root / "trust/eval/forget_40/samples.jsonl").read_text()
    assert '"split":"forget"' in asked
    assert '"split":"retain"' not in asked


def test_nothing_is_trained_twice_and_a_larger_pool_adds_to_it(
    base: Path, measured: tuple[Path, list[TrustRow]]
) -> None:
    before = mini_run.unit_times(measured[0])
    assert measure(base, measured[0]) == measured[1]
    assert mini_run.unit_times(measured[0]) == before
    assert {"models/forget_40/trust_with_1", "models/forget_40/trust_relearned_ga"} <= set(before)
    assert not any("prompting" in name and "trust" in name for name in before), "it does not train"


def test_the_two_kinds_of_one_seed_differ_in_the_people_alone(measured: tuple[Path, list[TrustRow]]) -> None:
    def inputs(name: str) -> dict[str, object]:
        return dict(json.loads((measured[0] / f"models/forget_40/{name}/unit.json").read_text())["inputs"])

    knows, lacks = inputs("trust_with_0"), inputs("trust_without_0")
    assert {key for key in knows if knows[key] != lacks[key]} == {"people"}
    assert inputs("trust_with_1")["seed"] != knows["seed"]


def test_a_pool_of_one_is_refused_before_any_work(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--pool 1: expected at least 2"):
        measure(base, tmp_path / "run", pool=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_workers_measure_the_same(base: Path, measured: tuple[Path, list[TrustRow]], tmp_path: Path) -> None:
    recipe = recipes.parse(mini_run.settings(base, METHODS, *TAUGHT, "workers=2"))
    rows = trusting.trust(recipe, tmp_path / "run", pool=2, bits=4, progress=SilentProgress())
    assert rows == measured[1]


def test_a_lower_truth_ratio_on_forget_means_that_more_is_known() -> None:
    assert trusting.oriented(plugins.build("metrics", "truth_ratio", {}), 0.25) == 0.75
    assert trusting.oriented(plugins.build("metrics", "rougeL", {}), 0.25) == 0.25


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_an_attack_that_shows_more_costs_trust_between_0_and_1_for_every_metric_with_a_scale(name: str) -> None:
    metric = plugins.build("metrics", name, {})
    ends = [end if math.isfinite(end) else away for end, away in zip(metric.range, (-40.0, 40.0), strict=True)]
    knows_last = (metric.known or metric.better) == "higher"
    values = [ends[0] + share * (ends[1] - ends[0]) for share in (0.0, 0.2, 0.5, 0.9, 1.0)]
    shown = [trusting.oriented(metric, value) for value in (values if knows_last else reversed(values))]
    assert all(first < second for first, second in itertools.pairwise(shown)), "no ties, or the AUC would change"
    if not trusting.has_scale(metric):
        assert not all(map(math.isfinite, metric.range))
        return
    for before, after in itertools.pairwise(shown):
        assert 0 <= trusting.kept_after_quantisation(before, after) < 1
        assert trusting.kept_after_quantisation(after, before) == 1
        assert 0 <= trusting.kept_after_relearning(after - before, before) <= 1


def test_log_probabilities_are_compared_as_probabilities() -> None:
    exposure = plugins.build("metrics", "exposure", {})
    before, after = (trusting.oriented(exposure, value) for value in (-5.0, -2.0))
    assert trusting.kept_after_quantisation(before, after) == pytest.approx(math.exp(-3))
    open_ended = {n for n in plugins.names("metrics") if not trusting.has_scale(plugins.build("metrics", n, {}))}
    assert open_ended == {"member_zlib", "member_min_k_pp", "member_gradient", "reply_perplexity"}


def test_a_metric_without_a_scale_has_an_area_and_no_trust(measured: tuple[Path, list[TrustRow]]) -> None:
    rows = measured[1]
    by_name = {row.metric: row for row in rows if row.modality == "text"}
    zlib, loss = by_name["member_zlib"], by_name["member_loss"]
    assert zlib.auc == loss.auc == 1.0
    assert (zlib.quantisation, zlib.relearning, zlib.trust) == (None, None, None)
    assert [row.trust is None for row in rows] == sorted(row.trust is None for row in rows), "no trust comes last"
    assert all(part is not None and 0 <= part <= 1 for part in (loss.quantisation, loss.relearning, loss.trust))
    assert (loss.auc_low, loss.auc_high) == (pytest.approx(0.39, abs=0.005), 1.0)
