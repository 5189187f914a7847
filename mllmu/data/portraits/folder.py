"""Your own images from a folder, one or more per person, named by the person's id."""

import difflib
import re
from pathlib import Path

from PIL import Image, ImageOps
from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.process import rng
from mllmu.core.records import ID_PATTERN, Profile
from mllmu.data.files import read_image
from mllmu.data.portraits import Portraits, transform

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_BYTES = 50_000_000
MIN_SIDE = 32


class Folder(Portraits):
    """Images from a folder: ``<id>.jpg`` (or jpeg, png, webp), and optionally ``<id>_<view>.jpg`` per view.

    The EXIF orientation is applied, transparency becomes white, then the image is cropped to its central square and
    scaled to ``size``; metadata (place, device, time) is dropped. Refused are images of less than 32 pixels a side, of
    more than 50 million pixels or 50 MB, and links that lead out of the folder. A view above 0 without a file of its
    own is made from the canonical image by ``transform``. As ``anna_1.jpg`` is view 1 of ``anna``, no other
    person may have the id ``anna_1``.

    Settings:
        path: the folder; relative to the working directory.
    """

    source = "local files"

    path: Path = Field(Path("portraits"), description="the folder, relative to the working directory")

    def render(self, profile: Profile, view: int, seed: int) -> Image.Image:
        """Read or make one view of one person; see :meth:`Portraits.render`."""
        self.check_view(view)
        if not re.fullmatch(ID_PATTERN, profile.id):
            raise DataError(f"profile id {profile.id!r}: expected letters, digits, '_' and '-' only, 1 to 64 of them.")
        own = find(self.path, f"{profile.id}_{view}") if view else None
        file = own or find(self.path, profile.id)
        if file is None:
            raise DataError(self._missing(profile.id))
        image = read(file, self.size)
        return image if own or not view else transform(image, rng(seed, "portrait", profile.id, "view", view), 1.0)

    def _missing(self, stem: str) -> str:
        """Say which file is missing, and which files have a similar name."""
        if not self.path.is_dir():
            return f"{self.path}: no such folder. Set 'path' to the folder that holds the images."
        known = {file.stem: file.name for file in sorted(self.path.iterdir()) if file.suffix.lower() in SUFFIXES}
        near = [known[name] for name in difflib.get_close_matches(stem, known, n=3)]
        hint = f"Nearest: {', '.join(near)}." if near else f"The folder holds {len(known)} images, none alike."
        return f"{self.path}: no image of '{stem}'. Expected {stem}{'|'.join(SUFFIXES)}. {hint}"


def find(folder: Path, stem: str) -> Path | None:
    """The image of a name in a folder, whatever its type.

    Raises:
        DataError: it is a link that leads out of the folder, or has two types (which one is meant?).
    """
    names = dict.fromkeys(stem + ending for suffix in SUFFIXES for ending in (suffix, suffix.upper()))
    found = {(folder / name).resolve(): folder / name for name in names if (folder / name).is_file()}
    for target, path in found.items():
        if not target.is_relative_to(folder.resolve()):
            raise DataError(f"{path}: a link that leads out of the folder. Copy the image into {folder}.")
    paths = list(found.values())
    if len(paths) > 1:
        raise DataError(f"{folder}: both {paths[0].name} and {paths[1].name}; one image a name. Remove one of them.")
    return paths[0] if paths else None


def read(path: Path, size: int) -> Image.Image:
    """Read an image upright, crop its central square, scale it; a fresh RGB image without metadata."""
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB. Save it smaller.")
    fault, advice = "not a readable image", "save it again or replace it."
    image = read_image(path, str(path), fault=fault, advice=advice, too_large=" Scale it down.")
    if min(image.size) < MIN_SIDE:
        raise DataError(
            f"{path}: image too small: {image.width} x {image.height} pixels, expected at least {MIN_SIDE} per side. "
            "Replace it by a larger one."
        )
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
