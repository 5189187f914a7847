"""``mllmu forget``, ``rollback`` and ``replay``: delete people from a model on request, and go back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, echo

from mllmu.cli.run import Overrides, folder_named
from mllmu.cli.screen import progress, say

Requests = Annotated[
    Path, Argument(metavar="DIR", help="The folder of requests: that of 'mllmu forget --out'.", parser=folder_named)
]
RequestName = Annotated[str, Argument(metavar="REQUEST", help="Id of a request, as 'mllmu requests DIR' shows it.")]
SigningKey = Annotated[
    Path | None, Option("--key", metavar="FILE", help="Private Ed25519 key that signs the ledger; never copied.")
]


def forget(
    model: Annotated[
        str,
        Argument(
            metavar="MODEL", help="A model folder, a plain PEFT adapter folder, a hub id, or a folder of requests."
        ),
    ],
    *,
    data: Annotated[
        Path, Option(metavar="FILE", help="What the model was taught from: a recipe, or a table of people.")
    ],
    people: Annotated[
        Path | None, Option(metavar="FILE", help="Ids or names of the people to forget as a whole, one a line (CSV).")
    ] = None,
    facts: Annotated[
        Path | None,
        Option(
            metavar="TABLE", help="Single facts to forget: 'id,attribute' rows, or a column for each attribute (CSV)."
        ),
    ] = None,
    holdout: Annotated[
        Path | None,
        Option(metavar="FILE", help="A table of people it was never taught; without one they are invented."),
    ] = None,
    base: Annotated[str, Option(metavar="MODEL", help="The base of an adapter, if it does not say so itself.")] = "",
    method: Annotated[
        str, Option(help="auto: the best of five settings; or a method, e.g. '{name: npo, epochs: 3}'.")
    ] = ("auto"),
    request: Annotated[str, Option(metavar="ID", help="Id of the request.", show_default="r001, r002 ...")] = "",
    key: SigningKey = None,
    overrides: Overrides = None,
    out: Annotated[Path, Option(metavar="DIR", help="The folder of all requests.", parser=folder_named)],
) -> None:
    """Make a model forget people, or single facts about them, measure what it still answers, and write a certificate.

    No model trained without these people is needed: people it was never taught are the yardstick. Every step is entered
    into the ledger of DIR. A stopped command continues when it is repeated.
    """
    with progress() as display:
        from mllmu.requests.forget import forget as carry_out
        from mllmu.requests.order import ForgetOrder

        order = ForgetOrder(
            model=model, base=base, people=people, facts=facts, data=data, holdout=holdout, method=method,
            overrides=overrides or (),
        )  # fmt: skip
        outcome = carry_out(order, out, key=key, name=request, progress=display)
    for sentence in outcome.sentences:
        echo(sentence)
    say(f"request {outcome.entry.request}: {outcome.entry.status}; head {outcome.entry.hash}")
    say(f"report: {out / outcome.entry.request / 'report' / 'index.html'}")
    say(f"certificate: {outcome.page}")


def rollback(folder: Requests, request: RequestName, *, key: SigningKey = None) -> None:
    """Bring the model before a request back, byte for byte; an entry of the ledger says so."""
    from mllmu.requests.back import rollback as back

    entry = back(folder, request, key=key)
    say(f"rolled back: the model is {entry.after} again, byte for byte; {folder / 'current.json'} names it")


def replay(folder: Requests) -> None:
    """Make the model of every request once more from the ledger, and compare the bytes, or say how far it is."""
    with progress() as display:
        from mllmu.requests.back import replay as again

        for sentence in again(folder, display):
            say(sentence)
