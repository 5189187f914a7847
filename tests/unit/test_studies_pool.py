"""Pooling runs: means by hand, paired draws, differences, fronts, raw scores, and clear errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers_scores import make_run, sets
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.core.runfolder import dump_lines, seal, write_json
from mllmu.studies.person_scores import PersonScore, load, person_scores, save
from mllmu.studies.pool import PairedRow, PersonDraws, PooledRow, PooledValue, by_person, outside, pool, pooled


def scores_of(runs: list[Path], key: str = "10") -> list[PersonScore]:
    return [row for root in runs for row in person_scores(root, key, root.name)]


def rows_of(runs: list[Path]) -> list[PooledRow]:
    return pool(scores_of(runs))[0]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    first = {
        "target": sets(1.0, 1.0, 0.8),
        "retain_model": sets(0.2, 1.0, 0.8),
        "good": sets(0.2, 0.9, 0.8),
        "bad": sets(0.6, 0.5, 0.5),
    }
    second = {
        "target": sets(0.8, 1.0, 0.8),
        "retain_model": sets(0.2, 1.0, 0.8),
        "good": sets(0.3, 0.9, 0.8),
        "bad": sets(0.6, 0.5, 0.5),
        "only_here": sets(0.0, 1.0, 1.0),
    }
    return [make_run(tmp_path / "a", first), make_run(tmp_path / "b", second)]


def test_a_reply_that_cannot_be_read_counts_against_the_model_as_in_a_report(tmp_path: Path) -> None:
    """Of each person one letter in two is not read; the other task is right or wrong as given."""
    root = make_run(tmp_path / "a", {name: sets(0.0, 1.0, 1.0) for name in ("target", "retain_model", "noise")})
    path = root / "eval/forget_10/noise/scores/scores.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        "".join(re.sub(r'"value":[\d.]+', '"value":null', ln) if '"accuracy"' in ln else ln for ln in lines)
    )
    noise = next(row for row in rows_of([root]) if row.model == "noise")
    assert (noise.forget.value, noise.utility.value) == (0.5, 0.5), "known on forget, wrong on retain and celebrity"


def test_one_task_is_pooled_alone_and_an_unknown_one_is_named(runs: list[Path], tmp_path: Path) -> None:
    """The file of one task holds its rows alone, and their mean is that of the rows by hand."""
    scores, kept = scores_of(runs), tmp_path / "one.csv"
    tasks = sorted({score.task for score in scores})
    assert len(tasks) == 2
    done = CliRunner().invoke(app, ["pool", *map(str, runs), "--task", tasks[0], "--scores", str(kept)])
    assert done.exit_code == 0, done.output
    alone = load(kept)
    assert alone == [score for score in scores if score.task == tasks[0]]
    by_run = [
        sum(s.sums["good"] for s in alone if (s.run, s.split) == (run.name, "forget"))
        / sum(s.questions for s in alone if (s.run, s.split) == (run.name, "forget"))
        for run in runs
    ]
    good = next(row for row in pool(alone)[0] if row.model == "good")
    assert good.forget.value == pytest.approx(sum(by_run) / len(by_run))
    wrong = CliRunner().invoke(app, ["pool", str(kept), "--task", "clozes"])
    assert wrong.exit_code == 2 and f"task 'clozes': nothing is scored. Scored: {tasks[0]}." in " ".join(
        wrong.output.split()
    )


def test_means_differences_and_fronts(runs: list[Path]) -> None:
    rows = {row.model: row for row in rows_of(runs)}
    assert set(rows) == {"target", "retain_model", "good", "bad"}
    good = rows["good"]
    assert good.forget.value == pytest.approx(0.25)
    assert good.surplus.value == pytest.approx(0.05)
    assert good.utility.value == pytest.approx(0.85)
    assert good.cost.value == pytest.approx(0.05)
    assert (good.forget.low, good.forget.high) == pytest.approx((0.2, 0.3)), "both draws of one run alone"
    assert (good.front, rows["bad"].front, rows["target"].front) == (1.0, 0.0, None)
    assert [row.model for row in rows_of(runs)] == ["retain_model", "target", "good", "bad"]


def test_the_interval_is_that_of_people_drawn_anew(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a", {name: sets(1.0, 1.0, 1.0) for name in ("target", "retain_model", "half")})
    path = root / "eval/forget_10/half/scores/scores.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line.replace("1.0", "0.0") if "/f1/" in line else line for line in lines))
    half = next(row for row in rows_of([root]) if row.model == "half")
    assert half.forget.value == pytest.approx(2 / 3)
    # of 27 equally likely draws of three people 1 has f1 thrice (score 0) and 8 have f1 never (score 1)
    assert (half.forget.low, half.forget.high) == pytest.approx((0.0, 1.0))
    assert half.surplus.value == pytest.approx(-1 / 3)


def test_runs_that_do_not_go_together_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scores"):
        scores_of(runs, "5")
    other = make_run(tmp_path / "c", {"target": sets(1, 1, 1), "retain_model": sets(0, 1, 1), "npo": sets(0, 1, 1)})
    with pytest.raises(DataError, match="no unlearned model is in all"):
        rows_of([runs[0], other])
    with pytest.raises(DataError, match=r"--against god: not in all runs\. Did you mean 'good'"):
        pool(scores_of(runs), against="god")
    with pytest.raises(
        DataError, match=r"run a: the questions of classification about f1 \(forget, text\) are given twice"
    ):
        pool(scores_of([runs[0], runs[0]]))


def test_the_command_prints_and_writes_a_table(runs: list[Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pool", *map(str, runs), "--out", str(tmp_path / "table.md")])
    assert done.exit_code == 0, done.output
    assert "| good | 25.0 (20.0 to 30.0) | 5.0 (0.0 to 10.0) | open |" in (tmp_path / "table.md").read_text()
    assert "over 2 runs" in done.output
    twin = runs[0].rename(tmp_path / "twin")
    same = [twin, twin.parent / "other" / "twin"]
    same[1].parent.mkdir()
    runs[1].rename(same[1])
    done = CliRunner().invoke(app, ["pool", *map(str, same), "--scores", str(tmp_path / "scores.csv")])
    assert done.exit_code == 0, done.output
    named = {line.partition(",")[0] for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]}
    assert named == {"twin_1", "twin_2"}, "runs of one name are numbered: a path would say where they lay"
    (tmp_path / "empty").mkdir()
    empty = CliRunner().invoke(app, ["pool", str(tmp_path / "empty")])
    assert empty.exit_code == 2
    assert "holds no evaluation" in empty.output


def pairs_of(runs: list[Path], against: str | None = None) -> dict[str, PairedRow]:
    return {pair.model: pair for pair in pool(scores_of(runs), against=against)[1]}


def test_differences_between_methods_are_of_the_same_draws(tmp_path: Path) -> None:
    """Runs and people differ much more than the two methods do: unpaired intervals would hide it."""
    runs = []
    for number, level in enumerate((0.1, 0.5, 0.9)):
        known = {"target": sets(1, 1, 1), "retain_model": sets(0, 1, 1)}
        known |= {"first": sets(level, 0.8, 0.8), "second": sets(level + 0.05, 0.8, 0.7)}
        runs.append(make_run(tmp_path / str(number), known))
    rows = {row.model: row for row in rows_of(runs)}
    assert rows["first"].forget.low is not None
    assert rows["second"].forget.low is not None
    assert rows["first"].forget.high is not None
    assert rows["first"].forget.high - rows["first"].forget.low > 0.5
    (pair,) = pairs_of(runs).values()
    assert (pair.model, pair.rival) == ("second", "first"), "the nearest is what the others are compared with"
    assert pair.forget == pytest.approx((0.05, 0.05, 0.05, 0.05))
    assert pair.utility == pytest.approx((-0.05, -0.05, -0.05, 0.05))
    assert pair.distance == pytest.approx((0.1, 0.1, 0.1, 0.1))
    assert pair.distance.verdict(0.05) == "more"
    assert pair.distance.verdict(0.2) == "more, but equal within the bound"
    (turned,) = pairs_of(runs, against="second").values()
    assert (turned.model, turned.rival) == ("first", "second")
    assert turned.distance == pytest.approx((-0.1, -0.1, -0.1, 0.1))
    assert turned.distance.verdict(0.05) == "less"


def test_a_wide_interval_is_not_equality(tmp_path: Path) -> None:
    """An interval that holds 0 says nothing until it is narrower than the bound."""
    few, many = (
        pooled(np.array([0.0, *np.random.default_rng(0).normal(0, spread, 2000)]), people=12) for spread in (0.2, 0.01)
    )
    for value in (few, many):
        assert value.low is not None
        assert value.high is not None
        assert value.low < 0 < value.high
    assert few.verdict(0.05) == "open"
    assert many.verdict(0.05) == "equal"
    assert many.verdict(0.005) == "open"


def test_the_margin_is_the_bound_at_which_two_one_sided_tests_succeed() -> None:
    draws = np.random.default_rng(1).normal(0.02, 0.01, 4000)
    value = pooled(np.array([0.02, *draws]), people=10_000)
    assert value.margin == pytest.approx(0.02 + 1.645 * 0.01, abs=0.001)
    assert (value.low, value.high) == pytest.approx((0.02 - 0.0196, 0.02 + 0.0196), abs=0.001)
    assert pooled(np.array([0.5, 0.5, 0.5]), people=1) == PooledValue(0.5, None, None, None)
    assert PooledValue(0.5, None, None, None).verdict(1.0) == "open"


@pytest.mark.parametrize(("people", "share"), [(100_000, 0.025), (25, 0.0178), (8, 0.0057)])
def test_with_few_people_less_is_left_out(people: int, share: float) -> None:
    assert outside(people, 0.025) == pytest.approx(share, abs=0.0003)


@pytest.mark.parametrize(("runs", "spread", "least"), [(3, 0.0, 0.96), (3, 0.5, 0.94), (10, 1.0, 0.93)])
def test_an_interval_of_few_runs_of_four_people_holds_the_truth(runs: int, spread: float, least: float) -> None:
    """``spread``: between runs, where people differ by 1."""
    draw, worlds, held = np.random.default_rng(0), 400, 0
    for _ in range(worlds):
        scores_RP = draw.normal(0, spread, (runs, 1)) + draw.normal(0, 1, (runs, 4))
        people_DRP = draw.multinomial(4, [1 / 4] * 4, size=(300, runs)) / 4
        runs_DR = draw.multinomial(runs, [1 / runs] * runs, size=300) / runs
        drawn_D = (runs_DR * (people_DRP * scores_RP).sum(-1)).sum(-1)
        value = pooled(np.array([scores_RP.mean(), *drawn_D]), people=4 * runs)
        assert value.low is not None
        assert value.high is not None
        held += value.low <= 0 <= value.high
    assert held / worlds >= least


def people_of(sizes: dict[str, int], seed: int = 0) -> list[PersonScore]:
    """One run with so many people per set, who all differ."""
    numbers = np.random.default_rng(seed)
    return [
        PersonScore("a", "text", split, "cloze", f"{split}{n}", 4, {m: float(numbers.integers(5)) for m in MODELS})  # type: ignore[arg-type]
        for split, size in sizes.items()
        for n in range(size)
    ]


MODELS = ("target", "retain_model", "npo")


def run_of(name: str, split: str, scores: dict[str, float], people: str = "") -> list[PersonScore]:
    """A run in which each person has one question, and every model the same score on it."""
    return [
        PersonScore(name, "text", split, "cloze", person, 1, dict.fromkeys(MODELS, score), people)  # type: ignore[arg-type]
        for person, score in scores.items()
    ]


def test_runs_that_share_their_people_draw_them_together_and_count_them_once() -> None:
    """Three runs of the same four people: as many people as one run has, and the same draws in each."""
    levels = {"001": 0.0, "002": 0.2, "003": 0.7, "004": 1.0}
    shared, own = (
        PersonDraws([by_person(run_of(name, "forget", levels, digest), MODELS) for name in "abc"])
        for digest in ("people-1", "")
    )
    assert (shared.num_people("forget"), own.num_people("forget")) == (4, 12)
    tables = [drawn["forget"] for drawn in shared.drawn_DP]
    assert (tables[0] == tables[1]).all() and (tables[0] == tables[2]).all()
    assert (own.drawn_DP[0]["forget"] != own.drawn_DP[1]["forget"]).any()
    single = PersonDraws([by_person(run_of("a", "forget", levels), MODELS)])
    assert shared.mean(("forget",)).std() == pytest.approx(single.mean(("forget",)).std()), "runs add nothing"
    ratio = own.mean(("forget",)).std() / single.mean(("forget",)).std()
    assert ratio == pytest.approx((5 / 9) ** 0.5, abs=0.03), "squared shares of three runs drawn: 1/3 + 2/9 on average"


def test_of_people_whom_some_runs_share_each_is_drawn_equally_often_there() -> None:
    """Forget sets that overlap: 1 to 3, 3 to 5; a third run has people of another list."""
    asked = [("a", "x", "123"), ("b", "x", "345"), ("c", "y", "123")]
    runs = [by_person(run_of(name, "forget", dict.fromkeys(ids, 1.0), digest), MODELS) for name, digest, ids in asked]
    draws = PersonDraws(runs)
    assert draws.num_people("forget") == 8
    first, second, third = (drawn["forget"] for drawn in draws.drawn_DP)
    assert (first[:, 2] == second[:, 0]).all(), "person 3 of both"
    assert (first.sum(axis=1) + second.sum(axis=1) - first[:, 2] == 5)[1:].all(), "five people are drawn of five"
    assert (third.sum(axis=1) == 3).all() and (first.sum(axis=1) > 0).all() and (second.sum(axis=1) > 0).all()


def test_celebrities_are_the_same_people_in_all_runs_also_in_a_file_without_the_column(tmp_path: Path) -> None:
    """Of three and three celebrities one is in both runs; forget people of equal ids are other people."""
    rows = [
        *run_of("a", "forget", {"001": 0.5, "002": 0.1}), *run_of("b", "forget", {"001": 0.2, "002": 0.3}),
        *run_of("a", "celebrity", {"c1": 0.5, "c2": 0.1, "c3": 0.2}),
        *run_of("b", "celebrity", {"c3": 1, "c4": 0, "c5": 1}),
    ]  # fmt: skip
    save(path := tmp_path / "scores.csv", rows)
    assert path.read_text().splitlines()[0] == "run,modality,set,task,person,questions,target,retain_model,npo"
    kept = load(path)
    assert kept == rows
    draws = PersonDraws([by_person([s for s in kept if s.run == run], MODELS) for run in "ab"])
    assert (draws.num_people("forget"), draws.num_people("celebrity")) == (4, 5)


def test_the_file_of_raw_scores_keeps_whose_people_they_are(runs: list[Path], tmp_path: Path) -> None:
    """Two runs with one data folder, and one whose person 1 has another name: only the latter has people of its own."""
    third = make_run(tmp_path / "c", {name: sets(0.5, 0.5, 0.5) for name in ("target", "retain_model", "good")})
    for root, name in zip((*runs, third), ("Ann", "Ann", "Eve"), strict=True):
        people = [Profile(id=f"f{n}", kind="fictitious", attributes={"name": f"{name} {n}"}) for n in (1, 2, 3)]
        stars = [Profile(id="c1", kind="celebrity", attributes={"name": f"Star of {root.name}"})]
        (root / "data").mkdir()
        (root / "data/profiles.jsonl").write_text(dump_lines([*people, *stars]))
    scores = scores_of([*runs, third])
    save(path := tmp_path / "scores.csv", scores)
    assert path.read_text().startswith("run,modality,set,task,person,questions,people_digest,bad,")
    assert load(path) == scores
    who = {
        root.name: {s.who for s in load(path) if s.run == root.name and s.split == "forget"} for root in (*runs, third)
    }
    assert who["a"] == who["b"] and who["a"].isdisjoint(who["c"]) and len(who["c"]) == 3
    assert not any(name in path.read_text() for name in ("Ann", "Eve", "Star"))


@pytest.mark.parametrize(
    ("sizes", "forgotten", "others"),
    [
        ({"forget": 1, "retain": 50}, 1, 50),
        ({"forget": 40, "retain": 8}, 40, 8),
        ({"forget": 6, "retain": 20, "celebrity": 3}, 6, 3),
        ({"forget": 5, "retain": 1, "celebrity": 9}, 5, 1),
    ],
)
def test_an_interval_is_as_wide_as_the_people_of_its_own_number_are_few(
    sizes: dict[str, int], forgotten: int, others: int
) -> None:
    scores = people_of(sizes)
    rows, _ = pool(scores)
    npo = next(row for row in rows if row.model == "npo")
    draws = PersonDraws([by_person(scores, MODELS)])
    target_D, retain_D, forget_D = (draws.mean(("forget",))[index] for index in range(3))
    kept_MD = draws.mean([split for split in ("retain", "celebrity") if split in sizes])
    cost_D = kept_MD[0] - kept_MD[2]
    assert npo.forget == pooled(forget_D, forgotten) and npo.surplus == pooled(forget_D - retain_D, forgotten)
    assert npo.utility == pooled(kept_MD[2], others) and npo.cost == pooled(cost_D, others)
    assert npo.distance == pooled(abs(forget_D - retain_D) + cost_D, min(forgotten, others))
    assert (npo.forget.low is None) == (forgotten == 1) and (npo.utility.low is None) == (others == 1)
    assert (npo.distance.low is None) == (min(forgotten, others) == 1) and target_D.shape == (2001,)


def test_differences_rest_on_the_same_people_as_what_they_are_differences_of() -> None:
    scores = people_of({"forget": 1, "retain": 9})
    scores = [s._replace(sums={**s.sums, "ga": 4 - s.sums["npo"]}) for s in scores]
    (pair,) = pool(scores, against="npo")[1]
    assert pair.forget.low is None and pair.distance.low is None and pair.utility.low is not None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,sound,forget,cloze,p1,3,1.0", "modality 'sound', expected image_text or text"),
        ("a,text,forget,cloze,p1,0,1.0", "expected 1 question or more"),
        ("a,text,forget,cloze,p1,-2,1.0", "expected 1 question or more"),
        (f"a,text,forget,cloze,p1,{'9' * 400},1.0", "expected 1 question or more"),
        ("a,text,forget,cloze,p1,3,nan", "target: nan, expected a number"),
        ("a,text,forget,cloze,p1,3,inf", "target: inf, expected a number"),
    ],
)
def test_a_line_that_can_be_no_score_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "scores.csv"
    head = "run,modality,set,task,person,questions,target"
    path.write_text(f"{head}\na,text,forget,cloze,p0,3,1.0\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"scores\.csv: line 3 cannot be read \(.*{said}"):
        load(path)
    path.write_text(f"{head}\n", encoding="utf-8")
    with pytest.raises(DataError, match="no raw scores below"):
        load(path)


def test_raw_scores_make_the_same_tables_as_the_runs(runs: list[Path], tmp_path: Path) -> None:
    file, table, again = tmp_path / "scores.csv", tmp_path / "first.md", tmp_path / "again.md"
    done = CliRunner().invoke(app, ["pool", *map(str, runs), "--scores", str(file), "--out", str(table)])
    assert done.exit_code == 0, done.output
    assert file.read_text().splitlines()[:2] == [
        "run,modality,set,task,person,questions,bad,good,retain_model,target,only_here",
        "a,text,forget,classification,f1,1,0.6,0.2,0.2,1.0,",
    ]
    done = CliRunner().invoke(app, ["pool", str(file), "--out", str(again)])
    assert done.exit_code == 0, done.output
    assert again.read_text() == table.read_text().replace(" at 10 % forgotten", ""), "a file does not say the ratio"
    assert "**text only, minus good**" in table.read_text()
    assert "within 5 points of 0" in table.read_text()


def test_raw_scores_are_kept_exactly_and_a_damaged_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    scores = [PersonScore("a", "text", "forget", "cloze", "p,1", 3, {"target": 0.1 + 0.2, "x": 1 / 3}),
              PersonScore("b", "image_text", "retain", "cloze", "p2", 1, {"target": 1.0})]  # fmt: skip
    save(path, scores)
    assert load(path) == scores
    kept = path.read_text()
    path.write_text("sep=,\n" + kept, encoding="utf-8-sig")
    assert load(path) == scores, "as Excel saves it"
    path.write_text(kept.replace("1,1.0", "one,1.0"))
    with pytest.raises(DataError, match=r"scores\.csv: line 3 cannot be read"):
        load(path)
    for text in ("", "model,value\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="expected raw scores with the columns run, modality, set"):
            load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"scores\.csv: cannot be read .*UTF-8"):
        load(path)


def test_a_model_that_the_recipe_no_longer_names_is_neither_ranked_nor_read(runs: list[Path]) -> None:
    """``bad`` is left over from an earlier recipe, and was asked other questions: the numbers do not name it."""
    folder = runs[0] / "eval/forget_10"
    named = [{"model": model} for model in ("target", "retain_model", "good")]
    write_json(folder / "metrics.json", seal({"results": named}))
    (folder / "bad/scores/scores.jsonl").write_text("")
    assert {model for score in scores_of(runs[:1]) for model in score.sums} == {"target", "retain_model", "good"}
    assert {row.model for row in rows_of(runs[:1])} == {"target", "retain_model", "good"}
