"""What several processes of a run share, without starting any: division, refusals, and what one process does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mllmu.core.errors import ModelError, ProcessError
from mllmu.models.families import Turn
from mllmu.models.loading import choose_device
from mllmu.parallel import team as processes
from mllmu.training.distributed import share


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process is the last of three."""
    for name, value in {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_without_a_launcher_there_is_one_process_that_leads() -> None:
    assert (processes.count(), processes.rank(), processes.local_rank(), processes.leads()) == (1, 0, 0, True)
    assert processes.own_share([1, 2, 3]) == [0, 1, 2]
    processes.only_alone("mllmu tune")
    processes.wait_for_all()


def test_a_launcher_is_recognised_by_its_variables(launched: pytest.MonkeyPatch) -> None:
    assert (processes.count(), processes.rank(), processes.local_rank(), processes.leads()) == (3, 2, 1, False)
    launched.delenv("MASTER_ADDR")
    assert processes.count() == 1, "a batch system sets some of them too"


def test_every_item_has_one_owner_and_the_loads_are_even(launched: pytest.MonkeyPatch) -> None:
    weights = [7.0, 1.0, 1.0, 5.0, 6.0, 4.0]
    owned = []
    for rank in "012":
        launched.setenv("RANK", rank)
        owned.append(processes.own_share(weights))
    assert sorted(place for own in owned for place in own) == list(range(6))
    assert sorted(sum(weights[place] for place in own) for own in owned) == [7.0, 8.0, 9.0]
    assert all(own == sorted(own) for own in owned)


def test_turns_of_one_image_stay_together_and_shares_differ_by_one() -> None:
    images = ["a", "b", "a", "c", "a", "b", "c"]
    turns = [Turn(prompt=f"{n}", image=Path(name)) for n, name in enumerate(images)]
    assert share(turns, 1) == [[0, 2, 4, 1, 5, 3, 6]]
    assert share(turns, 3) == [[0, 2, 4], [1, 5], [3, 6]]
    assert share(turns[:2], 3) == [[0], [1], []]


def test_what_is_made_for_one_process_refuses_more_and_says_it_once(launched: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        processes.only_alone("mllmu tune")
    launched.setenv("RANK", "0")
    with pytest.raises(ProcessError, match="mllmu tune works in one process, and 3 were started"):
        processes.only_alone("mllmu tune")


def test_commands_for_one_process_refuse_more(launched: pytest.MonkeyPatch) -> None:
    from mllmu.cli.app import app

    launched.setenv("RANK", "0")
    done = CliRunner().invoke(app, ["validate", "recipes/demo.yaml"])
    assert done.exit_code == 2
    assert "mllmu validate works in one process" in done.output


def test_a_gpu_is_one_of_its_own_or_a_clear_error(launched: pytest.MonkeyPatch) -> None:
    import torch

    launched.setattr(torch.cuda, "is_available", lambda: True)
    launched.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda", 1)
    with pytest.raises(ModelError, match="would be the GPU of all 3 processes"):
        choose_device("cuda:0")
    launched.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ModelError, match="process 1 of this machine has no GPU of its own, 1 are visible"):
        choose_device("auto")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_leader_that_finds_another_process_gone_between_two_tasks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import distributed as dist

    def closed(*_: object, **__: object) -> None:
        raise RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:7897")

    monkeypatch.setattr(dist, "broadcast_object_list", closed)
    own: Any = processes.Team.__new__(processes.Team)
    own.run, own._control, own._notes = "run", None, SimpleNamespace(check=lambda _: False)
    with pytest.raises(ProcessError, match=r"a process of this run is gone .*The same command continues"):
        own.send(None, {})
