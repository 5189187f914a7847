"""Which requests stand and rest on which, by the hashes of the ledger alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllmu.core.errors import RunStoreError
from mllmu.requests.ledger import Ledger
from mllmu.requests.standing import check_start, rests_on, standing


def ledger(folder: Path, *lines: str) -> Ledger:
    """A ledger of 'request status before after', hashes as single letters."""
    found = Ledger(folder)
    for line in lines:
        name, status, *hashes = line.split()
        before, after = hashes or ("", "")
        found.append(name, status.replace("_", " "), before=before, after=after)  # type: ignore[arg-type]
    return found


def test_of_two_requests_the_one_that_began_from_the_other_rests_on_it_whichever_was_received_first(
    tmp_path: Path,
) -> None:
    entries = ledger(
        tmp_path, "r001 received", "r002 received", "r002 applied a b", "r002 verified a b", "r001 applied b c",
        "r001 verified b c",
    ).entries()  # fmt: skip
    assert [one.name for one in standing(entries)] == ["r002", "r001"]
    assert (rests_on(entries, "r002"), rests_on(entries, "r001")) == ("r001", "")


def test_requests_that_began_from_the_same_model_do_not_rest_on_each_other(tmp_path: Path) -> None:
    entries = ledger(tmp_path, "r001 applied a b", "r002 applied a c", "r002 verified a c").entries()
    assert not rests_on(entries, "r001") and not rests_on(entries, "r002")


def test_a_request_rests_on_one_whose_model_a_purge_wrote_anew(tmp_path: Path) -> None:
    """r002 is rolled back to b and purged, which makes one adapter of b, m; r003 begins from that."""
    lines = ("r001 applied a b", "r001 verified a b", "r002 applied b c", "r002 rolled_back c b", "r002 purged b m",
             "r003 applied m d")  # fmt: skip
    entries = ledger(tmp_path, *lines).entries()
    assert [(one.name, one.hashes) for one in standing(entries)] == [("r001", ("b", "m")), ("r003", ("d",))]
    assert rests_on(entries, "r001") == "r003"


@pytest.mark.parametrize(
    ("lines", "begins", "said"),
    [
        ((), "x", ""),
        (("r001 applied a b", "r001 verified a b"), "b", ""),
        (("r001 applied a b", "r001 verified a b"), "a", "has the hash a, but r001, .*hash b"),
        (("r001 applied a b", "r001 rolled_back b a"), "x", ""),
        (("r001 applied a b", "r001 refused"), "x", ""),
        (("r001 applied a b",), "b", "r001 is applied and not finished"),
        (("r001 applied a b", "r001 verified a b", "r001 purged b m"), "b", "has the hash b, but r001, .*hash m"),
        (("r001 applied a b", "r001 verified a b", "r001 purged b m"), "m", ""),
        (("r009 received", "r009 applied a b"), "x", ""),
    ],
)
def test_a_request_begins_from_what_the_last_one_left(
    tmp_path: Path, lines: tuple[str, ...], begins: str, said: str
) -> None:
    ledger(tmp_path, *lines)
    if said:
        with pytest.raises(RunStoreError, match=said):
            check_start(tmp_path, "r009", lambda: begins)
    else:
        check_start(tmp_path, "r009", lambda: begins)
