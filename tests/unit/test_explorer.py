"""The explorer's answers: filters, order, one question in full; what it reads, and that it writes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers_explorer import HOSTILE, MODELS, OUTCOMES, QUESTIONS, add_attacks, make_evaluated_run, tree
from PIL import Image

from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import read_json, seal, write_json
from mllmu.explorer.details import marked, why_unread
from mllmu.explorer.questions import (
    Condition,
    Contrast,
    QuestionFilter,
    QuestionTable,
    evaluations_of,
    models_of,
    profiles_of,
)
from mllmu.explorer.replies import OUTCOMES as KINDS
from mllmu.explorer.site import ExploredRun, Site
from mllmu.studies.result import RunResult

IDS = list(QUESTIONS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two evaluations; do not write into it."""
    made = make_evaluated_run(tmp_path_factory.mktemp("explored") / "run")
    return make_evaluated_run(made, key="5")


@pytest.fixture(scope="module")
def table(root: Path) -> QuestionTable:
    return QuestionTable(root, "eval/forget_10", profiles_of(root))


def chosen(table: QuestionTable, *conditions: Condition, words: str = "", **fields: str) -> list[str]:
    rows = table.select(QuestionFilter(fields, conditions, words)).rows
    return [table.samples[row].id.partition("/")[2] for row in rows]


def answer(site: Site, path: str, query: str = "", status: int = 200) -> dict[str, object]:
    found = site.get(path, query)
    assert found.status == status
    value: dict[str, object] = json.loads(found.body)
    return value


@pytest.mark.parametrize("model", MODELS)
def test_outcomes_are_those_of_the_scores(table: QuestionTable, model: str) -> None:
    assert [KINDS[number] for number in table.replies(model).outcomes] == OUTCOMES[model]


def test_without_scores_the_outcomes_are_made_from_the_replies(tmp_path: Path) -> None:
    made = make_evaluated_run(tmp_path, scored=False)
    table = QuestionTable(made, "eval/forget_10", {})
    assert [KINDS[number] for number in table.replies("npo").outcomes] == OUTCOMES["npo"]
    assert table.replies("npo").scored(0) == []


def test_questions_are_filtered_by_every_field(table: QuestionTable) -> None:
    assert chosen(table, split="forget", task="cloze") == ["p1.cloze"]
    assert chosen(table, profile_id="p2") == ["p2.classification", "p2.generation", "p2.cloze"]
    assert chosen(table, modality="image_text") == ["p1.classification", "p2.classification"]
    assert chosen(table, attribute="residence") == ["p1.generation", "p2.generation"]


def test_questions_are_filtered_by_what_models_replied(table: QuestionTable) -> None:
    assert chosen(table, Condition("retain_model", "wrong")) == ["p1.classification", "p2.cloze"]
    assert chosen(table, Condition("npo", "right", negated=True), split="retain") == ["p2.generation"]
    assert chosen(table, Condition("any", "wrong"), split="forget") == ["p1.classification", "p1.generation"]
    assert chosen(table, Condition("all", "right")) == ["p2.classification"]
    assert chosen(table, Condition("npo", "wrong"), Condition("retain_model", "refused")) == ["p1.generation"]


def test_all_words_must_be_there_in_question_truth_name_or_one_reply(table: QuestionTable) -> None:
    assert chosen(table, words="LIVE riga") == ["p1.generation"]
    assert chosen(table, words="lind") == ["p2.classification", "p2.generation", "p2.cloze"]
    assert chosen(table, words="lind riga") == []
    assert chosen(table, words="not KNOW") == ["p1.generation"], "retain_model says so"
    assert chosen(table, words="zxq judge ana") == ["p1.cloze"], "the reply of npo, the truth, and the name"
    assert chosen(table, words="zxq cook") == [] and chosen(table, words="cook") == ["p2.cloze"], "of one model"


