"""``mllmu verify``: whether a run, or a certificate of a deletion, says what was measured."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mllmu.cli.screen import progress, say
from mllmu.core.errors import DataError


def verify(
    path: Annotated[Path, Argument(metavar="RUN_OR_CERTIFICATE", help="A run folder, or certificates/<request>.json.")],
    *,
    public_key: Annotated[
        Path | None, Option(metavar="FILE", help="The public key that a certificate must be signed with.")
    ] = None,
    model: Annotated[
        bool, Option("--model", help="Also ask every model a random 5 % of the questions again, which loads models.")
    ] = False,
) -> None:
    """Check every digest of a run, score its stored responses again, and compute every number again; loads no model.

    Of a certificate also the signature, the ledger beside it, and the numbers that it shows. Prints OK, or the first
    difference with exit code 2.
    """
    from mllmu.requests.check import certificates_of, verify_certificate
    from mllmu.requests.signing import read_public
    from mllmu.studies.verify import verify_run

    if public_key and path.is_dir():
        there = [f"mllmu verify {file} --public-key {public_key}" for file in certificates_of(path)]
        advice = f"Its certificate: {there[0]}" if there else "Leave --public-key out, or name a certificate."
        raise DataError(f"{path}: a folder. --public-key belongs to a certificate, as a run is not signed. {advice}")
    public = read_public(public_key) if public_key else ""
    with progress() as display:
        if path.is_dir():
            found = verify_run(path, display, ask=model)
        else:
            found = verify_certificate(path, display, public=public, ask=model)
        for said in found:
            say(said)
    say(f"OK: {path}")
