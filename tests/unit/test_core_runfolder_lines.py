"""JSON lines that a killed process was writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllmu.core.errors import DataError
from mllmu.core.records import Response
from mllmu.core.runfolder import Journal

RESPONSES = [Response(sample_id=str(n), text="Čeština ‘ok’", num_tokens=1, finished=True) for n in range(3)]


def test_what_is_appended_is_read_back_but_for_a_line_cut_short(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", Response)
    assert journal.read() == []
    journal.append(RESPONSES[:1])
    journal.append(RESPONSES[1:])
    assert journal.read() == RESPONSES
    whole = journal.path.read_bytes()
    for cut in range(1, len(whole) // 3):
        journal.path.write_bytes(whole[:-cut])
        assert journal.read() == RESPONSES[:2], "also when a letter of several bytes is cut in two"


def test_appending_after_a_crash_starts_on_a_new_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", Response)
    assert journal.resume() == []
    journal.append(RESPONSES[:2])
    journal.path.write_bytes(journal.path.read_bytes()[:-9])
    assert journal.resume() == RESPONSES[:1]
    journal.append(RESPONSES[1:])
    assert journal.read() == RESPONSES


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"sample_id": "1", "text": "a", "num_tokens": 1, "finished": true}\n{"x": 1}\n')
    with pytest.raises(DataError, match=r"journal\.jsonl:2: "):
        Journal(path, Response).read()
