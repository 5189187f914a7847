"""Devices, and how long they take: rates measured on one card, and what follows for others.

    training    = max(passes * pass_s * l, operations / (matmul * share)) + models * model_s
    evaluation  = operations / (matmul * share) + steps * step + models * model_s
    step        = max(write_s * l + replies * row_s, bytes read / bandwidth)

A pass is forward and backward of one side of a step. ``l`` is the number of layers of the language model over that of
the measured one: below a size, the host that starts the operations of a layer decides how long they take.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from mllmu.core.errors import RecipeError, did_you_mean
from mllmu.core.records import Record
from mllmu.preflight.plan.facts import known
from mllmu.preflight.plan.here import HERE, measured_here

LAYERS = 32
"""Of the language model that was measured."""
UTILISATION = 0.35
"""Share of the peak that training reaches on a CPU (measured with 576 image tokens)."""
UTILISATION_HERE = 0.6
"""Share of the product of two matrices, as measured on this CPU, that the demo's trainings reached on two machines."""
WRITE_UTILISATION = 0.4
"""Share of the memory bandwidth with which weights and keys are read while replies are written."""


class MeasuredRates(Record):
    """What was measured on a card with a 7B model in bfloat16 (``python -m benchmarks.gpu``).

    Attributes:
        matmul: TFLOP/s of a large product of square matrices.
        share: of ``matmul`` that a large step of training reaches, in operations on unpadded tokens.
        pass_s: least seconds of a forward and backward pass, whatever is in it.
        write_s, row_s: seconds of a step in which each of B replies gets a token: write_s + B * row_s.
        model_s: seconds from one model to the next.
    """

    matmul: float
    share: float
    pass_s: float
    write_s: float
    row_s: float
    model_s: float


class Device(Record):
    """A device: memory in GiB, peak of dense operations in TFLOP/s, memory bandwidth in GB/s, and what was measured."""

    memory: float
    tflops: float
    gb_s: float
    measured: MeasuredRates | None = None


def find_device(name: str) -> Device:
    """A device by name, ``here`` for this machine; an unknown one raises RecipeError with the nearest."""
    if name == HERE:
        return this_machine()
    devices = known("devices.yaml")
    if name not in devices:
        raise RecipeError(f"--device: no '{name}'.{did_you_mean(name, devices)} Known: {', '.join([HERE, *devices])}.")
    return Device.model_validate(devices[name])


class Pace(NamedTuple):
    """How long a model of some layers takes on a device.

    Attributes:
        basis: what the rates are, for the reader.
    """

    device: Device
    rates: MeasuredRates
    layers: int
    basis: str

    def computing(self, flop: float) -> float:
        """Seconds of operations in large passes."""
        return flop / (self.rates.matmul * 1e12 * self.rates.share)

    def training(self, flop: float, *, passes: float, models: int) -> float:
        """Seconds of training some models."""
        least = passes * self.rates.pass_s * self.layers / LAYERS
        return max(least, self.computing(flop)) + models * self.rates.model_s

    def evaluation(self, flop: float, *, steps: float, rows: int, read_bytes: float, models: int) -> float:
        """Seconds of asking some models.

        Args:
            flop: of all that is read.
            steps: of writing, of all models together.
            rows: replies that are written at a time.
            read_bytes: weights and keys that a step of writing reads.
        """
        step = self.rates.write_s * self.layers / LAYERS + rows * self.rates.row_s
        step = max(step, read_bytes / (self.device.gb_s * 1e9 * WRITE_UTILISATION))
        return self.computing(flop) + steps * step + models * self.rates.model_s


def pace_of(name: str, layers: int, *, processes: int | None = None) -> Pace:
    """The pace on a device by name: measured there, or on the nearest thing to it and scaled.

    Args:
        name: of the device.
        layers: of the language model.
        processes: that run a small model, with one thread each, so that no more cores of this machine count; None: all.

    A card that was not measured gets the products of the measured one times the ratio of their peaks, and the time per
    reply by the ratio of their bandwidths; what the host needs is the same. On a CPU nothing is fixed.
    """
    device = find_device(name)
    if name == HERE:
        return _pace_here(device, layers, processes)
    if device.measured:
        return Pace(
            device, device.measured, layers, f"rates measured on {name} with a 7B model ({_said(device.measured)})"
        )
    if name == "cpu":
        rates = MeasuredRates(matmul=device.tflops, share=UTILISATION, pass_s=0, write_s=0, row_s=0, model_s=0)
        basis = f"time at {UTILISATION:.0%} of {device.tflops:g} TFLOP/s"
        return Pace(device, rates, layers, f"{basis}; writing at {WRITE_UTILISATION:.0%} of {device.gb_s:g} GB/s")
    other, measured = next((n, d.measured) for n in known("devices.yaml") if (d := find_device(n)).measured)
    card = find_device(other)
    assert measured is not None  # noqa: S101 - chosen so
    rates = measured.model_copy(
        update={
            "matmul": measured.matmul * device.tflops / card.tflops,
            "row_s": measured.row_s * card.gb_s / device.gb_s,
        }
    )
    basis = (
        f"not measured on {name}: rates of {other}, scaled by the peaks ({device.tflops:g} of {card.tflops:g} TFLOP/s) "
        f"and bandwidths ({device.gb_s:g} of {card.gb_s:g} GB/s) of the two ({_said(rates)})"
    )
    return Pace(device, rates, layers, basis)


def this_machine() -> Device:
    """The machine that this runs on: its memory, and the speeds that it has now, measured in a moment."""
    found = measured_here()
    return Device(memory=found.memory, tflops=found.tflops, gb_s=found.gb_s)


def _pace_here(device: Device, layers: int, processes: int | None) -> Pace:
    cores = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    used = min(cores, processes or cores)
    tflops = device.tflops * used / cores
    rates = MeasuredRates(matmul=tflops, share=UTILISATION_HERE, pass_s=0, write_s=0, row_s=0, model_s=2)
    basis = f"time at {UTILISATION_HERE:.0%} of {tflops:.2g} TFLOP/s, as measured here now"
    if used < cores:
        basis += f" for {used} of {cores} cores: a small model runs on one a worker"
    return Pace(device, rates, layers, f"{basis}; writing at {WRITE_UTILISATION:.0%} of {device.gb_s:.0f} GB/s")


def _said(rates: MeasuredRates) -> str:
    writing = 256 / (rates.write_s + 256 * rates.row_s)
    return (
        f"training at {rates.share:.0%} of {rates.matmul:.0f} TFLOP/s and at least {rates.pass_s:g} s a pass; "
        f"{writing:,.0f} new tokens/s in batches of 256; {rates.model_s:g} s per model"
    )
