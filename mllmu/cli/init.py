"""``mllmu init``: a folder to start from, with a recipe, a table of people and a method of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mllmu.cli.screen import say
from mllmu.core.errors import RecipeError

EXAMPLE_PEOPLE = "../examples/people/"


def init(
    folder: Annotated[Path, Argument(metavar="DIR", help="A new or empty folder.")],
    *,
    recipe: Annotated[str, Option(metavar="NAME", help="The packaged recipe to copy: mllmu ls recipes.")] = "demo",
) -> None:
    """Make a folder to start from: a recipe, a table of invented people with images, and a method in one file."""
    from mllmu.config import packaged

    source = packaged.recipe_file(Path(recipe))
    _refuse_used(folder)
    folder.mkdir(parents=True, exist_ok=True)
    examples = packaged.folder("examples")
    for path in dict.fromkeys((source, packaged.recipes()["people"])):
        text = path.read_text(encoding="utf-8").replace(EXAMPLE_PEOPLE, "people/")
        (folder / path.name).write_text(text, encoding="utf-8")
    shutil.copyfile(examples / "my_method.py", folder / "my_method.py")
    shutil.copytree(examples / "people", folder / "people", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    say(
        f"made {folder}:\n"
        f"  {source.name}  a recipe to change; then: cd {folder} && mllmu run {source.name}\n"
        "  people.yaml, people/  a table of people with images: mllmu data people.yaml\n"
        f"  my_method.py  an unlearning method in one file: PYTHONPATH=. mllmu run {source.name} "
        "--set 'unlearn.methods=[\"my_method:Unlikelihood\"]'"
    )


def _refuse_used(folder: Path) -> None:
    """A folder with anything in it is left alone."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"{folder}: exists and is not an empty folder. Nothing was written; name a new folder.")
