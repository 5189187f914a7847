"""How much memory is left, on a GPU or on the machine and in its container."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device, what the program holds without using it included."""
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
