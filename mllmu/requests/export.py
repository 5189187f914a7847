"""The deployed model of a folder of requests as an ordinary folder, also where the way back was removed."""

from __future__ import annotations

from pathlib import Path

from mllmu.config import load as recipes
from mllmu.config.recipe import Recipe
from mllmu.core.errors import ModelError, RunStoreError
from mllmu.core.names import TARGET
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, read_json
from mllmu.pipeline.export_model import check_free, save_merged
from mllmu.pipeline.model_card import model_card
from mllmu.requests.ledger import LEDGER, Ledger
from mllmu.requests.standing import ORDER
from mllmu.requests.state import CURRENT, current, model_hash

DEPLOYED = "deployed"
"""What the deployed model is called in a command."""


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a run, or of the request whose model is deployed in a folder of requests."""
    deployed = current(folder) if (folder / LEDGER).is_file() else None
    return recipes.load((folder / deployed.request if deployed else folder) / RunFolder.RECIPE)


def check_not_purged(root: Path, out: Path) -> None:
    """ModelError if a run folder is that of a request that was purged: its only model is the deployed one."""
    folder = root.absolute().parent
    if (folder / LEDGER).is_file() and not RunFolder(root).models_made():
        own = Ledger(folder).of(root.absolute().name)
        if own[-1].status == "purged":
            raise ModelError(
                f"{root}: request {root.absolute().name} was purged, so no model of its own is left. For the deployed "
                f"model: mllmu export-model {root.parent} {DEPLOYED} {out}"
            )


def export_deployed(folder: Path, name: str, out: Path, *, device: str = "cpu") -> ModelRef:
    """Merge the model that a folder of requests names as deployed, and save it with ``save_pretrained``.

    Args:
        folder: of all requests.
        name: ``deployed``.
        out: new folder, or an empty one.
        device: where the weights are merged.

    Returns:
        The reference of the model; its ``system_prompt`` is text and not in the weights.

    Raises:
        ModelError: another name, ``out`` is taken, or a modifier acts beside the weights.
        RunStoreError: nothing was applied yet, or base or adapters are not those that were deployed.
    """
    if name != DEPLOYED:
        raise ModelError(
            f"{folder}: a folder of requests, which has one model: {DEPLOYED}. Got '{name}'. The models of one request "
            f"are in its own folder: mllmu export-model {folder}/r001 ..."
        )
    check_free(out)
    deployed = current(folder)
    if deployed is None:
        raise RunStoreError(f"{folder}: no request was applied yet, so it has no model.")
    found = model_hash(deployed.ref, folder)
    if found != deployed.hash:
        raise RunStoreError(
            f"{folder / CURRENT}: the model it names has the hash {found}, deployed was {deployed.hash}. Restore base "
            f"({deployed.ref.base}) and adapters from a copy."
        )
    root = folder / deployed.request
    recipe, order = recipes.load(root / RunFolder.RECIPE), read_json(root / ORDER)
    before = order.get("before") == deployed.hash
    card = model_card(root, recipe, TARGET if before else f"forget_{order['key']}/{order['model']}", deployed.ref)
    save_merged(recipe, deployed.ref, folder, out, card, name=DEPLOYED, device=device)
    return deployed.ref
