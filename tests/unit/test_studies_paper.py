"""The paper's findings on scores made by hand, with all three verdicts; the recipes in small; the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mllmu.cli.paper import chosen
from mllmu.config.load import parse, read
from mllmu.config.packaged import recipes
from mllmu.core.errors import RecipeError
from mllmu.studies.paper.figures import paired_plot
from mllmu.studies.paper.findings import PaperFinding, RatioScores, findings, paired_cells, utility_points
from mllmu.studies.paper.setting import EXPERIMENTS, Experiment, origin, settings
from mllmu.studies.person_scores import PersonScore
from mllmu.studies.pool import pooled
from mllmu.studies.setups import EvaluatedRun

BOUND = 0.05
Scores = Mapping[str, Sequence[float]]
"""By model, the score of every person."""
YARDSTICKS: Scores = {"target": [0.9] * 6, "retain_model": [0.1] * 6}


def one_ratio(cells: Mapping[tuple[str, str, str], Scores], key: str = "10") -> RatioScores:
    """A run with one question per person in each (modality, set, task)."""
    scores = [
        PersonScore("run", modality, split, task, f"{split}{person}", 1, {m: of[person] for m, of in by_model.items()})  # type: ignore[arg-type]
        for (modality, split, task), by_model in cells.items()
        for person in range(len(next(iter(by_model.values()))))
    ]
    return RatioScores(EvaluatedRun("run", Path("run"), key, 1, {}), scores, list(next(iter(cells.values()))))


def the(found: Sequence[PaperFinding], word: str) -> PaperFinding:
    return next(finding for finding in found if word in finding.claim)


@pytest.mark.parametrize(
    ("multimodal", "unimodal", "verdict", "number"),
    [
        ([0.2] * 6, [0.8] * 6, "reproduced", "60.0 points (60.0 to 60.0; 6 people)."),
        ([0.8] * 6, [0.2] * 6, "not reproduced", "-60.0 points (-60.0 to -60.0; 6 people)."),
        ([0.4] * 6, [0.42] * 6, "not reproduced", " 2.0 points (2.0 to 2.0; 6 people)."),
        ([0.4] * 6, [0.4] * 6, "not reproduced", " 0.0 points (0.0 to 0.0; 6 people)."),
        ([0.0, 1.0] * 3, [0.5] * 6, "cannot tell", " 0.0 points (-50.0 to 50.0; 6 people)."),
        ([0.9] * 6, [0.88] * 6, "cannot tell", "; 6 people), and no model of them forgot 5 points."),
        ([0.2], [0.8], "cannot tell", " 60.0 points (1 person, so no interval)."),
    ],
    ids=["more", "less", "less than the bound", "equal", "from person to person", "nothing forgotten", "one person"],
)
def test_a_verdict_follows_from_the_interval(
    multimodal: Sequence[float], unimodal: Sequence[float], verdict: str, number: str
) -> None:
    yardsticks = {name: values[: len(unimodal)] for name, values in YARDSTICKS.items()}
    cell = {**yardsticks, "ga_image_text": multimodal, "ga_text": unimodal}
    found = the(findings([one_ratio({("image_text", "forget", "classification"): cell})]), "multiple choice")
    assert found.verdict(BOUND) == verdict
    sentence = found.sentence(BOUND)
    assert f": {verdict}. Score of ga_text minus ga_image_text, with the image: " in sentence
    assert sentence.endswith(number)


@pytest.mark.parametrize(
    ("by_image", "by_name", "verdict"),
    [
        ((0.8, 0.2), (0.7, 0.3), "reproduced"),
        ((0.8, 0.2), (0.3, 0.7), "not reproduced"),
        ((0.8, 0.2), None, "cannot tell"),
    ],
    ids=["in both", "in one", "the other was not asked"],
)
def test_cloze_needs_both_modalities(
    by_image: tuple[float, float], by_name: tuple[float, float] | None, verdict: str
) -> None:
    """Scores of (multimodal, unimodal) ascent, the same for every person."""
    cells = {}
    for modality, pair in (("image_text", by_image), ("text", by_name)):
        if pair:
            ga = {"ga_image_text": [pair[0]] * 6, "ga_text": [pair[1]] * 6}
            cells[modality, "forget", "cloze"] = {**YARDSTICKS, **ga}
    found = findings([one_ratio(cells)])
    assert the(found, "cloze").verdict(BOUND) == verdict
    assert the(found, "generation").sentence(BOUND).endswith("cannot tell. This run does not compare them.")
    premise = the(found, "knows the people")
    assert premise.verdict(BOUND) == "reproduced" and premise.measures[0].value.value == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("lost", "slope", "verdict"),
    [((0.1, 0.2, 0.4), 0.5, "reproduced"), ((0.4, 0.3, 0.1), -0.5, "not reproduced"), ((0.2,) * 3, 0, "cannot tell")],
)
def test_the_trade_off_is_the_slope_over_all_models(lost: tuple[float, ...], slope: float, verdict: str) -> None:
    """Three models forgot 0.2, 0.4, 0.8; two at one ratio, the third at another. Celebrities are as they were."""
    made = []
    for key, models in (("5", (0, 1)), ("10", (2,))):
        forgot = (0.2, 0.4, 0.8)
        cells: dict[tuple[str, str, str], Scores] = {
            ("text", "forget", "cloze"): {**YARDSTICKS, **{f"m{i}": [0.9 - forgot[i]] * 6 for i in models}},
            ("text", "retain", "cloze"): {**YARDSTICKS, **{f"m{i}": [0.9 - lost[i]] * 6 for i in models}},
            ("text", "celebrity", "cloze"): {**YARDSTICKS, **{f"m{i}": [0.9] * 6 for i in models}},
        }
        made.append(one_ratio(cells, key))
    found = findings(made)
    retain = the(found, "of Retain")
    assert retain.measures[0].value.value == pytest.approx(slope)
    assert retain.verdict(BOUND) == verdict
    assert "over 3 models" in retain.sentence(BOUND)
    assert the(found, "of Celebrity").verdict(BOUND) == "cannot tell"
    assert the(found, "of MMMU").measures == ()


def spread(key: str, people: Sequence[int], models: Sequence[str], others: Sequence[int] = range(8)) -> RatioScores:
    """A ratio whose people and models differ in all scores."""
    draw = np.random.default_rng(int(key))
    names = ("target", "retain_model", *models)
    scores = [
        PersonScore("run", "text", split, "cloze", f"p{person}", 1, {name: float(draw.random()) for name in names})  # type: ignore[arg-type]
        for split, asked in (("forget", people), ("retain", others))
        for person in asked
    ]
    return RatioScores(EvaluatedRun("run", Path("run"), key, 1, {}), scores, list(names))


def test_a_person_weighs_the_same_at_every_ratio() -> None:
    """People 0 to 2 are forgotten at the first ratio, they and three more at the second."""
    small, large = spread("5", range(3), ("a", "b")), spread("10", range(6), ("c", "d"), range(2, 9))
    drawn = [one.draws("text", ("forget", "retain"), among=(small, large)) for one in (small, large)]
    tables = [each for each in drawn if each is not None]
    few, many = (table.drawn_DP[0]["forget"] for table in tables)
    assert few.shape == (2001, 3) and many.shape == (2001, 6)
    assert (few == many[:, :3]).all() and (many.sum(axis=1) == 6).all() and (few.sum(axis=1) > 0).all()
    left, right = (table.drawn_DP[0]["retain"] for table in tables)
    assert (left[:, 2:] == right[:, :6]).all() and (left.sum(axis=1) + right[:, 6] == 9).all()
    alone = large.draws("text", ("forget",))
    assert alone is not None and not (alone.drawn_DP[0]["forget"] == many).all(), "who is alone is drawn alone"
    same = large.draws("text", ("forget",), among=(large,))
    assert same is not None and (alone.drawn_DP[0]["forget"] == same.drawn_DP[0]["forget"]).all()


def test_a_slope_over_ratios_is_that_of_every_draw() -> None:
    """By hand: in each draw the straight line through the four points that the weights of the people give."""
    small, large = spread("5", range(3), ("a", "b")), spread("10", range(6), ("c", "d"))
    points: list[list[list[float]]] = [[], []]
    for one, models in ((small, "ab"), (large, "cd")):
        for axis, split in enumerate(("forget", "retain")):
            drawn = one.draws("text", (split,), among=(small, large))  # type: ignore[arg-type]
            assert drawn is not None
            asked = sorted((s for s in one.scores if s.split == split), key=lambda s: s.person)
            for model in models:
                lost_P = np.array([s.sums["target"] - s.sums[model] for s in asked])
                weights_DP = drawn.drawn_DP[0][split]
                points[axis].append(list(weights_DP @ lost_P / weights_DP.sum(axis=1)))
    slopes = [float(np.polyfit(x, y, 1)[0]) for x, y in zip(*(np.array(axis).T for axis in points), strict=True)]
    measure = the(findings([small, large]), "of Retain").measures[0]
    expected = pooled(np.array(slopes), people=3)
    assert measure.people == 3 and measure.value == pytest.approx(expected)


def test_what_is_forgotten_and_what_is_lost_rest_on_their_own_people() -> None:
    point = utility_points([spread("5", range(1), ("a",))])[0]
    assert point.forgot.low is None and point.lost.low is not None and point.lost.low < point.lost.value
    point = utility_points([spread("5", range(7), ("a",), range(1))])[0]
    assert point.forgot.low is not None and point.lost.low is None


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.30, 0.29, 0.28), ", and the models differ by less than 5 points in what they forgot."),
        ((0.90, 0.89, 0.88), ", and the models differ by less than 5 points in what they forgot."),
        ((0.30, 0.27, 0.20), "people)."),
    ],
    ids=["60, 61 and 62 points", "0, 1 and 2 points", "60, 63 and 70 points"],
)
def test_a_slope_over_models_that_forgot_alike_says_so(scores: Sequence[float], said: str) -> None:
    by_model = {**YARDSTICKS, **{f"m{i}": [score] * 6 for i, score in enumerate(scores)}}
    cells = {("text", split, "cloze"): by_model for split in ("forget", "retain")}
    sentence = the(findings([one_ratio(cells)]), "of Retain").sentence(BOUND)
    assert sentence.endswith(said) and "no model of them" not in sentence


def test_methods_that_forget_alike_say_nothing_about_a_trade_off() -> None:
    cells = {
        ("text", split, "cloze"): {**YARDSTICKS, "a": [0.5] * 6, "b": [0.5] * 6, "c": [0.48] * 6}
        for split in ("forget", "retain")
    }
    assert the(findings([one_ratio(cells)]), "of Retain").verdict(BOUND) == "cannot tell"


def test_cells_are_paired_per_method_task_and_modality() -> None:
    scores = {**YARDSTICKS, "npo_image_text": [0.1, 0.5] * 3, "npo_text": [0.3, 0.7] * 3, "ga_text": [0.0] * 6}
    (cell,) = paired_cells([one_ratio({("text", "forget", "cloze"): scores})])
    assert (cell.method, cell.task, cell.modality, cell.people) == ("npo", "cloze", "text", 6)
    assert cell.difference[:3] == pytest.approx((0.2, 0.2, 0.2))
    assert cell.multimodal.low is not None and cell.multimodal.low < 0.3, "people differ, the difference does not"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("model", ["tiny", "smol", "llava-hf/llava-1.5-7b-hf"])
def test_every_experiment_is_a_recipe_for_every_kind_of_model(experiment: Experiment, model: str) -> None:
    recipe = parse(settings(experiment, model))
    assert recipe.model.path == model and recipe.name.startswith(f"paper-{experiment}-")
    several = experiment == "ratios" or (experiment == "baseline" and "/" in model)
    assert len(recipe.data.splits.forget_ratios) == (3 if several else 1)


def test_settings_in_small_are_those_searched_on_other_people_and_take_as_many_steps() -> None:
    small, made = read(recipes()["all_methods"]), settings("modalities")
    assert made["seed"] != small.get("seed", 0), "other people than those the search saw"
    searched = {each["name"]: each for each in small["unlearn"]["methods"] if isinstance(each, dict)}
    trained = [each for each in made["unlearn"]["methods"] if isinstance(each, dict)]
    assert [each["name"] for each in trained] == ["ga", "grad_diff", "kl_min", "npo"]
    for each in trained:
        own = searched[each["name"]]
        assert each["learning_rate"] == own["learning_rate"] and each["modality"] == ["image_text", "text"]
        # 4 people in both modalities there, 6 people in one of them here
        assert each["epochs"] * 6 == pytest.approx(own["epochs"] * 8, rel=0.002)
    assert "searched" in origin("tiny") and "not searched" in origin("smol") and "published" in origin("a/b")


def test_a_published_model_runs_the_recipe_as_it_is() -> None:
    published, made = read(recipes()["paper_ratios"]), settings("ratios", "llava-hf/llava-1.5-7b-hf")
    assert made | {"name": ""} == published | {"name": ""}


def test_minutes_choose_people_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(recipe: object, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(hours=recipe.data.source.settings["num_people"] / 60)  # type: ignore[attr-defined]

    monkeypatch.setattr("mllmu.preflight.plan.plan.make_plan", plan)
    monkeypatch.chdir(tmp_path)
    run = chosen("modalities", "tiny", 20, (), None)
    assert (run.recipe.data.source.settings["num_people"], run.folder.name) == (16, "paper-modalities-tiny+minutes-20")
    assert chosen("modalities", "tiny", 3, (), None).recipe.data.source.settings["num_people"] == 8, "the fewest"
    run.folder.mkdir(parents=True)
    kept = settings("modalities", "tiny", 12)
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")
    again = chosen("modalities", "tiny", 20, (), None)
    assert again.recipe.data.source.settings["num_people"] == 12, "a run that was begun is continued"
    for source in ("{name: people, path: staff.csv}", "{name: synthetic}", "{name: clear, path: export}"):
        (run.folder / "recipe.yaml").write_text(f"name: mine\ndata: {{source: {source}}}\n", encoding="utf-8")
        with pytest.raises(RecipeError, match="minutes-20: holds another run, with people of the source"):
            chosen("modalities", "tiny", 20, (), None)
    with pytest.raises(RecipeError, match="--minutes: chooses a number of invented people"):
        chosen("modalities", "llava-hf/llava-1.5-7b-hf", 20, (), None)


def test_the_figure_shows_every_method_twice_per_task_and_modality() -> None:
    ga = {"ga_image_text": [0.2] * 6, "ga_text": [0.8] * 6}
    cells = {(m, "forget", t): {**YARDSTICKS, **ga} for m in ("image_text", "text") for t in ("cloze", "generation")}
    plot = paired_plot(paired_cells([one_ratio(cells)]), "paired")
    assert plot.alt.count("20 against 80") == 4 and plot.png.startswith(b"\x89PNG")
    assert "Cloze, asked text only" in plot.svg and "multimodal: forgotten with the image" in plot.svg
