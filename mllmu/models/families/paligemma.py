"""PaliGemma: the whole prompt sees itself, and there is no prompt without an image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mllmu.core.errors import UnfitPromptError
from mllmu.models.families import IGNORE, Family, Turn


class PaliGemma(Family):
    """PaliGemma 1 and 2: SigLIP, Gemma; plain prompts without turns; image and question see each other.

    The tokens of a prompt depend on all of it, so no two questions can share their image, in training or evaluation;
    the reply and the candidates of a question share its prompt.
    """

    source = "https://arxiv.org/abs/2407.07726"
    model_types = ("paligemma",)
    needs_image = True
    shares_prefix = True
    looks_ahead = "prompt"
    image_parts = ("vision_tower", "multi_modal_projector")

    def render(self, turn: Turn, processor: Any) -> str:
        system = f"{turn.system}\n" if turn.system else ""
        image = self.mark(processor) if turn.image is not None else ""
        return f"{image}{system}{turn.prompt}"

    def dialogue(self, turn: Turn, processor: Any) -> str:
        if turn.before:
            raise UnfitPromptError(
                f"{turn.label or 'the prompt'} comes with examples, but PaliGemma takes one question and no dialogue. "
                "Ask without examples (evaluate.protocol.shots), or use another model."
            )
        return self.render(turn, processor)

    def frame(self, processor: Any) -> tuple[str, str]:
        return "", str(processor.tokenizer.eos_token)

    def opens(self, text: str, processor: Any) -> bool:
        return False  # the processor writes the first token itself, behind the image

    def spelled(self, text: str, processor: Any) -> str:
        mark = self.mark(processor)
        return text.replace(mark, f"{mark}{processor.tokenizer.bos_token}") + "\n"

    def positions(
        self, model: Any, ids: Sequence[int], images: Callable[[], Mapping[str, Tensor]]
    ) -> Sequence[Sequence[int]] | None:
        return [range(1, len(ids) + 1)]

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        # 0: seen by all of the prompt; 1: the reply, seen by what follows
        return {"token_type_ids": (labels_BT != IGNORE).long()}
