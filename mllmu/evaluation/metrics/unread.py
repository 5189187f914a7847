"""How many replies cannot be read."""

from mllmu.evaluation.outcome import OutcomeShare


class Unread(OutcomeShare):
    """Share of replies that are text but no answer: no option named or several, or a thought without an end.

    They are not in the mean of accuracy. Much of it says that a model answers in its own way, not that it collapsed.
    """

    label = "Unread"
    better = "lower"
    counted = "unread"
