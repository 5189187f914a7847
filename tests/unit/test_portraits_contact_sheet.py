"""The contact sheet shows every image at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mllmu.core.errors import DataError
from mllmu.data.contact_sheet import GAP, MARGIN, NAME_WIDTH, contact_sheet


def test_sheet_shows_each_image_in_its_row_and_column(tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (30, 30), colour) for colour in ("#ff0000", "#0000ff"))
    path = tmp_path / "new" / "sheet.png"
    contact_sheet([("Amelia Kuznetsov", [red, blue]), ("Jana Nováková", [blue])], path, thumb=40)
    with Image.open(path) as opened:
        sheet = opened.convert("RGB")
    left, bottom = MARGIN + NAME_WIDTH, sheet.height - MARGIN
    assert sheet.getpixel((left + 20, bottom - 20)) == (0, 0, 255)
    assert sheet.getpixel((left + 20, bottom - 40 - GAP - 20)) == (255, 0, 0)
    assert sheet.getpixel((left + 40 + GAP + 20, bottom - 40 - GAP - 20)) == (0, 0, 255)


def test_long_names_stay_in_their_column(tmp_path: Path) -> None:
    white = Image.new("RGB", (30, 30), "#ffffff")
    path = tmp_path / "sheet.png"
    contact_sheet([("Wolfeschlegelsteinhausenbergerdorff " * 9, [white])], path, thumb=100)
    with Image.open(path) as opened:
        gap = opened.convert("RGB").crop((MARGIN + NAME_WIDTH - GAP, 0, MARGIN + NAME_WIDTH, opened.height))
    assert len(gap.getcolors() or []) == 1


def test_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images for a contact sheet"):
        contact_sheet([("Nobody", [])], tmp_path / "sheet.png")
