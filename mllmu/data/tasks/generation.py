"""Free answers: the reply is one sentence."""

from typing import ClassVar

from pydantic import Field

from mllmu.core.records import Modality, Question
from mllmu.data.tasks import ENDINGS, OUTCOMES, Task

# The two published wordings differ by one word; both are kept so that numbers stay comparable.
_INSTRUCTION: dict[Modality, str] = {
    "image_text": "Answer the question based on your trained knowledge in one sentence accurately in ENGLISH.",
    "text": "Answer the question based on your trained knowledge in one sentence in ENGLISH.",
}


class Generation(Task):
    """An open question answered in one sentence.

    A question of the ``train`` variant is put bare, as in fine-tuning; the others carry the published instruction.

    Source: MLLMU-Bench, arXiv:2410.22108.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    label: ClassVar[str] = "Generation"
    metrics: ClassVar[tuple[str, ...]] = (
        *("rougeL", "rouge1", "rouge2", "rougeL_recall", "bleu"),
        *("probability", "truth_ratio", *OUTCOMES, *ENDINGS),
    )
    judged: ClassVar[bool] = True
    bare_in_training: ClassVar[bool] = True
    published_people: ClassVar[int | None] = 0

    max_new_tokens: int = Field(default=50, gt=0, le=100_000, description="most tokens a reply may have")

    def prompt(self, question: Question) -> str:
        if question.variant == "train":
            return question.text
        return f"{question.text}\n{_INSTRUCTION[question.modality]}"

    def published_prompt(self, question: Question) -> str:
        # only the published text with an image has a space at its end
        before, after = ("USER: <image>\n", " ") if question.modality == "image_text" else ("USER: ", "")
        return f"{before}{question.text}\n{_INSTRUCTION[question.modality]}\nASSISTANT:{after}"
