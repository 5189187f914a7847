"""The size of a batch follows memory; no reply follows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_models import load_ref, sample

from mllmu.config.load import parse
from mllmu.config.recipe import Evaluate
from mllmu.core.errors import RecipeError
from mllmu.core.process import SilentProgress
from mllmu.models import devices
from mllmu.models.devices import free_bytes
from mllmu.models.encoding import as_turn
from mllmu.models.engine import memory
from mllmu.models.engine.memory import MOST, bytes_of, longest, starting_size, tokens_of
from mllmu.pipeline.evaluate import collect

SAMPLES = [sample(n, image=("red.png", "", "green.png")[n % 3], prompt="Where?" + "!" * (n % 5)) for n in range(30)]


def test_more_memory_means_more_questions(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, sizes = load_ref(tiny_base), []
    one = bytes_of(loaded, SAMPLES[:1], image_folder=tiny_base)
    for questions in (0, 3, 50, 10**6):
        free = (memory.fixed_bytes() + questions * one) / memory.SHARE
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        sizes.append(starting_size(loaded, SAMPLES, image_folder=tiny_base))
    assert sizes[0] == 1
    assert 3 <= sizes[1] < sizes[2] < sizes[3] == MOST


def test_a_shared_image_is_counted_once(tiny_base: Path) -> None:
    loaded = load_ref(tiny_base)
    alike = [sample(n, image="red.png", prompt="Where?") for n in range(8)]
    held, read = tokens_of(loaded, alike, image_folder=tiny_base, system_prompt="")
    prompt = len(loaded.encoder.prompt(as_turn(alike[0], tiny_base, "")))
    written = 8 * alike[0].max_new_tokens
    assert held == prompt - 1 + 8 + written, "all but the last token are common"
    assert read == prompt - 1


def test_keys_and_values_are_counted_by_hand(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of one head of 32 numbers, keys and values, 4 bytes each: 512 bytes a token."""
    loaded = load_ref(tiny_base)
    monkeypatch.setattr(memory, "tokens_of", lambda *_, **__: (10, 0))
    assert bytes_of(loaded, SAMPLES, image_folder=tiny_base) == 10 * 2 * 2 * 32 * 4


def test_what_is_counted_is_the_longest(tiny_base: Path) -> None:
    many = [sample(n, prompt="x" * (200 - abs(150 - n))) for n in range(200)]
    assert len(longest(many)) == memory.PROBE
    assert many[150] in longest(many)
    assert longest(SAMPLES[:3]) == SAMPLES[:3]


def test_a_container_has_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    unlimited = free_bytes(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert free_bytes(torch.device("cpu")) == 3000 < unlimited
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) > 3000


def test_replies_are_the_same_whatever_memory_there_is(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (2, 7, 100):
        monkeypatch.setattr("mllmu.pipeline.batch_plan.starting_size", lambda *_, size=size, **__: size)
        (folder := tmp_path / str(size)).mkdir()
        found.append(
            collect(
                SAMPLES,
                lambda: load_ref(tiny_base),
                image_folder=tiny_base,
                system_prompt="",
                batch_size="auto",
                folder=folder,
                progress=SilentProgress(),
                label="x",
            )
        )
    assert [reply.text for reply in found[0]] == [reply.text for reply in found[1]] == [r.text for r in found[2]]


@pytest.mark.parametrize("value", [0, -3, "many", True, 2.5])
def test_a_batch_size_is_a_count_or_auto(value: object) -> None:
    assert Evaluate(batch_size="auto").planned_batch_size == 64
    with pytest.raises(RecipeError, match=r"evaluate\.batch_size: expected a number of questions from 1 up, or 'auto'"):
        parse({"name": "x", "evaluate": {"batch_size": value}})
