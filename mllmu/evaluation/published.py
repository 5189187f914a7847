"""The published evaluation to the letter: the whole text put to a model, examples included, and its scores' names.

A prompt is what the benchmark's released evaluator gives to the processor, byte for byte::

    [examples]USER: <image>\\n{question}\\nA: ..\\nB: ..\\nC: ..\\nD: ..\\nJust give ONE letter ...\\nASSISTANT:

Questions by name have no ``<image>`` and, except in generation, a line break in its place. The examples of a
multiple choice question or a cloze are all questions of the same task and modality about one or two people of the
*set under evaluation*, so answers about forgotten people stand in the context; the questions of those people are not
asked. Every mark ``<image>`` has its image, that of an example included.

Source: arXiv:2410.22108 and its released evaluator. It draws example people and test images without a seed; here
they are given.
"""

from collections.abc import Mapping, Sequence

from mllmu.core.records import Exchange, MetricResult, Modality, Question, Sample, Split, TaskName
from mllmu.data.dataset import image_path
from mllmu.data.tasks import Part, task_of

NEW_TOKENS = 50
METRICS = ("accuracy_first_char", "cloze_contains", "rouge1", "rouge2", "rougeL", "bleu")
"""What the published evaluator scores."""

_MODALITY_TITLES: dict[Modality, str] = {"image_text": "Image_Textual", "text": "Pure_Text"}
_SET_TITLES: dict[Split, str] = {
    "forget": "Forget Set Results",
    "test": "Test Set Results",
    "retain": "Retain Set (shared dataset) Results",
    "celebrity": "Retain Set (real person) Results",
}


def exchange(example: Question, text: str) -> Exchange:
    """An example as it stands before a question: ``text``, its reply and, for image + text, its image."""
    has_image = example.modality == "image_text"
    image = image_path(example.profile_id, example.view or 0) if has_image else ""
    return Exchange(prompt=text, reply=example.answer, image=image)


def sample(
    question: Question,
    *,
    split: Split,
    image: str,
    shots: Sequence[Question],
    part: Part = "report",
    letter_tokens: int = NEW_TOKENS,
) -> Sample:
    """Render one question as published.

    Args:
        question: what is asked.
        split: the set it is asked for.
        image: name of its image.
        shots: candidates for its examples; those of its task and modality are used, in this order.
        part: ``report`` (counted) or ``selection`` (only for tuning).
        letter_tokens: most new tokens for the letter of a question without image, see
            :class:`mllmu.models.families.Family`.
    """
    task, category = task_of(question.task), (question.task, question.modality)
    used = [shot for shot in shots if task.published_people and (shot.task, shot.modality) == category]
    examples = tuple(exchange(shot, task.published_example(shot)) for shot in used)  # the text holds the reply already
    is_letter = question.options and question.modality == "text"
    changes = {
        "prompt": "".join(example.prompt for example in examples) + task.published_prompt(question),
        "examples": examples,
        "raw_prompt": True,
        "candidates": {},
        "max_new_tokens": letter_tokens if is_letter else NEW_TOKENS,
    }
    return task.sample(question, split=split, part=part, image=image).model_copy(update=changes)


def published_layout(results: Sequence[MetricResult]) -> dict[str, dict[str, dict[str, float]]]:
    """Means in the layout of the published results file: sets and scores by their published names.

    Accuracies in percent, and 0 where nothing was asked; ROUGE and BLEU as shares, left out where nothing was asked.
    """
    known = {(r.split, r.task, r.modality, r.metric): r.value or 0.0 for r in results}
    return {title: _of_set(known, split) for split, title in _SET_TITLES.items()}


def _of_set(known: Mapping[tuple[Split, TaskName, Modality, str], float], split: Split) -> dict[str, dict[str, float]]:
    def percent(task: TaskName, modality: Modality, metric: str) -> float:
        return 100 * known.get((split, task, modality, metric), 0.0)

    titles = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "bleu": "BLEU"}
    return {
        "fill_in_the_blank": {
            "image_textual_accuracy": percent("cloze", "image_text", "cloze_contains"),
            "pure_text_accuracy": percent("cloze", "text", "cloze_contains"),
        },
        "classification": {
            "Image-Textual Question Accuracy": percent("classification", "image_text", "accuracy_first_char"),
            "Pure Text Question Accuracy": percent("classification", "text", "accuracy_first_char"),
        },
        "generation": {
            f"Average {title} ({kind})": known[split, "generation", modality, metric]
            for modality, kind in _MODALITY_TITLES.items()
            for metric, title in titles.items()
            if (split, "generation", modality, metric) in known
        },
    }
