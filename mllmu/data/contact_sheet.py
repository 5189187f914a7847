"""A contact sheet: every person with all views on one page, to look at before anything is trained."""

import functools
import io
import textwrap
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mllmu.core.errors import DataError
from mllmu.data.dataset import Dataset, image_files
from mllmu.data.files import REMAKE, read_image

MAX_PEOPLE = 200
"""A sheet of more rows than this is too tall for image viewers."""
MAX_PIXELS = 256
"""Side to which images are reduced when they are read."""
MARGIN = 24
GAP = 10
NAME_WIDTH = 190
NAME_LETTERS = 17
"""So many of the widest usual letters fit into the column."""
FONT_SIZE = 15
PAPER, INK, FAINT = "#fbfaf8", "#22262b", "#8a9097"


def write_contact_sheet(data: Dataset, path: Path) -> None:
    """Draw the first 200 people of a data set with all their views."""
    people = data.profiles[:MAX_PEOPLE]
    contact_sheet([(p.name, [_opened(file) for file in image_files(data.folder, p.id)]) for p in people], path)


def _opened(path: Path) -> Image.Image:
    """An image, reduced."""
    image = read_image(path, str(path), fault="not a readable image", advice=REMAKE)
    image.thumbnail((MAX_PIXELS, MAX_PIXELS))
    return image


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
        y = top + number * (thumb + GAP)
        lines = "\n".join(textwrap.wrap(name, NAME_LETTERS, max_lines=3, placeholder="..."))
        pen.multiline_text((MARGIN, y + thumb // 2), lines, fill=INK, font=_font(FONT_SIZE), anchor="lm", spacing=5)
        for view, image in enumerate(images):
            sheet.paste(image.convert("RGB").resize((thumb, thumb), Image.Resampling.LANCZOS), (_left(view, thumb), y))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG", optimize=True)


def _left(view: int, thumb: int) -> int:
    return MARGIN + NAME_WIDTH + view * (thumb + GAP)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font has no accented letters."""
    font = files("matplotlib").joinpath("mpl-data/fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(io.BytesIO(font.read_bytes()), size)
