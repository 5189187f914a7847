"""The ledger of requests: what attackers do to it is found, with the line; a killed process loses no entry."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.runfolder import write_json
from mllmu.requests.ledger import HEAD, LEDGER, Ledger, RequestEntry, Status, canonical, parse_entry
from mllmu.requests.ledger_check import check_ledger
from mllmu.requests.signing import PASSPHRASE, Signer, is_signed, read_public

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519", reason="needs the extra 'sign'")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")


def make_key(folder: Path, name: str, *, kind: str = "PKCS8", passphrase: bytes = b"") -> tuple[Path, Path]:
    """A private and a public key file as openssl or ssh-keygen writes them."""
    key = ed25519.Ed25519PrivateKey.generate()
    how = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase and kind == "PKCS8"
        else serialization.NoEncryption()
    )
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, kind), how))
    private.chmod(0o600)
    ssh = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(key.public_key().public_bytes(*(pem if kind == "PKCS8" else ssh)))
    return private, public


def fill(folder: Path, private: Path | None, number: int = 5) -> list[RequestEntry]:
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder, Signer(private, apart_from=folder) if private else None)
    return [ledger.append(f"r{i:03d}", "received", subjects=("p1", "p2"), scope=("salary",)) for i in range(number)]


def change(folder: Path, edit: Callable[[list[str]], list[str]]) -> None:
    path = folder / LEDGER
    path.write_text("".join(f"{line}\n" for line in edit(path.read_text().splitlines())))


def edited(line: str, *, hashed: bool = False, **fields: object) -> str:
    entry = RequestEntry.model_validate_json(line).model_copy(update=fields)
    return canonical((entry.model_copy(update={"hash": entry.own_hash}) if hashed else entry).model_dump())


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_key(tmp_path, "own")


def test_a_ledger_that_nobody_touched_is_in_order(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    entries = fill(tmp_path / "d", keys[0])
    public = read_public(keys[1])
    found = check_ledger(tmp_path / "d", public=public, head=entries[2].hash)
    assert found.faults == [] and found.limits == [] and found.num_entries == 5 and found.head == entries[-1].hash
    assert is_signed("mllmu ledger entry", entries[0].own_hash, entries[0].signature, public)
    assert not is_signed("mllmu certificate", entries[0].own_hash, entries[0].signature, public)


@pytest.mark.parametrize(
    ("edit", "first", "says"),
    [
        (lambda r: [*r[:2], edited(r[2], status="verified"), *r[3:]], 3, "was edited"),
        (lambda r: [*r[:2], edited(r[2], hashed=True, reason="x"), *r[3:]], 3, "its signature"),
        (lambda r: [*r[:2], edited(r[2], subjects=("p9",)), *r[3:]], 3, "was edited"),
        (lambda r: [*r[:1], *r[2:]], 2, "dropped"),
        (lambda r: r[1:], 1, "dropped"),
        (lambda r: [r[0], r[2], r[1], *r[3:]], 2, "not in its place"),
        (lambda r: [*r[:4], r[3], r[4]], 5, "not in its place"),
        (lambda r: r[:-1], 5, "cut off"),
        (lambda r: r[:2], 3, "cut off"),
        (lambda r: [*r[:4], r[4][:40]], 5, "is no entry"),
        (lambda r: [*r[:4], r[4].replace("received", "recieved")], 5, "is no entry"),
        (lambda r: [*r[:3], "", *r[3:]], 4, "is no entry"),
    ],
)
def test_what_is_done_to_lines_is_found_and_the_line_named(
    tmp_path: Path, keys: tuple[Path, Path], edit: Callable[[list[str]], list[str]], first: int, says: str
) -> None:
    fill(tmp_path / "d", keys[0])
    change(tmp_path / "d", edit)
    faults = check_ledger(tmp_path / "d", public=read_public(keys[1])).faults
    assert faults[0].startswith(f"line {first}: ") and says in " ".join(faults[:2])
    before = (tmp_path / "d" / LEDGER).read_bytes()
    with pytest.raises(RunStoreError, match="Nothing was added"):
        Ledger(tmp_path / "d", Signer(keys[0], apart_from=tmp_path / "d")).append("r9", "received")
    assert (tmp_path / "d" / LEDGER).read_bytes() == before


def test_a_cut_tail_with_an_older_head_is_found_by_a_hash_from_elsewhere(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    folder, public = tmp_path / "d", read_public(keys[1])
    fill(folder, keys[0], 3)
    older = (folder / HEAD).read_bytes()
    last = Ledger(folder, Signer(keys[0], apart_from=folder)).append("r9", "refused", reason="unknown").hash
    change(folder, lambda rows: rows[:3])
    (folder / HEAD).write_bytes(older)
    cut = check_ledger(folder, public=public)
    assert cut.faults == [] and "--head" in cut.limits[0]
    (fault,) = check_ledger(folder, public=public, head=last).faults
    assert fault.startswith("line 4: ") and "cut off" in fault


def test_a_ledger_written_anew_with_another_key_is_found_by_the_public_key(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    foreign = make_key(tmp_path, "foreign")
    fill(tmp_path / "d", foreign[0], 2)
    assert check_ledger(tmp_path / "d").faults == [] and "Whose key" in check_ledger(tmp_path / "d").limits[0]
    faults = check_ledger(tmp_path / "d", public=read_public(keys[1])).faults
    assert [fault.split(":")[0] for fault in faults] == ["line 1", "line 2", "line 2"]
    assert "another key than the given public key" in faults[0] and HEAD in faults[2]


def test_one_line_signed_with_another_key_is_found_without_any_key(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    fill(tmp_path / "d", keys[0], 2)
    foreign = Signer(make_key(tmp_path, "foreign")[0], apart_from=tmp_path / "d")
    entry = RequestEntry.model_validate_json((tmp_path / "d" / LEDGER).read_text().splitlines()[1])
    named = entry.model_copy(update={"key": foreign.public})
    signed = named.model_copy(update={"hash": named.own_hash})
    signed = signed.model_copy(update={"signature": foreign.sign("mllmu ledger entry", signed.hash)})
    change(tmp_path / "d", lambda rows: [rows[0], canonical(signed.model_dump())])
    assert "line 2: names another key than the key of the first entry" in check_ledger(tmp_path / "d").faults


def test_without_signatures_it_is_said_what_cannot_be_excluded(tmp_path: Path) -> None:
    fill(tmp_path / "d", None, 2)
    found = check_ledger(tmp_path / "d")
    assert found.faults == [] and "written them all anew" in found.limits[0]


def test_a_head_that_is_one_entry_behind_is_that_of_a_killed_process(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = tmp_path / "d"
    fill(folder, keys[0], 3)
    older = (folder / HEAD).read_bytes()
    ledger = Ledger(folder, Signer(keys[0], apart_from=folder))
    ledger.append("r3", "received")
    (folder / HEAD).write_bytes(older)
    assert check_ledger(folder, public=read_public(keys[1])).faults == []
    ledger.append("r4", "received")
    assert len(ledger.entries()) == 5 and check_ledger(folder, public=read_public(keys[1])).faults == []
    (folder / HEAD).write_bytes(older)
    assert check_ledger(folder).faults == ["line 3: is not the last entry of which requests.head.json speaks"]
    (folder / HEAD).unlink()
    assert "is gone" in check_ledger(folder).faults[0]


WRITER = """
import sys
from pathlib import Path
from mllmu.requests.ledger import Ledger
from mllmu.requests.signing import Signer
folder = Path(sys.argv[1])
ledger = Ledger(folder, Signer(Path(sys.argv[2]), apart_from=folder))
for number in range(10_000):
    print(ledger.append(f"r{number}", "received").hash, flush=True)
