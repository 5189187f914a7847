"""The one plug-in rule, for every plug-in there is: one file, frozen settings, nothing silently ignored."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mllmu.core import plugins
from mllmu.core.errors import PluginError, RecipeError
from mllmu.core.plugins import KINDS, NEEDED, Plugin
from mllmu.core.runfolder import digest

EVERY = [(kind, name) for kind in KINDS for name in plugins.names(kind)]

every = pytest.mark.parametrize(("kind", "name"), EVERY, ids=[f"{kind}-{name}" for kind, name in EVERY])

DUMMY = """
from typing import ClassVar
from pydantic import Field
from mllmu.core.plugins import Plugin

class Dummy(Plugin):
    '''A dummy. Cost: nothing.'''
    source: ClassVar[str] = "https://example.org"
    strength: float = Field(0.5, gt=0)
    def loss(self, step):
        return {}
"""


def required(kind: str, name: str) -> dict[str, Any]:
    """A value for every setting without a default; so far all of them are names or paths."""
    return {setting: "x" for setting, field in plugins.find(kind, name).model_fields.items() if field.is_required()}


def built(kind: str, name: str) -> Plugin:
    plugin: Plugin = plugins.build(kind, name, required(kind, name))
    return plugin


def test_every_kind_has_plug_ins_and_a_rule() -> None:
    assert set(KINDS) == set(NEEDED)
    assert {kind for kind, _ in EVERY} == set(KINDS)


@every
def test_a_plug_in_is_frozen_and_round_trips_with_the_same_fingerprint(kind: str, name: str) -> None:
    plugin = built(kind, name)
    again = type(plugin)(**plugin.model_dump())
    assert again == plugin
    assert digest(again.model_dump(mode="json")) == digest(plugin.model_dump(mode="json"))
    assert type(plugin).model_validate_json(plugin.model_dump_json()) == plugin
    with pytest.raises(ValidationError, match="frozen"):
        plugin.anything = 1  # type: ignore[attr-defined]


@every
def test_a_plug_in_says_what_it_is_and_where_it_comes_from(kind: str, name: str) -> None:
    cls = plugins.find(kind, name)
    assert len(cls.summary()) > 10
    assert cls.source
    assert cls.__module__ == f"{KINDS[kind]}.{name}", "a plug-in is defined in the file of its name"


@every
def test_an_unknown_setting_is_refused_with_its_place(kind: str, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"^here\.no_such_setting: unknown setting of '{name}'\."):
        plugins.build(kind, name, {**required(kind, name), "no_such_setting": 1}, where="here")


@every
def test_a_misspelt_setting_names_the_nearest(kind: str, name: str) -> None:
    for field in plugins.find(kind, name).model_fields:
        with pytest.raises(RecipeError, match=r"Did you mean '\w+'\? Settings: "):
            plugins.build(kind, name, {**required(kind, name), f"{field}x": 1})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_misspelt_name_gives_the_nearest_and_all_names(kind: str) -> None:
    name = plugins.names(kind)[0]
    with pytest.raises(PluginError, match=f"{kind}: no '{name}x'. Did you mean '{name}'.* Known: "):
        plugins.find(kind, f"{name}x")


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"no plug-in kind 'method'\. Did you mean 'methods'"):
        plugins.names("method")


def test_listing_names_imports_no_plug_in() -> None:
    script = "import sys\nfrom mllmu.core import plugins\nfor kind in plugins.KINDS: assert plugins.names(kind)\n"
    script += "print([m for m in ('torch', 'transformers', 'PIL', 'mllmu.models.families') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_file_dropped_into_the_folder_is_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mllmu.unlearning.methods as folder

    (tmp_path / "zz_dummy.py").write_text(DUMMY)
    (tmp_path / "_helper.py").write_text("")
    assert "zz_dummy" not in plugins.names("methods")
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    try:
        assert "zz_dummy" in plugins.names("methods")
        assert "_helper" not in plugins.names("methods")
        assert plugins.build("methods", "zz_dummy", {"strength": 2}).strength == 2.0
        with pytest.raises(RecipeError, match=r"methods\.strength: Input should be greater than 0"):
            plugins.build("methods", "zz_dummy", {"strength": 0})
    finally:
        sys.modules.pop("mllmu.unlearning.methods.zz_dummy", None)


def test_a_class_anywhere_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zz_elsewhere.py").write_text(DUMMY)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.find("methods", "zz_elsewhere:Dummy").summary() == "A dummy. Cost: nothing."
    with pytest.raises(PluginError, match="'zz_elsewhere:Dumy' is not a plug-in"):
        plugins.find("methods", "zz_elsewhere:Dumy")
    with pytest.raises(PluginError, match="of another kind: one of metrics defines value"):
        plugins.find("metrics", "zz_elsewhere:Dummy")


def test_a_file_without_a_plug_in_breaks_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mllmu.unlearning.methods as folder

    (tmp_path / "zz_empty.py").write_text("")
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    with pytest.raises(PluginError, match=r"methods: .*zz_empty\.py: expected one plug-in class .* got none"):
        plugins.find("methods", "zz_empty")
    sys.modules.pop("mllmu.unlearning.methods.zz_empty", None)


def test_another_package_can_register_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zz_package.py").write_text(DUMMY)
    monkeypatch.syspath_prepend(str(tmp_path))
    registered = EntryPoint("zz_registered", "zz_package:Dummy", "mllmu.methods")

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [registered] if group == "mllmu.methods" and name in (None, "zz_registered") else []

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    assert "zz_registered" in plugins.names("methods")
    assert plugins.find("methods", "zz_registered").summary().startswith("A dummy")
