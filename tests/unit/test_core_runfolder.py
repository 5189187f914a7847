"""The run folder never lies: whole units or none, the right ones skipped, the others named."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllmu.core.damage import difference
from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import RunStore, digest, facts_of, fingerprint_of, intact, write_atomic
from mllmu.pipeline.reading import ReadingStore


def finish(store: RunStore, name: str = "models/target", content: str = "weights", **inputs: Any) -> Path:
    """Make a unit, or find it made; returns its folder."""
    unit = store.unit(name, inputs)
    if not unit.done:
        write_atomic(unit.building / "file.txt", content)
        unit.commit({"seconds": 1.5})
    return unit.folder


def test_a_file_is_replaced_as_a_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "ä")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_one_message_and_the_old_file_stays(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunStoreError, match=rf"file\.txt: cannot be written \({os.strerror(code)}\)\. Free space or"):
        write_atomic(path, "new")
    assert path.read_text() == "old"


def test_a_file_where_a_folder_should_be_is_explained(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(RunStoreError, match=r"models.*cannot be written"):
        RunStore(tmp_path).unit("models/target", {})


def test_what_is_no_part_of_a_run_folder_is_not_advised_to_go_to_another_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunStoreError, match=r"a file\. Expected a folder; name another file in data\.source\.key\.$"):
        write_atomic(tmp_path / "file" / "key.json", "", elsewhere="name another file in data.source.key")


def test_a_unit_is_hidden_until_it_is_whole(tmp_path: Path) -> None:
    unit = RunStore(tmp_path).unit("models/target", {"epochs": 3})
    write_atomic(unit.building / "file.txt", "weights")
    assert not unit.done and not unit.folder.exists()
    unit.commit({"seconds": 2})
    assert unit.done and not unit.building.exists()
    assert facts_of(unit.folder) == {"seconds": 2}
    record = json.loads((unit.folder / "unit.json").read_text())
    assert (record["name"], record["inputs"], record["fingerprint"]) == (
        "models/target", {"epochs": 3}, unit.fingerprint,
    )  # fmt: skip


def test_the_same_inputs_skip_the_work(tmp_path: Path) -> None:
    finish(RunStore(tmp_path), content="first", epochs=3, ratios=(0.1, 0.2), path=Path("x"))
    folder = finish(RunStore(tmp_path), content="second", epochs=3, ratios=[0.1, 0.2], path="x")
    assert (folder / "file.txt").read_text() == "first"


def test_other_inputs_are_an_error_that_names_the_setting(tmp_path: Path) -> None:
    finish(RunStore(tmp_path), settings={"epochs": 3, "lora": {"rank": 8}})
    said = r"models/target: was made with other settings: settings\.lora\.rank was 8, is now 4\. Use --force"
    with pytest.raises(RunStoreError, match=said):
        RunStore(tmp_path).unit("models/target", {"settings": {"epochs": 3, "lora": {"rank": 4}}})


def test_force_redoes_a_unit_once_however_often_it_is_looked_up(tmp_path: Path) -> None:
    finish(RunStore(tmp_path), content="first", epochs=3)
    store = RunStore(tmp_path, force=True)
    finish(store, content="second", epochs=4)
    folder = finish(store, content="third", epochs=4)
    assert (folder / "file.txt").read_text() == "second"


def test_force_spares_what_was_looked_up_before_it_was_on(tmp_path: Path) -> None:
    for name in ("data", "scores"):
        finish(RunStore(tmp_path), name, content="first")
    store = RunStore(tmp_path)
    store.unit("data", {})
    store.force = True
    assert (finish(store, "data", content="second") / "file.txt").read_text() == "first"
    assert (finish(store, "scores", content="second") / "file.txt").read_text() == "second"


def test_an_unfinished_unit_goes_on_with_the_same_inputs_and_starts_afresh_with_others(tmp_path: Path) -> None:
    unit = RunStore(tmp_path).unit("models/target", {"epochs": 3})
    write_atomic(unit.building / "checkpoint", "half")
    assert (RunStore(tmp_path).unit("models/target", {"epochs": 3}).building / "checkpoint").is_file()
    assert not (RunStore(tmp_path).unit("models/target", {"epochs": 4}).building / "checkpoint").exists()


def test_leftovers_that_do_not_say_what_they_are_are_not_used(tmp_path: Path) -> None:
    (tmp_path / ".data.building").mkdir()
    (tmp_path / ".data.building" / "checkpoint").write_text("whose?")
    unit = RunStore(tmp_path).unit("data", {})
    assert [p.name for p in unit.building.iterdir()] == ["inputs.json"]


def test_a_folder_of_unknown_origin_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(RunStoreError, match=r"data: has no unit\.json, so nothing says what is in it\. Move it away"):
        RunStore(tmp_path).unit("data", {})
    assert (tmp_path / "data" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_a_damaged_record_says_what_to_delete(content: bytes, tmp_path: Path) -> None:
    folder = finish(RunStore(tmp_path))
    (folder / "unit.json").write_bytes(content)
    with pytest.raises(RunStoreError, match=r"unit\.json: damaged .*Move .*target away and repeat the command"):
        RunStore(tmp_path).unit("models/target", {})


def test_the_first_difference_is_described() -> None:
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b was 1, is now 2"
    assert difference({"a": 1}, {"a": 1, "b": 2}) == "b was None, is now 2"
    assert difference({"a": 1, "b": 2}, {"a": 1}) == "b was 2, is now None"
    assert difference({"a": {"b": 1}}, {"a": None}) == "a was {'b': 1}, is now None"
    assert difference({"a": [1]}, {"a": [1]}) == "nothing"


def test_a_digest_depends_on_the_values_not_on_their_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})


def test_force_keeps_the_old_unit_until_the_new_one_is_complete(tmp_path: Path) -> None:
    folder = finish(RunStore(tmp_path), content="first", epochs=3)
    store = RunStore(tmp_path, force=True)
    unit = store.unit("models/target", {"epochs": 4})
    assert not unit.done and (folder / "file.txt").read_text() == "first"
    assert not store.unit("models/target", {"epochs": 4}).done, "however often it is looked up"
    with pytest.raises(RuntimeError), unit.making():
        raise RuntimeError("the new one cannot be made")
    assert (finish(RunStore(tmp_path), content="other", epochs=3) / "file.txt").read_text() == "first"
    with pytest.raises(RunStoreError, match="other settings: epochs was 3, is now 5"):
        RunStore(tmp_path).unit("models/target", {"epochs": 5})
    write_atomic(unit.building / "file.txt", "second")
    unit.commit()
    assert unit.done and (folder / "file.txt").read_text() == "second"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["target"]


def test_a_worker_process_makes_anew_what_its_parent_was_forced_to(tmp_path: Path) -> None:
    finish(RunStore(tmp_path), content="first", epochs=3)
    RunStore(tmp_path, force=True).unit("models/target", {"epochs": 4})
    script = (
        "import sys; from pathlib import Path; from mllmu.core.runfolder import RunStore\n"
        "unit = RunStore(Path(sys.argv[1])).unit('models/target', {'epochs': 4}); assert not unit.done; unit.commit()"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert RunStore(tmp_path).unit("models/target", {"epochs": 4}).done


def test_another_command_does_not_go_on_with_what_a_forced_one_left(tmp_path: Path) -> None:
    finish(RunStore(tmp_path), content="first", epochs=3)
    unit = RunStore(tmp_path, force=True).unit("models/target", {"epochs": 3})
    assert not unit.done
    assert RunStore(tmp_path).unit("models/target", {"epochs": 3}).done


def test_an_exchange_that_was_cut_off_gives_the_old_unit_back(tmp_path: Path) -> None:
    folder = finish(RunStore(tmp_path), content="first", epochs=3)
    folder.rename(folder.with_name(".target.old"))
    assert RunStore(tmp_path).unit("models/target", {"epochs": 3}).done
    assert (folder / "file.txt").read_text() == "first"
    (folder.with_name(".target.old")).mkdir()
    assert RunStore(tmp_path).unit("models/target", {"epochs": 3}).done
    assert not folder.with_name(".target.old").exists()


def test_even_force_leaves_a_folder_of_unknown_origin(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "raw.csv").write_text("mine")
    with pytest.raises(RunStoreError, match=r"data: has no unit\.json"):
        RunStore(tmp_path, force=True).unit("data", {})
    assert (tmp_path / "data" / "raw.csv").read_text() == "mine"


def change(path: Path) -> None:
    path.write_text("weighty")


def add(path: Path) -> None:
    (path.parent / "002.txt").write_text("weights")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            change,
            r"file\.txt: damaged \(its content has changed since it was written\)\. Move .*target away",
        ),
        (Path.unlink, r"file\.txt: damaged \(it is gone\)"),
        (add, r"002\.txt: damaged \(it was not there when the folder was finished\)"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_named(
    damage: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    unit = RunStore(tmp_path).unit("models/target", {})
    for name in ("file.txt", "note.txt"):
        write_atomic(unit.building / name, "weights")
    unit.commit()
    folder = unit.folder
    assert intact(folder)
    damage(folder / "file.txt")
    with pytest.raises(RunStoreError, match=said):
        intact(folder)
    assert intact(folder, "note.txt"), "only what is used is looked at"
    folder = finish(RunStore(tmp_path, force=True), content="made anew")
    assert intact(folder) and [path.name for path in folder.glob("*.txt")] == ["file.txt"]


def test_a_record_of_a_unit_that_was_changed_is_damaged(tmp_path: Path) -> None:
    folder = finish(RunStore(tmp_path), epochs=3)
    record = (folder / "unit.json").read_text()
    for text in (record.replace('"epochs": 3', '"epochs": 4'), record.replace('"files"', '"filed"'), "{}", '{"a": 1}'):
        (folder / "unit.json").write_text(text)
        with pytest.raises(RunStoreError, match=r"damaged|has no|other settings"):
            RunStore(tmp_path).unit("models/target", {"epochs": 3})


def test_a_unit_of_a_version_without_digests_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "target"
    folder.mkdir(parents=True)
    record = {"name": "models/target", "fingerprint": digest({"a": 1}), "inputs": {"a": 1}, "facts": {}}
    (folder / "unit.json").write_text(json.dumps(record))
    assert RunStore(tmp_path).unit("models/target", {"a": 1}).done and not intact(folder)


def test_what_was_made_of_a_unit_that_is_made_again_and_differs_is_made_again(tmp_path: Path) -> None:
    def chain(content: str, *, force: bool = False) -> list[str]:
        """A model, its responses and their scores, of which only the model may be forced; what lies there then."""
        model = finish(RunStore(tmp_path, force=force), "models/ga", content, method="ga")
        replies = finish(RunStore(tmp_path), "eval/ga/responses", f"of {content}", model=fingerprint_of(model))
        scores = finish(RunStore(tmp_path), "eval/ga/scores", f"of of {content}", responses=fingerprint_of(replies))
        return [(folder / "file.txt").read_text() for folder in (model, replies, scores)]

    first = chain("A")
    before = [fingerprint_of(tmp_path / name) for name in ("models/ga", "eval/ga/responses", "eval/ga/scores")]
    stamp = (tmp_path / "eval/ga/scores/unit.json").stat().st_mtime_ns
    assert chain("A", force=True) == first, "the same files: nothing behind it is touched"
    assert (tmp_path / "eval/ga/scores/unit.json").stat().st_mtime_ns == stamp
    assert chain("B", force=True) == ["B", "of B", "of of B"]
    after = [fingerprint_of(tmp_path / name) for name in ("models/ga", "eval/ga/responses", "eval/ga/scores")]
    assert all(new.startswith(f"{old} made again ") for old, new in zip(before, after, strict=True))
    assert chain("C") == ["B", "of B", "of of B"], "all of it is there"
    assert chain("A", force=True) == first
    assert fingerprint_of(tmp_path / "models/ga") == before[0], "as it was first"


def test_other_settings_in_between_do_not_hide_that_a_unit_is_another_one(tmp_path: Path) -> None:
    def target(content: str, epochs: int) -> str:
        return fingerprint_of(finish(RunStore(tmp_path, force=True), content=content, epochs=epochs))

    first, other = target("A", 3), target("B", 4)
    assert " made again " not in first + other
    assert target("edited", 3).startswith(f"{first} made again ") and target("A", 3) == first


def test_a_model_that_lies_in_files_of_another_unit_is_another_one_with_it(tmp_path: Path) -> None:
    def retrained(content: str) -> str:
        """A model that only names the folder of its adapter."""
        start = finish(RunStore(tmp_path, force=True), "models/retain_model", content)
        return fingerprint_of(finish(RunStore(tmp_path), "models/retrain", "adapter", start=fingerprint_of(start)))

    assert retrained("A") != retrained("B")


def test_a_unit_whose_record_is_damaged_is_told_apart_by_its_files(tmp_path: Path) -> None:
    for content, again in (("A", False), ("B", True)):
        folder = finish(RunStore(tmp_path, force=True), content="A", epochs=3)
        (folder / "unit.json").write_text("{")
        folder = finish(RunStore(tmp_path, force=True), content=content, epochs=3)
        assert (" made again " in fingerprint_of(folder)) == again


def test_a_command_that_only_reads_says_what_is_out_of_date(tmp_path: Path) -> None:
    def replies(store: RunStore, content: str) -> Path:
        model = finish(RunStore(tmp_path, force=content != "kept"), "models/ga", content)
        return finish(store, "eval/forget_5/ga/responses", content, model=fingerprint_of(model))

    replies(RunStore(tmp_path), "A")
    said = r"ga/responses: was made from what has been made again since\. 'mllmu run' with the recipe makes it again"
    with pytest.raises(RunStoreError, match=said):
        replies(ReadingStore(tmp_path), "B")
    assert (replies(RunStore(tmp_path), "kept") / "file.txt").read_text() == "kept"
    assert replies(ReadingStore(tmp_path), "kept").is_dir()
    assert not list(tmp_path.rglob(".*.building"))
    finish(
        RunStore(tmp_path, force=True),
        "eval/forget_5/ga/responses",
        "new",
        model=fingerprint_of(tmp_path / "models/ga"),
    )
    with pytest.raises(RunStoreError, match="made with other settings: epochs was None, is now 3"):
        ReadingStore(tmp_path).unit(
            "eval/forget_5/ga/responses", {"model": fingerprint_of(tmp_path / "models/ga"), "epochs": 3}
        )
