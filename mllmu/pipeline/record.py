"""``run.json``: what ran, where, with which versions, how long, and how it ended."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mllmu.config import load as recipes
from mllmu.core import process
from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import UNIT_FILE, RunFolder, facts_of, write_atomic, write_json
from mllmu.evaluation.bootstrap import DRAWS
from mllmu.evaluation.stats import JS_BINS
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
        stage = RunFolder.stage_of(path.parent.relative_to(root).as_posix())
        totals[stage] += float(facts_of(path.parent).get("seconds", 0.0))
    return {stage: round(seconds, 1) for stage, seconds in totals.items()}


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Write ``recipe.yaml`` first, and ``run.json`` at the beginning and at the end, whatever the end is.

    If the folder turns out to hold results of another recipe, it gets its own recipe back.
    """
    path = run.root / RunFolder.RECIPE
    before = path.read_bytes() if path.is_file() else None
    write_atomic(path, recipes.dump(run.recipe))
    _write(run, "running")
    try:
        yield
    except BaseException as error:
        with suppress(RunStoreError):  # the disk may be what failed, and its first message says where
            if isinstance(error, RunStoreError) and before is not None:
                write_atomic(path, before)
            _write(run, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    _write(run, "done")


def _write(run: Run, status: str) -> None:
    record = {"status": status, **describe(run), "seconds": seconds_by_stage(run.root)}
    write_json(run.root / RunFolder.RECORD, record)
