"""Reading files: those that come with the package, and those of others, where every fault is one message."""

import json
import struct
import warnings
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml
from PIL import Image, ImageOps
from pydantic import ValidationError

from mllmu.core.errors import DataError
from mllmu.core.runfolder import RunFolder

MAX_PIXELS = 50_000_000
REMAKE = "make the data again with --force."
SHOWN = (".png", ".jpg", ".jpeg", ".webp")
"""What an image of a question may be."""
"""Advice about an image that the data stage wrote."""


@cache
def packaged_yaml(name: str) -> Any:
    """The content of a YAML file below ``mllmu/data``, read once; callers must not change it."""
    return yaml.safe_load(files("mllmu.data").joinpath(name).read_text(encoding="utf-8"))


def read_text(path: Path, *, expected: str, missing: str = "") -> str:
    """A UTF-8 text, with or without a byte order mark.

    Args:
        expected: what the file should be, as the last sentence of every message.
        missing: what to do if there is no such file; by default ``expected`` again.

    Raises:
        DataError: no such file, not UTF-8, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. {missing or expected}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). {expected}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {expected}") from None


def read_json(path: Path, *, expected: str, missing: str = "") -> Any:
    """The value in a JSON file; errors as in :func:`read_text`, and DataError if it is not JSON."""
    return parse_json(read_text(path, expected=expected, missing=missing), path, expected)


def parse_json(text: str, path: Path, expected: str, *, lines: bool = False) -> Any:
    """The value of a JSON text, or the list of the values of its lines; DataError if it is not JSON.

    Nor is an object that names a key twice: one of the two values would be lost.
    """
    try:
        parts = [line for line in text.split("\n") if line.strip()] if lines else [text]
        values = [json.loads(part, object_pairs_hook=_object) for part in parts]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). {expected}") from None
    return values if lines else values[0]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = Counter(key for key, _ in pairs)
        raise ValueError(f"the key '{seen.most_common(1)[0][0]}' is there twice in one object")
    return found


def misfit(error: ValidationError, whole: str) -> str:
    """The first fault of a value in one line: where, what is wrong, and what was there; ``whole`` names the value."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"])) or whole
    return f"{place}: {fault['msg']}, got {fault['input']!r:.80}"


def read_image(source: Path | BinaryIO, where: str, *, fault: str, advice: str, too_large: str = "") -> Image.Image:
    """A JPEG, PNG or WebP image of others as it is meant to be seen, see :func:`as_rgb`; a new image without metadata.

    Its size is checked before a pixel is decoded: a small file can claim a large image.

    Args:
        where: begins the message of an error; ``fault`` says what is wrong, ``advice`` and ``too_large`` what to do.

    Raises:
        DataError: not a readable image, or more than 50 million pixels.
    """
    most = MAX_PIXELS // 1_000_000
    large = f"{where}: image too large: at most {most} million pixels are read, got"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=("JPEG", "PNG", "WEBP")) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise DataError(f"{large} {opened.width} x {opened.height} pixels.{too_large}")
                return as_rgb(opened)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{large} far more.{too_large}") from None
    except DataError:
        raise
    except (OSError, EOFError, SyntaxError, ValueError, struct.error) as error:
        raise DataError(f"{where}: {fault} ({error}). Expected JPEG, PNG or WebP; {advice}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as every viewer shows it: upright, on white where it is transparent, 8 bits a channel.

    The EXIF orientation is applied; colours hidden behind full transparency are not shown; a grey value v of 16 bits
    becomes v / 257, rounded.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        grey_HW = np.asarray(upright, dtype=np.int64)
        hidden_HW = grey_HW == upright.info.get("transparency", -1)
        upright = Image.fromarray(np.where(hidden_HW, 255, (grey_HW + 128) // 257).astype(np.uint8))
    elif upright.has_transparency_data:
        shown = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    plain = upright.convert("RGB")
    plain.info.clear()  # profile, place, device, time
    return plain


def shown_image(run: Path, name: str) -> Path | None:
    """The image that a question of a run shows, by its path from the data folder.

    None if it lies outside of the run folder, or is no image, whatever the run says: it may come from somebody else.
    """
    path = (run / RunFolder.DATA / name).resolve()
    return path if path.is_relative_to(run.resolve()) and path.suffix.lower() in SHOWN else None
