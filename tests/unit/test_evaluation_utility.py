"""MMMU and LLaVA-Bench on a few rows built here in the published schema: prompts, readings, and what is left out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mllmu.config.load import parse
from mllmu.config.recipe import Evaluate
from mllmu.core.errors import DataError, RecipeError
from mllmu.core.records import Response
from mllmu.evaluation.benchmarks import Asked, Skipped
from mllmu.evaluation.benchmarks.llava_bench import LlavaBench
from mllmu.evaluation.benchmarks.mmmu import Mmmu
from mllmu.evaluation.metrics import metrics_of
from mllmu.evaluation.metrics.mmmu_accuracy import MmmuAccuracy, is_right, read_choice
from mllmu.evaluation.scoring import aggregate, score_all

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mmmu_accuracy.json").read_text(encoding="utf-8"))


def cell(shade: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 9, 9)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def mmmu_row(number: int, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": f"validation_Art_{number}",
        "question": f"Which colour does <image 1> number {number} show?",
        "options": "['red', 'blue', 'green']",
        "explanation": "",
        **{f"image_{n}": cell(number) if n == 1 else None for n in range(1, 8)},
        "answer": "B",
        "question_type": "multiple-choice",
        "subfield": "Drawing",
    }
    return row | changes


def write_mmmu(folder: Path) -> Path:
    rows = [
        mmmu_row(1),
        mmmu_row(2, options="[]", answer="['7', 'seven']", question_type="open"),
        mmmu_row(3, image_2=cell(4)),
        mmmu_row(4, answer="F"),
        mmmu_row(5, options="['<image 1>', 'x']", answer="A"),
    ]
    schema = pa.Table.from_pylist([mmmu_row(9, **{f"image_{n}": cell(1) for n in range(1, 8)})]).schema
    for subject, kept in (("Art", rows), ("Music", [mmmu_row(6)])):
        (folder / subject).mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(kept, schema=schema), folder / subject / "validation-00000-of-00001.parquet"
        )
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / subject / "dev-00000-of-00001.parquet")
    return folder


def write_llava_bench(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    rows = [
        {"question_id": n, "question": f"What is here?\nPart {n}", "image": cell(n), "category": "conv",
         "gpt_answer": f"A cat {n}." if n else ""}
        for n in range(3)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return folder


def test_mmmu_asks_validation_with_the_official_prompt(tmp_path: Path) -> None:
    found = list(Mmmu(path=write_mmmu(tmp_path)).read())
    asked = [item for item in found if isinstance(item, Asked)]
    assert [(a.sample.id, a.sample.task, a.sample.attribute, a.sample.target) for a in asked] == [
        ("mmmu/validation_Art_1", "classification", "Art", "B"),
        ("mmmu/validation_Art_2", "cloze", "Art", "7"),
        ("mmmu/validation_Art_6", "classification", "Music", "B"),
    ]
    assert asked[0].sample.prompt == (
        "Which colour does <image 1> number 1 show?\n\n(A) red\n(B) blue\n(C) green\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert asked[1].sample.prompt == (
        "Which colour does <image 1> number 2 show?\n\nAnswer the question using a single word or phrase."
    )
    assert asked[0].load().getpixel((0, 0)) == (1, 9, 9)


def test_mmmu_rows_that_cannot_be_asked_are_listed(tmp_path: Path) -> None:
    found = list(Mmmu(path=write_mmmu(tmp_path), subjects=("Art",)).read())
    assert [item for item in found if isinstance(item, Skipped)] == [
        ("Art", 2, "validation_Art_3", "it has 2 images, and a model is shown one"),
        ("Art", 3, "validation_Art_4", "the answer 'F' is none of its 3 options"),
        ("Art", 4, "validation_Art_5", "an option is an image"),
    ]


@pytest.mark.parametrize("case", GOLDEN["choices"], ids=lambda case: case["why"])
def test_choices_are_read_as_the_official_evaluation_reads_them(case: dict[str, Any]) -> None:
    assert read_choice(case["reply"], GOLDEN["options"]) == case["expected"], case["why"]


@pytest.mark.parametrize("case", GOLDEN["open"], ids=lambda case: case["why"])
def test_open_replies_are_compared_as_the_official_evaluation_does(case: dict[str, Any]) -> None:
    assert is_right(case["reply"], case["truths"]) == case["expected"], case["why"]


def test_mmmu_is_scored_in_its_own_set_only(tmp_path: Path) -> None:
    samples = [item.sample for item in Mmmu(path=write_mmmu(tmp_path)).read() if isinstance(item, Asked)]
    person = samples[0].model_copy(update={"id": "forget/x", "split": "forget"})
    replies = {samples[0].id: "(B)", samples[1].id: "It is seven", samples[2].id: "what?", person.id: "B"}
    responses = [Response(sample_id=key, text=text, num_tokens=1, finished=True) for key, text in replies.items()]
    scores = score_all([person, *samples], responses, [MmmuAccuracy()])
    assert [(s.sample_id, s.value) for s in scores] == [
        (samples[0].id, 1.0), (samples[1].id, 1.0), (samples[2].id, None)
    ]  # fmt: skip
    results = aggregate("target", [person, *samples], scores, [MmmuAccuracy()])
    assert [(r.split, r.task, r.value, r.num, r.num_unparsed) for r in results] == [
        ("mmmu", "classification", 1.0, 1, 1), ("mmmu", "cloze", 1.0, 1, 0)
    ]  # fmt: skip


def test_llava_bench_is_open_and_keeps_its_reference(tmp_path: Path) -> None:
    found = list(LlavaBench(path=write_llava_bench(tmp_path)).read())
    assert found[0] == ("train", 0, "0", "the question or the reference answer is empty")
    assert isinstance(found[1], Asked)
    sample = found[1].sample
    assert (sample.id, sample.split, sample.task, sample.target) == (
        "llava_bench/1", "llava_bench", "generation", "A cat 1."
    )  # fmt: skip
    assert sample.prompt == "What is here?\nPart 1"
    assert sample.max_new_tokens == 512


def test_a_recipe_adds_the_metrics_of_its_benchmarks() -> None:
    evaluate = Evaluate.model_validate({"tasks": ["generation"], "benchmarks": ["mmmu", {"name": "llava_bench"}]})
    names = [metric.name for metric in metrics_of(evaluate)]
    assert {"rougeL", "mmmu_accuracy", "accuracy"} <= set(names)
    assert len(names) == len(set(names))
    assert "mmmu_accuracy" not in {metric.name for metric in metrics_of(Evaluate())}


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        ({"benchmarks": ["mmmuu"]}, "benchmarks: no 'mmmuu'. Did you mean 'mmmu'"),
        ({"benchmarks": [{"name": "mmmu", "num_question": 3}]}, "Did you mean 'num_questions'"),
        ({"benchmarks": ["mmmu", "mmmu"]}, "a benchmark is named twice"),
        ({"max_profiles": {"mmmu": 3}}, "'mmmu' is no set of people .* set num_questions"),
    ],
)
def test_a_mistake_in_the_recipe_is_named(evaluate: dict[str, Any], said: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=said):
        parse({"name": "x", "evaluate": evaluate})


def test_another_data_set_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no subject at all; it has no parquet folders"):
        list(Mmmu(path=tmp_path).read())
    write_llava_bench(tmp_path / "wrong")
    with pytest.raises(DataError, match="no column 'id'"):
        list(Mmmu(path=write_as_subject(tmp_path)).read())
    with pytest.raises(DataError, match="no subject Maths; it has Art, Music"):
        list(Mmmu(path=write_mmmu(tmp_path / "mmmu"), subjects=("Maths",)).read())


def write_as_subject(tmp_path: Path) -> Path:
    (tmp_path / "other" / "Art").mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other" / "Art" / "validation-00000-of-00001.parquet")
    return tmp_path / "other"
