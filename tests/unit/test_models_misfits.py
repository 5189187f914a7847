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
