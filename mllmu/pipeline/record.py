"""``run.json``: what ran, where, with which versions, how long, and how it ended."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from mllmu.config import load as recipes
from mllmu.core import process
from mllmu.core.errors import RunStoreError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.runfolder import UNIT_FILE, RunFolder, facts_of, read_json, seal, write_atomic, write_json
from mllmu.evaluation.bootstrap import DRAWS
from mllmu.evaluation.stats import JS_BINS
from mllmu.models import devices
from mllmu.models.loading import source_of
from mllmu.pipeline.run import Run
from mllmu.training.loop import Schedule
from mllmu.version import __version__

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "numpy", "pillow", "faker")


def describe(run: Run) -> dict[str, Any]:
    """Provenance of a run as plain values: seed, model, versions, hardware, and what no setting changes."""
    return {
        "mllmu": __version__,
        "seed": run.recipe.seed,
        "model": run.recipe.model.path,
        "hardware": hardware(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in LIBRARIES},
        "fixed": fixed(),
    }


def fixed() -> dict[str, Any]:
    """What is the same in every run, as no setting changes it; docs/explanation/methods.md says it in words."""
    plain = Schedule(num_steps=1, learning_rate=0)
    defaults = torch.optim.AdamW([torch.zeros(1)]).defaults
    return {
        "optimizer": "AdamW",
        "betas": list(defaults["betas"]),
        "eps": defaults["eps"],
        "max_grad_norm": plain.max_grad_norm,
        "unlearning": {"warmup": plain.warmup, "weight_decay": plain.weight_decay},
        "decoding": "greedy",
        "draws_of_people": DRAWS,
        "bins_of_js_distance": JS_BINS,
    }


def hardware() -> dict[str, Any]:
    """Processor, cores, and the accelerator if there is one."""
    found: dict[str, Any] = {"machine": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
    found["threads"] = torch.get_num_threads()
    if process.count() > 1:
        found["processes"] = process.count()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_mib"] = torch.cuda.get_device_properties(0).total_memory // 2**20
    return found


def settle_threads(run: Run) -> None:
    """Let this process compute with as many threads as the record of the run says, or with those of :func:`threads`.

    The last digits of sums depend on it, so whoever continues a run takes the number that it began with.
    """
    recorded = recorded_threads(run.root)
    chosen = recorded or threads(run.recipe.model.path, run.recipe.workers)
    if recorded and recorded > (os.cpu_count() or 1):
        run.progress.note(f"{run.root}: was begun with {recorded} threads, more than there are cores here")
    torch.set_num_threads(chosen)


def recorded_threads(root: Path) -> int:
    """Threads of each process that makes or asks a model of a run; 0 if the run has no record yet."""
    hardware = read_json(root / RunFolder.RECORD).get("hardware")
    found = hardware.get("threads") if isinstance(hardware, dict) else None
    return found if isinstance(found, int) and found > 0 else 0


def settle_worker(root: Path, index: int) -> None:
    """Give a worker process its threads, as recorded for the run, and a GPU of its own if there are several."""
    torch.set_num_threads(recorded_threads(root) or 1)
    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())


def threads(model: str, workers: int) -> int:
    """Threads for each process of a run: one for a small model, whose operations are shorter than sharing them out.

    For others it is this process's share of the cores, on machines without GPU of those that nobody else uses now.
    Measured on two cores: ``recipes/smoke.yaml`` takes 24 s with one thread and 91 s with two, a training step of
    ``recipes/smol.yaml`` 27 s and 16 s.
    """
    if devices.is_small(source_of(model)):
        return 1
    used = 0 if torch.cuda.is_available() else psutil.cpu_percent(interval=0.3) / 100  # not what was: that is us
    free = round((os.cpu_count() or 1) * (1 - used))
    return max(1, min(torch.get_num_threads(), free) // workers)


def installed(name: str) -> str:
    """Version of a library, or 'missing'."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def seconds_by_stage(root: Path) -> dict[str, float]:
    """Seconds spent on all units of the run folder, by stage; interrupted attempts are included."""
    totals = {"data": 0.0, "finetune": 0.0, "unlearn": 0.0, "evaluate": 0.0, "score": 0.0}
    for path in sorted(root.rglob(UNIT_FILE)):
        stage = stage_of(path.parent.relative_to(root).as_posix())
        totals[stage] += float(facts_of(path.parent).get("seconds", 0.0))
    return {stage: round(seconds, 1) for stage, seconds in totals.items()}


def stage_of(unit: str) -> str:
    """The stage that makes a unit: data, finetune, unlearn, evaluate or score."""
    top, last = unit.split("/")[0], unit.rpartition("/")[2]
    if top in (RunFolder.DATA, RunFolder.BENCHMARKS):
        return "data"
    if top == "models":
        return "finetune" if last in (TARGET, RETAIN_MODEL) else "unlearn"
    return "evaluate" if last == RunFolder.RESPONSES or top == RunFolder.ATTACKS else "score"


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Write ``recipe.yaml`` first, and ``run.json`` at the beginning and at the end, whatever the end is.

    If the run fails before it has made anything, the folder gets the recipe back with which all of it was made.
    """
    settle_threads(run)
    path = run.root / RunFolder.RECIPE
    before, made = path.read_bytes() if path.is_file() else None, _units(run.root)
    write_atomic(path, recipes.dump(run.recipe))
    _write(run, "running")
    try:
        yield
    except BaseException as error:
        with suppress(RunStoreError):  # the disk may be what failed, and its first message says where
            if before is not None and made == _units(run.root):
                write_atomic(path, before)
            _write(run, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    _write(run, "done")


def _units(root: Path) -> dict[Path, int]:
    """When the finished units of a run folder were made."""
    return {path: path.stat().st_mtime_ns for path in root.rglob(UNIT_FILE)}


def _write(run: Run, status: str) -> None:
    record = {"status": status, **describe(run), "seconds": seconds_by_stage(run.root)}
    write_json(run.root / RunFolder.RECORD, seal(record))
