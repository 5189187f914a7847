"""How models are trained: the section ``finetune``, and the adapters that fine-tuning and unlearning train."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mllmu.config.plain import RegularExpression
from mllmu.core.plugins import Settings

Modalities = Literal["image_text", "text", "both"]


class Lora(Settings):
    """Low-rank adapters; the published setting is rank 16, alpha 16, dropout 0.05."""

    rank: int = Field(16, ge=1, le=4096, description="rank of each adapter")
    alpha: float = Field(
        16, gt=0, le=10**6, description="scale: the output of an adapter is multiplied by alpha / rank"
    )
    dropout: float = Field(0.05, ge=0, lt=1)
    """dropout on the input of each adapter; packed questions share that of their image (model.packing: off: none do)"""
    targets: RegularExpression | None = None
    """regular expression of layer names; null: those of the language model; e.g. .*(q_proj|v_proj)"""


class Finetune(Settings):
    """How the target and the retain model are fine-tuned."""

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the training questions")
    learning_rate: float = Field(2e-5, gt=0, le=100, description="peak learning rate of AdamW; it falls linearly to 0")
    batch_size: int = Field(4, ge=1, le=100_000, description="questions per optimiser step")
    questions_together: int = Field(1, ge=1, le=10_000)
    """questions about one image that share a step, which is faster; 1 mixes all, as published"""
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, le=100, description="weight decay of AdamW")
    modality: Modalities = Field("image_text", description="training questions with image, text only, or both")
    lora: Lora | None = Field(Lora(), description="low-rank adapters; null trains the weights of the target layers")
    micro_batch_size: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    """most questions per forward pass; 'auto': as many as memory allows. The result does not depend on it"""
    checkpoint_every_s: float = Field(60, gt=0, le=1e6, description="seconds between resumable checkpoints")
    retain_model: bool = Field(True, description="false: none is trained, and holdout people are the yardstick")
    given: tuple[Path, ...] | None = None
    """a target and no retain_model, taught already: adapters on model.path, [] for itself; e.g. [adapters/staff]"""
