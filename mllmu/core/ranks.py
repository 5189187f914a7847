"""Which process of a run this is; without a launcher (``torchrun``, ``accelerate launch``) there is one process."""

from __future__ import annotations

import os

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
"""Variables that a launcher sets for every process."""


def count() -> int:
    """Number of processes of this run."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHED) else 1


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def local_rank() -> int:
    """Number of this process among those of its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", rank())) if count() > 1 else 0


def leads() -> bool:
    """This process goes through the run and writes; true where there is only one."""
    return rank() == 0
