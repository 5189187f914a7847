"""A run that is killed, stopped or cut off, and then repeated, gives the bytes of a run that nothing happened to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mini_run import fingerprints, run, settings, write_recipe

from mllmu.config.load import parse
from mllmu.core.process import SilentProgress
from mllmu.pipeline.evaluate import PARTIAL
from mllmu.pipeline.pipeline import Pipeline
from mllmu.training.checkpoint import CHECKPOINT

HERE = Path(__file__).parent
CAREFUL = ("finetune.checkpoint_every_s=1e-9",)
"""A checkpoint after every step."""
KILLED = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, {here!r})
from mini_run import run
from mllmu.core.process import SilentProgress

class Killer(SilentProgress):
    def __init__(self, label, nth, after):
        self.label, self.nth, self.after, self.done = label, nth, after, -1

    def start(self, label, total):
        self.nth -= label == self.label
        self.done = 0 if label == self.label and self.nth == 0 else -1

    def advance(self, n=1, **facts):
        if self.done >= 0:
            self.done += n
            if self.done >= self.after:
                os.kill(os.getpid(), signal.SIGKILL)

run(Path({base!r}), Path({root!r}), *{overrides!r}, only="score", progress=Killer({label!r}, {nth}, {after}))
"""


def killed(base: Path, root: Path, label: str, nth: int, after: int) -> None:
    """Run the recipe in a process that kills itself after so many units of the nth task of a name."""
    script = KILLED.format(
        here=str(HERE), base=str(base), root=str(root), overrides=CAREFUL, label=label, nth=nth, after=after
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def same_numbers(root: Path, finished: Path) -> None:
    expected = fingerprints(finished, "eval/*/metrics.json")
    assert expected
    assert fingerprints(root, "eval/*/metrics.json") == expected
    assert fingerprints(root, "models/**/*.safetensors") == fingerprints(finished, "models/**/*.safetensors")


def test_a_run_killed_in_teaching_and_in_asking_gives_the_same_bytes(
    base: Path, finished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    killed(base, root, "target", nth=1, after=7)
    assert (root / "models/.target.building" / CHECKPOINT).is_file()
    assert json.loads((root / "run.json").read_text())["status"] == "running"
    killed(base, root, "npo", nth=2, after=32)
    assert (root / "eval/forget_40/npo/.responses.building" / PARTIAL).is_file()
    run(base, root, *CAREFUL, only="score")
    same_numbers(root, finished)
    assert not list(root.rglob("*.building"))


class Stopper(SilentProgress):
    """Ctrl-C after so many units of the nth task of a name."""

    def __init__(self, label: str, nth: int, after: int) -> None:
        self.label, self.nth, self.after = label, nth, after
        self.seen: list[int] = []
        self.current = ""

    def start(self, label: str, total: int) -> None:
        del total
        self.current = label
        self.seen += [0] * (label == self.label)

    def advance(self, n: int = 1, **facts: float) -> None:
        del facts
        if self.current == self.label:
            self.seen[-1] += n
            if len(self.seen) == self.nth and self.seen[-1] >= self.after:
                raise KeyboardInterrupt


def test_a_run_stopped_while_drawing_while_the_gate_asks_and_in_unlearning_gives_the_same_bytes(
    base: Path, finished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    for label, nth, after in (("portraits", 1, 4), ("target", 2, 16), ("npo", 1, 3)):
        stopper = Stopper(label, nth, after)
        with pytest.raises(KeyboardInterrupt):
            run(base, root, *CAREFUL, only="score", progress=stopper)
        assert json.loads((root / "run.json").read_text())["status"] == "interrupted"
    assert (root / "models/forget_40/.npo.building" / CHECKPOINT).is_file()
    continued = Stopper("target", 0, 0)
    run(base, root, *CAREFUL, only="score", progress=continued)
    assert continued.seen == [], "what was finished is not done again"
    same_numbers(root, finished)


def test_replies_kept_from_before_the_interruption_are_not_asked_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllmu.pipeline import evaluate as asking

    root, asked = tmp_path / "run", []
    real = asking.respond

    def respond(loaded, batches, **how):  # type: ignore[no-untyped-def]
        of_controls = "@"
        asked.extend(sample.id for batch in batches for sample in batch if of_controls not in sample.id)
        return real(loaded, batches, **how)

    with pytest.raises(KeyboardInterrupt):
        run(base, root, *CAREFUL, "unlearn.methods=[]", only="unlearn", progress=Stopper("target", 2, 32))
    monkeypatch.setattr(asking, "respond", respond)
    run(base, root, *CAREFUL, "unlearn.methods=[]", only="unlearn")
    samples = [line for line in (root / "eval/forget_40/samples.jsonl").read_text().splitlines() if line]
    assert len(asked) == 2 * len(samples) - 32


def test_settings_changed_in_between_start_the_unfinished_part_afresh(
    base: Path, finished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(base, root, *CAREFUL, "finetune.learning_rate=0.5", only="finetune", progress=Stopper("target", 1, 6))
    assert (root / "models/.target.building" / CHECKPOINT).is_file()
    run(base, root, *CAREFUL, only="finetune")
    name = "models/target/adapter_model.safetensors"
    assert (root / name).read_bytes() == (finished / name).read_bytes()


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(base: Path, finished: Path, tmp_path: Path) -> None:
    recipe, root = write_recipe(tmp_path / "mini.yaml", base, *CAREFUL), tmp_path / "run"
    call = [sys.executable, "-m", "mllmu", "run", str(recipe), "--only", "score", "--out", str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        assert any("target: 0 of" in line for line in said)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert rest.splitlines()[-1] == "interrupted; the same command continues where it stopped"
    assert "Traceback" not in rest
    assert json.loads((root / "run.json").read_text())["status"] == "interrupted"
    Pipeline(parse(settings(base, *CAREFUL)), root).run("score")
    same_numbers(root, finished)