"""


def test_a_process_killed_while_it_writes_loses_no_entry(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    acknowledged: list[str] = []
    for wanted in (3, 17, 30):
        command = [sys.executable, "-c", WRITER, str(folder), str(keys[0])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            acknowledged += [writer.stdout.readline().strip() for _ in range(wanted)]
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
        kept = [entry.hash for entry in Ledger(folder).entries()]
        assert [name for name in kept if name in set(acknowledged)] == acknowledged
        assert check_ledger(folder, public=read_public(keys[1]), head=acknowledged[-1]).faults == []


def test_another_key_than_before_and_no_key_are_refused(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = tmp_path / "d"
    fill(folder, keys[0], 1)
    for signer in (None, Signer(make_key(tmp_path, "foreign")[0], apart_from=folder)):
        with pytest.raises(RunStoreError, match="Give that key with --key"):
            Ledger(folder, signer).append("r9", "received")
    assert len(Ledger(folder).entries()) == 1


def test_key_files_of_openssl_and_ssh_are_read_and_others_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = tmp_path / "d"
    private, public = make_key(tmp_path, "ssh", kind="OpenSSH")
    assert Signer(private, apart_from=apart).public == read_public(public)
    locked, public = make_key(tmp_path, "locked", passphrase=b"green door")
    monkeypatch.setenv(PASSPHRASE, "green door")
    assert Signer(locked, apart_from=apart).public == read_public(public)
    monkeypatch.setenv(PASSPHRASE, "red door")
    with pytest.raises(DataError, match="not with this passphrase") as told:
        Signer(locked, apart_from=apart)
    assert "door" not in str(told.value)
    with pytest.raises(DataError, match="Never hand it over"):
        read_public(private)
    private.chmod(0o644)
    with pytest.raises(DataError, match="chmod 600"):
        Signer(private, apart_from=apart)
    with pytest.raises(DataError, match="must not lie in"):
        Signer(private, apart_from=tmp_path)
    (tmp_path / "text.pem").write_text("secret words\n")
    (tmp_path / "text.pem").chmod(0o600)
    with pytest.raises(DataError) as told:
        Signer(tmp_path / "text.pem", apart_from=apart)
    assert "secret words" not in str(told.value)


def test_entries_are_checked_as_records(tmp_path: Path) -> None:
    (entry,) = fill(tmp_path / "d", None, 1)
    line = canonical(entry.model_dump())
    assert parse_entry(line) == entry
    assert parse_entry(line.replace('"number":1', '"number":0')) == (
        "number: Input should be greater than or equal to 1"
    )


def test_the_commands_list_show_and_verify(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = tmp_path / "d"
    entries = fill(folder, keys[0], 2)
    run = CliRunner().invoke
    listed = run(app, ["requests", str(folder)])
    assert listed.exit_code == 0 and listed.stdout == run(app, ["requests", str(folder), "list"]).stdout
    assert "r000" in listed.stdout and "received" in listed.stdout
    shown = run(app, ["requests", str(folder), "show", "r001"])
    assert "entry 2" in shown.stdout and "subjects: p1, p2" in shown.stdout and "r000" not in shown.stdout
    assert "knows no request 'r7'" in run(app, ["requests", str(folder), "show", "r7"]).stderr
    verify = ["requests", str(folder), "verify", "--public-key", str(keys[1])]
    assert run(app, verify).stdout.endswith(f"OK: 2 entries, head {entries[-1].hash}\n")
    assert run(app, [*verify, "--head", entries[0].hash]).stdout == f"OK: 2 entries, head {entries[-1].hash}\n"
    assert run(app, [*verify, "--head", "0" * 64]).exit_code == 2
    change(folder, lambda rows: [rows[0], json.dumps(json.loads(rows[1]) | {"status": "verified"})])
    failed = run(app, verify)
    assert failed.exit_code == 2 and "line 2: was edited" in failed.stderr
    assert run(app, ["requests", str(tmp_path), "verify"]).exit_code == 2


def test_two_processes_killed_one_after_the_other_before_the_head_leave_it_one_entry_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    killed_at: tuple[Status, ...] = ("received", "applied")
    for status in killed_at:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            # the first writing of the head mends the one before, where there is something to mend
            writes = iter([write_json] * (status == "applied") + [killed])
            patch.setattr("mllmu.requests.ledger.write_json", lambda *given, left=writes: next(left)(*given))
            Ledger(tmp_path).append("r001", status)
        assert check_ledger(tmp_path).faults == []
    Ledger(tmp_path).append("r001", "verified")
    assert [entry.status for entry in Ledger(tmp_path).entries()] == ["received", "applied", "verified"]
    assert check_ledger(tmp_path).faults == []
