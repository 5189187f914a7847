"""The commands that drive the pipeline, as processes, with a scripted pipeline in place of the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.cli.run import folder_named

ROOT = Path(__file__).parents[2]
SCRIPT = """
import errno, json, sys, time, types
from pathlib import Path
from rich.table import Table

class Pipeline:
    def __init__(self, recipe, root, *, force=False, gate=True, check, progress):
        self.root, self.progress = root, progress
        self.facts = {"name": recipe.name, "epochs": recipe.finetune.epochs, "force": force, "gate": gate}
        self.facts["check"] = check is not None

    def run(self, only=None):
        print(json.dumps({**self.facts, "root": str(self.root), "only": only}))
        self.progress.stage("finetune", "[/bold] target")
        self.progress.start("teaching", 3)
        self.progress.advance(1, loss=0.25)
        act()
        self.progress.advance(2)
        self.progress.finish()
        return self.root / "report" / "index.html" if only in (None, "report") else None

    evaluations = {}

    def terminal_table(self):
        table = Table("model")
        table.add_row("target [/x]")
        return table

def act():
    ACT

module = types.ModuleType("mllmu.pipeline.pipeline")
module.Pipeline = Pipeline
sys.modules["mllmu.pipeline.pipeline"] = module
first = types.ModuleType("mllmu.preflight.doctor.first")
first.check_first = print
sys.modules["mllmu.preflight.doctor.first"] = first
from mllmu.cli import main
main()
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\n", encoding="utf-8")
    return path


def command(tmp_path: Path, arguments: list[str], act: str) -> list[str]:
    script = tmp_path / "scripted.py"
    script.write_text(SCRIPT.replace("ACT", act), encoding="utf-8")
    return [sys.executable, str(script), *arguments]


def scripted(tmp_path: Path, *arguments: str, act: str = "pass") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    call = command(tmp_path, list(arguments), act)
    return subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=120)


def test_run_hands_recipe_and_options_to_the_pipeline_and_ends_with_table_and_report(
    recipe: Path, tmp_path: Path
) -> None:
    result = scripted(
        tmp_path,
        "run",
        str(recipe),
        "--set",
        "finetune.epochs=3",
        "--force",
        "--no-gate",
        "--no-check",
        "--out",
        "here",
    )
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    told = {"name": "small", "epochs": 3.0, "force": True, "gate": False, "check": False, "root": "here", "only": None}
    assert json.loads(lines[0]) == told
    assert "target [/x]" in result.stdout
    assert lines[-1] == f"report: {Path('here/report/index.html')}"


def test_run_folder_is_named_after_the_recipe_and_options_are_off_by_default(recipe: Path, tmp_path: Path) -> None:
    first = scripted(tmp_path, "run", str(recipe)).stdout.splitlines()[0]
    assert '"force": false, "gate": true, "check": true' in first and '"root": "runs/small"' in first


def test_progress_goes_to_stderr_as_plain_lines_when_there_is_no_terminal(recipe: Path, tmp_path: Path) -> None:
    result = scripted(tmp_path, "run", str(recipe))
    ahead, *lines = result.stderr.splitlines()
    assert ahead.startswith("ahead: about ")
    assert lines[:2] == ["finetune: [/bold] target", "  teaching: 0 of 3"]
    assert lines[2].startswith("  teaching: 3 in ") and lines[2].endswith(", loss 0.25")


