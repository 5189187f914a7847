"""FSDP2 as accelerate's config file asks for it: the layers of the language model are spread over the processes.

    accelerate launch --config_file fsdp2.yaml -m mllmu run RECIPE

Every process keeps a piece of each layer's weights and gets the rest when the layer runs. Adapters, embeddings, output
layer and vision tower stay whole everywhere: the adapters are small and all methods work on them as they do without,
and the others are used outside the language model's own pass. So checkpoints and results are the same as without.
"""

import os
from typing import Any

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

from mllmu.core import process
from mllmu.core.errors import ModelError, ProcessError
from mllmu.models.families import core
from mllmu.models.layers import decoder, decoder_layers
from mllmu.models.loading import Loaded
from mllmu.parallel import team


def settings_of_launch() -> dict[str, Any] | None:
    """Settings of ``fully_shard`` that ``accelerate launch`` hands on; None without FSDP, or with one process.

    ``fsdp_reshard_after_forward`` puts layers away between forward and backward, ``fsdp_offload_params`` keeps the
    pieces in the memory of the CPU.

    Raises:
        ProcessError: the file asks for FSDP 1, or for what the recipe decides.
    """
    if process.count() == 1 or not _is_set("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ProcessError("accelerate's config file: got FSDP 1, expected fsdp_version: 2 under fsdp_config.")
    if _is_set("FSDP_ACTIVATION_CHECKPOINTING"):
        raise ProcessError(
            "accelerate's config file: fsdp_activation_checkpointing is the recipe's affair here. Leave it out, and "
            "set model.gradient_checkpointing: true in the recipe."
        )
    return {
        "reshard_after_forward": os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false",
        "offload_policy": CPUOffloadPolicy() if _is_set("FSDP_OFFLOAD_PARAMS") else OffloadPolicy(),
    }


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in {"1", "true"}


def spread(loaded: Loaded, model: Any) -> None:
    """Spread the frozen weights of a model's layers over the processes, in place, if the launch says so.

    Args:
        model: that of ``loaded``, with what is to be trained on it, if anything.

    Raises:
        ProcessError: see :func:`settings_of_launch`.
        ModelError: weights of a layer are trained themselves, or are packed into 4 or 8 bits.
    """
    settings = settings_of_launch()
    if settings is None:
        return
    layers, whole = decoder_layers(model), decoder(model)
    trained: set[Any] = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if any("lora_" not in name for name, parameter in model.named_parameters() if parameter in trained):
        raise ModelError("lora: null trains the weights themselves, which FSDP2 spreads here. Use adapters (lora).")
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        raise ModelError("model.quantize: packed weights cannot be spread by FSDP2. Leave one of the two out.")
    own = core(model)
    shared = {own.get_input_embeddings().weight, own.lm_head.weight}
    team.team()  # the mesh would otherwise connect in a way of its own
    settings["mesh"] = init_device_mesh(loaded.device.type, (process.count(),))
    for layer in layers:
        fully_shard(layer, ignored_params=trained, **settings)
    fully_shard(whole, ignored_params=trained | shared, **settings)
