"""Variance by seed: by hand, in simulated runs, and what the command says."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers_scores import make_run, sets
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.studies.person_scores import PersonScore
from mllmu.studies.seed_variance import (
    RunSeeds,
    components,
    one_more,
    seed_text,
    seed_variances,
    standard_error,
    surpluses,
)

STAR = {
    "base": RunSeeds(0, 0, 0, 0),
    "teach": RunSeeds(0, 1, 0, 0),
    "unlearn": RunSeeds(0, 0, 1, 0),
    "evaluate": RunSeeds(0, 0, 0, 1),
}
"""Four runs, of which each of three differs from the first in one seed."""


def test_what_varies_with_the_evaluation_alone_by_hand() -> None:
    """The pairs that differ in the evaluation seed differ by 0.2, so half their square is 0.02; all others by 0."""
    found = components({"base": 0.5, "teach": 0.5, "unlearn": 0.5, "evaluate": 0.7}, STAR)
    assert found == {"teach": pytest.approx(0), "unlearn": pytest.approx(0), "evaluate": pytest.approx(0.02)}


def test_runs_that_differ_in_everything_tell_nothing_apart() -> None:
    together = {str(n): RunSeeds(n, n, n, n) for n in range(5)}
    assert components({name: float(n) for n, name in enumerate(together)}, together) is None
    without = {name: seeds for name, seeds in STAR.items() if name != "unlearn"}
    assert components(dict.fromkeys(without, 0.1), without) is None
    assert seed_text([], {}).startswith("Seeds: these runs cannot tell")


def test_what_differs_with_people_alone_is_not_called_teaching() -> None:
    """Runs of other seeds differ by 1 or 2, all runs of the same people by nothing."""
    seeds = STAR | {"second": RunSeeds(1, 1, 1, 1), "third": RunSeeds(0, 0, 0, 0, prescribed="other ids")}
    values = dict.fromkeys(STAR, 0.0) | {"second": 1.0, "third": 2.0}
    found = components(values, seeds)
    assert found is not None and found["people"] > 0.9
    assert [found[s] for s in ("teach", "unlearn", "evaluate")] == pytest.approx([0, 0, 0], abs=1e-9)
    assert one_more(seeds["second"], "people", list(seeds.values())) == RunSeeds(2, 1, 1, 1)
    no_teach = {name: of for name, of in seeds.items() if name != "teach"}
    assert components({name: values[name] for name in no_teach}, no_teach) is None, "people and teach change together"


def test_variances_of_people_and_stages_are_found_again_in_the_mean_over_many_worlds() -> None:
    draw, worlds = np.random.default_rng(3), []
    every = list(product(range(6), range(2), range(2), range(2)))
    seeds = {str(run): RunSeeds(*run) for run in every}
    for _ in range(150):
        people, teach = draw.normal(0, 0.5, 6), draw.normal(0, 0.2, (6, 2))
        unlearn, evaluate = draw.normal(0, 0.2, (6, 2, 2)), draw.normal(0, 0.3, (6, 2))
        values = {
            str((p, t, u, e)): float(people[p] + teach[p, t] + unlearn[p, t, u] + evaluate[p, e])
            for p, t, u, e in every
        }
        found = components(values, seeds)
        assert found is not None
        worlds.append([found[s] for s in ("people", "teach", "unlearn", "evaluate")])
    assert np.mean(worlds, axis=0) == pytest.approx([0.25, 0.04, 0.04, 0.09], rel=0.25)


def test_known_variances_are_found_again_in_the_mean_over_many_worlds() -> None:
    draw, every = np.random.default_rng(1), list(product(range(5), range(3), range(4)))
    seeds = {str(run): RunSeeds(0, *run) for run in every}
    worlds = []
    for _ in range(120):
        teach, unlearn, evaluate = draw.normal(0, 0.3, 5), draw.normal(0, 0.2, (5, 3)), draw.normal(0, 0.25, 4)
        values = {str((t, u, e)): float(teach[t] + unlearn[t, u] + evaluate[e]) for t, u, e in every}
        found = components(values, seeds)
        assert found is not None
        worlds.append(list(found.values()))
    assert np.mean(worlds, axis=0) == pytest.approx([0.09, 0.04, 0.0625], rel=0.2)


def test_the_error_of_a_mean_and_what_one_more_run_does_to_it_by_hand() -> None:
    variances = {"teach": 0.04, "unlearn": 0.01, "evaluate": 0.02}
    two = [RunSeeds(0, 0, 0, 0), RunSeeds(0, 1, 0, 0)]
    assert standard_error(variances, two) == pytest.approx((0.04 / 2 + 0.01 / 2 + 0.02) ** 0.5)
    more = one_more(two[0], "evaluate", two)
    assert more == RunSeeds(0, 0, 0, 1)
    # of three runs two share the teaching and its unlearning, and two others the evaluation
    assert standard_error(variances, [*two, more]) == pytest.approx(((0.04 + 0.01 + 0.02) * 5 / 9) ** 0.5)
    assert one_more(two[0], "teach", two).teach == 2


def test_a_surplus_is_over_the_retain_model_and_a_mean_over_tasks() -> None:
    sums = [{"retain_model": 0.0, "m": 2.0, "target": 2.0}, {"retain_model": 1.0, "m": 1.0, "target": 2.0}]
    scores = [
        PersonScore("r", "text", "forget", task, "p", 2, of)
        for task, of in zip(("cloze", "generation"), sums, strict=True)
    ]
    scores.append(PersonScore("r", "text", "retain", "cloze", "q", 2, sums[0]))
    assert surpluses(scores, "text") == {"m": {"r": pytest.approx((1.0 + 0.5) / 2 - (0.0 + 0.5) / 2)}}
    assert surpluses(scores, "image_text") == {}


def test_the_command_splits_the_variance_and_names_the_next_run(tmp_path: Path) -> None:
    roots = []
    for name, seeds in STAR.items():
        known = 0.7 if name == "evaluate" else 0.5
        models = {"target": sets(1.0, 1.0, 1.0), "retain_model": sets(0.2, 1.0, 1.0), "m": sets(known, 1.0, 1.0)}
        root = make_run(tmp_path / name, models)
        own = {stage: getattr(seeds, stage) for stage in ("teach", "unlearn", "evaluate")}
        (root / "recipe.yaml").write_text(json.dumps({"name": name, "seed": 0, "seeds": own}))
        roots.append(root)
    done = CliRunner().invoke(app, ["pool", *map(str, roots)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "teach 0 %, unlearn 0 %, evaluate 100 %" in text
    assert "One more run helps most with another seed of: evaluate." in text
    assert "All runs have the same people" in text and "sd people" not in text
    twice = CliRunner().invoke(app, ["pool", str(roots[0]), str(roots[0].rename(tmp_path / "again"))])
    assert twice.exit_code != 0


def test_one_run_without_seeds_is_pooled_as_before(tmp_path: Path) -> None:
    models = {"target": sets(1.0, 1.0, 1.0), "retain_model": sets(0.2, 1.0, 1.0), "m": sets(0.5, 1.0, 1.0)}
    root = make_run(tmp_path / "a", models)
    done = CliRunner().invoke(app, ["pool", str(root)])
    assert done.exit_code == 0 and "Seeds" not in done.output
    assert seed_variances([], {}) == []
