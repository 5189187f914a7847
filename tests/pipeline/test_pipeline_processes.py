"""A run in two processes (gloo, on the CPU) is the run in one: same replies and scores, losses to 1e-5."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mini_run import fingerprints, run
from safetensors.torch import load_file
from test_pipeline_interrupted import Stopper

from mllmu.evaluation.run import OF_FOLLOWER, PARTIAL
from mllmu.training.loop import CHECKPOINT

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
)
ASKED_ANEW = "evaluate.batch_size=3"
"""Batches small enough that each process has several."""
TOGETHER = """
import sys
from pathlib import Path

import typer

sys.path.insert(0, {here!r})
from mini_run import run
from mllmu import processes
from mllmu.cli.failures import ExplainedErrors
from mllmu.errors import ModelError
from mllmu.evaluation import run as asking

def main():
    base, root, other = Path({base!r}), Path({root!r}), Path({other!r})
    run(base, root, *{overrides!r}, only="score")
    real = asking.append

    def append(path, responses):
        real(path, responses)
        if processes.rank() == 1:
            raise ModelError("no room left on this one")

    asking.append = append
    run(base, other, *{overrides!r}, {anew!r}, "unlearn.methods=[]", only="unlearn")

try:
    with ExplainedErrors():
        main()
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def together(script: str) -> list[tuple[int, str]]:
    """Exit code and what it said on stderr of each of two processes that run a script as a launcher starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = []
    for rank in "01":
        environment = {**os.environ, **launched, "RANK": rank, "LOCAL_RANK": rank}
        call = [sys.executable, "-W", "ignore", "-c", script]
        running.append(
            subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    try:
        said = [process.communicate(timeout=240)[1] for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(base, tmp_path_factory.mktemp("alone") / "run", *SHORT, only="score")


@pytest.fixture(scope="module")
def shared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[tuple[int, str]]]:
    """Two run folders of two processes, and their ends: one run whole, in the other process 1 fails in asking.

    The first has been begun by one process alone, which was stopped in fine-tuning.
    """
    root, other = (tmp_path_factory.mktemp(name) / "run" for name in ("root", "other"))
    with pytest.raises(KeyboardInterrupt):
        run(base, root, *SHORT, only="score", progress=Stopper("retain_model", 1, 5))
    assert (root / "models/forget_40/.retain_model.building" / CHECKPOINT).is_file()
    script = TOGETHER.format(
        here=str(HERE), base=str(base), root=str(root), other=str(other), overrides=SHORT, anew=ASKED_ANEW
    )
    return root, other, together(script)


def curves(root: Path) -> dict[str, list[dict[str, float]]]:
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(root.glob("models/**/curve.json"))}


def test_every_method_trains_as_in_one_process(alone: Path, shared: Any) -> None:
    one, two = curves(alone), curves(shared[0])
    assert {"target", "retain_model", "kl_min", "rmu", "sam_npo"} <= set(one)
    for name, points in one.items():
        for expected, point in zip(points, two[name], strict=True):
            assert point == pytest.approx(expected, rel=1e-5, abs=1e-5), name
    for path in sorted(alone.glob("models/**/*.safetensors")):
        found = load_file(shared[0] / path.relative_to(alone))
        for name, expected in load_file(path).items():
            assert (found[name] - expected).abs().max() < 1e-4, (path, name)


def test_replies_and_scores_are_those_of_one_process(alone: Path, shared: Any) -> None:
    def texts(root: Path) -> dict[str, list[tuple[str, str]]]:
        lines = {p.parts[-3]: p.read_text().splitlines() for p in root.glob("eval/*/*/replies/responses.jsonl")}
        return {name: [(r["sample_id"], r["text"]) for r in map(json.loads, of)] for name, of in lines.items()}

    assert len(texts(alone)) == 2 + len(METHODS)
    assert texts(shared[0]) == texts(alone)
    one, two = (json.loads((r / "eval/forget_40/metrics.json").read_text())["results"] for r in (alone, shared[0]))
    assert len(one) == len(two) > 50
    for expected, result in zip(one, two, strict=True):
        numbers = {key: value for key, value in expected.items() if isinstance(value, float)}
        assert {key: result[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-5)
        assert {**result, **numbers} == expected
    assert not list(shared[0].rglob("*.building")), "what one process had begun was finished by two"


def test_a_process_that_fails_ends_all_with_its_message(shared: Any) -> None:
    ends = shared[2]
    assert [code for code, _ in ends] == [2, 2], ends
    said = "".join(text for _, text in ends)
    assert "no room left on this one" in said
    assert "Traceback" not in said
    assert json.loads((shared[1] / "run.json").read_text())["status"] == "failed"


def test_replies_of_all_processes_are_kept_when_one_fails(base: Path, shared: Any, tmp_path: Path) -> None:
    root = shared[1]
    building = root / "eval/forget_40/target/.replies.building"
    of_follower = (building / OF_FOLLOWER.format(1)).read_bytes()
    assert of_follower.count(b"\n") == 3
    assert (building / PARTIAL).is_file()
    run(base, root, *SHORT, ASKED_ANEW, "unlearn.methods=[]", only="unlearn")
    replies = root / "eval/forget_40/target/replies"
    assert set(of_follower.splitlines()) <= set((replies / "responses.jsonl").read_bytes().splitlines())
    assert not list(replies.glob("*partial*"))
    assert fingerprints(root, "eval/forget_40/samples.jsonl")
