"""What a method put on top of the target, and the model without it."""

from mllmu.core.names import TARGET
from mllmu.evaluation.attacks import AttackPoint, Victim


def added(victim: Victim) -> tuple[str, ...]:
    """The adapters and modifiers that the method put on top of the target; none for target and retain_model."""
    target, ref = victim.refs[TARGET], victim.ref
    apart = ref.adapters[: len(target.adapters)] == target.adapters
    return ref.adapters[len(target.adapters) :] if apart else ()


def without_change(victim: Victim) -> list[AttackPoint]:
    """The scores of the target in the place of a model that is the target with something on top."""
    ref = victim.refs[TARGET] if added(victim) or victim.ref.system_prompt else victim.ref
    return [AttackPoint(values=victim.hits(victim.load(ref), victim.samples, system_prompt=ref.system_prompt))]


def has_change(victim: Victim) -> bool:
    """Whether a method made the model; target and retain_model are attacked all the same, for comparison."""
    return victim.ref not in victim.refs.values()
