"""The report of a run: an HTML page, plots, a CSV and a terminal table, from plain values and without torch."""

from mllmu.report.inputs import CurvePoint, Example, KsRow, ModelRow, Portrait, ReportInput
from mllmu.report.judging import terminal_judgements
from mllmu.report.render import render, terminal_table
from mllmu.report.tradeoff import TradeoffRow, tradeoff_rows

__all__ = [
    "CurvePoint",
    "Example",
    "KsRow",
    "ModelRow",
    "Portrait",
    "ReportInput",
    "TradeoffRow",
    "render",
    "terminal_judgements",
    "terminal_table",
    "tradeoff_rows",
]
