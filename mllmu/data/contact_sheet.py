"""A contact sheet: every person with all views on one page, to look at before anything is trained."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mllmu.core.errors import DataError
from mllmu.data.dataset import Dataset, image_files

MAX_PEOPLE = 200
"""A sheet of more rows than this is too tall for image viewers."""
MAX_PIXELS = 256
"""Side to which images are reduced when they are read."""
MARGIN = 24
GAP = 10
NAME_WIDTH = 190
FONT_SIZE = 15
PAPER, INK, FAINT = "#fbfaf8", "#22262b", "#8a9097"


def write_contact_sheet(data: Dataset, path: Path) -> None:
    """Draw the first 200 people of a data set with all their views."""
    people = data.profiles[:MAX_PEOPLE]
    contact_sheet([(p.name, [_opened(file) for file in image_files(data.folder, p.id)]) for p in people], path)


def _opened(path: Path) -> Image.Image:
    """An image, reduced."""
    try:
        with Image.open(path) as opened:
            opened.thumbnail((MAX_PIXELS, MAX_PIXELS))
            return opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the image
            raise
        raise DataError(f"{path}: not a readable image ({error}). Make the data again with --force.") from None


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], path: Path, *, thumb: int = 128) -> None:
    """Write a grid of images as PNG, one row per person: the name, then the views in order.

    Args:
        rows: (name, images of any size); rows may differ in length.
        path: file to write; its folder is made if need be.
        thumb: side of an image on the sheet, in pixels.

    Raises:
        DataError: there is nothing to show.
    """
    num_views = max((len(images) for _, images in rows), default=0)
    if num_views == 0:
        raise DataError(f"{path}: no images for a contact sheet. Expected at least one person with one image.")
    width = 2 * MARGIN + NAME_WIDTH + num_views * (thumb + GAP) - GAP
    top = MARGIN + FONT_SIZE + GAP
    sheet = Image.new("RGB", (width, top + MARGIN + len(rows) * (thumb + GAP) - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for view in range(num_views):
        title = "canonical" if view == 0 else f"view {view}"
        middle = _left(view, thumb) + thumb // 2
        pen.text((middle, MARGIN), title, fill=FAINT, font=_font(FONT_SIZE - 3), anchor="ma")
    for number, (name, images) in enumerate(rows):
        _row(sheet, pen, name, images, top + number * (thumb + GAP), thumb)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG", optimize=True)


def _left(view: int, thumb: int) -> int:
    return MARGIN + NAME_WIDTH + view * (thumb + GAP)


def _row(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, name: str, images: Sequence[Image.Image], top: int, thumb: int
) -> None:
    """Draw one person: the name, vertically centred, and the images with rounded corners."""
    lines = "\n".join(_wrapped(name))
    pen.multiline_text((MARGIN, top + thumb // 2), lines, fill=INK, font=_font(FONT_SIZE), anchor="lm", spacing=5)
    for view, image in enumerate(images):
        small = image.convert("RGB").resize((thumb, thumb), Image.Resampling.LANCZOS)
        sheet.paste(small, (_left(view, thumb), top), _corners(thumb))


def _wrapped(name: str) -> list[str]:
    """Break a name at spaces into lines that fit the name column; at most three, the last cut with '...'."""
    font, room = _font(FONT_SIZE), NAME_WIDTH - 2 * GAP
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    shown = lines[:3]
    if len(lines) > len(shown):
        shown[-1] += "..."
    return [_cut(line, font, room) for line in shown]


def _cut(line: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """Shorten one line until it fits."""
    if font.getlength(line) <= room:
        return line
    while line and font.getlength(line + "...") > room:
        line = line[:-1]
    return line + "..."


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font has no accented letters."""
    font = files("matplotlib").joinpath("mpl-data/fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(io.BytesIO(font.read_bytes()), size)


def _corners(thumb: int) -> Image.Image:
    """Mask of a square with rounded corners, smooth by drawing it four times too large."""
    large = Image.new("L", (4 * thumb, 4 * thumb), 0)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * thumb - 1, 4 * thumb - 1), radius=thumb // 4, fill=255)
    return large.resize((thumb, thumb), Image.Resampling.LANCZOS)
