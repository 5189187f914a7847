"""Asking a model everything, once: also when it is killed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers_models import Killer, Watcher, load_ref, sample

from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import RunFolder, read_lines
from mllmu.models.loading import Loaded
from mllmu.pipeline import evaluate as run
from mllmu.pipeline.evaluate import PARTIAL, collect

RESPONSES = RunFolder.RESPONSES_FILE
SAMPLES = [
    sample(n, prompt=f"Where? {'Ada Bell ' * (n % 4)}", image=("", "red.png")[n % 2], candidates={"target": "Riga"})
    for n in range(10)
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the samples that a model was asked, in order."""
    ids: list[str] = []
    respond = run.respond

    def watched(loaded: Loaded, batches: Sequence[Sequence[Sample]], **settings: Any) -> Iterator[list[Response]]:
        for batch in batches:
            ids.extend(one.id for one in batch)
            yield from respond(loaded, [batch], **settings)

    monkeypatch.setattr(run, "respond", watched)
    return ids


@pytest.fixture
def ask(tiny_base: Path) -> Callable[..., list[Response]]:
    def one(folder: Path, progress: Watcher | None = None, **settings: Any) -> list[Response]:
        folder.mkdir(exist_ok=True)
        fixed = {"image_folder": tiny_base, "system_prompt": "", "batch_size": 3, "label": "target"}
        load = settings.pop("load", lambda: load_ref(tiny_base))
        samples = settings.pop("samples", SAMPLES)
        return collect(samples, load, folder=folder, progress=progress or Watcher(), **(fixed | settings))

    return one


Ask = Callable[..., list[Response]]


def test_replies_are_kept_in_the_order_of_the_samples(ask: Ask, asked: list[str], tmp_path: Path) -> None:
    watcher = Watcher()
    got = ask(tmp_path, watcher)
    assert [response.sample_id for response in got] == [one.id for one in SAMPLES]
    assert read_lines(tmp_path / RESPONSES, Response) == got
    assert sorted(asked) == [one.id for one in SAMPLES]
    assert watcher.done == len(SAMPLES)
    assert [file.name for file in tmp_path.iterdir()] == [RESPONSES]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_evaluation_goes_on_and_asks_nothing_twice(
    ask: Ask, asked: list[str], tmp_path: Path, after: int
) -> None:
    ask(tmp_path / "plain")
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "killed", Killer(after))
    first = list(asked)
    assert len(first) == 3 * after
    watcher = Watcher()
    ask(tmp_path / "killed", watcher)
    assert sorted(asked) == [one.id for one in SAMPLES], "every sample is asked once over both attempts"
    assert watcher.done == len(SAMPLES)
    assert (tmp_path / "killed" / RESPONSES).read_bytes() == (tmp_path / "plain" / RESPONSES).read_bytes()
    assert not (tmp_path / "killed" / PARTIAL).exists()


def test_a_batch_cut_short_is_asked_again_as_a_whole(ask: Ask, asked: list[str], tmp_path: Path) -> None:
    ask(tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "cut", Killer(2))
    partial = tmp_path / "cut" / PARTIAL
    partial.write_bytes(partial.read_bytes()[:-9])
    asked.clear()
    ask(tmp_path / "cut")
    assert len(asked) == len(SAMPLES) - 3
    assert (tmp_path / "cut" / RESPONSES).read_bytes() == (tmp_path / "plain" / RESPONSES).read_bytes()


def test_the_batch_size_may_change_between_attempts(ask: Ask, asked: list[str], tmp_path: Path) -> None:
    plain = ask(tmp_path / "plain")
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "killed", Killer(1))
    got = ask(tmp_path / "killed", batch_size=5)
    assert sorted(set(asked)) == [one.id for one in SAMPLES], "those of a batch that was not whole are asked again"
    for one, other in zip(plain, got, strict=True):
        assert (other.sample_id, other.text, other.finished) == (one.sample_id, one.text, one.finished)
        assert other.candidates["target"].logp == pytest.approx(one.candidates["target"].logp, abs=1e-4)


def test_no_model_is_loaded_when_all_replies_are_there(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, Killer(4))

    def load() -> Loaded:
        pytest.fail("the model was loaded though nothing was missing")

    assert len(ask(tmp_path, load=load)) == len(SAMPLES)
    assert ask(tmp_path / "empty", load=load, samples=[]) == []


def test_the_guard_reaches_the_model(ask: Ask, tmp_path: Path) -> None:
    bare, guarded = ask(tmp_path / "bare"), ask(tmp_path / "guarded", system_prompt="Say no more than you must.")
    assert all(a.candidates != b.candidates for a, b in zip(bare, guarded, strict=True))
