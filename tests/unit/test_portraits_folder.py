"""Images from a folder: found by id, read upright, and never trusted."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.ImageDraw import Draw

from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.data.portraits.folder import Folder

RED, BLUE = (220, 20, 20), (20, 20, 220)


def person(name: str = "anna") -> Profile:
    return Profile(id=name, kind="fictitious", attributes={"name": name})


def near(pixel: object, colour: tuple[int, int, int]) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(got - wanted) < 25 for got, wanted in zip(pixel, colour, strict=True))


def two_halves(width: int = 80, height: int = 80) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), RED)
    Draw(image).rectangle((0, height // 2, width, height), fill=BLUE)
    return image


def test_image_is_cropped_to_its_centre_and_scaled(tmp_path: Path) -> None:
    wide = Image.new("RGB", (300, 100), RED)
    wide.paste(BLUE, (100, 0, 200, 100))
    wide.save(tmp_path / "anna.png")
    image = Folder(path=tmp_path, size=64).render(person(), 0, 0)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    assert all(near(image.getpixel(point), BLUE) for point in [(1, 1), (62, 62), (32, 32)])


@pytest.mark.parametrize("name", ["anna.jpg", "anna.JPEG", "anna.webp", "anna.png"])
def test_usual_formats_are_read(tmp_path: Path, name: str) -> None:
    two_halves().save(tmp_path / name)
    assert near(Folder(path=tmp_path, size=32).render(person(), 0, 0).getpixel((16, 4)), RED)


def test_exif_rotation_is_applied_and_metadata_dropped(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    exif[0x010F] = "a camera maker"
    two_halves().save(tmp_path / "anna.jpg", exif=exif)
    image = Folder(path=tmp_path, size=32).render(person(), 0, 0)
    assert near(image.getpixel((16, 4)), BLUE)
    assert near(image.getpixel((16, 28)), RED)
    assert not image.getexif()
    assert image.info == {}


def test_transparency_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (50, 50), (255, 0, 0, 0)).save(tmp_path / "anna.png")
    assert Folder(path=tmp_path, size=32).render(person(), 0, 0).getpixel((5, 5)) == (255, 255, 255)


def test_view_comes_from_its_own_file_where_there_is_one(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), RED).save(tmp_path / "anna.png")
    Image.new("RGB", (40, 40), BLUE).save(tmp_path / "anna_2.png")
    assert near(Folder(path=tmp_path, size=32).render(person(), 2, 0).getpixel((16, 16)), BLUE)


def test_view_without_a_file_is_made_from_the_canonical_image(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "anna.png")
    backend = Folder(path=tmp_path, size=64)
    canonical, first, again, second = (backend.render(person(), view, 0).tobytes() for view in (0, 1, 1, 2))
    assert first == again
    assert len({canonical, first, second}) == 3


def test_missing_image_names_the_nearest_files(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "anne.png")
    with pytest.raises(DataError, match=r"no image of 'anna'.*Nearest: anne\.png"):
        Folder(path=tmp_path).render(person(), 0, 0)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        Folder(path=tmp_path / "nowhere").render(person(), 0, 0)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "anna.png").write_bytes(content)
    with pytest.raises(DataError, match=r"anna\.png: not a readable image"):
        Folder(path=tmp_path).render(person(), 0, 0)


def test_truncated_image_is_named(tmp_path: Path) -> None:
    two_halves(400, 400).save(tmp_path / "anna.jpg")
    whole = (tmp_path / "anna.jpg").read_bytes()
    (tmp_path / "anna.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"anna\.jpg: not a readable image"):
        Folder(path=tmp_path).render(person(), 0, 0)


@pytest.mark.parametrize("side", [8_000, 11_000, 60_000])
def test_image_that_claims_too_many_pixels_is_refused_undecoded(tmp_path: Path, side: int) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "anna.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\0" * 4)
    with pytest.raises(DataError, match=r"anna\.png: image too large: at most 50 million"):
        Folder(path=tmp_path).render(person(), 0, 0)


@pytest.mark.parametrize("name", ["../secret", "/etc/secret", "a/../../secret", "..", "anna\n", ""])
def test_id_cannot_escape_the_folder(tmp_path: Path, name: str) -> None:
    two_halves().save(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    forged = Profile.model_construct(id=name, kind="fictitious", attributes={"name": "x"})
    with pytest.raises(DataError, match="profile id"):
        Folder(path=tmp_path / "images").render(forged, 0, 0)


def test_image_that_is_too_small_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (31, 400), RED).save(tmp_path / "anna.png")
    with pytest.raises(DataError, match=r"anna\.png: image too small: 31 x 400 pixels, expected at least 32 per side"):
        Folder(path=tmp_path).render(person(), 0, 0)


def test_file_that_is_too_large_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllmu.data.portraits.folder.MAX_BYTES", 10)
    two_halves().save(tmp_path / "anna.png")
    with pytest.raises(DataError, match=r"anna\.png: larger than"):
        Folder(path=tmp_path).render(person(), 0, 0)


def test_two_types_of_one_name_are_refused(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "anna.png")
    two_halves().save(tmp_path / "anna.jpg")
    with pytest.raises(DataError, match=r"both anna\.jpg and anna\.png"):
        Folder(path=tmp_path).render(person(), 0, 0)


def test_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    two_halves().save(tmp_path / "secret.png")
    (folder / "anna.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"anna\.png: a link that leads out of the folder"):
        Folder(path=folder).render(person(), 0, 0)
    two_halves().save(folder / "real.png")
    (folder / "berta.png").symlink_to(folder / "real.png")
    assert near(Folder(path=folder, size=32).render(person("berta"), 0, 0).getpixel((16, 4)), RED)


def test_place_of_the_camera_is_dropped(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)
    two_halves().save(tmp_path / "anna.jpg", exif=exif, comment=b"a name")
    with Image.open(tmp_path / "anna.jpg") as opened:
        assert opened.getexif().get_ifd(0x8825)
    image = Folder(path=tmp_path, size=32).render(person(), 0, 0)
    image.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert not written.getexif() and not written.info
