"""Which model is deployed: its parts, their hash, and the file that says so.

``current.json`` of the folder of all requests names the base and the adapters on it, in order. The hash of a model is

    SHA-256(canonical JSON of {base: {file: SHA-256}, adapters: [{file: SHA-256}, ...], system_prompt})
"""

from __future__ import annotations

from pathlib import Path

from mllmu.config.given import EMBEDDED, fault_of_model, place
from mllmu.core.content import sha256
from mllmu.core.errors import ModelError, RunStoreError
from mllmu.core.names import TARGET
from mllmu.core.records import ModelRef, Record
from mllmu.core.runfolder import RunFolder, read_json, read_record, seal, write_json
from mllmu.models.base_files import base_files
from mllmu.models.checkpoints import adapter_base, advice, is_adapter
from mllmu.models.foreign import check_adapter
from mllmu.models.loading import source_of
from mllmu.pipeline.taken import adapter_files
from mllmu.requests.ledger import LEDGER, canonical_hash

CURRENT = "current.json"


class DeployedModel(Record):
    """A model as it is deployed; ``ref`` names adapters relative to the folder of all requests."""

    request: str
    ref: ModelRef
    hash: str


def model_hash(ref: ModelRef, root: Path) -> str:
    """The hash of a model whose adapters lie below ``root``; every file of it is read."""
    source = Path(source_of(ref.base))
    names = base_files(ref.base, ref.revision)
    base = {name: sha256(source / name) for name in names} if source.is_dir() else names
    adapters = [
        {name: sha256(root / folder / name) for name in adapter_files(root / folder)} for folder in ref.adapters
    ]
    return canonical_hash({"base": base, "adapters": adapters, "system_prompt": ref.system_prompt})


def within(ref: ModelRef, request: str) -> ModelRef:
    """A model of a request's run folder as seen from the folder of all requests."""
    return ref.model_copy(update={"adapters": tuple(f"{request}/{name}" for name in ref.adapters)})


def target_of(folder: Path) -> ModelRef:
    """The model before a request, from its run folder."""
    path = folder / RunFolder.model_unit("", TARGET) / RunFolder.MODEL_FILE
    found: ModelRef = read_record(path, ModelRef)
    return found


def current(folder: Path) -> DeployedModel | None:
    """The deployed model of a folder of requests; None as long as nothing was applied."""
    record = read_json(folder / CURRENT, sealed=(folder / CURRENT).is_file())
    return DeployedModel.model_validate(record) if record else None


def deploy(folder: Path, request: str, ref: ModelRef, own: str) -> None:
    """Name the deployed model."""
    write_json(folder / CURRENT, seal(DeployedModel(request=request, ref=ref, hash=own).model_dump(mode="json")))


def model_given(path: str, base: str) -> tuple[str, str | None, list[Path]]:
    """The base, its revision, and the adapters on it, of what a user calls the model.

    Args:
        path: 'tiny', 'smol', a folder of ``save_pretrained``, a hub id; the folder of an adapter; a model of a run
            folder; or a folder of requests, for its deployed model.
        base: of an adapter that names none, or another one than it names; else empty.

    Raises:
        ModelError: an adapter without a base, or there is no such model. RunStoreError: a folder of requests without a
            deployed model.
    """
    folder = Path(path)
    if (folder / LEDGER).is_file():
        deployed = current(folder)
        if deployed is None:
            raise RunStoreError(f"{folder}: no request was applied yet, so it has no model. Name the model itself.")
        ref = deployed.ref
        if model_hash(ref, folder) != deployed.hash:
            raise RunStoreError(f"{folder / CURRENT}: the model it names is not the one that was deployed.")
        if ref.system_prompt:
            raise RunStoreError(
                f"{folder / CURRENT}: the deployed model forgets by a system prompt, which the next request cannot "
                f"keep. Roll {deployed.request} back, and carry it out again by a method that trains."
            )
        return (
            _found(base or ref.base, ref.revision),
            ref.revision,
            [(folder / name).resolve() for name in ref.adapters],
        )
    if (folder / RunFolder.MODEL_FILE).is_file():
        ref = read_record(folder / RunFolder.MODEL_FILE, ModelRef)
        root = next((p.parent for p in folder.resolve().parents if p.name == "models"), folder)
        return _found(base or ref.base, ref.revision), ref.revision, [(root / name).resolve() for name in ref.adapters]
    if is_adapter(folder):
        check_adapter(folder)
        named = base or adapter_base(folder)
        if not named:
            raise ModelError(f"{path}: an adapter that does not say which base it was made on. Name it with --base.")
        return _found(named), None, [folder.resolve()]
    if base:
        raise ModelError(f"--base {base}: {path} is no adapter, so it has no base. Leave --base out.")
    return _found(path), None, []


def _found(base: str, revision: str | None = None) -> str:
    """A base as every later command finds it, wherever that is typed: a folder by its whole path.

    Raises:
        ModelError: there is no such model; its weights are not read.
    """
    near = None if base in EMBEDDED else place(base, Path(), working_directory_first=True)
    if (near is None or Path(near).is_file()) and (fault := fault_of_model(base)):
        raise ModelError(f"the model: {fault}.")
    if near is None:
        if not Path(source_of(base)).is_dir():
            base_files(base, revision, setting="the model")
        return base
    if not (Path(near) / "config.json").is_file():
        raise ModelError(f"the model: {near}: no config.json there. {advice(near)}")
    return str(Path(near).resolve())
