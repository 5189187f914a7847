"""One way to read an image, whatever it comes from: upright, on white, 8 bits, and from no place but the data set."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from published_copy import change, shards, write_copy

from mllmu.core.errors import DataError
from mllmu.data.portraits import folder
from mllmu.data.published.sets import write_sets
from mllmu.data.published.store import Store, decode_image

SIDE = 64


def grey_16() -> Image.Image:
    """Column c holds the 16-bit value of the 8-bit grey 4 c."""
    columns_W = np.arange(SIDE, dtype=np.uint16) * 4 * 257
    return Image.fromarray(np.tile(columns_W, (SIDE, 1)))


def half_clear(mode: str) -> Image.Image:
    """Opaque green (or grey) below, above it a colour that full transparency hides."""
    image = Image.new("RGBA", (SIDE, SIDE), (0, 90, 0, 255))
    image.paste((10, 200, 250, 0), (0, 0, SIDE, SIDE // 2))
    if mode == "P":
        palette = Image.new("P", (SIDE, SIDE), 1)
        palette.putpalette([10, 200, 250, 0, 90, 0])
        palette.paste(0, (0, 0, SIDE, SIDE // 2))
        return palette
    return image.convert(mode)


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """Seen upright, the image has a white band on top."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", (SIDE, SIDE), (0, 0, 120))
    band = {3: (0, SIDE - 16, SIDE, SIDE), 6: (0, 0, 16, SIDE), 8: (SIDE - 16, 0, SIDE, SIDE)}[orientation]
    image.paste((255, 255, 255), band)
    return image, exif


def both_ways(path: Path) -> tuple[Image.Image, Image.Image]:
    """An image as a file of a folder of portraits, and as a cell of a published table."""
    return folder.read(path, SIDE), decode_image({"bytes": path.read_bytes(), "path": None}, "row 0")


def test_grey_of_16_bits_keeps_its_steps(tmp_path: Path) -> None:
    grey_16().save(tmp_path / "a.png")
    for image in both_ways(tmp_path / "a.png"):
        assert [image.getpixel((column, 5)) for column in (0, 1, 32, 63)] == [(v, v, v) for v in (0, 4, 128, 252)]


def test_the_one_clear_value_of_a_grey_image_is_white(tmp_path: Path) -> None:
    grey_16().save(tmp_path / "a.png", transparency=0)
    for image in both_ways(tmp_path / "a.png"):
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((1, 0)) == (4, 4, 4)


@pytest.mark.parametrize(("mode", "settings"), [("RGBA", {}), ("LA", {}), ("P", {"transparency": 0})])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_no_colour_behind_transparency_is_shown(
    tmp_path: Path, mode: str, settings: dict[str, Any], suffix: str
) -> None:
    if suffix == "webp":
        half_clear("RGBA").save(tmp_path / "a.webp", lossless=True, exact=True)
    else:
        half_clear(mode).save(tmp_path / f"a.{suffix}", **settings)
    for image in both_ways(tmp_path / f"a.{suffix}"):
        assert image.mode == "RGB"
        assert image.getpixel((3, 3)) == (255, 255, 255)
        assert image.getpixel((3, SIDE - 3)) in {(0, 90, 0), (53, 53, 53)}  # 0.587 * 90


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_every_way_turns_an_image_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    image, exif = turned(orientation)
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    for shown in both_ways(tmp_path / f"a.{suffix}"):
        assert min(shown.getpixel((32, 3))) > 230  # type: ignore[type-var]
        assert max(shown.getpixel((32, 60))[:2]) < 40  # type: ignore[index]
        assert shown.info == {}
        assert not shown.getexif()


def test_a_stored_image_says_nothing_of_its_origin() -> None:
    buffer, said = io.BytesIO(), PngInfo()
    said.add_text("Author", "Ada Bell")
    Image.new("RGB", (SIDE, SIDE)).save(buffer, format="PNG", pnginfo=said, icc_profile=b"maker")
    assert decode_image(buffer.getvalue(), "row 0").info == {}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_copy(root)
    return root / "bench"


def with_cells(bench: Path, cell: Callable[[dict[str, Any]], Any]) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["image"] = cell(row)

    change(shards(bench, "Full_Set")[0], edit)


@pytest.mark.parametrize("place", ["Full_Set", "."])
def test_a_table_of_paths_finds_the_files_beside_it(bench: Path, place: str) -> None:
    table = Store(bench).table("Full_Set")
    before = [table.image(row, "image").tobytes() for row in (0, 1)]
    (bench / place / "faces").mkdir(exist_ok=True)
    for row in (0, 1):
        table.image(row, "image").save(bench / place / "faces" / f"{row}.png")
    kept = [row["image"] for row in table.rows(("image",))]
    numbers = iter(range(len(kept)))
    with_cells(bench, lambda _: {"bytes": None, "path": f"faces/{next(numbers)}.png"})
    try:
        table = Store(bench).table("Full_Set")
        assert [table.image(row, "image").tobytes() for row in (0, 1)] == before
        with pytest.raises(DataError, match=r"row 2, image: the table holds the path 'faces/2\.png' and no image, and"):
            table.image(2, "image")
    finally:
        cells = iter(kept)
        with_cells(bench, lambda _: next(cells))
        for file in (bench / place / "faces").iterdir():
            file.unlink()


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "a/../../../secret.png"])
def test_a_path_in_a_table_leads_nowhere_else(tmp_path: Path, path: str) -> None:
    (tmp_path / "bench" / "set").mkdir(parents=True)
    grey_16().save(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"the table holds the path .* and no image"):
        decode_image({"path": path}, "row 0", (tmp_path / "bench" / "set", tmp_path / "bench"))


@pytest.mark.parametrize("cell", [None, {}, {"bytes": None, "path": None}, {"bytes": b""}])
def test_a_cell_without_image_says_so(cell: Any) -> None:
    with pytest.raises(DataError, match=r"^row 0: the row has no image\."):
        decode_image(cell, "row 0")


def test_the_sets_of_a_saved_model_show_the_same_images(bench: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    image, exif = turned(3)
    image.save(buffer, format="JPEG", exif=exif)
    first = next(row["ID"] for row in Store(bench).table("forget_5").rows(("ID",)))

    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["ID"] == first:
                row["image"] = {"bytes": buffer.getvalue(), "path": None}

    change(shards(bench, "forget_5")[0], edit)
    write_sets(bench, 5, tmp_path, test_image=0)
    with Image.open(tmp_path / "images" / f"{first}_0.png") as stored:
        assert min(stored.getpixel((32, 3))) > 230  # type: ignore[arg-type, type-var]
