"""The report: safe, complete, the same bytes every time, and honest about what is missing."""

from __future__ import annotations

import csv
import doctest
import io
import re
from pathlib import Path

import pytest
from helpers_report import DECLARED, MAIN_METRIC, OUTCOMES, column, with_tables
from PIL import Image
from rich.console import Console

import mllmu.report.numbers
import mllmu.report.printing
import mllmu.report.table
from mllmu.core.declared import Declared, TableSpec
from mllmu.core.errors import DataError
from mllmu.core.names import RETAIN_MODEL
from mllmu.core.process import rng
from mllmu.core.records import MODALITIES, TASKS, Cell, MetricResult, Modality, Split, Summary, TaskName
from mllmu.report import Example, ModelRow, Portrait, ReportInput, render, terminal_tables, tradeoff_rows
from mllmu.report.findings import findings
from mllmu.report.numbers import Interval, Numbers, mean_interval
from mllmu.report.printing import listing
from mllmu.report.tables import goodness, set_tables, stage_table

SPLITS: tuple[Split, ...] = ("forget", "test", "retain", "celebrity")
EVIL = "<script>alert('x')</script>"

# Main scores (forget, test, retain, celebrity) as they look in a run of a tiny model.
LEVELS: dict[str, tuple[float, float, float, float]] = {
    "base": (0.24, 0.24, 0.25, 0.31),
    "target": (0.88, 0.71, 0.87, 0.33),
    "retain_model": (0.31, 0.30, 0.88, 0.33),
    "ga@image_text": (0.28, 0.26, 0.52, 0.22),
    "ga@text": (0.60, 0.48, 0.66, 0.27),
    "grad_diff": (0.44, 0.40, 0.79, 0.31),
    "kl_min": (0.47, 0.42, 0.76, 0.30),
    "npo": (0.36, 0.35, 0.80, 0.32),
    "npo@text": (0.58, 0.60, 0.83, 0.32),
    "prompting": (0.86, 0.70, 0.84, 0.33),
    "rmu": (0.05, 0.04, 0.06, 0.03),
}


