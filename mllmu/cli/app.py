"""The command ``mllmu``: which commands there are, ``--version``, and what every command does on an error."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mllmu.cli.data import data
from mllmu.cli.doctor import doctor
from mllmu.cli.evaluate import evaluate
from mllmu.cli.export_model import export_model
from mllmu.cli.failures import ExplainedErrors
from mllmu.cli.judge import judge
from mllmu.cli.layers import layers
from mllmu.cli.ls import ls
from mllmu.cli.plan import plan
from mllmu.cli.pool import pool
from mllmu.cli.reveal import reveal
from mllmu.cli.review import WithDefault, review
from mllmu.cli.run import run
from mllmu.cli.stages import stage_command
from mllmu.cli.trust import trust
from mllmu.cli.tune import tune
from mllmu.cli.validate import validate
from mllmu.parallel.team import only_alone
from mllmu.version import __version__

TOGETHER = ("run", "finetune", "unlearn", "evaluate", "score", "report")
"""Commands that several processes can carry out."""
EPILOG = "Start with: mllmu run recipes/demo.yaml. A command that was stopped continues where it was when repeated."


class Group(TyperGroup):
    """The commands, each under the rule that an error is one clear line and an exit code, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        with ExplainedErrors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - the signature of an option callback
    if asked:
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


app.command(rich_help_panel="Run")(run)
app.command(rich_help_panel="Run")(validate)
app.command(rich_help_panel="Run")(doctor)
app.command(rich_help_panel="Run")(plan)
app.command(rich_help_panel="Run")(tune)
app.command(rich_help_panel="Run")(trust)
app.command(rich_help_panel="Run")(layers)
app.command(rich_help_panel="Look and build")(pool)
_data = typer.Typer(cls=WithDefault, help="Make the people, portraits and questions; review them.")
_data.command("make", context_settings={"help_option_names": ["-h", "--help"]})(data)
_data.command()(review)
_data.command()(reveal)
app.add_typer(_data, name="data", rich_help_panel="One stage")
for _stage in ("finetune", "unlearn", "score", "report"):
    app.command(_stage, rich_help_panel="One stage")(stage_command(_stage))
app.command(rich_help_panel="One stage")(evaluate)
app.command(rich_help_panel="One stage")(judge)
app.command(rich_help_panel="Look and build")(ls)
app.command("export-model", rich_help_panel="Look and build")(export_model)


def main() -> None:
    """Run the command line and leave with its exit code: 0 done, 2 an error that is the user's to fix, 130 Ctrl-C."""
    app(prog_name="mllmu")
