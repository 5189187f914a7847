"""The name, drawn into the picture."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from PIL import Image, ImageDraw, ImageFont

from mllmu.evaluation.attacks import Sample, Victim
from mllmu.evaluation.attacks._images import Depicting, changed, kept

SIDE = 256


class Typographic(Depicting):
    """Show the person's name as text: below the portrait, and alone on a white ground without any face."""

    source: ClassVar[str] = "https://arxiv.org/abs/2311.05608"
    label = "Name in the picture"

    def pictures(self, victim: Victim, sample: Sample) -> Iterator[Path]:
        name = victim.data.names[sample.profile_id]
        yield changed(victim, sample, "named", partial(written, name=name))
        white = partial(Image.new, "RGB", (SIDE, SIDE), "white")
        yield kept(victim, f"{sample.profile_id}_name_alone", lambda: written(white(), name=name))


def written(image: Image.Image, *, name: str) -> Image.Image:
    """A picture with a name in black on a white strip at its lower edge, as large as fits."""
    image = image.convert("RGB")
    width, height = image.size
    size = max(6, min(height // 6, int(1.7 * width / max(1, len(name)))))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, height - int(1.4 * size), width, height), fill="white")
    pen.text((width // 2, height - int(0.7 * size)), name, fill="black", anchor="mm", font=ImageFont.load_default(size))
    return image
