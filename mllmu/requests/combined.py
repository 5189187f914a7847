"""Several low-rank adapters as one, whose change of every layer is their sum.

    W + s1 B1 A1 + s2 B2 A2 = W + [s1 B1, s2 B2] [A1; A2]

The parts stand beside each other in the factors and could be told apart, so the factors are made anew from the sum:
B A = U S V' by singular values, B = U sqrt(S), A = sqrt(S) V'. All layers get the same rank; missing parts are 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME
from peft.utils import SAFETENSORS_WEIGHTS_NAME as ADAPTER_FILE
from safetensors.torch import load_file, save
from torch import Tensor

from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import write_atomic, write_json
from mllmu.models.modifiers import MODIFIER_FILE

Factors = tuple[Tensor, Tensor]
"""A layer's A [R, I] and B [O, R], the scale in B."""
PREFIX = "base_model.model."


def combine(adapters: Sequence[Path], out: Path) -> float:
    """Write one adapter with the sum of all; returns the largest difference of a change of weights, in absolute value.

    Raises:
        RunStoreError: one is no plain low-rank adapter, or a modifier.
    """
    parts = [read_factors(folder) for folder in adapters]
    layers = sorted({name for part in parts for name in part})
    rank = sum(max(down_RI.shape[0] for down_RI, _ in part.values()) for part in parts)
    tensors, largest = {}, 0.0
    for name in layers:
        own = [part[name] for part in parts if name in part]
        down_RI, up_OR = torch.cat([a for a, _ in own]), torch.cat([b for _, b in own], dim=1)
        new_down_RI, new_up_OR = refactored(down_RI, up_OR, rank)
        largest = max(largest, float((new_up_OR @ new_down_RI - up_OR @ down_RI).abs().max()))
        tensors[f"{PREFIX}{name}.lora_A.weight"] = new_down_RI.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = new_up_OR.contiguous()
    config: dict[str, Any] = json.loads((adapters[-1] / CONFIG_NAME).read_text(encoding="utf-8"))
    config |= {"r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "target_modules": layers}
    write_atomic(out / ADAPTER_FILE, save(tensors))  # whole on disk before the parts are removed
    write_json(out / CONFIG_NAME, config)
    return largest


def read_factors(folder: Path) -> dict[str, Factors]:
    """The factors of a plain low-rank adapter by layer."""
    if (folder / MODIFIER_FILE).is_file():
        raise RunStoreError(
            f"{folder}: a modifier, which cannot be put into one adapter with others. That of 'manu' is in the weights "
            "of 'mllmu export-model DIR deployed NEW': use those, and delete this folder yourself. Others act at "
            "inference on the model before the request, so it cannot be removed: use a method that trains weights."
        )
    if not (folder / ADAPTER_FILE).is_file():
        raise RunStoreError(
            f"{folder}: is no low-rank adapter, so it cannot be put into one with others. Save the whole model by "
            "'mllmu export-model DIR deployed NEW' and delete this folder yourself."
        )
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if any(config.get(name) for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")):
        raise RunStoreError(f"{folder}: only plain low-rank adapters can be put into one.")
    held, scale = load_file(folder / ADAPTER_FILE), config["lora_alpha"] / config["r"]
    names = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in held}
    return {
        name: (held[f"{PREFIX}{name}.lora_A.weight"].float(), scale * held[f"{PREFIX}{name}.lora_B.weight"].float())
        for name in names
    }


def refactored(down_RI: Tensor, up_OR: Tensor, rank: int) -> Factors:
    """Other factors of the same product, of the given rank, from its singular values.

    >>> a, b = refactored(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0], [0.0]]), 2)
    >>> (b @ a).round(decimals=4).tolist(), tuple(a.shape)
    ([[6.0, 8.0], [0.0, 0.0]], (2, 2))
    """
    # the product has the rank of its factors: QR first, so that a small matrix is decomposed and not the weights' size
    q_OR, r_RR = torch.linalg.qr(up_OR.double())
    q_IR, s_RR = torch.linalg.qr(down_RI.double().T)
    u_RR, values_R, v_RR = torch.linalg.svd(r_RR @ s_RR.T)
    root_R = values_R.sqrt()
    new_up_OR, new_down_RI = (q_OR @ u_RR[:, : len(root_R)]) * root_R, (q_IR @ v_RR[: len(root_R)].T * root_R).T
    up, down = up_OR.new_zeros(up_OR.shape[0], rank), down_RI.new_zeros(rank, down_RI.shape[1])
    up[:, : new_up_OR.shape[1]], down[: new_down_RI.shape[0]] = new_up_OR.float(), new_down_RI.float()
    return down, up
