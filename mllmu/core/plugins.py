"""The one plug-in rule: one module is one plug-in, and its file name is its name.

``find("methods", "npo")`` imports ``mllmu/unlearning/methods/npo.py`` and returns the one plug-in class defined there.
A name with a colon, ``package.module:Class``, is imported from anywhere; other packages can also register an entry
point in the group ``mllmu.<kind>``. There is no list to keep in step: the folder is the registry.

A plug-in class is a frozen pydantic model whose fields are its settings (see :class:`Plugin`), so the same class
checks the recipe, is hashed into fingerprints, and is printed by ``mllmu ls``.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from mllmu.core.errors import PluginError, RecipeError, did_you_mean
from mllmu.core.explain import explain

_RULES = {
    "methods": ("mllmu.unlearning.methods", "loss"),
    "metrics": ("mllmu.evaluation.metrics", "value"),
    "summaries": ("mllmu.evaluation.summaries", "summarise"),
    "attacks": ("mllmu.evaluation.attacks", "attack"),
    "tasks": ("mllmu.data.tasks", "sample"),
    "families": ("mllmu.models.families", "render"),
    "sources": ("mllmu.data.sources", "profiles"),
    "portraits": ("mllmu.data.portraits", "render"),
    "questions": ("mllmu.data.questions", "write"),
    "judges": ("mllmu.evaluation.judges", "session"),
    "benchmarks": ("mllmu.evaluation.benchmarks", "read"),
}
"""The folder of each kind, and what a plug-in of it must at least define."""
KINDS = {kind: package for kind, (package, _) in _RULES.items()}
NEEDED = {kind: method for kind, (_, method) in _RULES.items()}


class Settings(BaseModel):
    """Base of everything that a recipe sets: unknown settings are errors, numbers are finite, truth values no numbers.

    A section, list or mapping with nothing below it is the default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        types = types_in(field.annotation)
        if value is None and NoneType not in types and isinstance(field.default, (BaseModel, tuple, dict)):
            return field.default
        if types & {int, float} and not types & {bool, Any} and holds_booleans(value):
            raise ValueError("expected a number, not true or false")
        return value


def types_in(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    return {annotation}.union(*map(types_in, parts)) if parts else {annotation}


def holds_booleans(value: Any) -> bool:
    """A truth value, or a list or mapping with one in it."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return isinstance(value, bool) or any(map(holds_booleans, inside))


class Plugin(Settings):
    """Base of every plug-in: settings are fields with defaults and bounds; unknown settings are errors.

    What a setting means is the ``description`` of its field or, if that is long, the docstring below it.

    Subclasses set ``source``: the paper or project the idea comes from, shown by ``mllmu ls``.
    """

    source: ClassVar[str] = ""
    operational: ClassVar[frozenset[str]] = frozenset()
    """Settings that change how a result is obtained but not which one; fingerprints leave them out."""

    @property
    def name(self) -> str:
        """The name that a recipe has for it, see :func:`name_of`."""
        return name_of(type(self))

    def files(self) -> list[Path]:
        """Files and folders whose content the result depends on: every setting that is a path, unless operational."""
        settings = [name for name in type(self).model_fields if name not in self.operational]
        return [value for name in settings if isinstance(value := getattr(self, name), Path)]

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]


def names(kind: str) -> list[str]:
    """All plug-in names of a kind, sorted: files of the folder and entry points of installed packages.

    The folder is read, not imported, so a list costs nothing that the plug-ins would cost (torch, for families).
    """
    own = {m.name for m in pkgutil.iter_modules(_folders(_package(kind))) if not m.name.startswith("_")}
    return sorted(own | set(_registered(kind, tuple(sys.path))))


@cache
def _registered(kind: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Entry points of a kind by name; all installed packages are read for them, once per search path."""
    del path
    return {entry.name: entry for entry in entry_points(group=f"mllmu.{kind}")}


@cache
def name_of(cls: type) -> str:
    """The name by which :func:`find` finds a plug-in: that of its file, or outside of the package of its entry point.

    A class that has neither is called ``module:Class``.
    """
    module = cls.__module__
    if module.startswith("mllmu."):
        return module.rpartition(".")[2]
    path = f"{module}:{cls.__qualname__}"
    entries = (entry for kind in KINDS for entry in _registered(kind, tuple(sys.path)).values())
    return next((entry.name for entry in entries if entry.value == path), path)


def expanded(kind: str, wanted: Iterable[str]) -> list[str]:
    """The wanted names, each once; ``all`` stands for every one there is."""
    return list(dict.fromkeys(each for name in wanted for each in (names(kind) if name == "all" else [name])))


def _folders(package: str) -> list[str]:
    loaded = sys.modules.get(package)
    spec = None if loaded else importlib.util.find_spec(package)
    return list(loaded.__path__ if loaded else (spec and spec.submodule_search_locations) or ())


def find(kind: str, name: str) -> type[Any]:
    """Return the plug-in class of a name; an unknown name raises PluginError with the nearest match."""
    package = _package(kind)
    if ":" in name:
        return _from_path(kind, name)
    if entry := _registered(kind, tuple(sys.path)).get(name):
        return _checked(kind, name, entry.load())
    if name not in (there := names(kind)):
        raise PluginError(f"{kind}: no '{name}'.{did_you_mean(name, there)} Known: {', '.join(there)}.")
    module = importlib.import_module(f"{package}.{name}")
    own = [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]
    plugins = [cls for cls in own if issubclass(cls, Plugin) and not inspect.isabstract(cls)]
    if len(plugins) != 1:
        found = ", ".join(cls.__name__ for cls in plugins) or "none"
        raise PluginError(f"{kind}: {module.__file__}: expected one plug-in class in the file, got {found}.")
    return _checked(kind, name, plugins[0])


def known(kind: str, name: str, where: str) -> None:
    """PluginError that begins with ``where`` if there is no plug-in of this name."""
    try:
        find(kind, name)
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from None


def build(kind: str, name: str, settings: Mapping[str, Any], *, where: str = "") -> Any:
    """Construct a plug-in from recipe settings; a bad setting raises RecipeError naming place and alternatives."""
    cls = find(kind, name)
    try:
        return cls(**settings)
    except ValidationError as error:
        raise RecipeError(explain(error, cls, where=f"{where or kind}.", owner=f"of '{name}'")) from None


def _package(kind: str) -> str:
    if kind not in KINDS:
        raise PluginError(f"no plug-in kind '{kind}'.{did_you_mean(kind, KINDS)} Kinds: {', '.join(KINDS)}.")
    return KINDS[kind]


def _from_path(kind: str, path: str) -> type[Any]:
    module, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise PluginError(f"{kind}: '{path}' is no name of a class. Expected package.module:Class.")
    try:
        return _checked(kind, path, getattr(importlib.import_module(module), attribute, None))
    except ModuleNotFoundError as error:
        raise PluginError(
            f"{kind}: cannot import '{path}': {error}. Expected package.module:Class; a file here needs PYTHONPATH=."
        ) from None


def _checked(kind: str, name: str, cls: Any) -> type[Any]:
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        raise PluginError(
            f"{kind}: '{name}' is not a plug-in: expected a subclass of mllmu.core.plugins.Plugin, got {cls!r}."
        )
    if not callable(getattr(cls, NEEDED[kind], None)):
        raise PluginError(f"{kind}: '{name}' is a plug-in of another kind: one of {kind} defines {NEEDED[kind]}().")
    return cls
