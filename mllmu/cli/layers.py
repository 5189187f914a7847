"""``mllmu layers``: in which layers of the network the forgotten facts can still be read."""

from __future__ import annotations

from mllmu.cli.options import NoGate, Out, Overrides, RecipePath, each
from mllmu.cli.screen import progress, results
from mllmu.core.lock import held


def layers(recipe: RecipePath, *, overrides: Overrides = None, out: Out = None, no_gate: NoGate = False) -> None:
    """Show in which layers of each model the forgotten facts can be read, before and after unlearning.

    Writes a page with four measures per layer and modality: logit lens, similarity to the target (CKA), activation
    patching, and a linear probe with its control. Models that are missing in the run folder are trained first.
    """
    for run in each(recipe, overrides, out):
        with held(run.folder), progress() as shown:
            from mllmu.studies.layers.study import measure_layers

            page = measure_layers(run.recipe, run.folder, gate=not no_gate, progress=shown)
        results().print(f"page: {page}", soft_wrap=True)
