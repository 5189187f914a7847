"""Tables of summary numbers: near or past the retain_model, and only what was measured."""

from __future__ import annotations

from pathlib import Path

from helpers_report import column, with_tables

from mllmu.core.declared import TableSpec
from mllmu.core.records import Summary
from mllmu.report import ModelRow, ReportInput, render
from mllmu.report.inputs import TrustRow
from mllmu.report.numbers import Numbers
from mllmu.report.summary_tables import summary_tables
from mllmu.report.table import ReportTable

OVERVIEW = TableSpec(
    title="Overview",
    by_modality=True,
    columns=(
        column("model_utility", "model utility", good="kept"),
        column("privleak", "PrivLeak", split="forget", show="signed", scale=0.01),
        column("ape", "keywords", detail="mean", split="forget", show="percent", reads="private words told"),
    ),
)
MEMBERS = TableSpec(
    title="Membership",
    by_modality=True,
    columns=(
        column(
            "membership", "min-k++", detail="min_k_pp auc", split="forget", metric="member_min_k_pp",
            more=(("matched", "min_k_pp matched_auc"), ("found", "min_k_pp tpr_at_1")),
        ),
    ),
)  # fmt: skip
CASES = {"acc_r": "both ways", "face_only": "face only", "name_only": "name only", "acc_f": "neither way"}
FACTS = TableSpec(
    title="Facts",
    bar_head="facts on forget",
    bar=tuple(column("both_ways", head, detail=detail, split="forget") for detail, head in CASES.items()),
    columns=tuple(
        column("both_ways", f"forget: {head}", detail=detail, split="forget", show="percent")
        for detail, head in CASES.items()
    ),
)
NEAR = {"summary": "oracle_distance", "split": "forget", "modality": "text", "good": "near"}
DISTANCE = (
    TableSpec(title="Distance", order=1, columns=(column(head="forget, text only", median=True, **NEAR),)),
    TableSpec(
        title="Metric by metric",
        order=2,
        folded=True,
        columns=tuple(
            column(head=metric, under=task, detail=f"{metric} {task}", metric=metric, task=task, **NEAR)
            for metric, task in (("accuracy", "classification"), ("bleu", "generation"), ("rougeL", "generation"))
        ),
    ),
)
DECLARED = with_tables(OVERVIEW, MEMBERS, FACTS, *DISTANCE)

MODELS = (
    ModelRow(name="target", role="target"),
    ModelRow(name="retain_model", role="retain_model"),
    ModelRow(name="npo", role="unlearned", method="npo"),
)


def rows(summary: str, values: tuple[float | None, ...], detail: str = "", **more: object) -> list[Summary]:
    return [
        Summary.model_validate({"model": row.name, "summary": summary, "detail": detail, "value": value, **more})
        for row, value in zip(MODELS, values, strict=True)
        if value is not None or more.get("note")
    ]


def tables(*found: Summary, trust: tuple[TrustRow, ...] = ()) -> list[ReportTable]:
    report = ReportInput(title="t", models=MODELS, summaries=found, trust=trust, declared=DECLARED)
    return summary_tables(report, Numbers(report))


def texts(table: ReportTable, head: str) -> list[str]:
    index = [each.head for each in table.columns].index(head)
    return [row.cells[index].text + ("›" if row.cells[index].beyond else "") for row in table.rows]


def test_nothing_measured_gives_no_table() -> None:
    assert tables() == []


def test_arrows_point_from_the_target_to_the_retain_model_and_numbers_past_it_are_marked() -> None:
    privleak = rows("privleak", (-60.0, 0.0, 12.0), split="forget", modality="text", num=96)
    keywords = rows("ape", (0.9, 0.1, 0.3), "mean", split="forget", modality="text", num=16)
    utility = rows("model_utility", (0.8, 0.8, 0.4), modality="text", num=6)
    (table,) = tables(*privleak, *keywords, *utility)
    assert texts(table, "PrivLeak") == ["-60.0", "0.0", "+12.0›"]
    assert texts(table, "keywords") == ["90.0", "10.0", "30.0"]
    assert [(c.head, c.arrow, c.under) for c in table.columns] == [
        ("model utility", "↑", "n 6"),
        ("PrivLeak", "↑", "n 96"),
        ("keywords", "↓", "n 16"),
    ]
    shades = {c.head: cell.shade for c, cell in zip(table.columns, table.rows[2].cells, strict=True)}
    # utility is half of the target's; PrivLeak is 0.8 and keywords 0.75 of the way: step = floor(6 * goodness)
    assert shades == {"model utility": 3, "PrivLeak": 4, "keywords": 4}
    assert all(cell.shade is None for row in table.rows[:2] for cell in row.cells)


def test_a_number_that_cannot_be_computed_is_a_dash_with_its_reason_below() -> None:
    found = rows("privleak", (-60.0, 0.0, None), split="forget", modality="text", note="the AUC is 1")
    (table,) = tables(*found)
    assert texts(table, "PrivLeak")[2] == "–"
    assert table.notes == ("PrivLeak of npo: the AUC is 1",)


