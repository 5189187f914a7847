"""Records say which models they were made of, so that a report shows none about models that were replaced since."""

from collections.abc import Iterable, Mapping

from mllmu.core.runfolder import RunFolder
from mllmu.pipeline.run import Run


def fingerprints(run: Run, key: str, models: Iterable[str]) -> dict[str, str]:
    """What a record keeps of the models of a forget ratio that it was made of: their fingerprints, by name."""
    return {model: run.fingerprint(RunFolder.model_unit(key, model)) for model in models}


def replaced(run: Run, key: str, recorded: Mapping[str, str] | None) -> list[str]:
    """The models of a run that are others than those a record was made of; none if the record does not say."""
    now = fingerprints(run, key, run.models)
    return [model for model, made in (recorded or {}).items() if now.get(model, made) != made]


def left_out(what: str, names: Iterable[str], command: str) -> str:
    """The warning for a section that a report leaves out."""
    return (
        f"{what} are not shown: these models were replaced since they were made: {', '.join(names)}. "
        f"Run '{command}' again."
    )
