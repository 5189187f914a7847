"""Seeds of single stages: what is made anew with another one, and what stays."""

from __future__ import annotations

from pathlib import Path

import mini_run
import pytest

from mllmu.config.load import parse
from mllmu.core.errors import RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.finetune import finetune_unit
from mllmu.pipeline.run import Run
from mllmu.pipeline.unlearn import unlearn_unit


def run_of(base: Path, root: Path, *overrides: str) -> Run:
    return Run(parse(mini_run.settings(base, *overrides)), root, SilentProgress())


def test_each_seed_changes_its_own_stage_alone(base: Path, finished: Path) -> None:
    plain, taught, unlearned, asked = (
        run_of(base, finished, *changes)
        for changes in ((), ("seeds.teach=3",), ("seeds.unlearn=3",), ("seeds.evaluate=3",))
    )
    for run in (plain, unlearned, asked):
        assert finetune_unit(run, "40", "target", run.data.people).done
    with pytest.raises(RunStoreError, match="seed"):
        finetune_unit(taught, "40", "target", taught.data.people)
    for run in (plain, asked):
        assert unlearn_unit(run, "40", "npo").done
    with pytest.raises(RunStoreError, match="seed"):
        unlearn_unit(unlearned, "40", "npo")
    first, second = (Evaluation(run, "40").render() for run in (plain, asked))
    assert {s.profile_id for s in first if s.split == "forget"} == {s.profile_id for s in second if s.split == "forget"}
    assert [s.prompt for s in first] != [s.prompt for s in second]
    assert [run.seed_of("teach") for run in (plain, taught)] == [0, 3]
