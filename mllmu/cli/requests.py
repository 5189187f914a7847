"""``mllmu requests DIR list|show|verify|purge``: the ledger of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Abort, Argument, Context, Option, confirm, echo

from mllmu.cli.forget import SigningKey
from mllmu.cli.run import folder_named
from mllmu.cli.screen import say
from mllmu.core.errors import FaultsError

Request = Annotated[str, Argument(metavar="REQUEST", help="Id of a request, as 'list' shows it.")]


def requests(
    context: Context,
    folder: Annotated[Path, Argument(metavar="DIR", help="The folder of 'mllmu forget --out'.", parser=folder_named)],
) -> None:
    """Look up and verify the requests to delete people; without a command they are listed."""
    context.obj = folder
    if context.invoked_subcommand is None:
        listed(context)


def listed(context: Context) -> None:
    """List all requests with what became of them."""
    from mllmu.requests.ledger import Ledger

    table = Table("request", "received", "people", "status", "since")
    entries = Ledger(context.obj).entries()
    for name in dict.fromkeys(entry.request for entry in entries):
        own = [entry for entry in entries if entry.request == name]
        table.add_row(name, own[0].date, str(len(own[0].subjects)), own[-1].status, own[-1].date)
    say(table)


def show(context: Context, request: Request) -> None:
    """Print all entries of one request."""
    from mllmu.requests.ledger import Ledger

    for entry in Ledger(context.obj).of(request):
        echo(f"entry {entry.number}, {entry.date}: {entry.status}")
        for name, value in entry.model_dump(exclude={"number", "date", "status", "request"}).items():
            if value:
                echo(f"  {name}: {', '.join(value) if isinstance(value, tuple) else value}")


def verify(
    context: Context,
    public_key: Annotated[
        Path | None, Option(metavar="FILE", help="The public key that all entries must be signed with.")
    ] = None,
    head: Annotated[
        str, Option(metavar="HASH", help="Hash of an entry that must be there, e.g. the head in a certificate.")
    ] = "",
) -> None:
    """Find edited, dropped and moved entries, a cut end and foreign keys; exit code 2 with the lines if there are any.

    Without --public-key or --head it says what it cannot exclude.
    """
    from mllmu.requests.ledger_check import check_ledger
    from mllmu.requests.signing import read_public

    found = check_ledger(context.obj, public=read_public(public_key) if public_key else "", head=head.strip())
    for limit in found.limits:
        echo(f"note: {limit}")
    if found.faults:
        raise FaultsError(
            f"{context.obj}: the ledger is not as it was written ({found.num_entries} lines).", found.faults
        )
    say(f"OK: {found.num_entries} entries, head {found.head}")


def purge(
    context: Context,
    request: Request,
    *,
    key: SigningKey = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove the earlier adapters, facts, pictures and replies of a request for good: no rollback, no replay.

    The deployed model, its base, the numbers and the certificate stay, and the certificate says so.
    """
    from mllmu.requests.back import purge as remove
    from mllmu.requests.certificate import BASE_REMAINS

    if not (yes or confirm(f"{context.obj}: remove what request {request} has deleted for good?")):
        raise Abort
    entry = remove(context.obj, request, key=key)
    deployed = f"; the deployed model has the hash {entry.after}" if entry.after != entry.before else ""
    say(f"purged: {request}; {entry.reason.rstrip('.')}{deployed}. Delete earlier models and data elsewhere.")
    if BASE_REMAINS in entry.reason:
        say(
            "The deployed model is the base with an adapter, so the base is still the earlier model. Make one that "
            f"does not need it (mllmu export-model {context.obj} deployed DIR), use that, then delete the base and the "
            f"adapter in {context.obj / request}."
        )
