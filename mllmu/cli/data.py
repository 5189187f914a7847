"""``mllmu data``: make the people, portraits and questions; look at them, review them, or export them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option, echo
from typer.core import TyperGroup

from mllmu.cli.judge import show_preview
from mllmu.cli.run import Force, Out, Overrides, Push, RealPeople, RecipePath, RecipeRun, each, execute
from mllmu.cli.screen import say
from mllmu.core.errors import MllmuError, did_you_mean
from mllmu.core.lock import claim
from mllmu.core.runfolder import RunFolder

FORMATS = ("mllmu-bench", "datasets")
NUM_PROMPTS = 1


class WithDefault(TyperGroup):
    """``mllmu data RECIPE`` is ``mllmu data make RECIPE``, unless the first word is a command of the group."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``make`` in front, unless a command is named."""
        named = args and args[0] in self.commands
        rest: list[str] = super().parse_args(ctx, args if named else ["make", *args])
        return rest


def make(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    contact_sheet: Annotated[
        bool, Option("--contact-sheet", help="Also draw all portraits on one page, contact_sheet.png.")
    ] = False,
    export: Annotated[
        str | None, Option(metavar="FORMAT", help="Also write the data set in another layout: mllmu-bench, datasets.")
    ] = None,
    export_dir: Annotated[Path | None, Option(metavar="DIR", help="Folder for the files of --export.")] = None,
    push: Push = None,
    push_real_people: RealPeople = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show the first prompts for LLM endpoints and count the calls; make nothing.")
    ] = False,
    out: Out = None,
    force: Force = False,
) -> None:
    """Make the people, their portraits and their questions."""
    if export is not None and export not in FORMATS:
        formats = ", ".join(FORMATS)
        raise MllmuError(f"--export: no format '{export}'.{did_you_mean(export, FORMATS)} Formats: {formats}.")
    if (export is None) != (export_dir is None):
        raise MllmuError("--export and --export-dir belong together, e.g. --export mllmu-bench --export-dir exported.")
    if push and export_dir is None:
        raise MllmuError("--push: names where an export goes; add --export datasets --export-dir DIR.")
    if dry_run:
        show_calls(each(recipe, overrides))
        return
    if push:
        from mllmu.data.personal import check_push

        for run in each(recipe, overrides, quiet=True):
            check_push(run.recipe.data, push, allowed=push_real_people)
    for run in execute(recipe, overrides, out, force=force, only="data"):
        if contact_sheet:
            from mllmu.data.contact_sheet import write_contact_sheet
            from mllmu.data.dataset import load

            write_contact_sheet(load(run.folder / RunFolder.DATA), run.folder / "contact_sheet.png")
            say(f"contact sheet: {run.folder / 'contact_sheet.png'}")
        if export_dir is not None:
            _export(run, export or "", export_dir / run.name, push)


def _export(run: RecipeRun, layout: str, folder: Path, push: str | None) -> None:
    """Write the data of a run in another layout, and put the folder on the hub if that is wanted."""
    from mllmu.data.dataset import load

    claim(folder, "--export-dir")
    data, recipe = load(run.folder / RunFolder.DATA), run.recipe
    if layout == "datasets":
        from mllmu.data.datasets_folder import write_folder
        from mllmu.data.personal import real_people

        title, source, real = recipe.report.title or recipe.name, recipe.data.source.name, real_people(recipe.data)
        rows = write_folder(data, folder, title=title, source=source, seed=recipe.seed, real=bool(real))
    else:
        from mllmu.data.published.export import export as export_parquet

        rows = export_parquet(data, folder)
    parts = "files" if layout == "datasets" else "configs"
    say(f"exported: {folder} ({sum(rows.values())} rows in {len(rows)} {parts})")
    if push:
        from mllmu.core.hub import push as upload

        say(f"pushed: {upload(folder, push, kind='dataset')}")


def show_calls(runs: Iterable[RecipeRun]) -> None:
    """Print the first prompts that LLM endpoints would get, and how many calls there would be."""
    from mllmu.data.preview import previews

    parts = [part for run in runs for part in previews(run.recipe.data, run.recipe.seed, NUM_PROMPTS)]
    for part in parts:
        show_preview(part.part, part.preview)
        if not part.known:
            say(f"{part.part}: the people do not exist yet, so their prompts cannot be shown")
    if not parts:
        say("no part of the data calls an endpoint")


def review(run: Annotated[Path, Argument(metavar="DIR", help="A run folder that holds data.")]) -> None:
    """Write DIR/review.html, a page on which people, portraits and questions can be checked and marked."""
    from mllmu.data.review import write_page

    say(f"review: {write_page(run)}")


def reveal(
    key: Annotated[Path, Argument(metavar="KEYFILE", help="The key file that data.source.key names.")],
    wanted: Annotated[
        list[str] | None, Argument(metavar="WHO...", help="Ids, names or other pseudonyms; by default all people.")
    ] = None,
) -> None:
    """Print the real values behind pseudonyms on the screen; nothing is written."""
    from mllmu.data.pseudonyms.keyfile import reveal as look_up

    for name, values in look_up(key, wanted or ()).items():
        echo(f"{name}: {', '.join(f'{what} {value}' for what, value in values.items())}")


def search(
    run: Annotated[Path, Argument(metavar="DIR", help="A run folder.")],
    key: Annotated[Path, Argument(metavar="KEYFILE", help="The key file that data.source.key names.")],
) -> None:
    """Search all texts of a run folder for the people of a key file; exit code 1 if any is found."""
    from mllmu.data.pseudonyms.identities import Identities
    from mllmu.data.pseudonyms.keyfile import people_of
    from mllmu.data.pseudonyms.search import search_run

    found = search_run(run, Identities.of(people_of(key)))
    for told in found:
        echo(str(told))
    if found:
        raise Exit(1)
    say(f"nobody of {key} is found in the texts of {run}")
