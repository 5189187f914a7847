"""Multiple choice accuracy by the likelihood of the options' texts, for models that do not read letters."""

from mllmu.evaluation.likelihood import mean_logp
from mllmu.evaluation.metrics import Metric, Response, Sample, likeliest_is_right


class AccuracyOptionText(Metric):
    """Share of multiple choice questions whose right option is the likeliest answer, by log-probability per token.

    Score 1 if argmax over options of log p(answer with the option | question) / tokens is the right one, else 0. The
    tokens of the whole answer count, its end included. None if a likelihood is missing, or if several options share
    the highest one. Guessing gives 0.25; the rows ``chance`` and ``majority`` are those of the task.
    """

    source = "https://github.com/EleutherAI/lm-evaluation-harness"
    tasks = ("option_text",)
    reads_likelihood = True
    label = "Accuracy (option texts)"

    def value(self, sample: Sample, response: Response) -> float | str:
        return likeliest_is_right(sample, {letter: mean_logp(response, letter) for letter in sample.options})
