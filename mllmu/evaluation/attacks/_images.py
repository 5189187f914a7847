"""Attacks through the picture: the question stays, the portrait is another one or is changed."""

import io
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar

from PIL import Image

from mllmu.core.runfolder import write_atomic
from mllmu.evaluation.attacks import Family as AttackFamily
from mllmu.evaluation.attacks import Sample, Victim, variant
from mllmu.evaluation.attacks._asking import Asking
from mllmu.models.families import open_image


def kept(victim: Victim, name: str, make: Callable[[], Image.Image]) -> Path:
    """The file of a picture, which is made unless it is there."""
    path = victim.images / f"{name}.png"
    if not path.is_file():
        buffer = io.BytesIO()
        make().save(buffer, "PNG")
        write_atomic(path, buffer.getvalue())
    return path.absolute()


class Depicting(Asking):
    """Base of the attacks through the picture: a subclass gives the pictures that stand in the place of the portrait.

    Only questions that show a portrait are asked.
    """

    family: ClassVar[AttackFamily] = "image"

    @abstractmethod
    def pictures(self, victim: Victim, sample: Sample) -> Iterable[str | Path]:
        """Pictures for a question, as absolute paths or relative to the data folder."""

    def samples(self, victim: Victim, sample: Sample) -> Iterable[Sample]:
        shown = self.pictures(victim, sample) if sample.image else ()
        return (variant(sample, number, image=str(picture)) for number, picture in enumerate(shown))


def changed(victim: Victim, sample: Sample, label: str, change: Callable[[Image.Image], Image.Image]) -> Path:
    """The portrait of a question, changed; the file is named after the portrait and the label."""
    source = victim.data.folder / sample.image
    return kept(victim, f"{source.stem}_{label}", partial(_change, source, change))


def _change(source: Path, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    return change(open_image(source))
