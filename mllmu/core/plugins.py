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
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from mllmu.core.errors import PluginError, RecipeError, did_you_mean

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
MAX_SHOWN = 100
"""Characters of a wrong value that an error message repeats."""


class Plugin(BaseModel):
    """Base of every plug-in: settings are fields with defaults and bounds; unknown settings are errors.

    What a setting means is the ``description`` of its field or, if that is long, the docstring below it.

    Subclasses set ``source``: the paper or project the idea comes from, shown by ``mllmu ls``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
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
    known = names(kind)
    if name not in known:
        raise PluginError(f"{kind}: no '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    module = importlib.import_module(f"{package}.{name}")
    own = [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]
    plugins = [cls for cls in own if issubclass(cls, Plugin) and not inspect.isabstract(cls)]
    if len(plugins) != 1:
        found = ", ".join(cls.__name__ for cls in plugins) or "none"
        raise PluginError(f"{kind}: {module.__file__}: expected one plug-in class in the file, got {found}.")
    return _checked(kind, name, plugins[0])


def build(kind: str, name: str, settings: Mapping[str, Any], *, where: str = "") -> Any:
    """Construct a plug-in from recipe settings; a bad setting raises RecipeError naming place and alternatives."""
    cls = find(kind, name)
    try:
        return cls(**settings)
    except ValidationError as error:
        raise RecipeError(explain(error, cls, where=f"{where or kind}.", owner=f"of '{name}'")) from None


def explain(error: ValidationError, cls: type[BaseModel], *, where: str, owner: str = "") -> str:
    """Turn the most telling fault of a pydantic error into one sentence: where, what, got, expected, nearest match.

    Args:
        where: put right before the path of the setting, e.g. ``recipe.yaml: `` or ``unlearn.methods[2].``.
    """
    faults = error.errors(include_url=False)
    # a misspelt name is why another setting is missing, so it is told first
    fault = min(faults, key=lambda each: each["type"] != "extra_forbidden")
    place = (where + ".".join(map(str, fault["loc"]))).rstrip(".: ")
    if fault["type"] == "extra_forbidden":
        known = list(_model_at(cls, fault["loc"][:-1]).model_fields)
        hint = did_you_mean(str(fault["loc"][-1]), known)
        return f"{place}: unknown setting{' ' + owner if owner else ''}.{hint} Settings: {', '.join(known) or 'none'}."
    return f"{place}: {fault['msg'].removeprefix('Value error, ')} (got {_short(fault.get('input'))})."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def _model_at(cls: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """Follow field names into nested models, also optional ones (``Lora | None``); stops at the last model met."""
    for key in path:
        field = cls.model_fields.get(str(key))
        cls = next(_models_in(field.annotation), cls) if field else cls
    return cls


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


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
            f"{kind}: cannot import '{path}': {error}. Expected package.module:Class, importable from here."
        ) from None


def _checked(kind: str, name: str, cls: Any) -> type[Any]:
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        raise PluginError(
            f"{kind}: '{name}' is not a plug-in: expected a subclass of mllmu.core.plugins.Plugin, got {cls!r}."
        )
    if not callable(getattr(cls, NEEDED[kind], None)):
        raise PluginError(f"{kind}: '{name}' is a plug-in of another kind: one of {kind} defines {NEEDED[kind]}().")
    return cls
