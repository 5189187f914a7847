"""What ``from mllmu import ...`` offers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import mllmu
from mllmu.core.errors import RecipeError

ROOT = Path(__file__).parents[2]
EXAMPLE = "my_method:Unlikelihood"


def module_from(path: Path) -> ModuleType:
    name = f"borrowed_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


CONTRACT = module_from(ROOT / "tests/contract/test_methods_contract.py")
PROMISES = [
    CONTRACT.test_settings_are_frozen_and_round_trip,
    CONTRACT.test_terms_are_named_finite_scalars_with_gradient,
    CONTRACT.test_each_phase_uses_its_own_side_only,
    CONTRACT.test_the_two_phases_together_have_the_terms_of_a_joint_step,
    CONTRACT.test_only_the_passes_that_were_announced_are_run,
    CONTRACT.test_a_step_makes_the_forget_replies_less_likely,
    CONTRACT.test_no_gradient_flows_into_the_reference,
]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> mllmu.Method:
    """The method of the examples folder, found as a recipe would find it."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from mllmu.core.plugins import build

    method: mllmu.Method = build("methods", EXAMPLE, {})
    return method


def test_every_public_name_exists() -> None:
    assert set(mllmu.__all__) <= set(dir(mllmu))
    for name in mllmu.__all__:
        assert getattr(mllmu, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Pipelin"):
        mllmu.Pipelin  # noqa: B018


def test_importing_the_package_leaves_torch_alone() -> None:
    code = "import sys, mllmu; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_overrides_of_load_recipe_are_those_of_the_command_line() -> None:
    assert mllmu.load_recipe(ROOT / "recipes/demo.yaml", "finetune.epochs=7").finetune.epochs == 7


def test_every_recipe_in_the_repository_is_valid() -> None:
    found = sorted((ROOT / "recipes").glob("*.yaml"))
    assert len(found) >= 4
    for path in found:
        chosen = ("model.path=tiny",) if path.stem == "paper_grid" else ()
        assert mllmu.load_recipe(path, *chosen).name


def test_reading_recipes_and_records_leaves_torch_alone() -> None:
    light = [n for n in mllmu.__all__ if n not in ("Family", "Method", "Pipeline", "RetainingMethod", "Step")]
    code = f"import sys, mllmu\nfor n in {light}: getattr(mllmu, n)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_recipe_runs_from_python_up_to_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = mllmu.load_recipe(
        ROOT / "recipes/smoke.yaml",
        "data.source.num_people=5",
        "data.portraits={name: dicebear, size: 32, num_views: 1}",
        "data.celebrities.num_people=6",
    )
    monkeypatch.chdir(tmp_path)
    assert mllmu.run(recipe, only="data").folder == Path("runs/smoke")
    assert len(json.loads(Path("runs/smoke/data/splits.json").read_text())["25"]) == 1
    assert mllmu.run(recipe, "elsewhere", only="data", progress=False).folder == Path("elsewhere")
    assert not Path("elsewhere/report").exists()


def test_a_wrong_recipe_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: r\nsed: 3\n")
    with pytest.raises(RecipeError, match=r"sed: unknown setting\. Did you mean 'seed'"):
        mllmu.run(tmp_path / "r.yaml", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("promise", PROMISES, ids=lambda test: test.__name__)
def test_the_example_keeps_what_every_method_promises(
    example: mllmu.Method, promise: Callable[[mllmu.Method], None]
) -> None:
    promise(example)


@pytest.mark.parametrize("phase", ["joint", "retain"])
def test_the_example_keeps_the_retained_people(example: mllmu.Method, phase: str) -> None:
    CONTRACT.test_a_step_of_a_method_with_retain_makes_the_retain_replies_likelier(example, phase)


def test_the_example_pushes_probabilities_to_zero_and_no_further(example: mllmu.Method) -> None:
    import torch

    from mllmu.models.engine.forward import Forward
    from mllmu.unlearning.base import Side, Step

    def loss(logits: torch.Tensor) -> float:
        class Passes:
            def forward(self, *, reference: bool, alternative: bool) -> Forward:
                assert not (reference or alternative)
                return Forward(logits, torch.tensor([0, 0]), torch.tensor([0, 0]), 1)

            def hidden(self, depth: float, *, reference: bool) -> torch.Tensor:
                pytest.fail(f"not asked for: {depth}, {reference}")

        side = Side((), Passes())
        return example.loss(Step(forget=side, retain=side, phase="forget"))["forget_unlikelihood"].item()

    # p = 1/2 and p = 1/2: -ln(1/2); p near 0: 0; p so near 1 that 1 - p rounds to 0: the logits' distance, not infinity
    assert loss(torch.zeros(2, 2)) == pytest.approx(0.693147, abs=1e-5)
    assert loss(torch.tensor([[-90.0, 0.0], [-90.0, 0.0]])) == pytest.approx(0.0)
    assert loss(torch.tensor([[90.0, 0.0], [90.0, 0.0]])) == pytest.approx(90.0)


def test_the_example_is_named_in_a_recipe(example: mllmu.Method) -> None:
    recipe = mllmu.load_recipe(ROOT / "recipes/smoke.yaml", f"unlearn.methods=[ga, {{name: {EXAMPLE}, epochs: 2}}]")
    assert recipe.unlearn.methods[1].build("methods", "here").epochs == 2
    assert type(example).source.startswith("https://arxiv.org/abs/")
