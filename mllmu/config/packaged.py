"""What the package carries beside its code: recipes, and the examples of the tutorials.

Both lie in folders of the repository and, installed from a wheel, inside the package.
"""

from pathlib import Path

from mllmu.core.errors import RecipeError, did_you_mean

PACKAGE = Path(__file__).parents[1]


def folder(name: str) -> Path:
    """The folder ``recipes`` or ``examples``, of a wheel or of a clone."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def recipes() -> dict[str, Path]:
    """Every packaged recipe by its name, which is that of its file."""
    return {path.stem: path for path in sorted(folder("recipes").glob("*.yaml"))}


def recipe_file(path: Path) -> Path:
    """The file a user means: the path itself, or, of a bare name that is no file here, the packaged recipe.

    ``demo``, ``demo.yaml`` and ``all-methods`` are names; ``recipes/demo.yaml`` is a path.

    Raises:
        RecipeError: there is neither such a file nor such a recipe.
    """
    if path.exists() or path.is_symlink():
        return path
    known = recipes()
    name = path.name.removesuffix(".yaml").replace("-", "_") if path == Path(path.name) else ""
    if name in known:
        return known[name]
    hint = did_you_mean(path.stem.replace("-", "_"), known)
    raise RecipeError(
        f"{path}: no such recipe, neither a file nor a name.{hint} Give the path of a YAML file, or one of the names "
        "that `mllmu ls recipes` lists, e.g. demo."
    )


def first_comment(path: Path) -> str:
    """The first comment line of a recipe, which says what it is; empty without one."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""
