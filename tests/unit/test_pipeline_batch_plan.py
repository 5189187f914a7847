"""In low precision the batches of an evaluation follow from the samples, whatever memory or interruptions do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers_models import Killer, load_ref, sample

from mllmu.core.records import Response, Sample
from mllmu.models.engine.respond import raw_apart
from mllmu.models.loading import Loaded
from mllmu.pipeline import batch_plan, evaluate
from mllmu.pipeline.evaluate import PARTIAL, collect

SAMPLES = [
    sample(
        i, prompt="Where? " * (1 + i % 4), image="red.png" if i % 3 else "", candidates={"a": "Riga", "b": "Oslo is"}
    )
    for i in range(11)
]
FILE = "responses.jsonl"
Ask = Callable[..., list[Response]]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sizes of the batches that a model was asked, attempt by attempt; 'auto' plans batches of four."""
    found: list[list[int]] = []
    respond = evaluate.respond

    def watched(loaded: Loaded, batches: Sequence[Sequence[Sample]], **settings: Any) -> Iterator[list[Response]]:
        found.append([len(batch) for batch in batches])
        yield from respond(loaded, batches, **settings)

    monkeypatch.setattr(evaluate, "respond", watched)
    monkeypatch.setattr(batch_plan, "PLANNED", 4)
    return found


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many questions memory holds."""
    return lambda size: monkeypatch.setattr(batch_plan, "starting_size", lambda *_, **__: size)


@pytest.fixture
def ask(tiny_base: Path) -> Ask:
    def one(folder: Path, size: int | str = 4, after: int = 99, *, dtype: str = "bfloat16") -> list[Response]:
        folder.mkdir(exist_ok=True)
        return collect(
            SAMPLES, lambda: load_ref(tiny_base, dtype=dtype), image_folder=tiny_base, system_prompt="",
            batch_size=size, folder=folder, progress=Killer(after), label="x", low_precision=dtype == "bfloat16",
        )  # fmt: skip

    return one


def test_free_memory_decides_no_batch(
    ask: Ask, sizes: list[list[int]], fits: Callable[[int], None], tmp_path: Path
) -> None:
    for room in (4, 7, 100):
        fits(room)
        ask(tmp_path / str(room), "auto")
    assert sizes[0] == sizes[1] == sizes[2] and max(sizes[0]) == 4
    assert len({(tmp_path / str(room) / FILE).read_bytes() for room in (4, 7, 100)}) == 1


def test_memory_may_cut_a_batch_and_every_response_of_it_says_so(
    ask: Ask, sizes: list[list[int]], fits: Callable[[int], None], tmp_path: Path
) -> None:
    fits(2)
    responses = ask(tmp_path, "auto")
    assert max(sizes[0]) == 2
    assert {response.planned_with for response in responses} >= {4}
    assert all(response.asked_with == 2 for response in responses if response.planned_with == 4)
    recorded = batch_plan.facts(responses, 4)
    assert recorded["asked_in_parts"] == sum(response.planned_with > 2 for response in responses) > 0


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_evaluation_ends_in_the_same_bytes(
    ask: Ask, sizes: list[list[int]], tmp_path: Path, after: int
) -> None:
    ask(tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "killed", after=after)
    partial = tmp_path / "killed" / PARTIAL
    partial.write_bytes(partial.read_bytes()[:-9])  # the last batch is cut: all of it is asked again
    ask(tmp_path / "killed")
    assert sizes[2] == sizes[0][after - 1 :]
    assert (tmp_path / "killed" / FILE).read_bytes() == (tmp_path / "plain" / FILE).read_bytes()


@pytest.mark.parametrize(("size", "dtype"), [(3, "bfloat16"), (4, "float32")])
def test_what_was_asked_in_another_way_is_asked_again(
    ask: Ask, sizes: list[list[int]], tmp_path: Path, size: int, dtype: str
) -> None:
    ask(tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "killed", size, after=2, dtype=dtype)
    ask(tmp_path / "killed")
    assert sizes[2] == sizes[0]
    assert (tmp_path / "killed" / FILE).read_bytes() == (tmp_path / "plain" / FILE).read_bytes()


def test_in_float32_nothing_is_recorded_and_no_response_of_bfloat16_kept(
    ask: Ask, sizes: list[list[int]], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, after=2)
    responses = ask(tmp_path, dtype="float32")
    assert sum(sizes[1]) == len(SAMPLES)
    assert {(response.asked_with, response.planned_with) for response in responses} == {(0, 0)}


def test_raw_prompts_are_batches_of_their_own() -> None:
    raw = [sample(i, raw_prompt=True) for i in range(2)]
    assert raw_apart([[raw[0], SAMPLES[0], raw[1]], [SAMPLES[1]]]) == [raw, [SAMPLES[0]], [SAMPLES[1]]]


def test_a_reader_is_told_what_differs_between_models() -> None:
    low = {"precision": "bfloat16", "batch_size": 64, "responses": 90, "asked_in_parts": 0}
    assert batch_plan.warnings({"target": low, "npo": low, "older": {}}) == ()
    assert batch_plan.warnings({"target": {"precision": "float32"}, "npo": {"precision": "float32"}}) == ()
    (text,) = batch_plan.warnings({"target": low, "npo": low | {"asked_in_parts": 12}})
    assert "npo 12 of 90 responses" in text and "target" not in text
    (text,) = batch_plan.warnings({"target": low, "npo": low | {"batch_size": 32}})
    assert "target bfloat16 64; npo bfloat16 32" in text
    (text,) = batch_plan.warnings({"target": {"precision": "float32"}, "npo": low})
    assert "target float32; npo bfloat16 64" in text
