"""``mllmu get mllmu-bench``: two files from a local copy of either form, and a clear word without a hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import published_copy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import DataError
from mllmu.data.published.text_copy import IDS, TEXT, fetch
from mllmu.data.sources.mllmu_bench import MllmuBench

PAIR = {"Question": "What is the name of this person?", "Answer": "This person's name is Ada Bell."}


def copy(folder: Path, ids: object = None, name: str = "train_qa.jsonl") -> Path:
    folder.mkdir()
    lines = [json.dumps({"ID": f"00{n}", "metadata": [PAIR] * n}) + "\n" for n in (1, 2, 3)]
    (folder / name).write_text("".join(lines), encoding="utf-8")
    (folder / IDS).write_text(json.dumps({"forget_5": [2]} if ids is None else ids), encoding="utf-8")
    return folder


def test_a_copy_of_the_two_files_is_read_by_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["get", "mllmu-bench", "--from", str(copy(tmp_path / "copy"))])
    assert done.exit_code == 0, done.output
    assert f"mllmu-bench/{TEXT}: 3 people, 6 training pairs" in done.output and "forget_5 1" in done.output
    assert json.loads((tmp_path / "mllmu-bench" / IDS).read_text()) == {"forget_5": ["002"]}
    assert len(MllmuBench(path=tmp_path / "mllmu-bench" / TEXT).profiles(0)) == 3
    again = CliRunner().invoke(app, ["get", "mllmu-bench", "--from", "copy"])
    assert again.exit_code == 0


def test_a_person_on_two_lines_keeps_the_pairs_of_both(tmp_path: Path) -> None:
    source = copy(tmp_path / "copy")
    more = {"ID": "002", "metadata": [{"Question": "What is her job?", "Answer": "She is a nurse."}]}
    with (source / "train_qa.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(more) + "\n")
    assert fetch(source, tmp_path / "out") == (3, 7, {"forget_5": 1})
    lines = map(json.loads, (tmp_path / "out" / TEXT).read_text(encoding="utf-8").splitlines())
    assert {line["ID"]: len(line["metadata"]) for line in lines} == {"001": 1, "002": 3, "003": 3}


def test_a_folder_of_the_published_configs_gives_the_same_text(tmp_path: Path) -> None:
    dataset = published_copy.write_copy(tmp_path)
    found = fetch(tmp_path / "bench", tmp_path / "text")
    assert found.people == published_copy.NUM_PEOPLE and found.forget == {"forget_5": 1, "forget_10": 2, "forget_15": 3}
    assert json.loads((tmp_path / "text" / IDS).read_text())["forget_15"] == list(dataset.splits["15"])
    said = {person.id: person.training_qa for person in MllmuBench(path=tmp_path / "bench").profiles(0)}
    lines = map(json.loads, (tmp_path / "text" / TEXT).read_text(encoding="utf-8").splitlines())
    read = {line["ID"]: tuple((pair["Question"], pair["Answer"]) for pair in line["metadata"]) for line in lines}
    assert read == {person: tuple((pair.question, pair.answer) for pair in pairs) for person, pairs in said.items()}
    assert found.pairs == sum(map(len, said.values())) > 0


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({"forget_5": ["009"]}, "no person '009' has training text"),
        ([1], "no forget sets"),
        ({"a": "b"}, "no forget sets"),
    ],
)
def test_sets_that_do_not_fit_the_text_are_refused(tmp_path: Path, ids: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        fetch(copy(tmp_path / "copy", ids), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_text_is_named_with_its_line(tmp_path: Path) -> None:
    source = copy(tmp_path / "copy", name=TEXT)
    with (source / TEXT).open("a", encoding="utf-8") as file:
        file.write('{"ID": \n')
    with pytest.raises(DataError, match=rf"{TEXT}:4: not valid JSON"):
        fetch(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"no such folder.*--from"):
        fetch(tmp_path / "none", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"ID": "004", "metadata": 5}', r"ft_data\.jsonl:4: metadata: expected a list of pairs .*, got 5"),
        ('{"ID": "004", "metadata": {"Question": "?", "Answer": "!"}}', r":4: metadata: expected a list"),
        ('{"ID": "004", "metadata": [5]}', r":4: metadata: expected pairs of Question and Answer, got 5"),
        ('{"ID": "004", "metadata": [{"Question": "?", "Answer": 5}]}', r":4: metadata: expected pairs"),
        ('{"ID": "004", "metadata": [{"Question": "?", "Answer": "\\ud800"}]}', r":4: not valid JSON .*surrogates"),
        ("[" * 100_000, r":4: not valid JSON"),
        ('{"ID": "Ren\xe9"}', r"ft_data\.jsonl: not UTF-8 text .* at byte \d+"),
    ],
    ids=["a number", "one pair", "no pair", "an answer that is none", "half a character", "too deep", "Latin-1"],
)
def test_a_text_that_is_none_is_named_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    source = copy(tmp_path / "copy", name=TEXT)
    with (source / TEXT).open("ab") as file:
        file.write(content.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=said):
        fetch(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_forget_sets_in_another_encoding_are_named(tmp_path: Path) -> None:
    source = copy(tmp_path / "copy")
    (source / IDS).write_bytes('{"forget_5": ["é"]}'.encode("utf-16"))
    with pytest.raises(DataError, match=r"forget_ids\.json: not UTF-8 text"):
        fetch(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "columns", "said"),
    [
        ("forget_10", {"person": ["1"]}, r"forget_10: no column 'ID'; it has person"),
        ("ft_Data", {"text": ["1"]}, r"ft_Data: no column 'metadata'; it has text"),
        ("ft_Data", {"metadata": [5]}, r"ft_Data: row 0: metadata: expected a list"),
        ("ft_Data", {"metadata": [json.dumps([PAIR])]}, r"ft_Data: row 0: metadata: a pair has no ID"),
    ],
)
def test_a_published_table_without_its_columns_is_named(
    tmp_path: Path, config: str, columns: dict[str, list[object]], said: str
) -> None:
    published_copy.write_copy(tmp_path)
    (path,) = (tmp_path / "bench" / config).glob("*.parquet")
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match=said):
        fetch(tmp_path / "bench", tmp_path / "out")


def test_without_a_hub_one_line_says_what_to_do(tmp_path: Path) -> None:
    code = "from mllmu.cli.app import main; main()"
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": ":".join(sys.path),
        "PATH": "/usr/bin",
    }
    call = [sys.executable, "-c", code, "get", "mllmu-bench", "--to", "out"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "MLLMMU/MLLMU-Bench" in done.stderr and "--from" in done.stderr and not (tmp_path / "out").exists()


def test_names_and_options_are_checked(tmp_path: Path) -> None:
    assert "Did you mean 'mllmu-bench'?" in CliRunner().invoke(app, ["get", "mllmu-bensh"]).output
    assert "--to is for mllmu-bench" in CliRunner().invoke(app, ["get", "smol", "--to", str(tmp_path / "x")]).output
