"""How many replies tell something untrue."""

from mllmu.evaluation.outcome import OutcomeShare


class Wrong(OutcomeShare):
    """Share of replies that can be read but do not tell the true value."""

    label = "Wrong"
    better = "lower"
    counted = "wrong"
