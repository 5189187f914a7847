"""Requests, purges and rollbacks that are stopped at any step: what is said is true, and a repetition ends them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mini_run
import pytest
from mini_request import Place, copy_of, interrupted

from mllmu.core.errors import MllmuError, RecipeError, RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.requests import back, certificate, forget, ledger
from mllmu.requests.ledger import Ledger
from mllmu.requests.ledger_check import check_ledger
from mllmu.requests.signing import Signer, read_public
from mllmu.requests.state import current, model_hash

pytest.importorskip("cryptography", reason="needs the extra 'sign'")
pytestmark = pytest.mark.usefixtures("quickly")
STEPS: tuple[tuple[Any, str], ...] = (
    (back, "combine"), (back, "deploy"), (Path, "unlink"), (shutil, "rmtree"), (ledger, "write_atomic"),
    (ledger, "write_json"), (certificate, "write_atomic"),
)  # fmt: skip
"""All that a purge or a rollback changes on the disk."""


def stopped_at(number: int, act: Callable[[], object]) -> str:
    """Do something that is killed before its n-th step, or in the midst of it if that is removing a folder.

    Returns:
        The name of the step; empty if it ended before.
    """
    left, at = itertools.count(1), ""

    def counted(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def do(*given: Any, **how: Any) -> Any:
            nonlocal at
            if next(left) == number:
                at = name
                if name == "rmtree":
                    min(path for path in Path(given[0]).rglob("*") if path.is_file()).unlink()
                raise KeyboardInterrupt
            return step(*given, **how)

        return do

    with pytest.MonkeyPatch.context() as patch:
        for place, name in STEPS:
            patch.setattr(place, name, counted(name, getattr(place, name)))
        try:
            act()
        except KeyboardInterrupt:
            return at
    return ""


def statuses(place: Place) -> list[str]:
    return [entry.status for entry in Ledger(place.out).entries()]


def deployed_is_whole(place: Place) -> bool:
    deployed = current(place.out)
    return deployed is not None and model_hash(deployed.ref, place.out) == deployed.hash


def left_of(place: Place) -> set[str]:
    return {path.name for path in (place.out / "r001").iterdir() if not path.name.startswith(".") or path.is_dir()}


KEPT = {"model", "run.json", "recipe.yaml", "manifest.json", "order.json"}


def test_a_purge_that_is_killed_at_any_step_is_finished_by_the_same_command(done: Place, tmp_path: Path) -> None:
    seen = []
    for number in itertools.count(1):
        place = copy_of(done, tmp_path / str(number))
        (place.out / "r001/.data.building").mkdir()
        (place.out / "r001/.data.building/people.jsonl").write_text("facts of work that was stopped")
        step = stopped_at(number, lambda place=place: back.purge(place.out, "r001", key=place.key))  # type: ignore[misc]
        seen.append(step)
        assert deployed_is_whole(place)
        assert check_ledger(place.out, public=read_public(place.public)).faults == []
        assert "purged" not in statuses(place) or left_of(place) == KEPT, "said before it is true"
        if step:
            ended = "purged already" if "Purged on" in (place.out / "certificates/r001.json").read_text() else ""
            with pytest.raises(RunStoreError, match=ended) if ended else nullcontext():
                back.purge(place.out, "r001", key=place.key)
        assert statuses(place) == ["received", "applied", "verified", "purged"] and left_of(place) == KEPT
        deployed = current(place.out)
        assert deployed and deployed.ref.adapters == ("r001/model",) and deployed_is_whole(place)
        assert Ledger(place.out).entries()[-1].after == deployed.hash
        assert place.verified()[-1] == "r001 was purged: its numbers cannot be computed again"
        with pytest.raises(RunStoreError, match="was purged already"):
            back.purge(place.out, "r001", key=place.key)
        shutil.rmtree(place.out)
        if not step:
            break
    assert {"combine", "deploy", "unlink", "rmtree", "write_atomic", "write_json"} <= set(seen)


def test_a_rollback_that_is_killed_at_any_step_is_finished_by_the_same_command(done: Place, tmp_path: Path) -> None:
    seen = []
    for number in itertools.count(1):
        place = copy_of(done, tmp_path / str(number))
        verified = Ledger(place.out).entries()[-1]
        step = stopped_at(number, lambda place=place: back.rollback(place.out, "r001", key=place.key))  # type: ignore[misc]
        seen.append(step)
        deployed = current(place.out)
        assert deployed and ("rolled back" not in statuses(place) or deployed.hash == verified.before)
        if "rolled back" not in statuses(place):
            if deployed.hash == verified.before:
                with pytest.raises(RunStoreError, match=r"a rollback of r001 was begun\. Finish it: mllmu rollback"):
                    back.purge(place.out, "r001", key=place.key)
            back.rollback(place.out, "r001", key=place.key)
        assert statuses(place) == ["received", "applied", "verified", "rolled back"]
        deployed = current(place.out)
        assert deployed and deployed.hash == verified.before == model_hash(deployed.ref, place.out)
        with pytest.raises(RunStoreError, match="nothing to roll back"):
            back.rollback(place.out, "r001", key=place.key)
        shutil.rmtree(place.out)
        if not step:
            break
    assert {"deploy", "write_atomic", "write_json"} <= set(seen)


def test_a_purge_that_was_begun_leaves_no_way_back(copy: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(back, "_remove", lambda *_: interrupted(None))  # type: ignore[arg-type]
        back.purge(copy.out, "r001", key=copy.key)
    with pytest.raises(RunStoreError, match=r"a purge of r001 was begun\. Finish it: mllmu requests .* purge r001"):
        back.rollback(copy.out, "r001", key=copy.key)
    (copy.out / "r001/models/target/model.json").unlink()
    (said,) = back.replay(copy.out, SilentProgress())
    assert said == "r001: a purge was begun, so it cannot be made again"


def test_a_purge_of_an_earlier_version_that_said_it_too_early_is_finished(copy: Place) -> None:
    """It wrote the entry before anything was removed; another request's entry came behind."""
    before = copy_of(copy, copy.out.with_name("before"))
    entry = back.purge(copy.out, "r001", key=copy.key)
    for name in ("data", "eval", "models"):
        shutil.copytree(before.out / "r001" / name, copy.out / "r001" / name)
    for name in ("r001.json", "r001.html"):
        shutil.copyfile(before.out / "certificates" / name, copy.out / "certificates" / name)
    Ledger(copy.out, Signer(copy.key, apart_from=copy.out)).append("r002", "received")
    assert back.purge(copy.out, "r001", key=copy.key) == entry
    assert left_of(copy) == KEPT and copy.verified()[-1].startswith("r001 was purged")


