"""The memorisation gate of a run, between the target and the methods; what it found is kept in ``gate.json``."""

from mllmu.core.runfolder import RunFolder, seal, write_json
from mllmu.evaluation import gate
from mllmu.pipeline.controls import gate_controls
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.probes import probe_target


def pass_gate(evaluation: Evaluation, *, stop: bool) -> None:
    """Compare what target and retain model know of the people to forget, and the target with its controls.

    Without a retain model the target's answers about holdout people are compared. The probes of the target stop
    nothing: they say which of its scores mean what.

    Raises:
        GateError: with ``stop``, if the target does not know more.
    """
    taught = [evaluation.responses(model) for model in evaluation.run.taught]
    difference = gate.memorisation(evaluation.samples, *taught)
    before = gate.known_before(difference, evaluation.samples, taught[1]) if len(taught) > 1 else None
    controls, probed = gate_controls(evaluation), probe_target(evaluation)
    write_json(evaluation.folder / RunFolder.GATE_FILE, seal(gate.record(difference, controls, probed, before)))
    if stop:
        gate.check(difference, controls, before)
