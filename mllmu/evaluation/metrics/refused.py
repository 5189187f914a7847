"""How many replies decline to answer."""

from mllmu.evaluation.metrics import OutcomeShare


class Refused(OutcomeShare):
    """Share of replies that decline to answer."""

    label = "Refused"
    better = "lower"
    counted = "refused"
