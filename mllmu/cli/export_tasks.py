"""``mllmu export-tasks``: the questions and replies of a run for tools that people already use."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from mllmu.cli.screen import say
from mllmu.core.errors import RunStoreError, did_you_mean
from mllmu.core.lock import claim
from mllmu.core.runfolder import RunFolder


def export_tasks(
    run_folder: Annotated[Path, Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, Argument(metavar="DIR", help="New folder.")],
    *,
    tool: Annotated[Literal["lm-eval", "inspect"], Option("--for", help="Tool that reads the folder.")] = "lm-eval",
    ratio: Annotated[str | None, Option(metavar="PERCENT", help="The forget ratio; by default the smallest.")] = None,
) -> None:
    """Write what a run asked as tasks for lm-eval, or what its models answered as logs for Inspect.

    lm-eval: a folder with YAML, questions, pictures and the official metrics as plain functions, so that a model that
    is evaluated elsewhere is compared with those of the run. Inspect: one log per model, for inspect view.
    """
    keys = RunFolder(run_folder).evaluated_keys()
    key = ratio or next(iter(keys), "")
    if key not in keys:
        known = ", ".join(keys) or "none; run the evaluate stage first"
        raise RunStoreError(
            f"{run_folder}: no evaluation at {key or '?'} %.{did_you_mean(key, keys)} There are: {known}."
        )
    from mllmu.config.load import load

    claim(out, "DIR")
    recipe = load(run_folder / RunFolder.RECIPE)
    if tool == "inspect":
        from mllmu.studies.exports.inspect_logs import write_logs

        say(f"exported: {len(write_logs(run_folder, recipe, key, out))} logs; inspect view --log-dir {out}")
        return
    from mllmu.studies.exports.lm_eval_tasks import write_tasks

    say(f"exported: {len(write_tasks(run_folder, recipe, key, out))} tasks; {out / 'README.md'} says how to run them")
