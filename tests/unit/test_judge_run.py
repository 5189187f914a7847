"""Judging the kept replies of a run: resumed, counted, averaged, compared; from the command line as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from llm_server import KEY, Body, LlmServer, rating
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import BudgetError, DataError, RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Response, Sample, Score
from mllmu.core.runfolder import dump_lines, read_lines
from mllmu.evaluation.judges.endpoint import EndpointJudge
from mllmu.evaluation.judges.rule import Rule
from mllmu.evaluation.judging import run, verdicts

pytestmark = pytest.mark.usefixtures("loopback")

MODELS = ("target", "retain_model", "ga")
RIGHT, WRONG = "This person works as a nurse.", "This person works as a baker."


def sample(person: str, split: str, modality: str, task: str = "generation", part: str = "report") -> Sample:
    return Sample.model_validate(
        {
            "id": f"{split}/{person}.eval.{task}.{modality}.1" + ("s" if part == "selection" else ""),
            "question_id": f"{person}.eval.{task}.{modality}.1",
            "profile_id": person,
            "split": split,
            "part": part,
            "task": task,
            "modality": modality,
            "attribute": "profession",
            "prompt": f"What does {person} do ({modality})?\nAnswer the question in one sentence.",
            "target": RIGHT,
            "value": "nurse",
            "max_new_tokens": 50,
        }
    )


SAMPLES = [
    *(sample(f"p{number}", "forget", modality) for number in (1, 2) for modality in ("image_text", "text")),
    *(sample(f"p{number}", "retain", "text") for number in (3, 4, 5)),
    sample("p3", "retain", "text", task="cloze"),
    sample("p5", "retain", "text", part="selection"),
]
NUM_JUDGED = 7
NUM_DISTINCT = 11
"""Replies to be paid for: both models are right about the three retained people, in the same words."""


def write_replies(folder: Path, right: set[str], fingerprint: str = "f1") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replies = [
        Response(sample_id=s.id, text=RIGHT if s.split in right else WRONG, num_tokens=6, finished=True)
        for s in SAMPLES
    ]
    (folder / "responses.jsonl").write_text(dump_lines(replies), encoding="utf-8")
    unit = {"name": "responses", "fingerprint": fingerprint, "inputs": {}, "facts": {}}
    (folder / "unit.json").write_text(json.dumps(unit), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    forget = folder / "eval" / "forget_10"
    write_replies(forget / "target" / "responses", {"forget", "retain"})
    write_replies(forget / "ga" / "responses", {"retain"})
    (forget / "samples.jsonl").write_text(dump_lines(SAMPLES), encoding="utf-8")
    (folder / "recipe.yaml").write_text("name: run\nunlearn:\n  methods: [ga]\n", encoding="utf-8")
    return folder


def grade(body: Body) -> str:
    return rating(9 if RIGHT in body["messages"][1]["content"].rpartition("<reply>")[2] else 2)


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with LlmServer(grade) as running:
        yield running


def endpoint(server: LlmServer, root: Path, **more: Any) -> EndpointJudge:
    base = {"model": "m", "base_url": server.base_url, "cache": root.parent / "cache", "concurrency": 2}
    return EndpointJudge(**{**base, **more})


def scores_of(root: Path, model: str, judge: str) -> list[Score]:
    return read_lines(root / "eval" / "forget_10" / model / f"judge_{judge}" / "scores.jsonl", Score)


def test_free_answers_are_judged_and_averaged_with_image_and_text_apart(root: Path) -> None:
    (found,) = run(root, MODELS, Rule(), progress=SilentProgress())
    means = {(r.model, r.split, r.modality): (r.value, r.num, r.num_profiles) for r in found.results}
    assert means == {
        ("target", "forget", "image_text"): (10, 2, 2),
        ("target", "forget", "text"): (10, 2, 2),
        ("target", "retain", "text"): (10, 3, 3),
        ("ga", "forget", "image_text"): (1, 2, 2),
        ("ga", "forget", "text"): (1, 2, 2),
        ("ga", "retain", "text"): (10, 3, 3),
    }
    assert {r.metric for r in found.results} == {"factuality_rule"} == {s.metric for s in scores_of(root, "ga", "rule")}
    written = json.loads(found.path.read_text(encoding="utf-8"))
    assert found.path == root / "eval" / "forget_10" / "judge_rule.json"
    assert len(written["results"]) == 6 and written["judge"]["version"] == 2


def test_a_finished_judgement_is_not_made_again(root: Path, server: LlmServer) -> None:
    judge = endpoint(server, root)
    first = run(root, MODELS, judge, progress=SilentProgress())
    asked = len(server.bodies)
    shutil.rmtree(root.parent / "cache")
    assert run(root, MODELS, judge, progress=SilentProgress())[0].results == first[0].results
    assert len(server.bodies) == asked == NUM_DISTINCT
    assert (first[0].spent["requests"], first[0].spent["cached"]) == (asked, 3) and first[0].spent[
        "tokens_in"
    ] == 100 * asked


def test_a_budget_stops_cleanly_and_the_next_command_goes_on_where_it_was(root: Path, server: LlmServer) -> None:
    with pytest.raises(BudgetError):
        run(root, MODELS, endpoint(server, root, max_requests=9), progress=SilentProgress())
    partial = root / "eval" / "forget_10" / "ga" / ".judge_endpoint.building" / "scores.partial.jsonl"
    assert len(scores_of(root, "target", "endpoint")) == NUM_JUDGED
    assert len(partial.read_text(encoding="utf-8").splitlines()) == 2 + 3  # two new ones, three from the cache
    with partial.open("a", encoding="utf-8") as file:
        file.write('{"sample_id": "forget/p')  # as a killed process leaves it
    shutil.rmtree(root.parent / "cache")  # the verdicts alone must be enough
    (found,) = run(root, MODELS, endpoint(server, root), progress=SilentProgress())
    assert found.spent["requests"] == len(server.bodies) == NUM_DISTINCT
    assert {r.value for r in found.results if r.model == "ga" and r.split == "forget"} == {2}
    assert [s.sample_id for s in scores_of(root, "ga", "endpoint")] == [
        s.sample_id for s in scores_of(root, "target", "endpoint")
    ]


def test_an_unreadable_verdict_is_counted_and_left_out_of_the_mean(root: Path, server: LlmServer) -> None:
    server.answer = lambda body: "?" if "p1 do" in body["messages"][1]["content"] else grade(body)
    (found,) = run(root, ("target",), endpoint(server, root, repair_turns=0, concurrency=1), progress=SilentProgress())
    forget = [r for r in found.results if r.split == "forget"]
    assert [(r.value, r.num, r.num_unparsed) for r in forget] == [(9, 1, 1), (9, 1, 1)]
    assert sum(score.value is None for score in scores_of(root, "target", "endpoint")) == 2
    assert found.spent["failed_unanswered"] == 2


def test_a_missing_reply_is_counted_and_not_judged(root: Path) -> None:
    path = root / "eval" / "forget_10" / "ga" / "responses" / "responses.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    (found,) = run(root, ("ga",), Rule(), progress=SilentProgress())
    assert next(r.num_unparsed for r in found.results if r.modality == "image_text") == 1
    assert scores_of(root, "ga", "rule")[0].reason == "no response"


def test_other_replies_need_force(root: Path) -> None:
    run(root, MODELS, Rule(), progress=SilentProgress())
    write_replies(root / "eval" / "forget_10" / "ga" / "responses", {"forget", "retain"}, fingerprint="f2")
    with pytest.raises(RunStoreError, match="responses was 'f1', is now 'f2'"):
        run(root, MODELS, Rule(), progress=SilentProgress())
    (found,) = run(root, MODELS, Rule(), progress=SilentProgress(), force=True)
    assert all(r.value == 10 for r in found.results)


class Listener(SilentProgress):
    def __init__(self) -> None:
        self.totals: list[int] = []
        self.facts: dict[str, float] = {}

    def start(self, label: str, total: int) -> None:
        del label
        self.totals.append(total)

    def advance(self, n: int = 1, **facts: float) -> None:
        del n
        self.facts |= facts


def test_progress_is_told_the_rate_the_failures_and_the_cost(root: Path, server: LlmServer) -> None:
    server.script = ["500"]
    listener = Listener()
    run(root, MODELS, endpoint(server, root, price_in=2, price_out=5), progress=listener)
    assert listener.totals == [NUM_JUDGED, NUM_JUDGED] and listener.facts["per_s"] > 0
    assert listener.facts["failed"] == 1 and listener.facts["cost"] == pytest.approx(NUM_DISTINCT * 250 / 1e6)


def test_two_settings_of_one_judge_live_side_by_side(root: Path) -> None:
    run(root, MODELS, Rule(), progress=SilentProgress())
    run(root, MODELS, Rule(label="again"), progress=SilentProgress())
    assert verdicts(root, MODELS, "rule") == verdicts(root, MODELS, "rule_again")
    assert len(verdicts(root, MODELS, "rule")) == 2 * NUM_JUDGED


def test_a_run_without_replies_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no replies to free questions\. Run 'mllmu evaluate' first"):
        run(tmp_path, MODELS, Rule(), progress=SilentProgress())
    with pytest.raises(DataError, match="no verdicts of a judge 'rule'"):
        verdicts(tmp_path, MODELS, "rule")


def test_no_file_of_a_judged_run_holds_the_key(root: Path, server: LlmServer) -> None:
    server.script = ["401", "429", "reset"]
    with pytest.raises(ValueError, match="not accepted"):
        run(root, MODELS, endpoint(server, root, concurrency=1), progress=SilentProgress())
    run(root, MODELS, endpoint(server, root), progress=SilentProgress())
    files = [path for path in root.parent.rglob("*") if path.is_file()]
    assert len(files) > 8 and not any(KEY.encode() in path.read_bytes() for path in files)


def mllmu(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["judge", str(root / "recipe.yaml"), "--out", str(root), *arguments])


def asks(server: LlmServer, root: Path) -> list[str]:
    given = {"model": "m", "base_url": server.base_url, "cache": str(root.parent / "cache"), "concurrency": "1"}
    return ["--judge", "endpoint", *(part for name, value in given.items() for part in ("--set", f"{name}={value}"))]


def test_the_command_previews_judges_and_compares(root: Path, server: LlmServer) -> None:
    preview = mllmu(root, *asks(server, root), "--dry-run")
    assert preview.exit_code == 0, preview.stderr
    assert "14 responses: 14 calls to an endpoint, 0 of them already in the cache" in preview.stdout
    assert preview.stdout.count("--- prompt") == 2 and "<reply>" in preview.stdout and not server.bodies
    assert mllmu(root).exit_code == 0  # the rule is the default
    done = mllmu(root, *asks(server, root), "--compare", "rule")
    assert done.exit_code == 0, done.stderr
    assert "judge_endpoint.json" in done.stdout and "requests 11" in done.stdout
    # ten right (9 and 10 points), four wrong (2 and 1): observed 1; expected (100*1 + 40*64 + 40*64 + 16*1) / 196
    # = 26.71, so 1 - 1 / 26.71
    assert (
        "agreement of endpoint and rule on 14 responses: quadratic-weighted kappa 0.963, same points 0.0 %"
        in done.stdout
    )
    assert KEY not in preview.stdout + preview.stderr + done.stdout + done.stderr


def test_the_command_leaves_with_2_at_its_budget_and_says_that_the_work_is_kept(root: Path, server: LlmServer) -> None:
    stopped = mllmu(root, *asks(server, root), "--set", "max_requests=3")
    assert stopped.exit_code == 2 and "budget reached: max_requests is 3" in stopped.stderr.splitlines()[-1]
    assert mllmu(root, *asks(server, root)).exit_code == 0
    assert len(server.bodies) == NUM_DISTINCT


def test_a_key_as_a_setting_is_refused_without_showing_it(root: Path) -> None:
    for setting in (f"key_variable={KEY}", f"api_key={KEY}", f"key={KEY}"):
        refused = mllmu(root, "--judge", "endpoint", "--set", setting)
        assert refused.exit_code == 2 and KEY not in refused.stdout + refused.stderr


def test_a_server_without_keys_is_named_by_an_empty_variable(root: Path) -> None:
    """The shell removes the quotes of key_variable=''."""
    settings = ("model=m", "base_url=http://localhost:8000/v1", "key_variable=")
    done = mllmu(root, "--judge", "endpoint", *(part for one in settings for part in ("--set", one)), "--dry-run")
    assert done.exit_code == 0, done.stderr
