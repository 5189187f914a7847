"""A benchmark of one's own from a model's words, end to end; a server on loopback stands in for the endpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_factory import factory
from llm_server import KEY, Body, LlmServer, rating
from mini_run import settings
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.records import Profile, Question
from mllmu.core.runfolder import read_lines
from mllmu.data.questions import Rejected, check

NUM_PEOPLE = 4


def answer(body: Body) -> str:
    judging = "You grade" in body["messages"][0]["content"]
    return rating(7) if judging else factory(body)


@pytest.fixture
def server(loopback: None) -> Iterator[LlmServer]:
    with LlmServer(answer) as running:
        yield running


def recipe(folder: Path, base: Path, server: LlmServer, **endpoint: Any) -> Path:
    """Four invented people with model-written questions; one method, one person of every set asked."""
    raw = settings(base)
    asked = {"name": "llm", "model": "m", "base_url": server.base_url, "cache": str(folder / "cache"), **endpoint}
    raw["data"] |= {
        "source": {**asked, "num_people": NUM_PEOPLE, "batch_size": 3},
        "questions": {**asked, "max_rounds": 4},
        "splits": {"forget_ratios": [0.05, 0.1, 0.15], "holdout": 1},
    }
    judge = {key: value for key, value in asked.items() if key != "name"}
    raw["unlearn"]["methods"] = ["ga"]
    raw["finetune"]["epochs"] = 1
    raw["evaluate"] |= {
        "judges": ["rule", {"name": "endpoint", **judge}],
        "max_profiles": {"forget": 1, "test": 1, "retain": 1, "celebrity": 1, "holdout": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def requests(server: LlmServer) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in server.bodies)


def test_people_questions_and_rewordings_are_made_exported_and_run_through_the_main_job(
    base: Path, tmp_path: Path, server: LlmServer
) -> None:
    server.script = ["429", "500", "half", "reset", "say:{}", "html"]
    path, root, export = recipe(tmp_path, base, server), tmp_path / "run", tmp_path / "exported"
    arguments = ["--out", str(root), "--export", "mllmu-bench", "--export-dir", str(export)]
    made = CliRunner().invoke(app, ["data", str(path), *arguments])
    assert made.exit_code == 0, made.output
    assert len(list(export.rglob("*.parquet"))) > 5

    people = read_lines(root / "data" / "profiles.jsonl", Profile)[:NUM_PEOPLE]
    questions = [
        q for q in read_lines(root / "data" / "questions.jsonl", Question) if q.profile_id in {p.id for p in people}
    ]
    check(questions, people)
    counts = Counter(q.variant for q in questions if q.variant != "train")
    assert counts == {"eval": 18 * NUM_PEOPLE, "test": 18 * NUM_PEOPLE}
    facts = json.loads((root / "data" / "unit.json").read_text())["facts"]["questions"]
    assert facts["written"] == 18 * (NUM_PEOPLE + 1) and facts["by_template"] == 0
    rejected = (
        read_lines(root / "data" / "rejected.jsonl", Rejected) if (root / "data" / "rejected.jsonl").exists() else []
    )
    assert facts["rejected"] == len(rejected)

    paid = len(server.bodies)
    # one forget ratio is enough for the main job; the data are made anew, from kept replies
    root = tmp_path / "main"
    done = CliRunner().invoke(app, ["run", str(path), "--out", str(root), "--set", "data.splits.forget_ratios=[0.15]"])
    assert done.exit_code == 0, done.output
    assert {"Factuality, judge rule", "Factuality, judge endpoint"} <= set(_titles(done.output))
    assert all("You grade" in body["messages"][0]["content"] for body in server.bodies[paid:])
    page = (root / "report" / "index.html").read_text(encoding="utf-8")
    assert "Factuality, judge endpoint" in page and "no language model has read the answers" in page
    for file in (f for f in root.rglob("*") if f.is_file() and f.suffix in (".json", ".jsonl", ".yaml", ".html")):
        assert KEY not in file.read_text(encoding="utf-8"), file


def _titles(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if line.strip().startswith("Factuality, judge")]


def test_a_process_killed_in_the_middle_goes_on_without_paying_twice(
    base: Path, tmp_path: Path, server: LlmServer
) -> None:
    path, root = recipe(tmp_path, base, server, concurrency=1), tmp_path / "run"
    stuck = 6
    reached: list[float] = []

    def slow(body: Body) -> str:
        if len(server.bodies) == stuck and not reached:
            reached.append(time.monotonic())
            server.closing.wait(20)  # until the client is gone
        return answer(body)

    server.answer = slow
    command = [sys.executable, "-m", "mllmu", "data", str(path), "--out", str(root)]
    with subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not reached and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert reached and not (root / "data").exists()
    before = requests(server)
    assert len(server.bodies) == stuck

    server.answer = answer
    again = CliRunner().invoke(app, ["data", str(path), "--out", str(root)])
    assert again.exit_code == 0, again.output
    twice = {text for text, count in requests(server).items() if count > 1}
    assert len(twice) == 1 and twice <= set(before), "only the request that was never answered is sent again"


@pytest.mark.parametrize(
    ("script", "endpoint", "message"),
    [
        (["401"], {}, "key in the environment variable OPENAI_API_KEY is not accepted"),
        (["404"], {}, "endpoint knows the model 'm'"),
        (["500"] * 3, {"max_attempts": 2}, "no answer in 2 attempts, the last time: status 500"),
        (["silence"] * 3, {"max_attempts": 1, "timeout_s": 0.2}, "no complete reply within 0.2 s"),
        (["say:no"] * 40, {"repair_turns": 0, "max_rounds": 5}, "first 5 calls to 'm' were all in vain"),
        ([], {"max_requests": 2}, "budget reached: max_requests is 2"),
        (["302"], {}, "Redirects are not followed"),
    ],
)
def test_a_fault_of_the_endpoint_is_one_clear_line_and_exit_code_2(
    base: Path, tmp_path: Path, server: LlmServer, script: list[str], endpoint: dict[str, Any], message: str
) -> None:
    server.script = script
    raw = yaml.safe_load(recipe(tmp_path, base, server, concurrency=1, **endpoint).read_text())
    raw["data"]["source"] = {"name": "synthetic", "num_people": 4}
    raw["data"]["questions"] = {"name": "llm", **raw["data"]["questions"], **endpoint}
    raw["evaluate"]["judges"] = []
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    result = CliRunner().invoke(app, ["data", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and message in result.output and KEY not in result.output
    assert not (tmp_path / "run" / "data").exists()
