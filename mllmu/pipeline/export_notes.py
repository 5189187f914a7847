"""What other tools must be told of an exported model, because its files cannot say it."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from mllmu.models.chat_forms import written_otherwise
from mllmu.models.families import Family, Turn

TRIED = (1200, 800)
"""Width and height in pixels of the image on which two processors are compared: enough for one that cuts images up."""


def export_notes(family: Family, run: Any, saved: Any, settings: Mapping[str, Any]) -> list[str]:
    """How the saved processor prepares prompts and images otherwise than that of the run; empty if alike.

    Args:
        run: the processor as the run had it, with ``settings`` of its image processor.
        saved: the processor as other tools read it from the folder.
    """
    notes = []
    if other := dict(written_otherwise(family, run, saved)):
        case, put = next(iter(other.items()))
        notes.append(
            f"Its chat template writes another prompt than the run put, for: {', '.join(other)}. Scores hold for the "
            f"prompts of the run; for {case} that is {put!r}."
        )
    if settings and (difference := _images(family, run, saved)):
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        notes.append(
            f"The run prepared images with {given}, which the files of a {type(saved).__name__} do not keep: "
            f"{difference}. Give it to every call: processor(..., images_kwargs=dict({given})); to vLLM as "
            "mm_processor_kwargs; to mllmu as model.image_processor."
        )
    return notes


def _images(family: Family, run: Any, saved: Any) -> str:
    """How the tokens or tensors of one image differ; empty if they do not."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        Image.linear_gradient("L").resize(TRIED).convert("RGB").save(path)
        turn = Turn(prompt="?", image=path)
        (ids, tensors), (other_ids, others) = (family.prompt_ids(turn, each) for each in (run, saved))
    size = f"an image of {TRIED[0]} x {TRIED[1]} pixels"
    if len(ids) != len(other_ids):
        return f"with {size} a prompt of {len(ids)} tokens would have {len(other_ids)}"
    alike = tensors.keys() == others.keys() and all(torch.equal(tensors[key], others[key]) for key in tensors)
    return "" if alike else f"{size} would be seen in other pixels"
