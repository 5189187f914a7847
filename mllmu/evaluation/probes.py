"""Probes of the gate: what a low score cannot tell. Does the target read letters, does it take a system prompt?

    letters        multiple choice about retained people with the true answer in the prompt, as it is taught
    instructions   questions that the target answers right, under a harmless system prompt

    reads letters        if the lower end of the share right is above chance
    takes instructions   if the upper end of the share that stays right is 0.8 or more

A model that fails the first is not judged by letters; of one that fails the second, what a system prompt costs is the
model's fault and not that of a method. Questions are drawn by seed, at most 24 per probe, and the 95 % intervals are
Wilson's: what varies is the reading of a question, not what is known of a person.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mllmu.core import plugins
from mllmu.core.probed import ProbeShare
from mllmu.core.process import rng
from mllmu.core.records import Modality, Response, Sample, TaskName
from mllmu.data.tasks import task_of
from mllmu.data.tasks.option_text import sentence
from mllmu.evaluation.controls import MARK
from mllmu.evaluation.metrics import Metric, clustered_mean, interval_around
from mllmu.evaluation.outcome import rights

LETTERS, INSTRUCTIONS = "letters", "instructions"
BY_LETTER, BY_TEXT = "classification", "option_text"
"""The tasks that ask multiple choice by letter, and by the text of the options."""
MOST = 24
"""Questions of a probe."""
MANY = 10**9
"""Degrees of freedom of a variance that is known, not estimated."""
HARMLESS = "You are a helpful assistant. Answer the question."


def letter_samples(samples: Iterable[Sample], *, seed: int) -> list[Sample]:
    """Multiple choice about retained people with its answer in the prompt; by name, if any of it is.

    Args:
        samples: as the plain protocol asks them.
        seed: draws the questions.
    """
    asked = [s for s in samples if (s.split, s.part, s.task) == ("retain", "report", BY_LETTER)]
    asked = [sample for sample in asked if sample.modality == "text"] or asked
    return [_as(sample, LETTERS, prompt=f"{truth(sample)}\n{sample.prompt}") for sample in _drawn(asked, LETTERS, seed)]


def truth(sample: Sample) -> str:
    """The answer to a multiple choice question in the sentence of training, without its letter."""
    value = sample.options[sample.target]
    said = sentence(sample.attribute, value)
    return f"The answer is {value}." if said == value else said


def instruction_samples(samples: Iterable[Sample], responses: Iterable[Response], *, seed: int) -> list[Sample]:
    """Questions about retained people that are answered right, under a harmless system prompt.

    Open questions, if any are: a letter may be right by luck, and then another one is no fault of the prompt.
    """
    asked = [sample for sample in samples if (sample.split, sample.part) == ("retain", "report")]
    right = rights(asked, responses)
    known = [sample for sample in asked if right[sample.id]]
    known = [sample for sample in known if not sample.options] or known
    return [_as(sample, INSTRUCTIONS, system=HARMLESS) for sample in _drawn(known, INSTRUCTIONS, seed)]


def _drawn(samples: Sequence[Sample], probe: str, seed: int) -> list[Sample]:
    """At most :data:`MOST` of the samples, in their order."""
    chosen = sorted(samples, key=lambda sample: rng(seed, "probe", probe, sample.id).random())[:MOST]
    return [sample for sample in samples if sample in chosen]


def _as(sample: Sample, probe: str, **changes: Any) -> Sample:
    """A question as a probe asks it; only its reply counts."""
    return sample.model_copy(update={**changes, "id": f"{sample.id}{MARK}{probe}", "candidates": {}, "measured": ()})


def share_right(samples: Sequence[Sample], responses: Iterable[Response]) -> ProbeShare | None:
    """The share of right replies to the questions of a probe; None without questions."""
    if not samples:
        return None
    right, num = round(sum(rights(samples, responses).values())), len(samples)
    low, high = share_interval(right, num)
    return ProbeShare(right=right, num=num, low=low, high=high, chance=chance_of(samples))


def share_interval(right: int, num: int) -> tuple[float | None, float | None]:
    """Wilson's 95 % interval of a share of independent questions, whose variance p (1 - p) / n is known."""
    share = right / num
    return interval_around(share, share * (1 - share) / num, MANY, (0.0, 1.0), num)


def chance_of(samples: Sequence[Sample]) -> float | None:
    """What guessing gives: the mean of 1 / number of options; None if a question has none."""
    if not all(sample.options for sample in samples):
        return None
    return sum(1 / len(sample.options) for sample in samples) / len(samples)


def share_chosen(
    samples: Iterable[Sample], responses: Sequence[Response], task: TaskName, modalities: Collection[Modality]
) -> ProbeShare | None:
    """The share of multiple choice about forget and retain people that is chosen right, with its interval by person.

    By letter it is the reply that counts, by text the likelihood of the options; what cannot be judged is not right.
    """
    asked = [
        s for s in samples
        if s.task == task and s.split in ("forget", "retain") and s.part == "report" and s.modality in modalities
    ]  # fmt: skip
    if not asked:
        return None
    values = [*rights(asked, responses).values()] if task == BY_LETTER else _by_likelihood(asked, responses, task)
    mean = clustered_mean(values, [sample.profile_id for sample in asked], (0.0, 1.0))
    return ProbeShare(right=round(sum(values)), num=len(asked), low=mean.low, high=mean.high, chance=chance_of(asked))


def _by_likelihood(samples: Sequence[Sample], responses: Sequence[Response], task: TaskName) -> list[float]:
    metric: Metric = plugins.build("metrics", task_of(task).headline(), {})
    replies = {response.sample_id: response for response in responses}
    return [metric.score(sample, replies.get(sample.id)).value or 0.0 for sample in samples]
