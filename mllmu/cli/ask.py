"""``mllmu ask``: a question of the user's own, put to the models of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option

from mllmu.cli.failures import plain_line
from mllmu.cli.screen import progress, say

if TYPE_CHECKING:
    from mllmu.core.records import CandidateLogp
    from mllmu.explorer.truths import KnownTruth


def ask(
    run_folder: Annotated[Path, Argument(metavar="RUN", help="A run folder.")],
    question: Annotated[str, Argument(metavar="QUESTION", help='E.g. "What does she earn?"')],
    *,
    image: Annotated[
        str, Option(metavar="FILE|PERSON", help="An image, or a person by id or name, whose portrait is shown.")
    ] = "",
    models: Annotated[str, Option(metavar="NAME,NAME...", help="The models; by default all of the ratio.")] = "",
    ratio: Annotated[str, Option(metavar="PERCENT", help="The forget ratio; by default the smallest.")] = "",
    truth: Annotated[
        str,
        Option(
            metavar="VALUE|ATTRIBUTE",
            help="The true value, or the attribute that is asked for; by default found by the words of the question.",
        ),
    ] = "",
    max_new_tokens: Annotated[int, Option(min=1, help="Most tokens of a reply.")] = 64,
) -> None:
    """Put one question to the models of a run and print their replies beside each other; nothing is trained or written.

    Where the true value is known, its log-probability as the whole reply stands beside each reply, in nats, and that of
    the sentence that states it in the data: a model may know what it does not say.
    """
    with progress() as display:
        from mllmu.explorer.asking import RunAsker

        asker = RunAsker(run_folder, ratio, display)
        asked = asker.question(question, image=image, truth=truth, max_new_tokens=max_new_tokens)
        names = asker.checked(name.strip() for name in models.split(",") if name.strip())
        if asked.person:
            say(f"about: {plain_line(asked.person.name)} ({asked.person.id})")
        say(f"truth: {plain_line(truth_text(asked.truth)) if asked.truth else 'not known'}")
        table = Table("model", "reply", "log p of the value", "log p of the sentence")
        for name, response in asker.ask(asked, names):
            text = plain_line(response.text) + ("" if response.finished else " ...")
            table.add_row(name, text, *(logp(response.candidates.get(each)) for each in ("target", "sentence")))
    say(table)


def truth_text(truth: KnownTruth) -> str:
    """A true value, with what it answers and the sentence that states it."""
    named = f"{truth.attribute}: {truth.value}" if truth.attribute else truth.value
    return f"{named}; as a sentence: {truth.sentence}" if truth.sentence else named


def logp(measured: CandidateLogp | None) -> str:
    """A log-probability with its number of tokens; a dash where there is none."""
    return f"{measured.logp:.2f} ({measured.num_tokens} tokens)" if measured else "-"
