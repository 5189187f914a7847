"""The command ``mllmu``: its commands, ``--version``, and what every command does on an error."""

import io
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mllmu.cli import data, forget, run, runs, studies
from mllmu.cli import requests as ledger
from mllmu.cli.ask import ask
from mllmu.cli.attack import attack
from mllmu.cli.evaluate import evaluate
from mllmu.cli.export_tasks import export_tasks
from mllmu.cli.failures import explained_errors, tell_bug
from mllmu.cli.get import get
from mllmu.cli.init import init
from mllmu.cli.judge import judge
from mllmu.cli.ls import ls
from mllmu.cli.paper import paper
from mllmu.cli.preflight import doctor, plan
from mllmu.cli.sweep import sweep
from mllmu.cli.verify import verify
from mllmu.cli.view import view
from mllmu.parallel.team import only_alone
from mllmu.version import __version__

TOGETHER = ("run", "finetune", "unlearn", "evaluate", "score", "report")
"""Commands that several processes can carry out together."""
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Run": (run.run, sweep, run.validate, doctor, plan, runs.status, runs.rm),
    "One stage": (*map(run.stage_command, run.STAGES), evaluate, judge),
    "Look": (view, ask),
    "Requests for deletion": (forget.forget, verify, forget.rollback, forget.replay),
    "Studies": (paper, attack, studies.tune, studies.trust, studies.layers, studies.pool, studies.board),
    "Start, look up, export": (init, get, ls, run.export_model, export_tasks),
}


class CommandGroup(TyperGroup):
    """The commands, each under the rule that an error is one clear line and an exit code, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        with explained_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
    epilog="Start with: mllmu run demo. A stopped command continues when it is repeated.",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - the signature of an option callback
    if wanted:
        typer.echo(f"mllmu {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Machine unlearning for multimodal LLMs: data, fine-tuning, unlearning, evaluation, report."""
    del version
    if context.invoked_subcommand not in TOGETHER:
        only_alone(f"mllmu {context.invoked_subcommand}")


_data = typer.Typer(cls=data.WithDefault, help="Make the people, portraits and questions; review or export them.")
_data.command(context_settings=HELP_NAMES)(data.make)
_data.command()(data.review)
_data.command()(data.reveal)
_data.command()(data.search)
app.add_typer(_data, name="data", rich_help_panel="One stage")
_requests = typer.Typer(invoke_without_command=True)
_requests.callback()(ledger.requests)
_requests.command("list")(ledger.listed)
_requests.command()(ledger.show)
_requests.command()(ledger.verify)
_requests.command()(ledger.purge)
app.add_typer(_requests, name="requests", rich_help_panel="Requests for deletion")
for _panel, _commands in PANELS.items():
    for _command in _commands:
        app.command(_command.__name__.replace("_", "-"), rich_help_panel=_panel)(_command)


def main() -> None:
    """Run the command line and leave with its exit code: 0 done, 2 an error that the user can fix, 130 Ctrl-C."""
    sys.excepthook = tell_bug
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8 shows "?" for what it cannot show
            stream.reconfigure(errors="replace")
    app(prog_name="mllmu")
