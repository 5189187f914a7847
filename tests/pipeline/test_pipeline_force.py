"""One stage is made again with ``--force``: what was made from its work follows, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mini_run import fingerprints, run, unit_times

from mllmu.core.errors import RunStoreError
from mllmu.core.manifest import MANIFEST
from mllmu.core.process import SilentProgress
from mllmu.studies.verify import verify_run
from mllmu.unlearning.methods import npo


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished run, to be changed; without a manifest, which only commands renew."""
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns(MANIFEST))


def changed(root: Path, before: dict[str, int]) -> set[str]:
    """The units that were made since then."""
    return {name for name, when in unit_times(root).items() if before.get(name) != when}


def test_a_method_whose_code_changed_is_asked_and_scored_again(
    copied: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, old = unit_times(copied), fingerprints(copied, "eval/forget_40/npo/responses/responses.jsonl")
    own = npo.npo_loss
    monkeypatch.setattr(npo, "npo_loss", lambda *logp, beta: -5 * own(*logp, beta=beta))
    run(base, copied, only="unlearn", force=True)
    with pytest.raises(RunStoreError, match="npo: the responses are of another model than the one in models"):
        list(verify_run(copied, SilentProgress()))
    run(base, copied)
    remade = {name for name in changed(copied, before) if not {"target", "retain_model"} & set(name.split("/"))}
    assert {"eval/forget_40/npo/responses", "eval/forget_40/npo/scores"} == {n for n in remade if n.startswith("eval")}
    assert fingerprints(copied, "eval/forget_40/npo/responses/responses.jsonl") != old
    asked = json.loads((copied / "eval/forget_40/npo/responses/unit.json").read_text())["inputs"]["model"]
    assert asked == json.loads((copied / "models/forget_40/npo/unit.json").read_text())["fingerprint"]
    assert " made again " in asked
    assert list(verify_run(copied, SilentProgress()))
    done = unit_times(copied)
    run(base, copied)
    assert not changed(copied, done), "and a third command finds everything there"


def test_the_same_models_again_leave_everything_behind_them(copied: Path, base: Path) -> None:
    before = unit_times(copied)
    run(base, copied, only="unlearn", force=True)
    middle = changed(copied, before)
    assert {"models/forget_40/ga", "models/forget_40/prompting"} <= middle
    now = unit_times(copied)
    run(base, copied)
    assert not changed(copied, now)
