"""How many replies decline to answer."""

from mllmu.evaluation.outcome import OutcomeShare


class Refused(OutcomeShare):
    """Share of replies that decline to answer, by a list of phrases: English, and 18 languages in brief."""

    label = "Refused"
    better = "lower"
    counted = "refused"
