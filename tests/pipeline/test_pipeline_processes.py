"""A run in two processes (gloo, on the CPU) is the run in one: same replies and scores, losses to 1e-5."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mini_run import launches, run
from safetensors.torch import load_file
from test_pipeline_interrupted import Stopper

from mllmu.core.records import Response
from mllmu.core.runfolder import Journal, read_lines
from mllmu.pipeline.evaluate import OF_FOLLOWER, PARTIAL
from mllmu.training.checkpoint import CHECKPOINT

HERE = Path(__file__).parent
METHODS = (
    "{name: ga, epochs: 0.5}",
    "{name: npo, epochs: 0.5, batch_size: 8, kl_weight: 0.5}",
    "{name: kl_min, epochs: 0.2, modality: both, batch_size: 1}",
    "{name: salun, epochs: 0.5, forget_loss: npo}",
    "{name: sam_npo, epochs: 0.5}",
    "{name: rmu, epochs: 0.5}",
)
SHORT = (
    f"unlearn.methods=[{', '.join(METHODS)}]",
    "finetune.checkpoint_every_s=1e-9",
    "evaluate.max_profiles={forget: 1, test: 1, retain: 1, celebrity: 0, holdout: 0}",
    "evaluate.batch_size=5",
)
"""Batches so small that each process has several."""
SPREAD = (
    *SHORT[1:],
    "unlearn.methods=[{name: sam_npo, epochs: 0.5}, {name: rmu, epochs: 0.5}]",
    "finetune.micro_batch_size=3",
    "unlearn.micro_batch_size=1",
    "model.gradient_checkpointing=true",
)
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What accelerate launch makes of a config file with fsdp_version: 2."""
TOGETHER = """
import os, sys
from pathlib import Path

import typer

sys.path.insert(0, {here!r})
from mini_run import run
from mllmu.parallel import team as processes
from mllmu.cli.failures import explained_errors
from mllmu.core.errors import ModelError
from mllmu.core.runfolder import Journal
from mllmu.training import finetune

def main():
    base, root, spread, failed = map(Path, {folders!r})
    run(base, root, *{short!r}, only="unlearn")

    os.environ |= {fsdp!r}
    put = finetune.spread

    def measured(loaded, model):
        put(loaded, model)
        layer = loaded.model.model.language_model.layers[0].mlp.down_proj.base_layer
        path = Path(spread.parent, f"held_{{processes.rank()}}")
        path.write_text(str(layer.weight.to_local().numel() / layer.weight.numel()))

    finetune.spread = measured
    run(base, spread, *{spread!r}, only="unlearn")
    finetune.spread = put

    os.environ["ACCELERATE_USE_FSDP"] = "false"
    keep = Journal.append

    def append(journal, responses):
        keep(journal, responses)
        if processes.rank() == 1:
            raise ModelError("no room left on this one")

    Journal.append = append
    run(base, failed, *{short!r}, "unlearn.methods=[]", only="unlearn")

try:
    with explained_errors():
        main()
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def together(script: str) -> list[tuple[int, str]]:
    """Exit code and what it said on stderr of each of two processes that run a script as a launcher starts it."""
    running = []
    for launch in launches(2):
        environment = {**os.environ, **launch, "OMP_NUM_THREADS": "1"}
        call = [sys.executable, "-W", "ignore", "-c", script]
        running.append(
            subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    try:
        said = [process.communicate(timeout=600)[1] for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]


@dataclass(frozen=True)
class Done:
    """Three run folders of two processes, and how the processes ended: by the failure of process 1 in the third."""

    whole: Path
    spread: Path
    failed: Path
    ends: list[tuple[int, str]]


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(base, tmp_path_factory.mktemp("alone") / "run", *SHORT, only="unlearn")


@pytest.fixture(scope="module")
def shared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The first run has been begun by one process, which was stopped in fine-tuning."""
    folder = tmp_path_factory.mktemp("shared")
    whole, spread, failed = (folder / name for name in ("whole", "spread", "failed"))
    with pytest.raises(KeyboardInterrupt):
        run(base, whole, *SHORT, only="unlearn", progress=Stopper("retain_model", 1, 5))
    assert (whole / "models/forget_40/.retain_model.building" / CHECKPOINT).is_file()
    folders = [str(path) for path in (base, whole, spread, failed)]
    script = TOGETHER.format(here=str(HERE), folders=folders, short=SHORT, spread=SPREAD, fsdp=FSDP2)
    return Done(whole, spread, failed, together(script))


