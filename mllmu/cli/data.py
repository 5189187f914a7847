"""``mllmu data``: make the people, portraits and questions; look at them, or export them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllmu.cli.options import Force, Out, Overrides, RecipePath, each, execute
from mllmu.cli.screen import results
from mllmu.core.errors import DataError, MllmuError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

    from mllmu.core.records import Profile

FORMATS = ("mllmu-bench",)
SHEET_PEOPLE = 200
"""A sheet of more rows than this is too tall for image viewers."""
SHEET_PIXELS = 256
RATIO_KEYS = ("5", "10", "15")
HOLDOUT_KEY = "holdout"
NUM_PROMPTS = 1


def data(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    contact_sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="Also draw all portraits on one page, contact_sheet.png.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option("--export", metavar="FORMAT", help="Also write the data set in another layout: mllmu-bench."),
    ] = None,
    export_dir: Annotated[
        Path | None, typer.Option("--export-dir", metavar="DIR", help="Where --export writes its files.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the first prompts and count the calls to endpoints; make nothing.")
    ] = False,
    out: Out = None,
    force: Force = False,
) -> None:
    """Make the people, their portraits and their questions."""
    _check_export(export, export_dir)
    if dry_run:
        show_calls(recipe, overrides or ())
        return
    console = results()
    for run in execute(recipe, overrides, out, force=force, no_gate=False, only="data"):
        if contact_sheet:
            console.print(f"contact sheet: {write_contact_sheet(run.folder)}", soft_wrap=True)
        if export_dir is not None:
            place = export_dir / run.name
            rows = export_parquet(run.folder / "data", place)
            console.print(f"exported: {place} ({sum(rows.values())} rows in {len(rows)} configs)", soft_wrap=True)


def show_calls(recipe: Path, overrides: Sequence[str]) -> None:
    """Print the first prompts that an endpoint would get, and how many calls there would be."""
    from mllmu.cli.judge import show_prompts
    from mllmu.data.preview import previews

    asked = [
        part for run in each(recipe, overrides) for part in previews(run.recipe.data, run.recipe.seed, NUM_PROMPTS)
    ]
    for part in asked:
        show_prompts(part.preview)
        known = "" if part.known else "; the people are not there yet, so their prompts cannot be shown"
        results().print(
            f"{part.part}: {part.preview.num_calls} calls to an endpoint, {part.preview.num_cached} of them already in "
            f"the cache; retries, repairs and what has to be written again come on top{known}",
            soft_wrap=True,
        )
    if not asked:
        results().print("no part of the data asks an endpoint")


def _check_export(export: str | None, export_dir: Path | None) -> None:
    """Fail before the work, not after it."""
    if export is not None and export not in FORMATS:
        known = ", ".join(FORMATS)
        raise MllmuError(f"--export: no format '{export}'.{did_you_mean(export, FORMATS)} Formats: {known}.")
    if (export is None) != (export_dir is None):
        raise MllmuError("--export and --export-dir belong together, e.g. --export mllmu-bench --export-dir exported.")


def write_contact_sheet(folder: Path) -> Path:
    """Draw the first 200 people of a run folder with all their views; return the path of the image."""
    from mllmu.core.jsonl import read_lines
    from mllmu.core.records import Profile
    from mllmu.data.contact_sheet import contact_sheet

    people = read_lines(folder / "data" / "profiles.jsonl", Profile)[:SHEET_PEOPLE]
    path = folder / "contact_sheet.png"
    contact_sheet([(p.name, _images(folder / "data" / "images", p)) for p in people], path)
    return path


def _images(image_folder: Path, person: Profile) -> list[Image]:
    """The views of a person in order, reduced; counted up, because one id may begin with another."""
    images: list[Image] = []
    while (path := image_folder / f"{person.id}_{len(images)}.png").is_file():
        images.append(_image(path))
    return images


def _image(path: Path) -> Image:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            opened.thumbnail((SHEET_PIXELS, SHEET_PIXELS))
            return opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the image
            raise
        raise DataError(f"{path}: not a readable image ({error}). Make the data again with --force.") from None


def export_parquet(data_folder: Path, export_dir: Path) -> dict[str, int]:
    """Write the people of a run in the published parquet layout; return the rows per config.

    People of the holdout group (``"holdout"`` in splits.json) are left out: the layout has no place for people that
    no model may see.

    Raises:
        DataError: the run does not have the published forget ratios 5, 10 and 15 percent.
    """
    from mllmu.core.jsonl import read_lines
    from mllmu.core.records import Profile, Question
    from mllmu.data.published.export import export

    splits = read_splits(data_folder / "splits.json")
    hidden = set(splits.get(HOLDOUT_KEY, ()))
    profiles = [p for p in read_lines(data_folder / "profiles.jsonl", Profile) if p.id not in hidden]
    questions = [q for q in read_lines(data_folder / "questions.jsonl", Question) if q.profile_id not in hidden]
    missing = [key for key in RATIO_KEYS if key not in splits]
    if missing:
        got = ", ".join(sorted(set(splits) - {HOLDOUT_KEY})) or "none"
        raise DataError(
            f"{data_folder / 'splits.json'}: the export needs the forget ratios 5, 10 and 15 percent, got {got}. "
            "Make the data with --set 'data.splits.forget_ratios=[0.05, 0.1, 0.15]' in a run folder of its own (--out)."
        )
    published = {int(key): splits[key] for key in RATIO_KEYS}
    return export(export_dir, profiles, questions, published, data_folder / "images")


def read_splits(path: Path) -> dict[str, Sequence[str]]:
    """Read ``{"5": [ids], "10": [ids] ...}``; a damaged file raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Make the data again with --force.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged ({error}). Make the data again with --force.") from None
    if not isinstance(value, dict) or not all(isinstance(ids, list) for ids in value.values()):
        raise DataError(f"{path}: expected an object of lists of ids. Make the data again with --force.")
    return value