def test_replies_under_attack_are_with_the_question_that_they_are_about(tmp_path: Path) -> None:
    made = make_evaluated_run(tmp_path / "run")
    site = Site([ExploredRun(made)])
    assert answer(site, "run/0/api/question", "id=forget/p1.generation")["attacks"] == []
    add_attacks(make_evaluated_run(made, key="5"))
    site = Site([ExploredRun(made)])
    found: Any = answer(site, "run/0/api/question", "evaluation=10+%25&id=forget/p1.generation")["attacks"]
    told = [(row["attack"], row["model"], row["told"], len(row["tries"])) for row in found]
    assert told == [("Hints", "target", 1, 1), ("Hints", "npo", 1, 2), ("Prefix", "npo", 0, 1)]
    assert [each["text"] for each in found[1]["tries"]] == ["In Riga, I think.", HOSTILE], "what tells the truth first"
    assert found[1]["tries"][1]["prompt"] == "It begins with R." and found[2]["tries"][0]["other_image"]
    assert answer(site, "run/0/api/question", "evaluation=10+%25&id=forget/p1.cloze")["attacks"] == []
    assert answer(site, "run/0/api/question", "evaluation=5+%25&id=forget/p1.generation")["attacks"] == []
    kept = made / "attacks/forget_10/small/hints/npo/replies.jsonl"
    kept.write_text(kept.read_text().replace("Latvia", "Poland"))
    broken = answer(Site([ExploredRun(made)]), "run/0/api/question", "evaluation=10+%25&id=forget/p1.cloze", 400)
    assert "hints/npo" in str(broken["error"])


def test_counts_say_what_each_value_would_give(table: QuestionTable) -> None:
    found = table.select(QuestionFilter({"split": "forget", "task": "cloze"}))
    assert found.counts["split"] == {"forget": 1, "retain": 1}
    assert found.counts["task"] == {"classification": 1, "generation": 1, "cloze": 1}
    assert found.counts["profile_id"] == {"p1": 1, "p2": 0}
    for model in MODELS:
        table.replies(model)
    found = table.select(QuestionFilter({"split": "forget"}))
    assert dict(zip(KINDS, found.outcomes["npo"], strict=True)) == {
        "right": 0, "wrong": 1, "refused": 0, "unread": 1, "garbled": 1,
    }  # fmt: skip


