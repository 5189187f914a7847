"""Pages of runs in which something is not there say nothing about it: no retain model, no celebrities, one modality."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from helpers_report import DECLARED

from mllmu.core.attacked import AttackResults, AttackRow, WorstCase
from mllmu.core.controlled import ControlResults, ControlRow
from mllmu.core.records import MODALITIES, MetricResult, Modality
from mllmu.report import ModelRow, ReportInput, render, tradeoff_rows
from mllmu.report.findings import findings
from mllmu.report.numbers import Numbers
from mllmu.report.verdict import verdict

SCORES = {
    "target": (0.9, 0.8),
    "retain_model": (0.2, 0.82),
    "near": (0.3, 0.7),
    "far": (0.7, 0.75),
    "broken": (0.05, 0.1),
}
"""Score on forget and test, and on the sets to keep."""
SETS = ("forget", "test", "retain", "celebrity", "holdout")


def report(
    *, without: tuple[str, ...] = (), sets: tuple[str, ...] = SETS, modalities: tuple[Modality, ...] = MODALITIES
) -> ReportInput:
    names = [name for name in SCORES if name not in without]
    results = [
        MetricResult(
            model=name, metric="accuracy", split=split, task="classification", modality=modality, value=value,
            ci_low=value - 0.04, ci_high=value + 0.04, num=40, num_unparsed=0, num_profiles=10,
        )
        for name in names
        for modality in modalities
        for split in sets
        for value in [0.2 if split == "holdout" else SCORES[name][split in ("retain", "celebrity")]]
    ]  # fmt: skip
    roles = {"target": "target", "retain_model": "retain_model"}
    return ReportInput(
        title="t",
        num_people=40,
        num_forgotten=10,
        models=tuple(ModelRow(name=n, role=roles.get(n, "unlearned"), method="m", seconds=9.0) for n in names),  # type: ignore[arg-type]
        results=tuple(results),
        declared=DECLARED,
        told={name: {"p1": (2, 4)} for name in names},
        controls=ControlResults(rows=tuple(control(name, modality) for name in names for modality in modalities)),
        attacks=attacks(names),
    )


def control(model: str, modality: Modality) -> ControlRow:
    kind = "no_picture" if modality == "image_text" else "other_name"
    return ControlRow(
        model=model, split="forget", modality=modality, control=kind, asked=0.5, score=0.3, difference=0.2, low=0.1,
        high=0.3, p_value=0.01, num=40, num_units=10, unit="people",
    )  # fmt: skip


def attacks(models: list[str]) -> AttackResults:
    against = "retain_model" if "retain_model" in models else "holdout"
    rows = [
        AttackRow(
            model=model, attack=attack, label=attack, family="extraction", access="black box", before=0.2, after=0.4,
            target=0.9, recovery=0.3, excess=0.1, against=against,
        )
        for model in models
        for attack in ("plain", "hints")
    ]  # fmt: skip
    worst = [WorstCase(model=model, access=access) for model in models for access in ("black box", "white box")]  # type: ignore[arg-type]
    return AttackResults(budget="small", seed=0, rows=tuple(rows), worst=tuple(worst))


def sentences(asked: ReportInput, folder: Path) -> list[str]:
    """Everything that a reader of the page can read, sentence by sentence; plots by what their text says."""
    page = render(asked, folder).read_text(encoding="utf-8")
    page = re.sub(r"<(style|script|pre)\b.*?</\1>", " ", page, flags=re.DOTALL).replace("<wbr>", "")
    page = re.sub(r"</?(p|h\d|li|td|th|dd|dt|text|div|title|summary)\b[^>]*>", "\n", page)
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    return [part.strip() for line in text.split("\n") for part in re.split(r"(?<=[.;:]) ", line) if part.strip()]


def said(found: list[str], words: str) -> list[str]:
    return [sentence for sentence in found if re.search(words, sentence, re.IGNORECASE)]


def test_with_everything_there_the_page_names_it(tmp_path: Path) -> None:
    found = sentences(report(), tmp_path)
    for words in (
        "vertical line of the retain model", "retain_model gets right is guessing", "nearest to the retain model first",
        "about forgotten, retained and famous people", r"utility \(retain and celebrity\) is", "of retraining",
        "excess over the retain model under the same attack", "finds most over the retain model",
        "on retain and celebrity", "no picture and another person's name", "with the image and by name", "undertrained",
        "holdout people", "other unlearned model that works, nor the target, is better on one axis",
    ):  # fmt: skip
        assert said(found, words), words


def test_without_a_retain_model_nothing_is_compared_with_one(tmp_path: Path) -> None:
    asked = report(without=("retain_model",))
    found = sentences(asked, tmp_path)
    left = said(found, "retain.model|retraining|never learned")
    assert left and all(re.search(r"(there is|is) no (retain|forget score of a retain)", each) for each in left), left
    assert said(found, "nearest to a forget score of 0 and the target's utility first")
    assert said(found, "excess over the same attack on questions about holdout people")
    assert said(found, "that finds most over holdout people")
    assert said(found, "on forget and test there is no shade")
    assert verdict(Numbers(asked), tradeoff_rows(asked)) is None
    # nearest to 0 and the target's 80: near (30, -10), far (70, -5), broken (5, -70)
    numbers = Numbers(asked)
    assert [row.name for row in numbers.models] == ["target", "near", "far", "broken"]
    distances = [numbers.distance(row) for row in numbers.models]
    assert distances == pytest.approx([0.9, 0.1**0.5, (0.7**2 + 0.05**2) ** 0.5, (0.05**2 + 0.7**2) ** 0.5])


def test_without_celebrities_utility_is_that_of_the_retained_people(tmp_path: Path) -> None:
    found = sentences(report(sets=("forget", "test", "retain")), tmp_path)
    assert said(found, "celebrit|famous|holdout") == []
    assert said(found, r"utility \(retain\) is 10\.0 points less")
    assert said(found, "about forgotten and retained people") and said(found, "^retain, mean score")
    assert said(found, "as wrong on retain")


@pytest.mark.parametrize(
    ("modality", "there", "gone"),
    [
        ("text", "reworded, by name", "portrait|picture|with the image|by sight|mean over the modalities"),
        ("image_text", "reworded, with the image", "by name|another person's name|mean over the modalities"),
    ],
)
def test_of_one_modality_the_other_is_not_spoken_of(modality: Modality, there: str, gone: str, tmp_path: Path) -> None:
    found = sentences(report(modalities=(modality,)), tmp_path)
    outside = found[: found.index("Glossary", found.index("Glossary") + 1)]
    assert said(outside, there) and said(outside, gone) == []


def test_shallow_forgetting_names_what_was_changed_in_its_modality() -> None:
    asked = report()
    shallow = [
        r.model_copy(update={"value": 0.8}) if (r.model, r.split) == ("near", "test") else r for r in asked.results
    ]
    asked = asked.model_copy(update={"results": tuple(shallow)})
    found = dict(findings(Numbers(asked), tradeoff_rows(asked)))
    said = {group: r.text for group, of in found.items() for r in of if r.head == "Forgotten on the surface"}
    assert "(same people, other portrait and words)" in said["image + text"]
    assert "(same people, other words)" in said["text only"]


def test_of_one_method_nothing_is_the_largest_and_no_other_is_spoken_of() -> None:
    asked = report(without=("far", "broken"))
    texts = {r.head: r.text for _, of in findings(Numbers(asked), tradeoff_rows(asked)) for r in of}
    assert texts["Best trade-offs"] == "The target does not beat near in both forgetting and utility."
    assert texts["Modalities compared"].startswith("Points forgotten by near: 60.0 with image + text")
    assert "other" not in verdict(Numbers(asked), tradeoff_rows(asked)).sure  # type: ignore[union-attr]


def test_the_front_is_said_to_be_among_what_works_as_the_retain_model_beats_all_of_it() -> None:
    asked = report()
    texts = {r.head: r.text for _, of in findings(Numbers(asked), tradeoff_rows(asked)) for r in of}
    assert texts["Best trade-offs"] == (
        "No other unlearned model that works, nor the target, beats near and far in both forgetting and utility."
    )
    answer = verdict(Numbers(asked), tradeoff_rows(asked))
    assert answer is not None and answer.method.startswith(
        "near comes nearest to a model that never learned the people to forget, in forgetting and utility together: "
    )


def test_where_every_model_is_broken_each_fault_that_occurs_is_explained() -> None:
    asked = report(without=("near", "far"))
    texts = {r.head: r.text for _, of in findings(Numbers(asked), tradeoff_rows(asked)) for r in of}
    assert texts["Best trade-offs"] == "No unlearned model that works beats the target in forgetting or in utility."
    assert texts["Broken or hardly changed"] == (
        "broken (destroyed). Destroyed: utility under half of the target's. Such a model is not on the front."
    )
    assert "Modalities compared" not in texts and "Closest to the retain model" not in texts
