"""Portraits: backends that make the image of a person. One file per backend; see :class:`Portraits`.

Every backend may show the same person differently by :func:`transform`: mirrored, tilted, reframed, on another
background, in another light.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.plugins import Plugin
from mllmu.core.records import Profile

MAX_VIEWS = 9
# Mid-tones, so that white and black hair, skin and clothes all stand out from them.
BACKGROUNDS: tuple[str, ...] = (
    "#8fb7d3", "#a3c293", "#c3a9cf", "#7fa8a3", "#dccb86", "#97a2b8",
    "#cf9a9a", "#66788f", "#ece7dc", "#6f8a6c", "#b7d6d2", "#84708f",
)  # fmt: skip


class Portraits(Plugin, ABC):
    """Base of all portrait backends: the same person, view and seed always give the same pixels.

    Settings:
        size: width and height of a portrait, in pixels.
        num_views: images per person. View 0 is the canonical portrait shown in fine-tuning; views
            1 .. num_views-1 are transformed ones (another expression, pose, framing, background, light)
            that ask whether a model knows the person or only the file.

    ``invented``: its faces are nobody's. Without it what is made of them is put on a hub only by
    ``--push-real-people``.
    """

    invented: ClassVar[bool] = False

    size: int = Field(256, ge=32, le=1024, description="width and height of the images, in pixels")
    num_views: int = Field(4, ge=1, le=MAX_VIEWS, description="images per person; the first is for training")

    @abstractmethod
    def render(self, profile: Profile, view: int, seed: int) -> Image.Image:
        """Return one image of one person.

        Args:
            profile: the person; the image depends on the id and, in some backends, on gender and age.
            view: 0 for the canonical portrait, 1 .. num_views-1 for the transformed views.
            seed: base seed of the run.

        Returns:
            RGB image of ``size`` x ``size`` pixels, without transparency or metadata.

        Raises:
            DataError: the view does not exist, or the backend has no readable image of this person.
        """

    def verify(self, portraits: Sequence[tuple[str, Path]]) -> None:
        """Look once more at all finished portraits, (id, file of view 0); nothing by default.

        Raises:
            DataError: two people have one face.
        """

    def check_view(self, view: int) -> None:
        """Raise DataError unless the view is one of this backend's ``num_views``."""
        if not 0 <= view < self.num_views:
            raise DataError(
                f"portraits: no view {view}; expected 0 to {self.num_views - 1}. Set 'num_views' higher for more views."
            )


def transform(sprite: Image.Image, rng: random.Random, strength: float, background: str = "") -> Image.Image:
    """Mirror, tilt, reframe and relight an image, and put it on a plain background.

    Drawn from ``rng``, with s = ``strength``: mirror (one in two), tilt of 8 to 18 degrees * s to either side,
    scale 1 +- 0.2 s, shift up to 0.08 s of the side, brightness 1 - 0.15 s to 1 + 0.08 s, contrast
    1 +- 0.1 s, warmth (red against blue) +- 0.07 s, and a light falling in from one side, +- 0.12 s at the border.
    For training, draw the strength too (0 to 1): all tilts from upright to 18 degrees then occur.

    Args:
        sprite: a figure on transparent ground, whose lowest row is continued below the frame; or an opaque
            photograph, which is continued by reflection at all sides. So no empty corner ever shows.
        rng: private generator of this image, see ``mllmu.core.process.rng``.
        strength: 0 (only the background, never mirrored) to 1 (as the evaluated views).
        background: hex colour; empty draws one of ``BACKGROUNDS``.

    Returns:
        RGB image of the sprite's size.
    """
    background = background or rng.choice(BACKGROUNDS)
    ground = Image.new("RGBA", sprite.size, background)
    if strength <= 0:
        return Image.alpha_composite(ground, sprite.convert("RGBA")).convert("RGB")
    moved = _move(sprite.convert("RGBA"), rng, strength)
    return _relight(Image.alpha_composite(ground, moved).convert("RGB"), rng, strength)


def _move(sprite: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Mirror, tilt about the centre, scale and shift; same size, empty where the figure is not."""
    width, height = sprite.size
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    angle = math.radians(rng.choice((-1, 1)) * rng.uniform(8, 18) * strength)
    scale = 1 + rng.uniform(-0.2, 0.2) * strength
    shift_x, shift_y = (rng.uniform(-0.08, 0.08) * strength * side for side in sprite.size)

    # PIL asks for the inverse map: for each output pixel, where to read in the padded input.
    pad_x, pad_y = width // 2, height // 2
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    centre_x, centre_y = width / 2 + shift_x, height / 2 + shift_y
    a, b, d, e = mirror * cos, mirror * sin, -sin, cos
    c = width / 2 + pad_x - a * centre_x - b * centre_y
    f = height / 2 + pad_y - d * centre_x - e * centre_y
    return _padded(sprite, pad_x, pad_y).transform(
        sprite.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC
    )


def _padded(sprite: Image.Image, pad_x: int, pad_y: int) -> Image.Image:
    """Continue an image beyond its frame: a photograph by reflection, a figure's shoulders downwards."""
    pixels_HW4 = np.asarray(sprite)
    if pixels_HW4[..., 3].min() == 255:
        return Image.fromarray(np.pad(pixels_HW4, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="reflect"))
    below = np.pad(pixels_HW4, ((0, pad_y), (0, 0), (0, 0)), mode="edge")
    return Image.fromarray(np.pad(below, ((pad_y, 0), (pad_x, pad_x), (0, 0))))


def _relight(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Change brightness, contrast and warmth, and let light fall in from one side."""
    brightness = 1 + rng.uniform(-0.15, 0.08) * strength
    contrast = 1 + rng.uniform(-0.1, 0.1) * strength
    warmth = rng.uniform(-0.07, 0.07) * strength
    fall, direction = rng.uniform(-0.12, 0.12) * strength, rng.uniform(0, 2 * math.pi)

    width, height = image.size
    x_W = np.linspace(-1, 1, width, dtype=np.float32) * math.cos(direction)
    y_H1 = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * math.sin(direction)
    light_HW1: NDArray[np.float32] = (brightness * (1 + fall * (x_W + y_H1)))[..., None].astype(np.float32)
    tint_3 = np.array([1 + warmth, 1, 1 - warmth], dtype=np.float32)

    pixels_HW3 = (np.asarray(image, dtype=np.float32) - 128) * contrast + 128
    lit_HW3 = np.clip(pixels_HW3 * light_HW1 * tint_3 + 0.5, 0, 255)
    return Image.fromarray(lit_HW3.astype(np.uint8))
