"""Drawing all images of a data set: nothing is drawn twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mllmu.core.process import SilentProgress
from mllmu.data.build import PlannedImage, draw


def test_an_interrupted_batch_goes_on_with_the_images_it_has(tmp_path: Path) -> None:
    made: list[str] = []

    def shot(name: str, colour: int, *, fails: bool = False) -> PlannedImage:
        def render() -> Image.Image:
            if fails:
                raise KeyboardInterrupt
            made.append(name)
            return Image.new("RGB", (4, 4), (colour, 0, 0))

        return PlannedImage(name, render, published=False)

    shots = [shot("a_0.png", 1), shot("b_0.png", 2), shot("c_0.png", 3)]
    with pytest.raises(KeyboardInterrupt):
        draw([*shots[:2], shot("c_0.png", 3, fails=True)], tmp_path, SilentProgress())
    draw(shots, tmp_path, SilentProgress())
    assert made == ["a_0.png", "b_0.png", "c_0.png"]