def test_what_one_model_alone_has_forgotten_comes_first(table: QuestionTable) -> None:
    found = table.select(QuestionFilter({}, contrast=Contrast("npo", "retain_model")))
    assert [IDS[row] for row in found.rows[: found.contrast]] == ["forget/p1.cloze", "retain/p2.generation"]
    assert IDS[found.rows[-1]] == "retain/p2.cloze"  # the other way round
    assert len(found.rows) == 6


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (QuestionFilter({"split": "forgte"}), "no question has the split 'forgte'. Did you mean 'forget'"),
        (QuestionFilter({}, (Condition("npoo", "right"),)), "'npoo'. Did you mean 'npo'.*target, retain_model, npo"),
        (QuestionFilter({}, (Condition("npo", "good"),)), "no outcome 'good'. Expected one of right, wrong"),
        (QuestionFilter({"colour": "red"}), "cannot be filtered by 'colour'"),
    ],
)
def test_an_unknown_name_is_named(table: QuestionTable, wanted: QuestionFilter, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table.select(wanted)


def test_a_question_in_full(root: Path) -> None:
    site = Site([ExploredRun(root)])
    found = answer(site, "run/0/api/question", "id=forget/p1.classification&evaluation=10+%25&reference=retain_model")
    models = {each["model"]: each for each in found["models"]}  # type: ignore[index,attr-defined]
    assert (found["truth"], found["value"], found["image"]) == ("A", "$58,000", "images/p1_0.png")
    assert found["facts"] == {"name": "Ana <b>Silva</b>", "pet": "cat"}
    assert models["target"]["reply"] == [[True, "A"]] and not models["target"]["same"]
    assert models["retain_model"]["reply"] == [[False, "B"]] and models["retain_model"]["same"]
    assert models["target"]["truth"] == {"logp": -0.5, "num_tokens": 3}
    assert models["npo"]["outcome"] == "unread" and "option" in models["npo"]["why"]
    (accuracy,) = models["npo"]["scores"]
    assert accuracy["value"] is None and accuracy["reason"] == models["npo"]["why"]


def test_differences_are_marked_by_word() -> None:
    assert marked("She lives in Turin.", "She lives in Riga.") == [
        (False, "She lives in "),
        (True, "Turin"),
        (False, "."),
    ]
    assert marked("a cook in Riga", "a judge of law in Riga") == [(False, "a "), (True, "cook"), (False, " in Riga")]
    assert marked("", "x") == [] and marked("same", "same") == [(False, "same")]
    assert marked("x " * 3000, "y") == [(True, "x " * 3000)]


@pytest.mark.parametrize(
    ("text", "finished", "why"),
    [
        ("<think>the judge or", True, "the reply ends within a thought"),
        ("gla", False, "cut at the reply limit within the truth"),
    ],
)
def test_why_a_reply_is_unread(text: str, finished: bool, why: str) -> None:
    sample = Sample(
        id="forget/x", question_id="x", profile_id="p", split="forget", task="cloze", modality="text",
        attribute="job", prompt="?", target="glass blower", value="glass blower", max_new_tokens=1,
    )  # fmt: skip
    assert why_unread(sample, Response(sample_id="x", text=text, num_tokens=1, finished=finished)) == why


def test_a_page_of_questions_and_the_one_that_an_address_names(root: Path) -> None:
    site = Site([ExploredRun(root)])
    found = answer(site, "run/0/api/questions", "limit=2&at=retain/p2.generation")
    assert [row["id"] for row in found["rows"]] == IDS[4:6]  # type: ignore[index,attr-defined]
    assert (found["total"], found["offset"], found["at"]) == (6, 4, 4)
    assert answer(site, "run/0/api/questions", "limit=2&at=retain/p2.cloze&split=forget")["at"] == -1
    assert len(answer(site, "run/0/api/questions", "limit=0&at=retain/p2.cloze")["rows"]) == 1  # type: ignore[arg-type]
    assert "whole number" in str(answer(site, "run/0/api/questions", "offset=-1", 400)["error"])
    assert "between them" in str(answer(site, "run/0/api/questions", "is=npo", 400)["error"])


def test_a_run_has_an_evaluation_per_ratio_and_protocol(root: Path, tmp_path: Path) -> None:
    assert evaluations_of(root) == {"10 %": "eval/forget_10", "5 %": "eval/forget_5"}
    made = make_evaluated_run(tmp_path)
    (made / "protocols/official").mkdir(parents=True)
    (made / "eval/forget_10").rename(made / "protocols/official/forget_10")
    assert evaluations_of(made) == {"10 %, official": "protocols/official/forget_10"}


def test_text_from_the_run_stays_text(root: Path) -> None:
    site = Site([ExploredRun(root)])
    found = site.get("run/0/api/question", "id=retain/p2.generation&reference=npo")
    assert found.kind.startswith("application/json")
    assert json.loads(found.body)["models"][2]["reply"] == [[False, HOSTILE]]
    assert HOSTILE.encode() not in site.get("run/0/").body


def test_only_images_of_questions_and_files_of_the_report_are_served(root: Path) -> None:
    site = Site([ExploredRun(root)])
    assert site.get("run/0/image", "path=images/p1_0.png").kind == "image/png"
    for query in ("path=profiles.jsonl", "path=../eval/forget_10/samples.jsonl", "path=/etc/passwd", ""):
        assert site.get("run/0/image", query).status == 404
    for path in (
        "run/0/report/../run.json",
        "run/0/report/%2e%2e/x",
        "run/1/",
        "run/x/",
        "static/../site.py",
        "board/",
    ):
        assert site.get(path).status == 404, path


def named_images(root: Path, *names: str) -> Site:
    """A run, perhaps of others, whose first questions show these images."""
    path = make_evaluated_run(root) / "eval/forget_10/samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, name in zip(rows, names, strict=False):
        row["image"] = name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Site([ExploredRun(root)])


def test_no_image_outside_of_the_run_and_no_other_file_is_served_whatever_a_run_names(tmp_path: Path) -> None:
    root, secret = tmp_path / "run", tmp_path / "secret"
    secret.mkdir()
    (secret / "id_key").write_text("secret")
    Image.new("RGB", (2, 2)).save(secret / "own.png")
    names = ("/etc/hostname", "../../secret/id_key", str(secret / "own.png"), "../../secret/own.png", "images/link.png")
    site = named_images(root, *names, "profiles.jsonl")
    (root / "data/images/link.png").symlink_to(secret / "own.png")
    for name in (*names, "profiles.jsonl"):
        assert site.get("run/0/image", f"path={name}").status == 404, name


def test_images_beside_the_data_in_a_run_folder_are_served(tmp_path: Path) -> None:
    site = named_images(tmp_path / "run", "../benchmarks/mmmu/images/1.png", "images/p2_0.png", "images/kept.png")
    (tmp_path / "run/benchmarks/mmmu/images").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "run/benchmarks/mmmu/images/1.png")
    (tmp_path / "run/data/images/kept.png").hardlink_to(tmp_path / "run/data/images/p1_0.png")
    (tmp_path / "linked").symlink_to(tmp_path / "run")
    for each in (site, Site([ExploredRun(tmp_path / "linked")])):
        for name in ("../benchmarks/mmmu/images/1.png", "images/p2_0.png", "images/kept.png"):
            assert each.get("run/0/image", f"path={name}").kind == "image/png", name