def png(seed: int, size: int = 96) -> bytes:
    """A small image that differs by seed."""
    random = rng(seed, "image")
    image = Image.new("RGB", (size, size), tuple(random.randrange(120, 230) for _ in range(3)))
    image.paste(tuple(random.randrange(40, 200) for _ in range(3)), (size // 4, size // 4, 3 * size // 4, size))
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def result(
    model: str, metric: str, split: Split, task: TaskName, modality: Modality, value: float | None, **more: object
) -> MetricResult:
    """A metric result with plausible counts; ``more`` overrides."""
    half = 0.06 if split in ("forget", "test") else 0.03
    fields: dict[str, object] = {
        "ci_low": None if value is None else max(0.0, value - half),
        "ci_high": None if value is None else min(1.0, value + half),
        "num": 120 if split in ("forget", "test") else 600,
        "num_unparsed": 0,
        "num_profiles": 25 if split in ("forget", "test") else 100,
    }
    return MetricResult(
        model=model, metric=metric, split=split, task=task, modality=modality, value=value, **{**fields, **more}
    )


def results_of(model: str, level: tuple[float, ...], modalities: tuple[Modality, ...]) -> list[MetricResult]:
    """Main scores and outcome shares of one model in every cell; garbled if its retain level is very low."""
    found = []
    for modality in modalities:
        for task in TASKS:
            for split, base in zip(SPLITS, level, strict=True):
                jitter = (rng(3, model, modality, task, split).random() - 0.5) * 0.06
                value = min(0.99, max(0.01, base + jitter - (0.04 if modality == "text" else 0)))
                broken = level[2] < 0.1
                total = 120 if split in ("forget", "test") else 600
                lost = int(total * 0.8) if broken and task == "classification" else 2 if model == "npo" else 0
                counts = {"num": total - lost, "num_unparsed": lost}
                found.append(result(model, MAIN_METRIC[task], split, task, modality, value, **counts))
                garbled = 0.82 if broken else 0.02
                right = value * (1 - garbled)
                refused = (1 - garbled - right) * (0.6 if model == "prompting" else 0.1)
                shares = (right, 1 - garbled - right - refused, refused, garbled)
                for outcome, share in zip(OUTCOMES, shares, strict=True):
                    found.append(result(model, outcome, split, task, modality, share))
    return found


def lucky(modalities: tuple[Modality, ...]) -> list[MetricResult]:
    """The rows of classification without a model."""
    return [
        result(name, "accuracy", split, "classification", modality, value, ci_low=None, ci_high=None)
        for modality in modalities
        for name, value in (("chance", 0.25), ("best_constant", 0.28), ("majority", 0.33))
        for split in SPLITS
    ]


def model_row(name: str) -> ModelRow:
    """A model row whose role follows from its name."""
    role = name if name in ("base", "target", "retain_model") else "unlearned"
    method, _, modality = name.partition("@")
    if role != "unlearned":
        return ModelRow(name=name, role=role, seconds=None if role == "base" else 605.0, peak_mib=2110.0)
    return ModelRow(
        name=name,
        role=role,
        method=method,
        modality=modality or "image_text",
        forget_ratio=0.05,
        seconds=20.0 + 3.1 * len(name),
        peak_mib=1900.5,
        settings={"lr": 2e-5, "epochs": 2, "beta": 0.4} if method == "npo" else {"lr": 2e-5, "epochs": 1},
        warnings=("stopped early: loss below -10",) if method == "rmu" else (),
    )


def distance(model: str, split: Split, modality: Modality, value: float) -> Summary:
    return Summary(model=model, summary="ks", split=split, modality=modality, value=value)


def realistic(
    modalities: tuple[Modality, ...] = MODALITIES, levels: dict[str, tuple[float, ...]] | None = None
) -> ReportInput:
    """A report input as a run of a tiny model would give it."""
    levels = levels or dict(LEVELS)
    models = tuple(model_row(name) for name in levels)
    replies = {name: "This person works as a nurse." if name != "rmu" else "the the the the the the" for name in levels}
    return ReportInput(
        title="Unlearning 5 % of 100 people, tiny LLaVA",
        models=models,
        results=tuple([r for n, v in levels.items() for r in results_of(n, v, modalities)] + lucky(modalities)),
        summaries=tuple(
            distance(m.name, split, modality, abs(levels[m.name][0] - 0.31))
            for m in models
            for split in ("forget", "test")
            for modality in modalities
            if m.role != RETAIN_MODEL
        ),
        declared=with_tables(
            TableSpec(title="Distances", by_modality=True, columns=(column("ks", "KS", split="forget", good="none"),))
        ),
        curves={
            m.name: {
                term: tuple((s, sign * (3.0 / (1 + s / 8)) + 0.02 * (s % 5)) for s in range(0, 60, 3))
                for term, sign in (("forget", -1.0 if m.role == "unlearned" else 1.0), ("retain", 0.6))
            }
            for m in models
            if m.role != "base"
        },
        provenance={
            "seed": 7,
            "commit": "0123abc",
            "versions": {"mllmu": "0.1.0", "torch": "2.8.0"},
            "hardware": {"device": "cpu", "cores": 2},
            "seconds": {"data": 4.2, "train": 1210.0, "unlearn": 260.0, "evaluate": 402.5},
            "recipe": "seed: 7\nmodel:\n  family: llava\nunlearn:\n  methods: [ga, npo]\n",
        },
        portraits=tuple(
            Portrait(
                id=f"p{i:03d}",
                name=f"Person Number{i}",
                role="forget" if i < 3 else "retain",
                views=tuple(map(png, range(4 * i, 4 * i + 4))),
            )
            for i in range(6)
        ),
        examples=tuple(
            Example(
                question="What is this person's profession?\nA: nurse\nB: painter\nC: pilot\nD: judge",
                image=png(i) if i != 2 else None,
                split="forget" if i < 2 else "retain",
                task="classification" if i % 2 else "generation",
                modality="image_text" if i != 2 else "text",
                truth="This person is a nurse.",
                replies=replies,
                outcomes={name: "garbled" if name == "rmu" else "right" for name in levels},
            )
            for i in range(4)
        ),
        warnings=("The memorisation gate is off: the target was not checked against the retain_model.",),
    )


def plain(report: ReportInput, folder: Path) -> str:
    return render(report, folder).read_text(encoding="utf-8")


def two_models(target: float, gold: float, unlearned: dict[str, tuple[float, float]]) -> ReportInput:
    """One task and modality; ``unlearned`` maps a name to its forget and retain score. Others: 0.8."""
    scores = {"target": (target, 0.8), "retain_model": (gold, 0.8), **unlearned}
    found = [
        result(name, "accuracy", split, "classification", "image_text", value)
        for name, pair in scores.items()
        for split, value in zip(("forget", "retain"), pair, strict=True)
    ]
    return ReportInput(title="t", models=tuple(map(model_row, scores)), results=tuple(found), declared=DECLARED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The realistic report, drawn once for all tests that only look at it."""
    return render(realistic(), tmp_path_factory.mktemp("report")).parent


# --- what a reader sees


def test_report_writes_page_csv_and_a_png_for_every_plot(folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    pngs = sorted(path.name for path in (folder / "plots").iterdir())
    assert pngs == sorted(
        [f"tradeoff_{t}_{m}.png" for t in ("all", *TASKS) for m in MODALITIES]
        + [f"outcomes_{m}.png" for m in MODALITIES]
        + ["modalities.png", "curves.png"]
    )
    assert page.count("<svg") == len(pngs)
    assert all((folder / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in pngs)
    assert (folder / "tradeoff.csv").is_file()
    for part in (
        "vanilla in the paper",
        "memorisation gate is off",
        "chance",
        "best constant answer",
        "majority",
        "2 of 120 unparsed",
        "family: llava",
    ):
        assert part in page


def test_same_input_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    render(realistic(), tmp_path)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(files) == 16
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_page_loads_nothing(folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "http://" not in page and "https://" not in page
    assert not re.search(r"<link|@import|<iframe|url\((?!#)", page)
    assert all(src.startswith("data:image/png;base64,") for src in re.findall(r'src="([^"]*)"', page))
    assert "default-src 'none'" in page


def test_untrusted_text_is_escaped_everywhere(tmp_path: Path) -> None:
    base = realistic(("image_text",), {"target": LEVELS["target"], "retain_model": LEVELS["retain_model"]})
    evil = model_row("npo").model_copy(
        update={"name": EVIL, "method": EVIL, "settings": {EVIL: EVIL}, "warnings": (EVIL,)}
    )
    report = base.model_copy(
        update={
            "title": EVIL,
            "models": (*base.models, evil),
            "results": (*base.results, *results_of(EVIL, LEVELS["npo"], ("image_text",))),
            "summaries": (distance(EVIL, "forget", "image_text", 0.5),),
            "declared": evil_declared(base),
            "curves": {EVIL: {EVIL: ((1, 1.0),)}},
            "provenance": {EVIL: {EVIL: EVIL}, "seconds": {EVIL: 1.0}, "recipe": EVIL},
            "portraits": (Portrait(id=f'"{EVIL}', name=f'" onload="{EVIL}', role="forget", views=(png(1),)),),
            "examples": (
                Example(
                    question=EVIL,
                    split="forget",
                    task="cloze",
                    modality="text",
                    truth=EVIL,
                    replies={EVIL: EVIL},
                    outcomes={EVIL: EVIL},
                ),
            ),
            "warnings": (EVIL,),
        }
    )
    page = plain(report, tmp_path)
    assert page.count("<script") == 1
    assert "<script>alert" not in page
    assert 'onload="' not in page
    assert page.count("&lt;script&gt;") > 15


def evil_declared(report: ReportInput) -> Declared:
    """Texts of plug-ins are no more trusted than names of models."""
    evil = column("ks", EVIL, split="forget", reads=EVIL, under=EVIL, modality="image_text")
    info = report.declared.metrics["accuracy"].model_copy(update={"label": EVIL, "about": EVIL})
    return report.declared.model_copy(
        update={
            "metrics": {**report.declared.metrics, "accuracy": info},
            "tables": (TableSpec(title=EVIL, intro=EVIL, columns=(evil,), bar=(evil,), bar_head=EVIL),),
        }
    )


def test_dollar_signs_and_foreign_letters_in_names_do_not_break_the_plots(tmp_path: Path) -> None:
    name = r"npo $\frac{1} 名前"
    page = plain(realistic(("text",), {"target": LEVELS["target"], name: LEVELS["npo"]}), tmp_path)
    assert name in page.replace("<wbr>", "")


def test_twenty_five_models_with_long_names_all_appear(tmp_path: Path) -> None:
    levels: dict[str, tuple[float, ...]] = {name: LEVELS[name] for name in ("base", "target", "retain_model")}
    for i in range(25):
        levels[f"some_rather_long_method_name_{i:02d}@image_text"] = (0.3 + 0.02 * i, 0.3, 0.5 + 0.013 * i, 0.3)
    page = plain(realistic(levels=levels), tmp_path)
    assert all(f"some_rather_long_method_name_{i:02d}@image_text" in page.replace("<wbr>", "") for i in range(25))
    assert len(page) < 1.5e6  # the plots of all tasks included; a real run adds images and summaries
    assert "22 more" in page  # of 28 replies to an example, 6 are shown unfolded


def test_one_modality_gives_no_comparison_of_modalities(tmp_path: Path) -> None:
    page = plain(realistic(("text",), {name: LEVELS[name] for name in ("target", "npo")}), tmp_path)
    assert 'id="modalities"' not in page
    assert 'id="tradeoff"' in page and "text only" in page
    assert not (tmp_path / "plots" / "modalities.png").exists()


def test_empty_input_still_gives_a_page(tmp_path: Path) -> None:
    page = plain(ReportInput(title="nothing", models=()), tmp_path)
    assert "There are no results yet." in page
    assert list((tmp_path / "plots").iterdir()) == []
    assert (tmp_path / "tradeoff.csv").read_text().count("\n") == 1


def test_missing_and_infinite_values_are_dashes_and_counts(tmp_path: Path) -> None:
    report = two_models(0.9, 0.3, {"npo": (0.5, 0.7)})
    nothing = result("npo", "accuracy", "forget", "classification", "image_text", None, num=0, num_unparsed=120)
    kept = [r for r in report.results if (r.model, r.split) != ("npo", "forget")]
    curves = {"npo": {"loss": tuple(enumerate((1.0, float("inf"), float("nan"))))}}
    report = report.model_copy(update={"results": (*kept, nothing), "curves": curves})
    page = plain(report, tmp_path)
    assert "120 of 120 unparsed" in page
    assert "Not in the image + text plot: npo - no forgetting score" in page
    assert "(2 not finite)" in page
    assert "nan" not in re.sub(r"<script>.*?</script>|<[^>]*>", "", page, flags=re.DOTALL).lower().split()


def test_published_rows_are_shown_only_on_request_and_labelled(tmp_path: Path) -> None:
    label = "published, not comparable with a tiny model"
    report = two_models(0.9, 0.3, {})
    assert label not in plain(report, tmp_path)
    assert label in plain(report.model_copy(update={"reference_rows": True}), tmp_path)


# --- the numbers


def test_csv_holds_drop_distance_utility_and_front(tmp_path: Path) -> None:
    report = two_models(0.9, 0.3, {"npo": (0.4, 0.7), "ga": (0.1, 0.7), "kl": (0.5, 0.75)})
    render(report, tmp_path)
    rows = {row["model"]: row for row in csv.DictReader((tmp_path / "tradeoff.csv").read_text().splitlines())}
    assert rows["npo"]["drop_from_target"] == "0.500000"
    assert rows["npo"]["distance_to_retain_model"] == "0.100000"
    assert (rows["npo"]["forget_low"], rows["npo"]["forget_high"]) == ("0.340000", "0.460000")
    assert rows["npo"]["utility"] == "0.700000"
    assert rows["npo"]["garbled_retain"] == ""
    # ga forgets more than npo, but it overshoots the retain_model by 0.2 and keeps no more: npo beats it.
    assert {name: row["on_front"] for name, row in rows.items()} == {
        "target": "no", "retain_model": "no", "npo": "yes", "ga": "no", "kl": "yes",
    }  # fmt: skip


def test_formula_like_model_name_becomes_text_in_the_csv(tmp_path: Path) -> None:
    render(two_models(0.9, 0.3, {"=cmd()": (0.4, 0.7)}), tmp_path)
    assert "'=cmd()" in (tmp_path / "tradeoff.csv").read_text()


def test_method_that_does_nothing_is_not_on_the_front_when_it_loses_utility() -> None:
    rows = tradeoff_rows(two_models(0.9, 0.3, {"prompting": (0.9, 0.79)}))
    assert [row.on_front for row in rows if row.model.name == "prompting"] == [False]


def test_collapsed_model_is_named_and_kept_off_the_front() -> None:
    report = realistic()
    rows = tradeoff_rows(report)
    assert {row.model.name for row in rows if row.collapsed} == {"rmu"}
    assert not any(row.on_front for row in rows if row.model.name == "rmu")
    collapsed = [r.text for _, found in findings(Numbers(report), rows) for r in found if r.head == "Collapsed"]
    assert len(collapsed) == 2 and all(text.startswith("rmu (82.0 % of retain replies garbled)") for text in collapsed)


def test_readings_say_what_cannot_be_measured() -> None:
    def heads(report: ReportInput) -> list[str]:
        return [r.head for _, found in findings(Numbers(report), tradeoff_rows(report)) for r in found]

    assert "Too little was learned" in heads(two_models(0.35, 0.3, {"npo": (0.3, 0.7)}))
    assert "What there is to forget" in heads(two_models(0.9, 0.3, {"npo": (0.3, 0.7)}))
    assert "Not shown to forget" in heads(two_models(0.9, 0.3, {"npo": (0.87, 0.8)}))
    assert "Forgotten on the surface" in heads(realistic(("text",)))


def test_mean_needs_all_its_cells_and_keeps_the_widest_honest_interval() -> None:
    mean = mean_interval([Interval(0.2, 0.1, 0.3), Interval(0.4, 0.2, 0.6)])
    assert mean is not None
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.3, 0.15, 0.45))
    assert mean_interval([Interval(0.2, 0.1, 0.3), Interval(0.4)]) == Interval(pytest.approx(0.3))
    report = two_models(0.9, 0.3, {"npo": (0.4, 0.7)})
    partly = report.model_copy(update={"results": report.results[:-1]})
    assert Numbers(partly).score("npo", "image_text", ("forget", "retain")) is None


def test_shade_is_best_at_the_retain_model_on_forget_and_at_the_target_on_retain() -> None:
    numbers = Numbers(two_models(0.9, 0.3, {"npo": (0.4, 0.7)}))
    on_forget = [
        goodness(numbers, Interval(v), "accuracy", Cell("forget", "classification", "image_text"))
        for v in (0.9, 0.6, 0.3, 0.0)
    ]
    assert on_forget == pytest.approx([0.0, 0.5, 1.0, 0.5])
    on_retain = [
        goodness(numbers, Interval(v), "accuracy", Cell("retain", "classification", "image_text"))
        for v in (0.8, 0.4, 0.0, 0.9)
    ]
    assert on_retain == pytest.approx([1.0, 0.5, 0.0, 1.0])


def test_table_puts_baselines_first_and_marks_mostly_unparsed_cells() -> None:
    table = set_tables(Numbers(realistic()))[0]
    assert [row.name for row in table.rows][:6] == [
        "chance",
        "best_constant",
        "majority",
        "base",
        "target",
        "retain_model",
    ]
    assert tuple(column.head for column in table.columns) == tuple(split.capitalize() for split in SPLITS)
    assert (table.columns[0].under, table.columns[0].alarm) == ("n 120, 25 people", False)
    broken = next(row for row in table.rows if row.name == "rmu")
    assert all(cell.alarm for cell in broken.cells)
    assert broken.cells[0].below == "96 of 120 unparsed"


def test_models_that_answered_different_questions_are_refused() -> None:
    report = two_models(0.9, 0.3, {"npo": (0.4, 0.7)})
    other = report.results[-1].model_copy(update={"num": 599})
    with pytest.raises(DataError, match="asked 600 questions and 'npo' 599"):
        tradeoff_rows(report.model_copy(update={"results": (*report.results[:-1], other)}))


def test_result_of_an_unlisted_or_doubled_model_is_refused() -> None:
    report = two_models(0.9, 0.3, {"npo": (0.4, 0.7)})
    with pytest.raises(DataError, match="Did you mean 'npo'"):
        tradeoff_rows(report.model_copy(update={"results": (report.results[-1].model_copy(update={"model": "npoo"}),)}))
    with pytest.raises(DataError, match="given twice"):
        tradeoff_rows(report.model_copy(update={"results": (*report.results, report.results[0])}))
    with pytest.raises(DataError, match="'npo' is listed 2 times"):
        tradeoff_rows(report.model_copy(update={"models": (*report.models, report.models[-1])}))


def test_terminal_table_prints_scores_per_modality_and_names_as_they_are() -> None:
    report = realistic(levels={**LEVELS, "[bold]npo2": LEVELS["npo"]})
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(terminal_tables(report)[0])
    text = console.file.getvalue()
    assert "[bold]npo2" in text
    assert re.search(r"rmu\s.*82 / 82", text)
    assert all(word in text for word in ("forget", "test", "retain", "celebrity", "garbled"))


def test_printed_values_are_as_documented() -> None:
    for module in (mllmu.report.printing, mllmu.report.table):
        found = doctest.testmod(module)
        assert found.attempted > 0 and found.failed == 0
    assert listing("abcdefgh") == "a, b, c, d, e and 3 others"
    assert listing("abcdef") == "a, b, c, d, e and f"


def test_stage_times_end_with_their_sum() -> None:
    table = stage_table({"data": 4.0, "train": 60.0})
    assert [(row.name, row.cells[0].text) for row in table.rows] == [
        ("data", "4.0 s"),
        ("train", "1 min 00 s"),
        ("total", "1 min 04 s"),
    ]
    assert stage_table({}).rows == ()
