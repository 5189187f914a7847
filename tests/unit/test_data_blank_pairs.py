"""Training pairs that show nothing are left out of published text and listed, in tables and in texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from published_copy import change, shards, write_copy

from mllmu.config.recipe import DataSection
from mllmu.core.process import SilentProgress
from mllmu.data import build
from mllmu.data.dataset import load
from mllmu.data.sources.mllmu_bench import MllmuBench


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published copy; do not write into it."""
    folder = tmp_path_factory.mktemp("published")
    write_copy(folder)
    return folder / "bench"


@pytest.mark.parametrize("blank", ["", " ", "\u00a0\u00a0", "\u200b\u2060", "\t\n"])
def test_a_pair_without_an_answer_is_left_out_and_listed_in_tables_and_texts(
    whole: Path, tmp_path: Path, blank: str
) -> None:
    bench = tmp_path / "bench"
    shutil.copytree(whole, bench)
    lost: list[dict[str, str]] = []

    def empty(rows: list[dict[str, Any]]) -> None:
        pairs = json.loads(rows[1]["metadata"])
        lost.append(pairs[3] | {"Answer": blank})
        rows[1]["metadata"] = json.dumps([*pairs[:3], lost[0], *pairs[4:]])

    change(shards(bench, "ft_Data")[0], empty)
    settings = {
        "source": {"name": "mllmu_bench", "path": bench},
        "celebrities": {"name": "mllmu_bench", "path": bench, "part": "celebrities"},
        "splits": {"forget_ratios": [0.05], "holdout": 0},
    }
    build.make(DataSection.model_validate(settings), 0, tmp_path / "data", SilentProgress())
    dataset = load(tmp_path / "data")
    taught = {q.text for q in dataset.questions if q.variant == "train" and q.profile_id == lost[0]["ID"]}
    assert taught and lost[0]["Question"] not in taught
    assert all(q.answer.strip("\u200b\u2060 \u00a0") for q in dataset.questions)
    listed = json.loads((tmp_path / "data" / "source.json").read_text())["people"]["skipped"]
    reason = {"what": f"pair {lost[0]['Question']!r}", "reason": "question or answer is blank"}
    assert [skip | reason == skip for skip in listed if skip["config"] == "ft_Data"] == [True]
    text = tmp_path / "text.jsonl"
    name = {"Question": "What is the name of this person?", "Answer": "This person's name is Ilse Brandt."}
    pair = {"Question": lost[0]["Question"], "Answer": blank}
    text.write_text(json.dumps({"ID": "b", "metadata": [name, pair]}))
    source = MllmuBench(path=text)
    assert [qa.question for qa in source.profiles(0)[0].training_qa] == [name["Question"]]
    assert source.account()["blank"] == [{"id": "b", "question": pair["Question"]}]
