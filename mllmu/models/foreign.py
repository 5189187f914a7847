"""Adapters that this program did not make, or without a record of it: what their format lets one check."""

import math
from pathlib import Path

from peft.utils import CONFIG_NAME
from pydantic import BaseModel, Field, ValidationError

from mllmu.core.errors import ModelError


class AdapterValues(BaseModel):
    """What must stand in ``adapter_config.json``: the library takes its defaults for what is missing or misspelt.

    The change of a layer is lora_alpha / r * B A.
    """

    peft_type: str = Field(pattern="^LORA$")
    r: int = Field(gt=0)
    lora_alpha: float = Field(gt=0, lt=math.inf)
    target_modules: str | list[str]


def check_adapter(folder: Path) -> None:
    """Look at the values of an adapter's configuration.

    Raises:
        ModelError: one is missing or impossible; names it.
    """
    path = folder / CONFIG_NAME
    try:
        AdapterValues.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "file"
        raise ModelError(
            f"{path}: {place}: {fault['msg']}, got {fault['input']!r:.60}. Expected the configuration of a LoRA "
            "adapter as PEFT saves it, with r, lora_alpha and target_modules; save or download it again."
        ) from None
