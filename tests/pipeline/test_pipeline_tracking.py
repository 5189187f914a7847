"""Trackers are told curves and final metrics, and the run is the one without them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from mini_run import run, settings

from mllmu.config.load import parse
from mllmu.core.errors import DependencyError
from mllmu.core.process import Progress, SilentProgress
from mllmu.pipeline.tracking import Curves, TrackedProgress, final_metrics, tracked


class Tracker:
    """Takes what one of accelerate's would."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[tuple[dict[str, float], int | None]] = []

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.told.append((values, step))


class Shown(SilentProgress):
    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def stage(self, name: str, detail: str) -> None:
        self.said.append((name, detail))

    def advance(self, n: int = 1, **facts: float) -> None:
        self.said.append((n, facts))


def train(progress: Progress, label: str) -> None:
    progress.start(label, 6)
    progress.advance(4, loss=2.0)
    progress.advance(2, loss=1.0)
    progress.finish()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_curve_has_the_name_of_its_ratio_and_model_and_the_display_is_told_as_before(name: str) -> None:
    tracker, shown = Tracker(name), Shown()
    progress = TrackedProgress(shown, Curves([tracker]))
    progress.stage("finetune", "target on 8 people, 1 retain model(s)")
    train(progress, "target")
    progress.stage("unlearn", "2 people (25 %), 3 methods")
    train(progress.lane(), "npo")
    progress.start("asked", 3)
    progress.advance(3)
    if name == "mlflow":
        assert tracker.told[1:3] == [({"target/loss": 1.0}, 6), ({"forget_25/npo/loss": 2.0}, 4)]
    else:
        both = {"forget_25/npo/loss": 1.0, "forget_25/npo/step": 6}
        assert tracker.told[3] == (both, None), "its own step may not go back at the next training"
    assert len(tracker.told) == 4, "what has no figures is not told"
    assert shown.said[-1] == (3, {}) and shown.said[0][0] == "finetune"


def test_the_retain_models_of_several_ratios_are_series_of_their_own() -> None:
    tracker = Tracker("mlflow")
    progress = TrackedProgress(Shown(), Curves([tracker]))
    progress.stage("finetune", "target on 8 people, 2 retain model(s)")
    for label in ("target", "retain_model (5 %)", "retain_model (12.5 %)"):
        train(progress.lane(), label)
    progress.stage("unlearn", "2 people (5 %), 3 methods")
    train(progress, "npo")
    names = list(dict.fromkeys(name for values, _ in tracker.told for name in values))
    assert names == ["target/loss", "forget_5/retain_model/loss", "forget_12.5/retain_model/loss", "forget_5/npo/loss"]


def test_the_display_says_of_which_ratio_a_retain_model_is(base: Path, tmp_path: Path) -> None:
    class Labels(SilentProgress):
        said: ClassVar[list[str]] = []

        def start(self, label: str, total: int) -> None:  # noqa: ARG002 - as of all displays
            self.said.append(label)

    run(base, tmp_path / "run", "data.splits.forget_ratios=[0.4,0.2]", only="finetune", progress=Labels())
    assert [label for label in Labels.said if "model" in label or label == "target"] == [
        "target", "retain_model (40 %)", "retain_model (20 %)",
    ]  # fmt: skip


def test_tensorboard_gets_the_curve_and_the_metrics_of_a_run(base: Path, finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = tmp_path / "run"
    shutil.copytree(finished / "eval", root / "eval", ignore=shutil.ignore_patterns("responses", "scores"))
    with tracked(SilentProgress(), ["tensorboard"], parse(settings(base)), root) as progress:
        train(progress, "target")
    found = {}
    for folder in {path.parent for path in (root / "tracking").rglob("*tfevents*")}:
        events = EventAccumulator(str(folder)).Reload()
        found |= {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found["target/loss"] == [(4, 2.0), (6, 1.0)]
    expected = final_metrics(root)
    assert len(expected) > 20
    assert {tag: found[tag][0][1] for tag in expected} == pytest.approx(expected)


def test_a_tracker_that_is_unknown_or_missing_stops_before_the_first_second(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse(settings(base))
    with (
        pytest.raises(DependencyError, match=r"no tracker 'tensorbord'\. Did you mean 'tensorboard'"),
        tracked(SilentProgress(), ["tensorbord"], recipe, tmp_path),
    ):
        raise AssertionError("the block begins")
    monkeypatch.setattr("mllmu.pipeline.tracking.find_spec", lambda _: None)
    with (
        pytest.raises(DependencyError, match="wandb is not installed"),
        tracked(SilentProgress(), ["wandb"], recipe, tmp_path),
    ):
        raise AssertionError("the block begins")


def test_without_a_tracker_the_display_is_the_display(base: Path, tmp_path: Path) -> None:
    shown = Shown()
    with tracked(shown, (), parse(settings(base)), tmp_path) as told:
        assert told is shown
