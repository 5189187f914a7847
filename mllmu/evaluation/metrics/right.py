"""How many replies tell the truth."""

from mllmu.evaluation.outcome import OutcomeShare


class Right(OutcomeShare):
    """Share of replies that tell the true value, by the task's own criterion.

    With wrong, refused, unread and garbled it adds up to 1, and unlike accuracy it counts every reply.
    """

    label = "Right"
    counted = "right"
