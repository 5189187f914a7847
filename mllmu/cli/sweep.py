"""``mllmu sweep``: the recipes of a grid, unit by unit, on this machine, a Ray cluster or Slurm."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option, echo

from mllmu.cli.failures import tell
from mllmu.cli.run import NoCheck, NoGate, Out, Overrides, RecipePath, RecipeRun, each
from mllmu.cli.screen import progress, say
from mllmu.core.errors import MllmuError, RecipeError
from mllmu.core.lock import claim, held
from mllmu.core.process import Progress
from mllmu.core.sharing import share

if TYPE_CHECKING:
    from mllmu.parallel.schedule import Engine, Resources
    from mllmu.studies.sweep import SweepOrder

EngineName = Literal["local", "ray", "slurm"]


def sweep(
    recipe: RecipePath,
    *,
    engine: Annotated[EngineName, Option(help="Who does the units.")] = "local",
    address: Annotated[
        str | None, Option(help="ray: a running cluster, auto or its address; by default one is started here.")
    ] = None,
    workers: Annotated[
        int | None, Option(min=1, help="local: units at a time.", show_default="the recipe's workers")
    ] = None,
    device: Annotated[
        str | None,
        Option(help="As for mllmu plan: units ask for the memory that the plan says, of a GPU for a share."),
    ] = None,
    slurm: Annotated[
        list[str] | None, Option(metavar="KEY=VALUE", help="slurm: e.g. slurm_partition=gpu, timeout_min=600.")
    ] = None,
    retries: Annotated[int, Option(min=0, help="How often a unit is done again whose worker was lost.")] = 3,
    overrides: Overrides = None,
    out: Out = None,
    no_gate: NoGate = False,
    no_check: NoCheck = False,
) -> None:
    """Run all recipes of a grid at a time: every model made, asked or attacked is a unit for a worker of the engine.

    The run folders are those of mllmu run, byte for byte, and so are their places. The same command continues a sweep
    that was stopped. Ray and Slurm need folders that all their machines see under the same paths.
    """
    from mllmu.preflight.ahead import look_ahead

    runs = list(each(recipe, overrides, out, quiet=True))
    for run in runs:
        look_ahead(run.recipe, run.folder, run.missing, say=echo, estimate=False)
    with ExitStack() as stack:
        for run in runs:
            if run.name:
                claim(run.folder.parent)
            stack.enter_context(held(run.folder))
        display = stack.enter_context(progress())
        for run in runs:
            if shared := share(run.folder):
                display.note(f"{run.folder}: shares unchanged work with {', '.join(map(str, shared))}")
        from mllmu.preflight.doctor.first import check_first
        from mllmu.studies.sweep import SweepOrder, SweptRun
        from mllmu.studies.sweep import sweep as carry_out

        swept = {run.name: SweptRun(run.recipe, run.folder.absolute()) for run in runs}
        order = SweepOrder(swept, gate=not no_gate, check=None if no_check else check_first)
        wanted = Wanted(runs, device)
        size = workers or max(run.recipe.workers for run in runs)
        with _engine(engine, order, address, size, slurm or (), display) as working:
            wanted.gpus = bool(getattr(working, "gpus", 0))
            schedule = carry_out(order, working, resources=wanted, retries=retries, progress=display)
    for error in schedule.failed.values():
        tell(error)
    _say_where(runs)
    if schedule.failed:
        names = ", ".join(" ".join(filter(None, task)) for task in schedule.failed)
        raise MllmuError(
            f"failed: {names}; the reasons are above. {len(schedule.skipped)} further units need them. "
            "The same command tries them again."
        )


def _engine(
    name: EngineName, order: SweepOrder, address: str | None, size: int, slurm: Sequence[str], display: Progress
) -> Engine:
    from mllmu.parallel import engines

    if name == "local":
        return engines.LocalEngine(size, order.start_worker, display)
    if name == "ray":
        return engines.RayEngine(address, order.start_worker, display)
    folder = min(run.root for run in order.runs.values()).parent / "slurm"
    return engines.SlurmEngine(folder, dict(map(_option, slurm)), order.start_worker)


def _option(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise RecipeError(f"--slurm {text}: expected key=value, e.g. slurm_partition=gpu.")
    return key, int(value) if value.isdecimal() else value


class Wanted:
    """What the units of some recipes ask an engine for.

    Args:
        runs: the recipes.
        device: whose memory the units share, by a name that ``mllmu plan`` knows; None: a GPU each, if there are any.
    """

    def __init__(self, runs: Sequence[RecipeRun], device: str | None) -> None:
        self.gpus = False
        self._recipes = {run.name: run.recipe for run in runs}
        self._device = device
        self._peaks: dict[str, tuple[float, float, float]] = {}

    def __call__(self, name: str, kind: str) -> Resources:
        """For a kind of unit of a recipe: GPUs and memory."""
        from mllmu.parallel.schedule import Resources

        if self._device is None:
            return Resources(gpus=float(self.gpus and self._recipes[name].model.device != "cpu"))
        if name not in self._peaks:
            from mllmu.preflight.plan.plan import make_plan

            planned = make_plan(self._recipes[name], self._device)
            *training, evaluation = (stage.peak for stage in planned.stages)
            self._peaks[name] = max(training, default=evaluation), evaluation, planned.memory
        training_peak, asking, memory = self._peaks[name]
        # the gate asks the target with its controls
        peak = {"make": training_peak, "ask": asking, "gate": asking}.get(kind, max(training_peak, asking))
        if self._device == "cpu":
            return Resources(memory=round(peak * 2**30))
        return Resources(gpus=gpu_share(peak, memory))


def gpu_share(peak: float, memory: float) -> float:
    """The share of a GPU for a unit, so that as many as fit have one: 1 / floor(memory / peak), at most 1.

    >>> gpu_share(20.0, 80.0), gpu_share(50.0, 80.0), gpu_share(100.0, 80.0)
    (0.25, 1.0, 1.0)
    """
    return 1 / max(1, int(memory // peak))


def _say_where(runs: Sequence[RecipeRun]) -> None:
    """Print where the reports are, and, of a grid, the board of those that are there."""
    from mllmu.core.runfolder import RunFolder

    pages = {run.name: run.folder / RunFolder.REPORT / "index.html" for run in runs}
    for name, page in pages.items():
        if page.is_file():
            say(f"{name or 'report'}: {page}")
    if runs[0].name:
        from mllmu.studies.board_page import write_index

        parent = runs[0].folder.parent
        echo(f"board: {write_index(parent, runs[0].recipe.name, sorted(parent.glob('*/')))}")
