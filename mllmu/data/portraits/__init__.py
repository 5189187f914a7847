"""Portraits: where the image of a person comes from. One file per backend; see :class:`Portraits`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.plugins import Plugin
from mllmu.core.records import Profile
from mllmu.data.portraits._transform import transform

__all__ = ["MAX_VIEWS", "Portraits", "transform"]

MAX_VIEWS = 9


class Portraits(Plugin, ABC):
    """Base of all portrait backends: the same person, view and seed always give the same pixels.

    Settings:
        size: width and height of a portrait, in pixels.
        num_views: images per person. View 0 is the canonical portrait shown in fine-tuning; views
            1 .. num_views-1 are transformed ones (another expression, pose, framing, background, light)
            that ask whether a model knows the person or only the file.
    """

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
        del portraits

    def check_view(self, view: int) -> None:
        """Raise DataError unless the view is one of this backend's ``num_views``."""
        if not 0 <= view < self.num_views:
            raise DataError(
                f"portraits: no view {view}; expected 0 to {self.num_views - 1}. Set 'num_views' higher for more views."
            )
