"""What attacks leave behind: the scores of one model at each point of an attack, and the rows of its table."""

from typing import Any, Literal

from pydantic import Field

from mllmu.core.records import Record

Access = Literal["black box", "white box"]
Budget = Literal["small", "full"]
PLAIN = "plain"
"""The name under which the same questions are asked without an attack: what is 'before'."""

REPLIES_FILE = "replies.jsonl"
"""In the unit of an attack on a model: what the model replied, a line each."""


class AttackPoint(Record):
    """What came back at one point of an attack.

    Attributes:
        step: optimiser steps so far; 0 where an attack trains nothing.
        values: score of each question, 0 to 1, by sample id; a question that the attack does not ask is missing.
        before: the same without the attack, where the attack reads another number than the plain score.
    """

    step: int = 0
    values: dict[str, float]
    before: dict[str, float] = Field(default_factory=dict)


class AttackReply(Record):
    """What a model replied under an attack, for people to look at; of attacks that train, at their last point.

    Attributes:
        sample_id: the question that the attack is about.
        prompt: what was put to the model, turns before it included; empty where it is the question as it is.
        other_image: another image was shown than the question's.
        text: the reply; ``value``: 1 if it tells the truth, else 0.
    """

    sample_id: str
    prompt: str = ""
    other_image: bool = False
    text: str
    value: float


class AttackCurvePoint(Record):
    """Mean score after some optimiser steps, with its 95 % interval over people."""

    step: int
    value: float
    low: float | None = None
    high: float | None = None


class AttackRow(Record):
    """One attack on one model; every score is a mean over questions, 0 to 1, with 95 % intervals over people.

    Attributes:
        family: what is attacked: relearning, extraction, image, weights or inside.
        reason: why the attack does not apply to the model ('not supported'); then there are no numbers.
        before: score of the model without the attack; ``after``: with it.
        target: score of the target without the attack.
        recovery: (after - before) / (target - before); None with ``no_recovery`` saying why.
        excess: after - the score of the retain_model under the same attack; 0 if nothing more is there than in a model
            that never saw these people. Without a retain_model: after - the same about holdout people (``against``).
        num, num_units, unit: questions, and what is independent among them; of five people or fewer their facts or
            questions, and the intervals are about these people alone.
        curve: of attacks that train; ``half`` the first measured step with half of the target's score or more.
    """

    model: str
    attack: str
    label: str
    family: str
    access: Access
    reason: str = ""
    before: float | None = None
    after: float | None = None
    after_low: float | None = None
    after_high: float | None = None
    target: float | None = None
    recovery: float | None = None
    recovery_low: float | None = None
    recovery_high: float | None = None
    no_recovery: str = ""
    excess: float | None = None
    excess_low: float | None = None
    excess_high: float | None = None
    against: Literal["retain_model", "holdout"] = "retain_model"
    num: int = 0
    num_units: int = 0
    unit: Literal["people", "facts", "questions"] = "people"
    curve: tuple[AttackCurvePoint, ...] = ()
    half: int | None = None


class WorstCase(Record):
    """The worst of all attacks of one access level on one model, within the budget.

    Attributes:
        attack: the attack with the largest excess over the retain_model.
        excess: that excess; its interval knows that it is the largest, see :func:`mllmu.evaluation.recovery.band`.
        any_hit: share of questions that any attack of this level got right, ``any_excess`` the same minus the
            retain_model's, which had the same tries: only attacks that both were tried with count, and of these only
            those that ask about the fact itself.
        num_attacks: attacks that were possible.
    """

    model: str
    access: Access
    attack: str = ""
    excess: float | None = None
    excess_low: float | None = None
    excess_high: float | None = None
    any_hit: float | None = None
    any_excess: float | None = None
    any_low: float | None = None
    any_high: float | None = None
    num_attacks: int = 0


class AttackResults(Record):
    """All that is known of attacks on the models of one forget ratio: the content of ``attacks.json``.

    Attributes:
        attacks: those that were tried, with their settings, as a recipe names them; None in files of versions that did
            not keep them.
        models: the fingerprints of the models, by name; None in files of versions that did not keep them.
    """

    budget: Budget
    attacks: tuple[dict[str, Any], ...] | None = None
    models: dict[str, str] | None = None
    seed: int
    rows: tuple[AttackRow, ...] = ()
    worst: tuple[WorstCase, ...] = ()
