"""``mllmu data review DIR`` beside ``mllmu data RECIPE``: a command whose first word may name another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mllmu.cli.screen import results

DEFAULT = "make"


class WithDefault(TyperGroup):
    """A group in which everything but the name of one of its commands belongs to the command ``make``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``make`` in front, unless a command is named or nothing is given."""
        named = args and args[0] in self.commands
        found: list[str] = super().parse_args(ctx, args if named else [DEFAULT, *args])
        return found


def review(run: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder that holds data.")]) -> None:
    """Write a page on which people, portraits and questions can be looked at and marked: DIR/review.html."""
    from mllmu.data.review import write_page

    results().print(f"review: {write_page(run)}", soft_wrap=True)
