"""A sweep makes the folders of ordinary runs, byte for byte, whoever does its units."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest
import torch
from mini_run import MODELS, settings, unit_times, write_recipe
from test_pipeline_interrupted import same_numbers
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.core.errors import GateError
from mllmu.core.process import SilentProgress
from mllmu.parallel.engines import perform
from mllmu.parallel.pool import StartWorker, Task
from mllmu.parallel.schedule import Resources
from mllmu.pipeline.run import Run
from mllmu.studies.sweep import SweepOrder, SweptRun, sweep, units_behind_data


class Inline:
    """An engine that does every task in this process, as a process of a cluster would."""

    room = 1

    def __init__(self, start_worker: StartWorker) -> None:
        self.start_worker = start_worker
        self.asked: list[tuple[Task, Resources]] = []
        self._ended: list[tuple[Task, Exception | None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, task: Task, resources: Resources) -> None:
        self.asked.append((task, resources))
        self._ended.append((task, perform(self.start_worker, f"sweep {id(self)}", str(Path.cwd()), task)))

    def collect(self) -> list[tuple[Task, Exception | None]]:
        ended, self._ended = self._ended, []
        return ended


def again(finished: Path, folder: Path, *without: str) -> Path:
    """A copy of the finished run without some units, and without what is made of their models."""
    root = Path(shutil.copytree(finished, folder))
    for name in ("report", *without):
        shutil.rmtree(root / name)
    for unit in ("responses", "scores", "base_logp"):
        shutil.rmtree(root / "eval/forget_40/npo" / unit, ignore_errors=True)
    return root


def test_units_that_are_missing_are_made_as_a_run_makes_them(base: Path, finished: Path, tmp_path: Path) -> None:
    root = again(finished, tmp_path / "run", "models/forget_40/npo")
    before = unit_times(root)
    order = SweepOrder({"": SweptRun(parse(settings(base)), root)})
    engine = Inline(order.start_worker)
    assert not sweep(order, engine, progress=SilentProgress()).failed
    same_numbers(root, finished)
    assert before.items() <= unit_times(root).items(), "what was there stays"
    assert (root / "report/index.html").is_file()
    assert not (root / ".sweep").exists()
    done = [task[1] for task, _ in engine.asked]
    assert (done[0], done[-1], done.count("make"), done.count("ask")) == ("data", "finish", len(MODELS), len(MODELS))
    assert json.loads((root / "run.json").read_text())["status"] == "done"


def test_a_sweep_makes_and_asks_a_retain_model_only_where_the_recipe_has_one(base: Path, finished: Path) -> None:
    def units(*overrides: str) -> set[Task]:
        run = Run(parse(settings(base, "unlearn.methods=[npo]", *overrides)), finished, SilentProgress())
        return {unit.task for unit in units_behind_data("mini", run, lambda _: Resources())}

    taught = {("mini", kind, "40", "retain_model", "") for kind in ("make", "ask")}
    assert taught <= units() and units() - units("finetune.retain_model=false") == taught


def test_every_unit_computes_with_the_threads_of_the_record_and_the_gate_stops_the_rest(
    base: Path, finished: Path, tmp_path: Path
) -> None:
    root = again(finished, tmp_path / "run")
    path = root / "run.json"
    record = json.loads(path.read_text())
    del record["record_digest"]
    record["hardware"]["threads"] = 2
    path.write_text(json.dumps(record))
    order = SweepOrder({"": SweptRun(parse(settings(base, "gate=true")), root)}, check=None)
    found: list[int] = []

    class Counting(Inline):
        def submit(self, task: Task, resources: Resources) -> None:
            torch.set_num_threads(1)  # as Ray would begin it
            super().submit(task, resources)
            found.append(torch.get_num_threads())

    engine = Counting(order.start_worker)
    try:
        schedule = sweep(order, engine, progress=SilentProgress())
    finally:
        torch.set_num_threads(1)
    assert {resources.cpus for task, resources in engine.asked if task[1] != "data"} == {2}
    assert len(found) > 4 and set(found) == {2}
    [(failed, error)] = schedule.failed.items()
    assert failed[1] == "gate" and isinstance(error, GateError)
    assert {task[1] for task in schedule.skipped} == {"make", "ask", "finish"}
    assert json.loads(path.read_text())["status"] == "failed"


def within(seconds: float, what: str) -> Iterator[None]:
    """Ask again and again; fails after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(0.1)
    pytest.fail(f"not within {seconds:g} s: {what}")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one core each, as processes of their own."""
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    try:
        yield made
    finally:
        made.shutdown()


def ray_workers(unit: str) -> list[psutil.Process]:
    """Processes of a cluster that do a unit of this kind; Ray writes its name into their titles."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith("ray::") and unit in title:
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_loses_a_worker_and_its_head_and_gives_the_same_bytes(
    cluster: Any, base: Path, finished: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "mini.yaml", base, "finetune.checkpoint_every_s=1e-9")
    command = [sys.executable, "-m", "mllmu", "sweep", str(recipe), "--engine", "ray"]
    command += ["--address", cluster.address, "--out", str(tmp_path / "run")]
    log = tmp_path / "log"
    with log.open("w") as file:
        head = subprocess.Popen(command, stderr=file)
        for _ in within(300, "a worker trains"):
            if list((tmp_path / "run/models").glob(".target.building/checkpoint*")) and (at := ray_workers("make")):
                at[0].kill()
                break
        for _ in within(300, "the unit is done again"):
            if "Once more, 1 of 3" in log.read_text():
                break
        for _ in within(300, "a method is trained"):
            if (tmp_path / "run/eval/forget_40/gate.json").is_file() and ray_workers("make"):
                break
        head.send_signal(signal.SIGKILL)
        head.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    same_numbers(tmp_path / "run", finished)
    assert str(tmp_path / "run/report/index.html") in done.stdout


def test_an_address_without_a_cluster_is_one_clear_error(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    recipe = write_recipe(tmp_path / "mini.yaml", base)
    how = ["--engine", "ray", "--address", "auto", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["sweep", str(recipe), *how])
    assert done.exit_code == 2
    assert "no Ray cluster can be reached there" in done.output
