"""The same portrait: cropped, mirrored, blurred, with noise, in another light, turned, or coarser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from mllmu.evaluation.attacks import Sample, Victim
from mllmu.evaluation.attacks._images import Depicting, changed


class ChangedPicture(Depicting):
    """Show the same portrait cropped to 90 %, mirrored, blurred, with noise; in full also darker, turned, and coarser.

    Blur of radius 2, noise of sigma 0.02, brightness 0.85, turned by 8 degrees, half the pixels a side. They are tried
    in this order: the four tries of the small budget are the first four.
    """

    source: ClassVar[str] = "https://github.com/JunkaiChen1/Open-MMunlearning"
    label = "Changed portrait"

    def pictures(self, victim: Victim, sample: Sample) -> Iterator[Path]:
        for name, change in CHANGES.items():
            yield changed(victim, sample, name, change)


def _crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    box = (width // 20, height // 20, width - width // 20, height - height // 20)
    return image.crop(box).resize(image.size)


def _noise(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    noise = np.random.default_rng(0).normal(0, 0.02 * 255, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped": _crop,
    "mirrored": ImageOps.mirror,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "noisy": _noise,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "turned": lambda image: image.rotate(8, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)),
    "small": lambda image: image.resize((image.width // 2, image.height // 2)).resize(image.size),
}
