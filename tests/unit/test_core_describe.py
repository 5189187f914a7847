"""Settings and plug-ins as text and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import Field

from mllmu.cli.ls import ls
from mllmu.config.load import parse
from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.describe import (
    SettingText,
    own_settings,
    paragraph,
    plugin_table,
    sections,
    type_name,
    yaml_value,
)
from mllmu.core.errors import PluginError
from mllmu.core.plugins import Plugin
from tools.generate_docs import plugin_settings


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
    lines = plugin_table("methods").splitlines()
    cells = [line.replace("\\|", "").strip("|").split("|") for line in lines]
    assert {len(row) for row in cells} == {6}
    assert [row[0].strip() for row in cells[2:]] == [f"`{name}`" for name in plugins.names("methods")]
    npo = next(line for line in lines if line.startswith("| `npo`"))
    assert "[2404.05868](https://arxiv.org/abs/2404.05868)" in npo
    assert "`beta 0.4`" in npo
    assert "extra forward (reference) on forget" in npo


def test_a_column_that_no_plugin_fills_is_left_out() -> None:
    assert plugin_table("tasks").splitlines()[0] == "| name | what it does | settings | source |"


def test_a_markdown_table_is_of_a_whole_kind() -> None:
    for kind, name in ((None, None), ("methods", "npo"), ("settings", "finetune")):
        with pytest.raises(PluginError, match="all plug-ins of one kind"):
            ls(kind, name, markdown=True)
    with pytest.raises(PluginError, match="Did you mean 'methods'"):
        ls("method", None, markdown=True)


def test_ls_prints_the_table_unfolded(capsys: pytest.CaptureFixture[str]) -> None:
    ls("methods", None, markdown=True)
    assert capsys.readouterr().out == plugin_table("methods")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int | None, "int | null"),
        (dict[str, int], "dict[str, int]"),
        (tuple[float, ...], "list[float]"),
        (Base | None, "section | null"),
    ],
)
def test_type_is_written_as_the_author_of_a_recipe_would(annotation: object, text: str) -> None:
    assert type_name(annotation) == text


SETTINGS = [setting for section in sections(Recipe) for setting in section.settings]


def test_every_section_and_every_setting_of_a_recipe_has_a_meaning() -> None:
    assert [section.key for section in sections(Recipe)] == [
        "", "seeds", "data", "data.splits", "model", "finetune", "finetune.lora", "unlearn", "unlearn.forget",
        "unlearn.forget.earlier",
        "unlearn.lora", "evaluate", "evaluate.protocol", "evaluate.protocol.shots", "report",
    ]  # fmt: skip
    assert [section.key for section in sections(Recipe) if not section.meaning] == []
    assert [setting.key for setting in SETTINGS if not setting.meaning] == []


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_setting_of_a_plugin_has_a_meaning(kind: str) -> None:
    assert [setting.key for setting in plugin_settings(kind) if not setting.meaning] == []


def test_settings_that_all_plugins_of_a_kind_share_come_first_and_once_unless_the_default_differs() -> None:
    keys = [setting.key for setting in plugin_settings("methods")]
    assert keys[:3] == ["compat", "modality", "epochs"]
    assert "npo.beta" in keys and "npo.epochs" in keys and "npo.batch_size" not in keys
    inherited = {setting.key: setting.meaning for setting in plugin_settings("methods")}
    assert inherited["npo.epochs"] == inherited["epochs"] == "passes over the forget set"


def test_a_type_that_does_not_show_its_values_has_an_example() -> None:
    vague = [s for s in SETTINGS if s.type.startswith(("str", "path", "dict", "list[str]", "list[plug-in]"))]
    named = {"evaluate.tasks"}  # the default shows what is meant
    assert [setting.key for setting in vague if not setting.example and setting.key not in named] == []


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.example], ids=lambda s: s.key)
def test_every_example_is_valid_in_a_recipe(setting: SettingText, tmp_path: Path) -> None:
    needed: dict[str, dict[str, Any]] = {
        "data.splits.file": {"data": {"splits": {"keys": ["a"], "forget_ratios": [0.1]}}},
        "data.splits.keys": {"data": {"splits": {"file": "forget.json", "forget_ratios": [0.1]}}},
        "evaluate.vllm": {"evaluate": {"backend": "vllm"}},
    }
    raw: dict[str, Any] = {"name": "example", **needed.get(setting.key, {})}
    *path, last = setting.key.split(".")
    section = raw
    for part in path:
        section = section.setdefault(part, {})
    section[last] = yaml.safe_load(setting.example)
    parse(raw)


def test_settings_of_one_section_come_with_the_sections_inside(capsys: pytest.CaptureFixture[str]) -> None:
    ls("settings", "finetune")
    text = capsys.readouterr().out
    assert "  finetune.epochs: float, > 0, <= 10000; default 5\n      passes over the training questions\n" in text
    assert "  finetune.lora.rank: int, >= 1, <= 4096; default 16\n" in text
    assert "unlearn" not in text
    with pytest.raises(PluginError, match=r"no section 'finetun'. Did you mean 'finetune'\? Sections: seeds, data, "):
        ls("settings", "finetun")


def test_text_that_yaml_would_read_as_something_else_is_quoted() -> None:
    assert yaml_value({"a": ["003", "on", "x, y", "it's", ""]}) == "{a: ['003', 'on', 'x, y', it's, '']}"
    assert yaml.safe_load(yaml_value({"a": ["003", "on", "x, y", "it's", ": ", ""]})) == {
        "a": ["003", "on", "x, y", "it's", ": ", ""]
    }
