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
STOREYS = (
    "core", "config", "parallel", "llm", "data", "models", "training", "unlearning", "evaluation", "report", "pipeline",
    "studies", "preflight", "requests", "explorer", "cli",
)  # fmt: skip
"""The packages, each on a storey of its own: a module imports its own package and those before it."""
LOOSE = ("mllmu", "mllmu.api", "mllmu.version", "mllmu.__main__")
"""Modules of no package: the public names, what is called from Python, the version, and ``python -m mllmu``."""
LIGHT = ("core", "config", "parallel", "llm", "data", "report")
"""Packages that work without a heavy library."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def package(module: str) -> str:
    """The package a module belongs to."""
    return module.split(".")[1]


def storey(module: str) -> int:
    return STOREYS.index(package(module))


PACKAGED = [module for module in MODULES if module not in LOOSE]
LIGHT_MODULES = [module for module in PACKAGED if package(module) in LIGHT]


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


def test_every_package_has_its_storey() -> None:
    assert sorted({package(module) for module in PACKAGED}) == sorted(STOREYS)


@pytest.mark.parametrize("module", PACKAGED)
def test_a_module_imports_its_own_package_or_lower_ones(module: str) -> None:
    others = {other for other in imports(module, lazy=True) if other in MODULES and other not in LOOSE}
    assert not {other for other in others if storey(other) > storey(module)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    ahead = {module: {other for other in imports(module, lazy=True) if other in MODULES} for module in PACKAGED}
    while ahead:
        ends = {module for module, others in ahead.items() if not others & set(ahead)}
        assert ends, f"a circle among {sorted(ahead)}"
        ahead = {module: others for module, others in ahead.items() if module not in ends}


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_a_light_module_loads_no_heavy_library_directly_or_through_others(module: str) -> None:
    guilty = {other: imports(other, lazy=False) & HEAVY for other in loaded_with(module)}
    assert not {other: heavy for other, heavy in guilty.items() if heavy}


def test_evaluation_never_imports_unlearning() -> None:
    for module in (module for module in PACKAGED if package(module) == "evaluation"):
        assert not {other for other in imports(module, lazy=True) if other.startswith("mllmu.unlearning")}


def test_the_rules_would_notice_a_violation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guilty = tmp_path / "guilty.py"
    guilty.write_text("def f():\n    from mllmu.pipeline.pipeline import Pipeline\n\nif x:\n    import torch.nn\n")
    monkeypatch.setitem(MODULES, "mllmu.data.guilty", guilty)
    assert imports("mllmu.data.guilty", lazy=True) == {"mllmu.pipeline.pipeline", "torch"}
    assert imports("mllmu.data.guilty", lazy=False) == {"torch"}
    assert storey("mllmu.pipeline.pipeline") > storey("mllmu.data.guilty")


def test_really_importing_the_light_modules_leaves_torch_out() -> None:
    script = f"import sys, importlib\nfor m in {LIGHT_MODULES!r}: importlib.import_module(m)\n"
    script += "from mllmu.core import plugins\nassert all(plugins.names(kind) for kind in plugins.KINDS)\n"
    script += f"print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