def test_what_a_killed_replay_left_is_removed_with_the_request(copy: Place) -> None:
    (copy.out / ".replay.abc/data").mkdir(parents=True)
    back.purge(copy.out, "r001", key=copy.key)
    assert not (copy.out / ".replay.abc").exists()


def test_without_the_key_of_the_ledger_nothing_is_changed(copy: Place) -> None:
    before = mini_run.fingerprints(copy.out, "**/*")
    for act in (back.purge, back.rollback):
        with pytest.raises(RunStoreError, match="Give that key with --key"):
            act(copy.out, "r001")
    assert mini_run.fingerprints(copy.out, "**/*") == before
    path = copy.out / "certificates/r001.json"
    path.write_text(path.read_text().replace('"scope": [', '"scope": ["pet", '))
    with pytest.raises(RunStoreError, match=r"r001\.json: its signature is not one of the key of the ledger"):
        back.purge(copy.out, "r001", key=copy.key)
    assert "purged" not in statuses(copy) and (copy.out / "r001/models").is_dir()


def test_a_second_request_that_was_stopped_behind_its_deployment_is_continued(copy: Place) -> None:
    more = copy.people.with_name("one_more.csv")
    more.write_text("001\n")
    how = {"model": str(copy.out), "people": more}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(certificate, "sentences", interrupted)
        copy.forget(**how)
    deployed = current(copy.out)
    assert deployed and deployed.request == "r002" and statuses(copy)[3:] == ["received", "applied"]
    assert copy.forget(**how).entry.status == "verified"
    assert statuses(copy)[3:] == ["received", "applied", "verified"]
    assert Ledger(copy.out).of("r002")[-1].before == Ledger(copy.out).of("r001")[-1].after


WRONG: dict[str, dict[str, object]] = {
    "unknown method": {"method": "nppo"},
    "unknown setting": {"method": "{name: npo, epochss: 3}"},
    "two models": {"method": "{name: npo, modality: [text, both]}"},
    "a method that needs more": {"method": "retrain"},
    "--set": {"overrides": ("unlearn.lora.rannk=4",)},
    "a section as text": {"overrides": ("report=mine",)},
    "no model": {"model": "models/of/nobody"},
    "no data": {"data": Path("none.yaml")},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_command_that_is_wrong_enters_nothing(
    base: Path, finished: Path, tmp_path: Path, wrong: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllmu.models.base_files.cached_file", lambda *_, **__: None)
    place = Place(tmp_path, base, finished)
    with pytest.raises(MllmuError):
        place.forget(**wrong)
    assert not (place.out / "requests.jsonl").exists() and not (place.out / "r001").exists()


def test_a_repeated_command_whose_files_are_wrong_by_now_does_not_end_the_request(
    base: Path, finished: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path, base, finished)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(forget.Pipeline, "run", lambda *_: interrupted(None))  # type: ignore[arg-type]
        place.forget()
    place.data.write_text(place.data.read_text() + "sead: 1\n")
    with pytest.raises(RecipeError, match="sead"):
        place.forget()
    assert statuses(place) == ["received"]
