"""The errors of prompts, images, processors and models that do not fit each other, with what to do about them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllmu.core.errors import ModelError, UnfitPromptError, one_line

SIZES = (
    "size", "crop_size", "min_pixels", "max_pixels", "patch_size", "merge_size", "max_image_size", "max_patches",
    "image_grid_pinpoints", "do_image_splitting",
)  # fmt: skip
"""Settings of an image processor that say how large an image is made."""

COUNTS = ("patch_size", "merge_size", "num_additional_image_tokens", "image_seq_length", "image_seq_len")
"""Numbers of a processor, or of its image processor, that decide how many tokens an image has."""
MOST_TOKENS = 1 << 16
"""No number of a processor that counts tokens or pixels of a patch is larger."""
SIDES = ("size", "crop_size", "max_image_size", "pad_size")
"""Settings of an image processor that name sides of images."""
BOUNDED = (*COUNTS, *SIDES)
"""Settings that may be too large; see :func:`refuse_large`."""
MOST_SIDE = 8192
"""Most pixels of a side of a prepared image; its 32-bit values take 0.8 GB."""

RAISED = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, OSError, TypeError, ValueError
)  # fmt: skip
"""What processors raise on images, or on settings of their own, that they cannot use."""


def held(processor: Any, names: Iterable[str]) -> dict[str, Any]:
    """Those of the settings that the processor, or its image processor, has; the processor's own where both have."""
    parts = (getattr(processor, "image_processor", None), processor)
    return {name: value for part in parts for name in names if (value := getattr(part, name, None)) is not None}


def unprepared(prompt: str, image: Path, processor: Any, error: Exception) -> ModelError:
    """An image that the processor does not take."""
    sizes = [f"{name} {_shown(value)}" for name, value in held(processor, SIZES).items() if value]
    return ModelError(
        f"{image}: {type(processor).__name__} cannot prepare this image for the prompt '{prompt[:60]}': "
        f"{one_line(error)}. Its settings: {', '.join(sizes) or 'of its own'}. Check the processor's files beside the "
        "model (patch_size and the sizes in processor_config.json, chat template), model.image_processor, and the "
        "image's shape."
    )


def refuse_large(source: str, processor: Any) -> None:
    """Refuse a processor whose images would have so many tokens or pixels that they fill the memory.

    Raises:
        ModelError: names the settings, their values and the bound.
    """
    parts = {type(part).__name__: part for part in (processor, getattr(processor, "image_processor", None))}
    counts = {f"{owner}.{name}": getattr(parts[owner], name, None) for owner in parts for name in COUNTS}
    if any(isinstance(count, (int, float)) and not 0 <= count <= MOST_TOKENS for count in counts.values()):
        shown = ", ".join(f"{name} {count:.6g}" for name, count in counts.items() if isinstance(count, (int, float)))
        raise ModelError(
            f"{source}: the processor's settings are {shown}, expected 0 to {MOST_TOKENS} of each. "
            "processor_config.json or preprocessor_config.json beside the model is damaged; put "
            "the one there that came with the model."
        )
    images = getattr(processor, "image_processor", None)
    edges = ("shortest_edge", "longest_edge") if hasattr(images, "merge_size") else ()
    areas = ("min_pixels", "max_pixels", *edges)
    sides = [(name, *side) for name in SIDES for side in _numbers(getattr(images, name, None))]
    for name, side, value in sides:
        most = MOST_SIDE**2 if side in areas else MOST_SIDE
        if value > most:
            raise ModelError(
                f"{source}: the image processor's {name} has {side} {value:.6g}, expected at most {most} pixels. "
                f"Set model.image_processor.{name} smaller, or put the preprocessor_config.json there that came "
                "with the model."
            )


def _numbers(size: Any) -> list[tuple[str, float]]:
    """The numbers of a size with their names."""
    named = size if isinstance(size, Mapping) else getattr(size, "__dict__", {"side": size})
    return [(name, value) for name, value in named.items() if isinstance(value, (int, float))]


def _shown(value: Any) -> str:
    if not isinstance(value, Mapping):
        value = getattr(value, "__dict__", value)
    return str({k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value)


def lacks_image(prompt: str, label: str, family: str) -> UnfitPromptError:
    """A prompt without an image, for a model that takes none."""
    return UnfitPromptError(
        f"{label or 'the prompt'} '{prompt[:60]}' has no image, and models of the family '{family}' take no prompt "
        "without one. Set finetune.modality and that of the methods to image_text, and evaluate.modalities to "
        "[image_text]."
    )


def too_long(turn: Any, length: int, context: int, image: Sequence[int]) -> ModelError:
    """A turn of more tokens than the context holds; ``image``: the tokens of its image."""
    name = turn.label or (f"person {turn.person}" if turn.person else "")
    has_image = f" ({len(image)} of them the image's)" if turn.image else ""
    return ModelError(
        f"{name}{': ' if name else ''}the prompt '{turn.prompt[:60]}...' has {length} tokens{has_image}, the model's "
        f"context is {context}, and nothing is ever cut off. Use fewer shots, shorter text, smaller images "
        "(model.image_processor), or a model with a longer context."
    )


def other_features(image: Path, processor: Any, tokens: int, features: int) -> ModelError:
    """An image whose tokens in the prompt are not as many as the model's features of it."""
    return ModelError(
        f"{image}: the processor ({type(processor).__name__}) gives it {tokens} tokens and the model {features} "
        "features, so they do not fit; 'mllmu doctor' names the processor's settings."
    )
