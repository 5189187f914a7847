"""Plug-ins as a Markdown table."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import Field

from mllmu.cli.ls import ls
from mllmu.core import plugins
from mllmu.core.describe import own_settings, paragraph, table
from mllmu.core.errors import PluginError
from mllmu.core.plugins import Plugin


class Base(Plugin):
    """Counts."""

    source: ClassVar[str] = "ours"
    epochs: int = 1
    rate: float = 0.5


class Child(Base):
    """Counts | twice."""

    epochs: int = 2
    rate: float = Field(0.5, gt=0)
    beta: float = 0.1


def test_settings_of_a_base_are_shown_only_where_the_default_differs() -> None:
    assert own_settings(Child) == ["epochs", "beta"]
    assert own_settings(Base) == ["epochs", "rate"]


@pytest.mark.parametrize(
    ("label", "expected"), [("Cost", "2 passes on forget, `x` more."), ("Made for", "text."), ("Price", "")]
)
def test_a_labelled_paragraph_ends_at_the_next_label_or_empty_line(label: str, expected: str) -> None:
    text = (
        "Forgets.\n\nCost of a step: 2 passes\non forget, ``x`` more.\nPublished code: other.\nMade for: text.\n\nEnd."
    )
    assert paragraph(text, label) == expected


def test_every_method_has_a_row_with_its_paper_and_no_cell_breaks_the_table() -> None:
    lines = table("methods").splitlines()
    cells = [line.replace("\\|", "").strip("|").split("|") for line in lines]
    assert {len(row) for row in cells} == {6}
    assert [row[0].strip() for row in cells[2:]] == [f"`{name}`" for name in plugins.names("methods")]
    npo = next(line for line in lines if line.startswith("| `npo`"))
    assert "[2404.05868](https://arxiv.org/abs/2404.05868)" in npo
    assert "`beta 0.4`" in npo
    assert "extra forward (reference) on forget" in npo


def test_a_column_that_no_plugin_fills_is_left_out() -> None:
    assert table("tasks").splitlines()[0] == "| name | what it does | settings | source |"


def test_a_markdown_table_is_of_a_whole_kind() -> None:
    for kind, name in ((None, None), ("methods", "npo")):
        with pytest.raises(PluginError, match="a table of one kind"):
            ls(kind, name, markdown=True)
    with pytest.raises(PluginError, match="Did you mean 'methods'"):
        ls("method", None, markdown=True)


def test_ls_prints_the_table_unfolded(capsys: pytest.CaptureFixture[str]) -> None:
    ls("methods", None, markdown=True)
    assert capsys.readouterr().out == table("methods")
