"""The report of a run: an HTML page, plots, CSV files and terminal tables, from plain values and without torch."""

from mllmu.report.inputs import Example, ModelRow, Portrait, ReportInput
from mllmu.report.numbers import tradeoff_rows
from mllmu.report.page import render
from mllmu.report.tables import terminal_tables

__all__ = ["Example", "ModelRow", "Portrait", "ReportInput", "render", "terminal_tables", "tradeoff_rows"]
