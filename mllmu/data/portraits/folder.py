"""Your own pictures from a folder, one or more per person, named by the person's id."""

from __future__ import annotations

import difflib
import re
import struct
import warnings
from pathlib import Path
from typing import ClassVar

from PIL import Image, ImageOps

from mllmu.data.portraits import Portraits
from mllmu.data.portraits._transform import transform
from mllmu.errors import DataError
from mllmu.records import Profile
from mllmu.seeding import rng

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 50_000_000
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Folder(Portraits):
    """Pictures from a folder: ``<id>.jpg`` (or jpeg, png, webp), and optionally ``<id>_<view>.jpg`` per view.

    The EXIF orientation is applied, then the picture is cropped to its central square and scaled to ``size``;
    metadata (place, device, time) and transparency are dropped. A view above 0 without a file of its own is made
    from the canonical picture by ``transform``. As ``anna_1.jpg`` is view 1 of ``anna``, do not give another
    person the id ``anna_1``.

    Settings:
        path: the folder; relative to the working directory.
    """

    source: ClassVar[str] = "local files"

    path: Path = Path("portraits")

    def render(self, profile: Profile, view: int, seed: int) -> Image.Image:
        """Read or make one view of one person; see :meth:`Portraits.render`."""
        self.check_view(view)
        if not ID_PATTERN.fullmatch(profile.id):
            raise DataError(f"profile id {profile.id!r}: expected letters, digits, '_' and '-' only, 1 to 64 of them.")
        own = self._find(f"{profile.id}_{view}") if view else None
        if own:
            return _square(own, self.size)
        canonical = self._find(profile.id)
        if canonical is None:
            raise DataError(self._missing(profile.id))
        picture = _square(canonical, self.size)
        return transform(picture, rng(seed, "portrait", profile.id, "view", view), 1.0) if view else picture

    def _find(self, stem: str) -> Path | None:
        names = [stem + ending for suffix in SUFFIXES for ending in (suffix, suffix.upper())]
        return next((self.path / name for name in names if (self.path / name).is_file()), None)

    def _missing(self, stem: str) -> str:
        """Say which file is missing, and which files have a similar name."""
        if not self.path.is_dir():
            return f"{self.path}: no such folder. Set 'path' to the folder that holds the pictures."
        known = {file.stem: file.name for file in sorted(self.path.iterdir()) if file.suffix.lower() in SUFFIXES}
        near = [known[name] for name in difflib.get_close_matches(stem, known, n=3)]
        hint = f"Nearest: {', '.join(near)}." if near else f"The folder holds {len(known)} pictures, none alike."
        return f"{self.path}: no picture of '{stem}'. Expected {stem}{'|'.join(SUFFIXES)}. {hint}"


def _square(path: Path, size: int) -> Image.Image:
    """Read a picture upright, crop its central square, scale it; a fresh RGB image without metadata."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as opened:
                # Checked before a pixel is decoded: a small file can claim a picture that fills the memory.
                if opened.width * opened.height > MAX_PIXELS:
                    raise DataError(_too_large(path, f"{opened.width} x {opened.height} pixels"))
                upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(_too_large(path, "far more")) from None
    except DataError:
        raise
    except (OSError, EOFError, SyntaxError, ValueError, struct.error) as error:
        raise DataError(
            f"{path}: not a readable picture ({error}). Expected JPEG, PNG or WebP; save it again or replace it."
        ) from None
    fitted = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", fitted.size, "white")
    return Image.alpha_composite(ground, fitted).convert("RGB")


def _too_large(path: Path, got: str) -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{path}: picture too large: at most {limit} million pixels are read, got {got}. Scale it down."


PLUGIN = Folder
