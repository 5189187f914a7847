"""How many replies are noise."""

from mllmu.evaluation.outcome import OutcomeShare


class Garbled(OutcomeShare):
    """Share of replies that are noise: empty, without letters, words without vowels, or endless repetition.

    A model that forgets by collapsing shows here; see :func:`mllmu.evaluation.outcome.outcome`.
    """

    label = "Garbled"
    better = "lower"
    collapse = True
    counted = "garbled"