def test_a_column_that_nobody_could_compute_is_left_out() -> None:
    assert tables(*rows("privleak", (None, None, None), split="forget", modality="text", note="no holdout")) == []


def test_membership_shows_the_attack_its_controls_and_the_trust_of_its_metric() -> None:
    where = {"split": "forget", "modality": "text", "num": 40}
    found = [
        *rows("membership", (0.95, 0.5, 0.7), "min_k_pp auc", **where),
        *rows("membership", (0.90, 0.5, 0.6), "min_k_pp matched_auc", **where),
        *rows("membership", (0.40, 0.0, 0.1), "min_k_pp tpr_at_1", **where),
    ]
    trust = tuple(
        TrustRow(metric="member_min_k_pp", task=task, modality="text", auc=auc, num_with=9, num_without=9)
        for task, auc in (("generation", 0.9), ("cloze", 0.8))
    )
    (table,) = tables(*found, trust=trust)
    assert (table.columns[0].head, table.columns[0].under) == ("min-k++", "n 40, trust 0.80 to 0.90")
    assert (table.rows[2].cells[0].text, table.rows[2].cells[0].below) == ("0.70", "matched 0.60, found 0.10")


def test_the_four_cases_of_a_fact_are_a_bar_that_adds_up() -> None:
    cases = {"acc_r": (1.0, 0.0, 0.5), "face_only": (0.0, 0.1, 0.2), "name_only": (0.0, 0.1, 0.3), "acc_f": (0, 0.8, 0)}
    found = [row for detail, values in cases.items() for row in rows("both_ways", values, detail, split="forget")]
    (table,) = tables(*found)
    assert [row.bar for row in table.rows] == [(100.0, 0.0, 0.0, 0.0), (0.0, 10.0, 10.0, 80.0), (50.0, 20.0, 30.0, 0.0)]
    assert "forget: face only" in [c.head for c in table.columns]


def test_distances_are_summed_over_metrics_and_what_went_past_is_counted() -> None:
    def near(metric: str, value: float, note: str = "") -> Summary:
        return Summary(
            model="npo",
            summary="oracle_distance",
            detail=metric,
            split="forget",
            modality="text",
            value=value,
            note=note,
        )

    found = [
        near("accuracy classification", 0.2),
        near("rougeL generation", 0.5),
        near("bleu generation", 0.9, "beyond"),
    ]
    summed, details = tables(*found)
    assert [(c.text, c.below) for c in summed.rows[0].cells] == [("0.50", "of 3, 1 past")]
    assert [(c.head, c.under) for c in details.columns] == [
        ("accuracy", "classification"),
        ("bleu", "generation"),
        ("rougeL", "generation"),
    ]
    assert [cell.beyond for cell in details.rows[0].cells] == [False, True, False]
    assert details.folded and not summed.folded


def test_a_column_is_explained_once_though_two_tables_have_it() -> None:
    both = [
        row
        for modality in ("image_text", "text")
        for row in rows("ape", (0.9, 0.1, 0.3), "mean", split="forget", modality=modality)
    ]
    assert [bool(table.columns[0].reads) for table in tables(*both)] == [True, False]


def test_the_page_holds_the_tables_only_if_something_was_measured(tmp_path: Path) -> None:
    found = tuple(rows("ape", (0.9, 0.1, 0.3), "mean", split="forget", modality="text"))
    for folder, summaries in (("with", found), ("without", ())):
        report = ReportInput(title="t", models=MODELS, summaries=summaries, declared=DECLARED)
        render(report, tmp_path / folder)
    assert 'id="summaries"' in (tmp_path / "with" / "index.html").read_text(encoding="utf-8")
    assert 'id="summaries"' not in (tmp_path / "without" / "index.html").read_text(encoding="utf-8")


def test_an_interval_stands_below_its_number_and_its_absence_is_explained() -> None:
    plain = rows("ape", (0.9, 0.1, 0.3), "mean", split="forget", modality="text", num=16, low=0.05, high=0.95)
    none = rows("privleak", (-60.0, 0.0, 12.0), split="forget", modality="text", note="no interval from one person")
    (table,) = tables(*plain, *none)
    spans = {c.head: (cell.small, cell.title) for c, cell in zip(table.columns, table.rows[2].cells, strict=True)}
    assert spans == {"PrivLeak": ("", "no interval from one person"), "keywords": ("5–95", "n 16")}


def test_tables_of_one_title_are_one_table_in_the_declared_order() -> None:
    late = TableSpec(title="Known", order=9, columns=(column("new", "late", modality="text"),))
    early = TableSpec(title="Known", order=3, intro="why", columns=(column("newer", "early", modality="text"),))
    found = [*rows("new", (0.1, 0.2, 0.3), modality="text"), *rows("newer", (0.4, 0.5, 0.6), modality="text")]
    report = ReportInput(title="t", models=MODELS, summaries=tuple(found), declared=with_tables(late, early))
    (table,) = summary_tables(report, Numbers(report))
    assert ([c.head for c in table.columns], table.intro) == (["early", "late"], "why")
