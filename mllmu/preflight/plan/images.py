"""What a portrait becomes: tokens in the language model, patches in the vision tower."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from mllmu.config.recipe import ModelSection
from mllmu.core.errors import ModelError
from mllmu.models.families import Turn
from mllmu.models.loading import LOAD_FAULTS, make_encoder, one_line, quiet_libraries, tiny_folder
from mllmu.preflight.plan.facts import ModelFacts


def image_sizes(section: ModelSection, facts: ModelFacts, size: int) -> tuple[int, int]:
    """Image tokens and vision patches of a square portrait; known, or found by encoding a grey one.

    Raises:
        ModelError: the processor can be neither read nor does it tell.
    """
    if facts.image_tokens is not None and facts.patches is not None:
        return facts.image_tokens, facts.patches
    source = str(tiny_folder()) if section.path == "tiny" else section.path
    try:
        with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
            encoder = make_encoder(section, source, section.revision, facts.config)
            path = Path(folder) / "grey.png"
            Image.new("RGB", (size, size), (128, 128, 128)).save(path)
            shown = encoder.prompt(Turn(prompt="?", image=path))
            plain = encoder.prompt(Turn(prompt="?"))
    except LOAD_FAULTS as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"model.path: the processor of '{section.path}' cannot be used: {one_line(error)}.") from None
    tokens = len(shown) - len(plain)
    return tokens, _patches(facts.config, tokens)


def _patches(config: Any, tokens: int) -> int:
    """Patches of the vision tower: by its own image and patch size, or as many as there are tokens."""
    vision = getattr(config, "vision_config", None)
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if isinstance(size, int) and isinstance(patch, int):
        return (size // patch) ** 2
    return 4 * tokens
