"""Imports point one way, and everything below the models works without torch. Read from the source by ``ast``."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mllmu

ROOT = Path(mllmu.__file__).parent
HEAVY = {"torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "bitsandbytes"}
LAYERS: dict[str, float] = {
    "mllmu": 0, "mllmu.version": 0, "mllmu.errors": 0, "mllmu.records": 0, "mllmu.recipe": 0, "mllmu.plugins": 0,
    "mllmu.runstore": 0, "mllmu.seeding": 0, "mllmu.processes": 0, "mllmu.progress": 0, "mllmu.workers": 0,
    "mllmu.protocol": 0, "mllmu.grid": 0, "mllmu.runlock": 0, "mllmu.settings": 0,
    "mllmu.llm": 1, "mllmu.judges": 1, "mllmu.data": 1, "mllmu.evaluation": 1, "mllmu.report": 1,
    "mllmu.models": 2, "mllmu.training": 2,
    "mllmu.training.loop": 3, "mllmu.training.finetune": 3,
    "mllmu.unlearning": 4, "mllmu.depth": 4,
    "mllmu.evaluation.run": 4, "mllmu.evaluation.attacks": 4, "mllmu.judges.local": 4,
    "mllmu.stages": 6, "mllmu.pipeline": 6, "mllmu.sweep": 6, "mllmu.search": 6, "mllmu.doctor": 6, "mllmu.planning": 6,
    "mllmu.cli": 7, "mllmu.__main__": 7,
}  # fmt: skip
"""Layer of a module, or of a package with all that is in it; the longest name counts."""
LIGHT = 1
"""Up to this layer nothing imports a heavy library."""
APART = ("mllmu.unlearning", "mllmu.evaluation.run")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def layer(module: str) -> float:
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        if (found := LAYERS.get(".".join(parts[:length]))) is not None:
            return found
    assert module == "mllmu", f"{module} belongs to no layer: name it, or its package, in LAYERS"
    return LAYERS[module]


@cache
def imports(module: str, *, lazy: bool) -> frozenset[str]:
    """What a module imports: its own modules in full, others by their first word. ``lazy``: inside functions too."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset(name for node in statements(tree, lazy=lazy) for name in named(node, module))


def statements(node: ast.AST, *, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from statements(ast.Module([other], []), lazy=lazy)
        elif lazy or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from statements(child, lazy=lazy)


def named(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        targets = [alias.name for alias in node.names]
    else:
        assert node.level == 0, f"{module}: relative import"
        targets = [f"{node.module}.{alias.name}" for alias in node.names]
    for target in targets:
        while target.startswith("mllmu.") and target not in MODULES:
            target = target.rpartition(".")[0]  # a name inside a module
        yield target if target.partition(".")[0] == "mllmu" else target.partition(".")[0]


@cache
def loaded_with(module: str) -> frozenset[str]:
    """Every module of the package that is loaded when this one is imported, itself and its parents included."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current in MODULES and current not in found:
            found.add(current)
            waiting += [*imports(current, lazy=False), current.rpartition(".")[0]]
    return frozenset(found)


def test_the_map_of_the_layers_has_no_dead_entry() -> None:
    planned = {"mllmu.sweep", "mllmu.llm", "mllmu.evaluation.attacks"}
    assert set(LAYERS) - set(MODULES) <= planned
    assert all(layer(module) >= 0 for module in MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_its_own_layer_or_lower_ones(module: str) -> None:
    higher = {other for other in imports(module, lazy=True) if other in MODULES and layer(other) > layer(module)}
    assert not higher


@pytest.mark.parametrize("module", [m for m in sorted(MODULES) if layer(m) <= LIGHT])
def test_a_light_module_loads_no_heavy_library_directly_or_through_others(module: str) -> None:
    guilty = {other: imports(other, lazy=False) & HEAVY for other in loaded_with(module)}
    assert not {other: heavy for other, heavy in guilty.items() if heavy}


def test_unlearning_and_evaluation_never_import_each_other() -> None:
    for one, other in (APART, APART[::-1]):
        for module in (m for m in MODULES if m == one or m.startswith(f"{one}.")):
            assert not {m for m in imports(module, lazy=True) if m == other or m.startswith(f"{other}.")}


def test_the_rules_would_notice_a_violation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guilty = tmp_path / "guilty.py"
    guilty.write_text("def f():\n    from mllmu.pipeline import Pipeline\n\nif x:\n    import torch.nn\n")
    monkeypatch.setitem(MODULES, "mllmu.data.guilty", guilty)
    assert imports("mllmu.data.guilty", lazy=True) == {"mllmu.pipeline", "torch"}
    assert imports("mllmu.data.guilty", lazy=False) == {"torch"}
    assert layer("mllmu.pipeline") > layer("mllmu.data.guilty")


def test_really_importing_the_light_modules_leaves_torch_out() -> None:
    light = [m for m in MODULES if layer(m) <= LIGHT]
    script = f"import sys, importlib\nfor m in {light!r}: importlib.import_module(m)\n"
    script += "from mllmu import plugins\nassert all(plugins.names(kind) for kind in plugins.KINDS)\n"
    script += f"print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
