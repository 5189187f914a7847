"""JSON lines that a killed process was writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.records import Response
from mllmu.core.runfolder import Journal, read_json, read_lines, read_record, seal, write_json

RESPONSES = [Response(sample_id=str(n), text="Čeština ‘ok’", num_tokens=1, finished=True) for n in range(3)]


def test_what_is_appended_is_read_back_but_for_a_batch_cut_short(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", Response)
    assert journal.read() == []
    journal.append(RESPONSES[:1])
    journal.append(RESPONSES[1:])
    assert journal.read() == RESPONSES
    whole = journal.path.read_bytes()
    assert journal.batches() == [RESPONSES[:1], RESPONSES[1:]]
    for cut in range(2, len(whole) // 2):
        journal.path.write_bytes(whole[:-cut])
        assert journal.read() == RESPONSES[:1], "a batch is there as a whole or not at all"


def test_a_damaged_byte_costs_its_batch_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", Response)
    for response in RESPONSES:
        journal.append([response])
    lines = journal.path.read_bytes().splitlines(keepends=True)
    for place in range(len(lines[1]) - 1):
        flipped = bytearray(lines[1])
        flipped[place] ^= 4
        journal.path.write_bytes(lines[0] + bytes(flipped) + lines[2])
        assert journal.read() == [RESPONSES[0], RESPONSES[2]], place


def test_appending_after_a_crash_starts_on_a_new_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", Response)
    assert journal.resume() == []
    journal.append(RESPONSES[:1])
    journal.append(RESPONSES[1:])
    journal.path.write_bytes(journal.path.read_bytes()[:-9])
    assert journal.resume() == RESPONSES[:1]
    journal.append(RESPONSES[1:])
    assert journal.read() == RESPONSES


def test_a_damaged_line_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text('{"sample_id": "1", "text": "a", "num_tokens": 1, "finished": true}\n{"x": 1}\n')
    said = r"responses\.jsonl: damaged \(line 2: sample_id: Field required; expected one Response record\)\. Move .*"
    with pytest.raises(RunStoreError, match=said):
        read_lines(path, Response)
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file\. Run the stage that writes it first"):
        read_lines(tmp_path / "gone.jsonl", Response)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"3", b'"x"', b"{", b"\xff", b"[" * 10_000, b'{"a": 1, "a'])
def test_a_record_that_is_no_object_is_one_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    path.write_bytes(content)
    with pytest.raises(RunStoreError, match=r"gate\.json: damaged \([^()]+.*\)\. Move .*gate\.json away"):
        read_json(path)
    with pytest.raises(RunStoreError, match=r"gate\.json: damaged"):
        read_record(path, dict[str, str])


def test_a_sealed_record_notices_every_other_value(tmp_path: Path) -> None:
    path, record = tmp_path / "gate.json", {"value": 0.25, "names": ["ä", None], "nested": {"1": [True]}}
    write_json(path, seal(record))
    assert read_json(path, sealed=True) == record
    text = path.read_text()
    for old, new in (("0.25", "0.35"), ("ä", "a"), ("null", "0"), ("true", "false"), ("nested", "nestet")):
        path.write_text(text.replace(old, new))
        with pytest.raises(RunStoreError, match="its digest is another one"):
            read_json(path)
    path.write_text('{"value": 0.25}')
    assert read_json(path) == {"value": 0.25}
    with pytest.raises(RunStoreError, match="does not end in its digest"):
        read_json(path, sealed=True)
