"""The recipe: everything a run depends on, in one YAML file.

``load`` reads it, applies ``--set a.b.c=value``, fills defaults, and checks every setting, those of the plug-ins
included, before anything runs. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mllmu import plugins
from mllmu.errors import RecipeError
from mllmu.records import TASKS, Split, TaskName

Modalities = Literal["image_text", "text", "both"]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginSpec(BaseModel):
    """A plug-in by name with its settings beside it: ``{name: npo, beta: 0.4}``; a bare string is the name."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def build(self, kind: str, where: str) -> Any:
        """Construct the plug-in; a bad setting raises RecipeError."""
        return plugins.build(kind, self.name, self.settings, where=where)


def _as_spec(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Splits(Section):
    """Who is forgotten. People are split by a seeded hash, or by a file of ids."""

    forget_ratios: tuple[float, ...] = Field(
        (0.1,), description="shares of the people to forget; one run of all methods each"
    )
    file: Path | None = Field(None, description="JSON file {key: [ids]}: forget ids instead of a random draw")
    keys: tuple[str, ...] = Field((), description="which keys of the file, one per forget ratio")
    holdout: int = Field(8, ge=0, description="extra people no model ever sees (control)")
    selection: float = Field(0.0, ge=0, lt=1, description="share of forget and retain questions kept apart for tuning")

    @field_validator("forget_ratios")
    @classmethod
    def _ratios(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < ratio < 1 for ratio in value):
            raise ValueError("forget ratios are shares between 0 and 1, e.g. [0.05, 0.1]")
        return value


class DataSection(Section):
    """The people, their portraits and questions."""

    source: PluginSpec = PluginSpec(name="synthetic")
    celebrities: PluginSpec | None = PluginSpec(name="celebrities")
    portraits: PluginSpec = PluginSpec(name="dicebear")
    splits: Splits = Splits()
    train_wordings: int = Field(6, ge=1, le=14, description="question wordings a fact is taught in")

    _specs = field_validator("source", "celebrities", "portraits", mode="before")(_as_spec)


class ModelSection(Section):
    """The base model: 'tiny' (embedded), a folder, or a hub id."""

    path: str = "tiny"
    revision: str | None = None
    family: str = Field("auto", description="a model family, or 'auto' to choose by the model's config")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda', 'cuda:1', ...")
    packing: Literal["auto", "on", "off"] = Field(
        "auto", description="train questions about one picture in one sequence; the losses are the same"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: float32 on CPU, bfloat16 on GPU")


class Lora(Section):
    """Low-rank adapters; the published setting is rank 16, alpha 16, dropout 0.05."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: str | None = Field(None, description="regular expression of layer names; default: the language model's")


class Finetune(Section):
    """How target and retain_model are taught."""

    epochs: float = Field(5, gt=0)
    learning_rate: float = Field(2e-5, gt=0)
    batch_size: int = Field(4, ge=1, description="questions per optimiser step")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps with rising learning rate")
    weight_decay: float = Field(0.0, ge=0)
    modality: Modalities = Field("image_text", description="what the people are taught in; the paper: image_text")
    lora: Lora | None = Lora()
    checkpoint_every_s: float = Field(60, gt=0, description="seconds between resumable checkpoints")


class Unlearn(Section):
    """Which methods forget; each entry ``{name: npo, beta: 0.4, modality: [image_text, text]}``."""

    methods: tuple[PluginSpec, ...] = ()
    lora: Lora | None = Lora()

    @field_validator("methods", mode="before")
    @classmethod
    def _specs(cls, value: Any) -> Any:
        return [_as_spec(item) for item in value] if isinstance(value, (list, tuple)) else value


class Evaluate(Section):
    """What is asked, and how it is scored."""

    tasks: tuple[TaskName, ...] = TASKS
    metrics: tuple[str, ...] = Field((), description="empty: all metrics of the tasks")
    batch_size: int = Field(64, ge=1)
    max_profiles: dict[Split, int] = Field({}, description="at most so many people of a set are asked (0: nobody)")


class Report(Section):
    """What the report shows."""

    title: str = ""
    reference_rows: bool = Field(False, description="show the paper's published rows in a table of their own")
    num_examples: int = Field(6, ge=0)


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    seed: int = Field(0, ge=0)
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    finetune: Finetune = Finetune()
    gate: bool = Field(True, description="stop if the target has not memorised the forget people")
    unlearn: Unlearn = Unlearn()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply ``a.b.c=value`` overrides, and check it completely.

    Raises:
        RecipeError: the file is missing, is not YAML, or holds an unknown or impossible setting.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text) or {}
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe. Give the path of a YAML file, e.g. recipes/demo.yaml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error}). Expected a YAML text file.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected a mapping of settings, got {type(raw).__name__}.")
    for override in overrides:
        apply_override(raw, override)
    return parse(raw, where=str(path))


def parse(raw: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Check a mapping of settings, plug-in settings included, and return the recipe."""
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(plugins.explain(error, Recipe, where=where)) from None
    check_plugins(recipe, where=where)
    return recipe


def check_plugins(recipe: Recipe, *, where: str = "recipe") -> None:
    """Construct every plug-in the recipe names, so that a typo fails before the first second of work."""
    recipe.data.source.build("sources", f"{where}: data.source")
    recipe.data.portraits.build("portraits", f"{where}: data.portraits")
    if recipe.data.celebrities:
        recipe.data.celebrities.build("sources", f"{where}: data.celebrities")
    for name in recipe.evaluate.metrics:
        plugins.find("metrics", name)
    if recipe.model.family != "auto":
        plugins.find("families", recipe.model.family)
    splits = recipe.data.splits
    if splits.file is not None and len(splits.keys) != len(splits.forget_ratios):
        raise RecipeError(
            f"{where}: data.splits.keys: got {len(splits.keys)} keys for {len(splits.forget_ratios)} forget_ratios. "
            "Name one key of the file per ratio."
        )
    for index, spec in enumerate(recipe.unlearn.methods):
        for settings in expand_modalities(spec):
            plugins.build("methods", spec.name, settings, where=f"{where}: unlearn.methods[{index}]")


def expand_modalities(spec: PluginSpec) -> list[dict[str, Any]]:
    """One settings dictionary per modality of a method entry (``modality`` may be a list)."""
    modality = spec.settings.get("modality")
    if not isinstance(modality, list):
        return [spec.settings]
    return [spec.settings | {"modality": one} for one in modality]


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key in place: ``finetune.lora.rank=8``, ``unlearn.methods.0.beta=0.1``; values are YAML."""
    key, sign, value = override.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"--set {override}: expected key=value, e.g. --set finetune.epochs=3.")
    *path, last = key.strip().split(".")
    node: Any = raw
    for part in path:
        node = _child(node, part, override)
    _assign(node, last, yaml.safe_load(value), override)


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if node.get(part) is None:
        node[part] = {}
    if isinstance(node[part], str):
        node[part] = {"name": node[part]}
    if not isinstance(node[part], (dict, list)):
        raise RecipeError(f"--set {override}: '{part}' is a single value, it has no settings inside.")
    return node[part]


def _assign(node: Any, last: str, value: Any, override: str) -> None:
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise RecipeError(
            f"--set {override}: '{part}' is no position in a list of {len(node)} items (0 .. {len(node) - 1})."
        )
    return int(part)


def dump(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML: what ``recipe.yaml`` in the run folder holds."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