def test_a_changed_file_is_named_and_not_shown(tmp_path: Path) -> None:
    made = make_evaluated_run(tmp_path)
    path = made / "eval/forget_10/npo/responses/responses.jsonl"
    path.write_text(path.read_text().replace("Turin", "Paris"))
    with pytest.raises(RunStoreError, match=r"responses\.jsonl: damaged .its content has changed"):
        QuestionTable(made, "eval/forget_10", {}).replies("npo")
    assert "responses.jsonl" in str(
        answer(Site([ExploredRun(made)]), "run/0/api/questions", "is=npo:right", 400)["error"]
    )


def test_replies_to_other_questions_are_refused(tmp_path: Path) -> None:
    made = make_evaluated_run(tmp_path)
    path = made / "eval/forget_10/samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunStoreError, match=r"'retain/p2\.cloze' is not among the 5 samples"):
        QuestionTable(made, "eval/forget_10", {}).replies("target")


def test_a_folder_without_evaluation_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no evaluation\. Expected a run folder"):
        ExploredRun(tmp_path)


def test_looking_writes_nothing(root: Path) -> None:
    before = tree(root)
    site = Site([ExploredRun(root)])
    for path, query in (("run/0/", ""), ("run/0/api/run", ""), ("run/0/api/questions", "is=any:wrong&words=ana")):
        assert site.get(path, query).status == 200
    assert tree(root) == before


def test_a_model_that_the_recipe_no_longer_names_is_not_shown_and_one_without_scores_is(tmp_path: Path) -> None:
    root = make_evaluated_run(tmp_path / "run")
    folder, metrics = root / "eval/forget_10", root / "eval/forget_10/metrics.json"
    every = models_of(root, folder)
    gone, new = every[-2:]
    content = read_json(metrics)
    write_json(metrics, seal({**content, "results": [{"model": model} for model in every[:-2]]}))
    shutil.rmtree(folder / new / "scores")
    assert models_of(root, folder) == [*every[:-2], new]
    shutil.copytree(
        folder, root / "protocols/official/forget_10", ignore=shutil.ignore_patterns("scores", "metrics.json")
    )
    assert models_of(root, root / "protocols/official/forget_10") == [*every[:-2], new]
    write_json(root / "run.json", seal({"status": "done"}))
    replied = set(RunResult(root).responses["model"])
    assert new in replied and gone not in replied
