"""Devices: which one a model runs on, how much memory is left there, and what to do when it was too little."""

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open

from mllmu.core import process
from mllmu.core.errors import ModelError, is_out_of_memory, one_line
from mllmu.core.records import Sample
from mllmu.models.families import core

CGROUP = Path("/sys/fs/cgroup")
PACKED_SHARE = 0.1
"""Of the machine's free memory that copies of weights may take; the output layer comes first, it gains most."""
SPARE: list[Callable[[], None]] = []
"""What gives back memory that is only held to save time."""
SMALL = 10_000_000
"""Weights of a model below which two CPU cores are faster than a GPU, whose steps take the same time whatever is in
them. ``recipes/smoke.yaml`` (4.2 million weights): 34 s on two cores, 72 s on an H200. On a CPU the time grows with the
number of weights."""


def choose(name: str, source: str | None = None) -> torch.device:
    """The device of a name other than 'cpu', where there are GPUs.

    'auto' is the GPU of this process, but the CPU if the model in a folder ``source`` has less than :data:`SMALL`
    weights.

    Raises:
        ModelError: it cannot be used.
    """
    if name == "auto":
        return torch.device("cpu") if is_small(source) else own_gpu()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"model.device: '{name}' is no device. Expected auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"model.device: '{name}' asked for, but no GPU is visible. Use device: auto or cpu.")
    if device.type == "cuda" and process.count() > 1:
        if device.index is not None:
            raise ModelError(f"model.device: '{name}' would be the GPU of all {process.count()} processes. Use auto.")
        device = own_gpu()
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"model.device: '{name}' cannot be used here: {one_line(error)}. Use device: auto.") from None
    return device


def is_small(source: str | None) -> bool:
    """Whether a folder holds less than :data:`SMALL` weights; no for a hub id, and where processes share the work."""
    files = list(Path(source).glob("*.safetensors")) if source and process.count() == 1 else []
    return bool(files) and sum(map(num_weights, files)) < SMALL


def num_weights(file: Path) -> int:
    """Numbers in a safetensors file, by its header; 0 if it cannot be read, which loading it explains."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return 0


def why(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Where a model of ``model.device: name`` runs, and why, in one line."""
    place = f"the GPU ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "the CPU"
    reason = f"model.device: {name}"
    if name == "auto" and device.type == "cuda":
        reason += " takes a GPU where there is one"
    elif name == "auto" and torch.cuda.is_available():
        reason += f"; a GPU is slower for models of less than {SMALL // 10**6} million weights"
    elif name == "auto":
        reason += "; no GPU is visible"
    return f"models run on {place} in {str(dtype).removeprefix('torch.')} ({reason})"


def own_gpu() -> torch.device:
    """The GPU of this process: the first, or one of its own where there are several processes."""
    if process.count() == 1:
        return torch.device("cuda")
    number, available = process.local_rank(), torch.cuda.device_count()
    if number >= available:
        raise ModelError(
            f"model.device: process {number} of this machine has no GPU of its own, {available} are visible. "
            "Start as many processes as there are GPUs, or set model.device: cpu."
        )
    return torch.device("cuda", number)


def device_map(name: str, device: torch.device) -> str:
    """``model.device_map``, if a model can be spread over all GPUs here; otherwise a ModelError."""
    if process.count() > 1:
        raise ModelError("model.device_map: spreads a model over all GPUs, which leaves none to other processes.")
    if device.type != "cuda":
        raise ModelError(
            f"model.device_map: '{name}' spreads a model over GPUs, but the device is {device}. "
            "Leave it out, or run where GPUs are visible."
        )
    return name


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device, including the program's own reserve."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min(int(psutil.virtual_memory().available), _left_to_container())


def _left_to_container() -> int:
    """Memory that the limit of a container leaves, which the machine's own figures do not know."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return 1 << 62
    return (1 << 62) if limit == "max" else int(limit) - int(used)


def fitting_layers(layers: list[Any]) -> list[Any]:
    """The first of some layers whose weights take a tenth of the machine's free memory at the most."""
    sizes = accumulate(layer.weight.nbytes for layer in layers)
    return layers[: bisect(list(sizes), PACKED_SHARE * free_bytes(torch.device("cpu")))]


def recomputes(model: Any) -> bool:
    """Whether a model in training computes the activations of its layers again in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@contextmanager
def kept_activations(model: Any) -> Iterator[None]:
    """Keep the activations of the passes inside: what is computed again later could find other circumstances."""
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = False
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True


def recompute_activations(model: Any, *, on: bool = True) -> None:
    """Let a model in training compute the activations of its layers again in the backward pass, or keep them."""
    word = "enable" if on else "disable"
    switch = getattr(model, f"activation_checkpointing_{word}", None) or getattr(
        model, f"gradient_checkpointing_{word}"
    )
    settings = {"use_reentrant": False, "context_fn": partial(run_again, core(model))}  # frozen inputs are no obstacle
    switch(*[settings] * on)


def run_again(own: Any) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of a layer's first run, and of its second one in the backward pass, for torch's checkpoint.

    Other passes may run in between. What depends on the tokens of a pass (the noise of adapters, what a modifier chose)
    has a method ``again``, called in the first run, whose context brings it back.
    """
    parts = (getattr(own, "noise", None), *own.children())
    return nullcontext(), _all_of([part.again() for part in parts if hasattr(part, "again")])


@contextmanager
def _all_of(contexts: Sequence[AbstractContextManager[Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def half_of(batch: Sequence[Sample], error: Exception) -> int:
    """The size to go on with after a batch that did not fit into memory; other errors are raised again.

    Raises:
        ModelError: not even one sample fits.
    """
    check_memory_is_the_cause(error)
    if len(batch) == 1:
        raise ModelError(
            f"out of memory with a single question ({batch[0].id}). Use a smaller model, a GPU with more memory, or "
            "smaller images (model.image_processor)."
        ) from None
    empty_caches()
    return len(batch) // 2


def check_memory_is_the_cause(error: Exception) -> None:
    """Raise an error again, unless it says that memory was too little."""
    if not is_out_of_memory(error):
        raise error


def empty_caches() -> None:
    """Give memory back that is held for later use."""
    for give_back in SPARE:
        give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
