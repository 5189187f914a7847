"""Processors that do not fit a model: refused with a message before they cost anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers_families import build
from helpers_models import load_ref

from mllmu.core.errors import ModelError


@pytest.mark.parametrize(
    ("name", "count"), [("num_additional_image_tokens", 2**31), ("patch_size", -1), ("patch_size", 1e300)]
)
def test_a_processor_whose_images_would_fill_the_memory_is_refused(name: str, count: float, tmp_path: Path) -> None:
    build("llava", tmp_path / "model")
    path = tmp_path / "model" / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: count}))
    with pytest.raises(ModelError, match=rf"{name} .*expected 0 to 65536 of each"):
        load_ref(tmp_path / "model")


@pytest.mark.parametrize(("name", "count"), [("merge_size", 2**31), ("patch_size", -14)])
def test_so_is_one_whose_image_processor_counts_so(name: str, count: int, tmp_path: Path) -> None:
    build("qwen2_vl", tmp_path / "model")
    path = tmp_path / "model" / "processor_config.json"
    settings = json.loads(path.read_text())
    settings["image_processor"][name] = count
    path.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=rf"{name} .*expected 0 to 65536 of each"):
        load_ref(tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("llava", {"size": {"shortest_edge": 40_000}}, "size has shortest_edge 40000, expected at most 8192"),
        ("llava", {"crop_size": {"height": 20_000, "width": 32}}, "crop_size has height 20000"),
        ("smolvlm", {"size": {"longest_edge": 30_000}}, "size has longest_edge 30000"),
        ("qwen2_vl", {"size": {"shortest_edge": 1, "longest_edge": 10**9}}, "size has longest_edge 1e\\+09"),
    ],
)
def test_images_of_tens_of_thousands_of_pixels_are_refused(
    kind: str, settings: dict[str, object], named: str, tmp_path: Path
) -> None:
    build(kind, tmp_path / "model")
    with pytest.raises(ModelError, match=rf"{named}.* Set model\.image_processor\."):
        load_ref(tmp_path / "model", image_processor=settings)


def test_a_size_that_counts_all_pixels_may_be_that_of_a_large_photo(tmp_path: Path) -> None:
    build("qwen2_vl", tmp_path / "model")
    load_ref(tmp_path / "model", image_processor={"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}})