STAGES = [pytest.param(name, marks=() if name in ("unlearn", "report") else pytest.mark.slow) for name in
          ("data", "finetune", "unlearn", "evaluate", "score", "report")]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_is_a_command_and_a_value_of_only(stage: str, recipe: Path, tmp_path: Path) -> None:
    reads = stage in ("score", "report")
    (tmp_path / "runs/small").mkdir(parents=True)
    (tmp_path / "runs/small/recipe.yaml").write_text("name: small\n", encoding="utf-8")
    (tmp_path / "runs/small/run.json").write_text('{"mllmu": "0"}', encoding="utf-8")
    alone = scripted(tmp_path, stage, str(recipe), *(["--no-gate", "--no-check"] if reads else []))
    only = scripted(tmp_path, "run", str(recipe), "--only", stage, *(["--no-gate", "--no-check"] if reads else []))
    assert alone.returncode == only.returncode == 0
    assert f'"only": "{stage}"' in alone.stdout
    assert alone.stdout == only.stdout
    assert ("report: " in alone.stdout) == (stage == "report")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("from mllmu.core.errors import GateError; raise GateError('first\\nsecond [/x]')", "error: first second [/x]"),
        ("raise OSError(errno.ENOSPC, 'No space left on device', 'w.bin')", "error: w.bin: cannot be written"),
        ("raise PermissionError(errno.EACCES, 'Permission denied', 'runs')", "error: runs: access denied"),
        ("raise RuntimeError('I/O error: No space left on device (os error 28)')", "error: the disk is full"),
        ("raise MemoryError", "error: out of memory (no details). Lower the batch sizes"),
        (
            'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: tried 40 bytes")',
            "error: out of memory (DefaultCPUAllocator: can't allocate memory: tried 40 bytes)",
        ),
        ("raise RuntimeError('std::bad_alloc')", "error: out of memory (std::bad_alloc)"),
        ("raise OSError(errno.ENOMEM, 'Cannot allocate memory')", "error: out of memory"),
        ("import numpy; numpy.ones((1 << 30, 1 << 22))", "error: out of memory (Unable to allocate"),
    ],
)
def test_error_of_the_user_or_the_machine_is_one_line_without_traceback(
    act: str, said: str, recipe: Path, tmp_path: Path
) -> None:
    result = scripted(tmp_path, "run", str(recipe), act=act)
    ahead, *before, last = result.stderr.splitlines()
    assert result.returncode == 2
    assert ahead.startswith("ahead: ") and last.startswith(said)
    assert before == ["finetune: [/bold] target", "  teaching: 0 of 3"]


def test_bug_of_the_program_keeps_its_traceback(recipe: Path, tmp_path: Path) -> None:
    result = scripted(tmp_path, "run", str(recipe), act="raise KeyError('bug')")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "KeyError: 'bug'" in result.stderr


def test_ctrl_c_says_how_to_go_on_and_exits_130(recipe: Path, tmp_path: Path) -> None:
    act = "print('ready', flush=True); time.sleep(60)"
    call = command(tmp_path, ["run", str(recipe)], act)
    with subprocess.Popen(call, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted; the same command continues where it stopped"
    assert "Traceback" not in stderr


def test_stages_of_the_command_line_are_those_of_the_pipeline() -> None:
    from typing import get_args

    from mllmu.cli.run import Stage

    pipeline = pytest.importorskip("mllmu.pipeline.pipeline", reason="the pipeline is not part of this checkout")
    assert get_args(Stage) == tuple(pipeline.STAGES)


def test_pretrain_tiny_shows_a_bar_per_phase_and_the_exam_as_a_note(tmp_path: Path) -> None:
    script = tmp_path / "tiny.py"
    script.write_text(
        "import sys, types\n"
        "def pretrain(plan, out, report):\n"
        "    report('vision', 50, 100, {'loss': 2.0})\n"
        "    report('vision', 100, 100, {'loss': 1.0})\n"
        "    report('language', 50, 50, {'loss': 0.5})\n"
        "    report('exam', 50, 50, {'exact': 0.875})\n"
        "module = types.ModuleType('tools.pretrain_tiny.pretrain')\n"
        "module.pretrain, module.Plan = pretrain, dict\n"
        "sys.modules['tools.pretrain_tiny.pretrain'] = module\n"
        "from tools.pretrain_tiny.__main__ import app\n"
        "app()\n",
        encoding="utf-8",
    )
    call = [sys.executable, str(script), "--out", "tiny"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", timeout=120)
    assert result.stdout == "weights: tiny\n", result.stderr
    said = [line.strip().partition(" in ")[0] for line in result.stderr.splitlines()]
    assert said == [
        "pretrain-tiny: vision", "vision: 0 of 100", "vision: 100",
        "pretrain-tiny: language", "language: 0 of 50", "exam after step 50: exact 0.875", "language: 50",
    ]  # fmt: skip


@pytest.mark.parametrize("address", ["s3://bucket/runs", "memory://runs", "gs://x"])
def test_an_address_of_an_object_store_is_no_folder(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "demo", "--out", address], env={"COLUMNS": "300"})
    assert done.exit_code == 2 and "mount the storage" in done.output and not list(tmp_path.iterdir())


def test_a_file_address_is_the_path_behind_it() -> None:
    assert folder_named("file:///data/runs") == folder_named("file://localhost/data/runs") == Path("/data/runs")
    assert folder_named("runs/a:b") == Path("runs/a:b")
