"""``mllmu data reveal``: who is behind a pseudonym, for whoever holds the key file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reveal(
    key: Annotated[Path, typer.Argument(metavar="KEYFILE", help="What data.source.key named.")],
    asked: Annotated[
        list[str] | None,
        typer.Argument(metavar="WHO...", help="Ids, names, other fakes; default: everybody."),
    ] = None,
) -> None:
    """Say who is behind pseudonyms. Shows originals on this screen; nothing is written."""
    from mllmu.data.pseudonyms import reveal as look_up

    for name, known in look_up(key, asked or ()).items():
        typer.echo(f"{name}: {', '.join(f'{what} {value}' for what, value in known.items())}")
