"""This machine: its memory, and how fast it multiplies and copies now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import psutil
import torch

HERE = "here"
"""The name of this machine among the devices."""
TRIES = 12
SIDE_CPU, SIDE_GPU = 768, 8192
COPIED = 2**22
"""Numbers of 4 bytes that are copied to measure the memory."""


class Measured(NamedTuple):
    """Memory in GiB, TFLOP/s of a product of matrices (one core's times the cores), GB/s of a copy."""

    memory: float
    tflops: float
    gb_s: float


def is_cpu(device: str) -> bool:
    """Whether a device, by name, is a CPU."""
    return device == "cpu" or (device == HERE and not torch.cuda.is_available())


@cache
def measured_here() -> Measured:
    """The GPU if there is one, or else all cores; takes a few tenths of a second, once per process.

    Cores are measured one at a time: threads that wait for each other say more about who else is at work.
    """
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    side, dtype = (SIDE_GPU, torch.bfloat16) if gpu else (SIDE_CPU, torch.float32)
    memory = torch.cuda.get_device_properties(0).total_memory if gpu else _memory()
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    numbers = torch.ones(COPIED * (16 if gpu else 1), device=device)
    target = torch.empty_like(numbers)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        product = _fastest(lambda: matrix @ matrix, device)
        copy = _fastest(lambda: target.copy_(numbers), device)
    finally:
        torch.set_num_threads(before)
    cores = 1 if gpu else os.cpu_count() or 1
    return Measured(memory / 2**30, cores * 2 * side**3 / product / 1e12, 2 * numbers.nbytes / copy / 1e9)


def _memory() -> int:
    """Bytes of the machine's memory."""
    return int(psutil.virtual_memory().total)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few tries: what others do at the same time slows some of them."""
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-9)
