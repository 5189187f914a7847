"""What is about real people does not go to a hub without being asked for twice, and its card says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers_explorer import make_evaluated_run
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.core import plugins
from mllmu.core.errors import MllmuError
from mllmu.core.records import ModelRef, Profile
from mllmu.data.dataset import Dataset
from mllmu.data.datasets_folder import card
from mllmu.data.personal import check_push, real_people
from mllmu.data.sources import Source
from mllmu.pipeline.model_card import model_card

TABLE = {"name": "people", "path": "staff.csv"}


class Neighbours(Source):
    """A source of somebody's own, which says nothing of its people."""

    def profiles(self, seed: int) -> list[Profile]:
        raise NotImplementedError(seed)


def section(**data: object):  # type: ignore[no-untyped-def]
    return parse({"name": "x", "data": data}).data


@pytest.mark.parametrize("name", [name for name in plugins.names("sources") if name != "people"])
def test_the_sources_of_benchmarks_declare_their_people_invented(name: str) -> None:
    assert plugins.find("sources", name).invented is True


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": TABLE}, "data.source: people"),
        ({"source": {**TABLE, "pseudonymise": False}}, "data.source: people"),
        ({"source": "synthetic", "holdout_source": TABLE}, "data.holdout_source: people"),
        ({"source": f"{__name__}:Neighbours"}, "Neighbours"),
        ({"source": "synthetic", "portraits": "folder"}, "data.portraits: folder"),
        ({"portraits": {"name": "arc2face", "path": "m", "embedder": "e"}}, "data.portraits: arc2face"),
    ],
)
def test_data_of_real_people_are_refused_unless_the_risk_is_named(data: dict[str, object], said: str) -> None:
    found = section(**data)
    with pytest.raises(MllmuError, match=f"(?s){said}.*--push-real-people"):
        check_push(found, "me/people", allowed=False)
    check_push(found, "me/people", allowed=True)
    check_push(found, None, allowed=False)


def test_invented_people_are_pushed_as_before() -> None:
    check_push(section(source="synthetic"), "me/people", allowed=False)
    check_push(section(source="synthetic", portraits={"name": "diffusion", "path": "m"}), "me/people", allowed=False)


def test_the_commands_refuse_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: list[str] = []
    monkeypatch.setattr("mllmu.core.hub.push", lambda folder, *_, **__: uploaded.append(str(folder)))
    (tmp_path / "staff.csv").write_text("name,consent,consent_date\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"name": "x", "data": {"source": {**TABLE, "path": str(tmp_path / "staff.csv")}}}))
    run = make_evaluated_run(tmp_path / "run")
    recipe.rename(run / "recipe.yaml")
    exported = ["--export", "datasets", "--export-dir", str(tmp_path / "out"), "--out", str(tmp_path / "made")]
    for command in (
        ["export-model", str(run), "target", str(tmp_path / "out"), "--push", "me/x"],
        ["data", str(run / "recipe.yaml"), *exported, "--push", "me/x"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2 and "refused" in done.output and "--push-real-people" in done.output
    assert not (tmp_path / "out").exists() and not (tmp_path / "made").exists() and not uploaded


def test_the_cards_say_whose_data_they_are(tmp_path: Path) -> None:
    about = {"title": "t", "source": "people", "seed": 0}
    nobody = Dataset(tmp_path, [], [], {})
    assert "do not publish" in card(nobody, {}, {}, real=True, **about).casefold()  # type: ignore[arg-type]
    assert "invented" in card(nobody, {}, {}, **about)  # type: ignore[arg-type]
    ref = ModelRef(base="tiny")
    real, invented = (parse({"name": "x", "data": {"source": source}}) for source in (TABLE, "synthetic"))
    assert real_people(real.data) and "## Personal data" in model_card(tmp_path, real, "target", ref)
    assert "## Personal data" not in model_card(tmp_path, invented, "target", ref)