def curves(root: Path) -> dict[str, list[dict[str, float]]]:
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(root.glob("models/**/curve.json"))}


def same_training(found: Path, expected: Path, models: set[str]) -> None:
    """Losses to 1e-5, weights to 1e-4, every tensor whole."""
    one, two = curves(expected), curves(found)
    assert set(two) == models
    for name, points in two.items():
        for wanted, point in zip(one[name], points, strict=True):
            assert point == pytest.approx(wanted, rel=1e-5, abs=1e-5), name
    for path in sorted(found.glob("models/**/*.safetensors")):
        wanted = load_file(expected / path.relative_to(found))
        held = load_file(path)
        assert {key: value.shape for key, value in held.items()} == {key: wanted[key].shape for key in wanted}
        assert max((held[key] - wanted[key]).abs().max() for key in wanted) < 1e-4, path


def test_every_method_trains_as_in_one_process(alone: Path, shared: Done) -> None:
    same_training(shared.whole, alone, {"target", "retain_model", "ga", "npo", "kl_min", "salun", "sam_npo", "rmu"})
    assert json.loads((shared.whole / "run.json").read_text())["hardware"]["processes"] == 2
    assert not list(shared.whole.rglob("*.building")), "what one process had begun was finished by two"


def test_spread_layers_and_steps_in_parts_train_the_same_too(alone: Path, shared: Done) -> None:
    same_training(shared.spread, alone, {"target", "retain_model", "sam_npo", "rmu"})
    assert [(shared.spread.parent / f"held_{rank}").read_text() for rank in range(2)] == ["0.5", "0.5"]


def test_replies_and_scores_are_those_of_one_process(base: Path, alone: Path, shared: Done) -> None:
    def texts(root: Path) -> dict[str, list[tuple[str, str]]]:
        lines = {p.parts[-3]: p.read_text().splitlines() for p in root.glob("eval/*/*/responses/responses.jsonl")}
        return {name: [(r["sample_id"], r["text"]) for r in map(json.loads, of)] for name, of in lines.items()}

    assert {name: len(of) for name, of in texts(alone).items()} == {"target": 54, "retain_model": 54}
    assert texts(shared.whole) == texts(alone)
    one, two = (metrics(base, root) for root in (alone, shared.whole))
    assert len(one) == len(two) > 50
    for expected, result in zip(one, two, strict=True):
        numbers = {key: value for key, value in expected.items() if isinstance(value, float)}
        assert {key: result[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-5)
        assert {**result, **numbers} == expected


def metrics(base: Path, root: Path) -> list[dict[str, Any]]:
    run(base, root, *SHORT, "unlearn.methods=[]", only="score")
    return list(json.loads((root / "eval/forget_40/metrics.json").read_text())["results"])


def test_a_process_that_fails_ends_all_with_its_message(shared: Done) -> None:
    assert [code for code, _ in shared.ends] == [2, 2], shared.ends
    said = "".join(text for _, text in shared.ends)
    assert "no room left on this one" in said
    assert "Traceback" not in said
    assert json.loads((shared.failed / "run.json").read_text())["status"] == "failed"


def test_replies_of_all_processes_are_kept_when_one_fails(base: Path, shared: Done) -> None:
    building = shared.failed / "eval/forget_40/target/.responses.building"
    of_follower = Journal(building / OF_FOLLOWER.format(1), Response).read()
    assert len(of_follower) == 5
    assert (building / PARTIAL).is_file()
    run(base, shared.failed, *SHORT, "unlearn.methods=[]", only="unlearn")
    replies = shared.failed / "eval/forget_40/target/responses"
    kept = read_lines(replies / "responses.jsonl", Response)
    assert all(reply in kept for reply in of_follower)
    assert not list(replies.glob("*partial*"))
