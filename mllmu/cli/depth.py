"""``mllmu depth``: in which layers the forgotten facts can still be read."""

from __future__ import annotations

from mllmu.cli.options import NoGate, Out, Overrides, RecipePath, each
from mllmu.cli.screen import progress, results
from mllmu.core.lock import held


def depth(recipe: RecipePath, *, overrides: Overrides = None, out: Out = None, no_gate: NoGate = False) -> None:
    """Look into the layers of every model: where a forgotten fact can be read, before and after unlearning.

    Writes one page with four measures per layer and modality: logit lens, similarity to the target, activation
    patching, and a linear probe with its control. Uses the models of the run folder and makes those that are missing.
    """
    for run in each(recipe, overrides, out):
        with held(run.folder), progress() as shown:
            from mllmu.studies.layers.study import depth as measure

            page = measure(run.recipe, run.folder, gate=not no_gate, progress=shown)
        results().print(f"page: {page}", soft_wrap=True)
