"""Opening images that others made: every fault of a file is one message, and none fills the memory."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from mllmu.core.errors import DataError

MAX_PIXELS = 50_000_000


@contextmanager
def opened_image(
    source: Path | BinaryIO, where: str, *, fault: str, advice: str, too_large: str = ""
) -> Iterator[Image.Image]:
    """A JPEG, PNG or WebP image, whose size is checked before a pixel is decoded: a small file can claim a large image.

    Args:
        where: begins the message of an error; ``fault`` says what is wrong, ``advice`` and ``too_large`` what to do.

    Raises:
        DataError: not a readable image, or more than 50 million pixels.
    """

    def large(got: str) -> DataError:
        most = MAX_PIXELS // 1_000_000
        return DataError(f"{where}: image too large: at most {most} million pixels are read, got {got}.{too_large}")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=("JPEG", "PNG", "WEBP")) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise large(f"{opened.width} x {opened.height} pixels")
                yield opened
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise large("far more") from None
    except DataError:
        raise
    except (OSError, EOFError, SyntaxError, ValueError, struct.error) as error:
        raise DataError(f"{where}: {fault} ({error}). Expected JPEG, PNG or WebP; {advice}") from None
