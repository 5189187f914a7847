"""What of a run folder is shown as an image: run folders come from other people too."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllmu.data.files import shown_image


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("run/data/images/001_0.png", "run/attacks/images/x.JPG", "run/run.json", "outside.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "run/data/link.png").symlink_to(tmp_path / "outside.png")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["images/001_0.png", "../attacks/images/x.JPG"])
def test_images_of_the_run_folder_are_shown(run: Path, name: str) -> None:
    shown = shown_image(run, name)
    assert shown is not None and shown.is_file()


@pytest.mark.parametrize("name", ["../../outside.png", "link.png", "../run.json", "/etc/hostname", "/etc/passwd.png"])
def test_nothing_else_is(run: Path, name: str) -> None:
    assert shown_image(run, name) is None
    assert shown_image(run, str(run.parent / "outside.png")) is None
