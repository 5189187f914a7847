"""What making the data would cost, before anybody is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llm_factory import factory
from llm_server import KEY, LlmServer
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import load
from mllmu.config.recipe import DataSection
from mllmu.core.process import SilentProgress
from mllmu.data.preview import previews
from mllmu.pipeline.data import data_unit
from mllmu.pipeline.run import Run

pytestmark = pytest.mark.usefixtures("loopback")


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with LlmServer(factory) as running:
        yield running


def section(server: LlmServer, cache: Path, source: str) -> DataSection:
    endpoint = {"name": "llm", "model": "m", "base_url": server.base_url, "cache": str(cache)}
    people = {**endpoint, "num_people": 3} if source == "llm" else {"name": source, "num_people": 3}
    return DataSection.model_validate(
        {"source": people, "questions": endpoint, "splits": {"forget_ratios": [0.4], "holdout": 1}}
    )


def test_questions_about_people_who_are_there_are_shown_and_counted(server: LlmServer, tmp_path: Path) -> None:
    (asked,) = previews(section(server, tmp_path, "synthetic"), 0, 2)
    assert (asked.part, asked.known, asked.preview.num_calls) == ("data.questions", True, 3 * 4 + 2)
    assert len(asked.preview.prompts) == 2 and server.bodies == []


def test_people_who_are_not_invented_yet_are_only_counted(server: LlmServer, tmp_path: Path) -> None:
    wanted = section(server, tmp_path, "llm")
    people, questions = previews(wanted, 0, 2)
    assert (people.part, people.preview.num_calls, people.known) == ("data.source", 1, True)
    assert (questions.preview.num_calls, questions.known, questions.preview.prompts) == (14, False, ())
    wanted.source.build("sources", "data.source").generate(0, SilentProgress())
    people, questions = previews(wanted, 0, 1)
    assert (people.preview.num_cached, questions.known, len(questions.preview.prompts)) == (1, True, 1)
    assert len(server.bodies) == 1


def test_the_command_line_shows_prompts_and_counts_and_makes_nothing(server: LlmServer, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\ndata:\n  source: {name: synthetic, num_people: 3}\n"
        f"  questions: {{name: llm, model: m, base_url: '{server.base_url}', cache: '{tmp_path}'}}\n"
    )
    result = CliRunner().invoke(app, ["data", str(recipe), "--dry-run", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert (
        "You write questions" in result.output and "data.questions: 28 calls to an endpoint, 0 of them" in result.output
    )
    assert not (tmp_path / "run").exists() and server.bodies == [] and KEY not in result.output
    offline = CliRunner().invoke(app, ["data", str(recipe), "--dry-run", "--set", "data.questions=template"])
    assert "no part of the data calls an endpoint" in offline.output


def test_more_patience_or_a_larger_budget_leaves_finished_data_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\ndata: {questions: {name: llm, model: m}}\n")

    def fingerprint(*overrides: str) -> str:
        return data_unit(Run(load(recipe, overrides), tmp_path / "run", SilentProgress())).fingerprint

    first = fingerprint()
    assert fingerprint("data.questions.max_requests=5", "data.questions.concurrency=2") == first
    assert fingerprint("data.questions.model=n") != first
