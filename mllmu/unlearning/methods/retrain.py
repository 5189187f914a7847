"""Retraining without the forgotten people: the gold standard."""

from mllmu.unlearning.base import Method


class Retrain(Method):
    """The model fine-tuned on the retain people only: what every other method should come close to.

    It never saw the forget people, so its scores show what can be guessed without them.
    Cost: a whole fine-tuning on retain; none here, because each run trains this model anyway to compare with.
    Made for: any modality; the yardstick of all methods.
    """

    source = "https://arxiv.org/abs/2401.06121"
    trains = False
    model = "retain_model"
