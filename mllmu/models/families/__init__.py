"""One file per model family: how its prompts look, which tokens are the answer, where adapters go.

A family turns ``Turn`` values (picture, prompt, reply) into tensors. Everything else in the package is the same for
all models.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from mllmu.errors import ModelError
from mllmu.plugins import Plugin

IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One exchange: a picture (or none), the user's text, and for training or scoring the reply."""

    prompt: str
    reply: str = ""
    image: Image.Image | None = None
    system: str = ""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors of some turns, padded to one length.

    Shapes: B turns, T tokens, P turns that have a picture.

    Attributes:
        inputs: keyword arguments of the model: input_ids [B, T], attention_mask [B, T], and the family's picture
            tensors, with P rows in the order of the turns.
        labels: [B, T] the reply tokens including end-of-sequence; IGNORE on prompt, image and padding tokens.
            Label t is the token *at* position t; it is predicted from position t - 1.
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(inputs={k: v.to(device) for k, v in self.inputs.items()}, labels=self.labels.to(device))


class Family(Plugin):
    """Base of the model families.

    Class attributes:
        lora_targets: regular expression of the linear layers that get adapters: the language model only.
        vision_parts: name fragments of the parameters that stay frozen (vision tower) unless asked otherwise.
        projector_parts: the same for the projector.
        model_types: values of ``config.model_type`` this family handles.
    """

    lora_targets: ClassVar[str] = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    vision_parts: ClassVar[tuple[str, ...]] = ("vision_tower",)
    projector_parts: ClassVar[tuple[str, ...]] = ("multi_modal_projector",)
    model_types: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def render(self, turn: Turn) -> str:
        """The prompt text up to and including the place where the reply begins."""

    def render_reply(self, turn: Turn, processor: Any) -> str:
        """The reply as trained: one space, the text, end-of-sequence."""
        return f" {turn.reply}{processor.tokenizer.eos_token}"

    def encode(self, turns: Sequence[Turn], processor: Any, *, padding_side: str = "right") -> Batch:
        """Encode turns with replies; exactly the reply tokens (with end-of-sequence) are labels.

        The prompt and the reply are tokenised apart and joined, so the boundary is exact by construction and the
        prompt tokens are the same ones that generation sees.

        Raises:
            ModelError: a turn is longer than the model's context.
        """
        prompts = self.encode_prompts(turns, processor, padding_side="right")
        lengths = prompts["attention_mask"].sum(1).tolist()
        tokenizer = processor.tokenizer
        replies = [
            tokenizer(self.render_reply(turn, processor), add_special_tokens=False)["input_ids"] if turn.reply else []
            for turn in turns
        ]
        width = max(n + len(reply) for n, reply in zip(lengths, replies, strict=True))
        check_length(width, tokenizer)
        ids = torch.full((len(turns), width), int(tokenizer.pad_token_id))
        mask = torch.zeros((len(turns), width), dtype=torch.long)
        labels = torch.full((len(turns), width), IGNORE)
        for row, (n, reply) in enumerate(zip(lengths, replies, strict=True)):
            end = n + len(reply)
            start = width - end if padding_side == "left" else 0
            ids[row, start : start + n] = prompts["input_ids"][row, :n]
            ids[row, start + n : start + end] = torch.tensor(reply, dtype=torch.long)
            labels[row, start + n : start + end] = torch.tensor(reply, dtype=torch.long)
            mask[row, start : start + end] = 1
        pictures = {k: v for k, v in prompts.items() if k not in ("input_ids", "attention_mask")}
        return Batch(inputs={"input_ids": ids, "attention_mask": mask, **pictures}, labels=labels)

    def encode_prompts(self, turns: Sequence[Turn], processor: Any, *, padding_side: str = "left") -> dict[str, Tensor]:
        """Encode prompts only, padded on the given side; the picture tensors follow the order of the turns."""
        images = [turn.image for turn in turns if turn.image is not None]
        inputs = processor(
            text=[self.render(turn) for turn in turns],
            images=images or None,
            return_tensors="pt",
            padding=True,
            padding_side=padding_side,
        )
        wanted = {"input_ids", "attention_mask", *self.picture_inputs}
        return {k: v for k, v in inputs.items() if k in wanted}

    @property
    def picture_inputs(self) -> tuple[str, ...]:
        """Names of the picture tensors among the model's inputs."""
        return ("pixel_values",)


def check_length(num_tokens: int, tokenizer: Any) -> None:
    """Refuse a prompt that does not fit the context instead of scoring a truncated one as wrong."""
    limit = int(tokenizer.model_max_length)
    if num_tokens > limit:
        raise ModelError(
            f"a prompt with its reply has {num_tokens} tokens, the model's context is {limit}. "
            "Use fewer shots, shorter text or a model with a longer context."
        )
