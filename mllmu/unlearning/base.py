"""What every unlearning method is: settings, and either loss terms per step or a whole procedure.

A method never sees files, devices or optimisers. It gets a :class:`Step` with the forget and the retain side, each
under the current and under the reference model, and returns named loss terms; their sum is minimised.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator
from torch import Tensor

from mllmu.core.plugins import Plugin
from mllmu.models.engine.forward import Forward
from mllmu.models.families import Turn
from mllmu.models.modifiers import Modifier, ModifierSettings
from mllmu.training.losses import answer_nll, kl_to_reference
from mllmu.unlearning.holdout import QuestionType

if TYPE_CHECKING:
    from mllmu.unlearning.probing import Probe, Saliency

Phase = Literal["joint", "forget", "retain"]
Terms = dict[str, Tensor]
"""Named loss terms, each a scalar and already weighted; a name begins with the side it belongs to."""

PUBLISHED: dict[str, Any] = {"loss_on": "all", "train_end": False, "layers": "published"}
"""What the benchmark's released training scripts have in common; see ``compat``."""
PUBLISHED_LAYERS = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The layers that PEFT adapts when it is given bare names, wherever they are: the vision tower's q, k and v too."""


class Passes(Protocol):
    """What can be run on the turns of one side; the engine is one, tests write their own."""

    def forward(self, *, reference: bool, alternative: bool) -> Forward:
        """One pass of the current or the reference model over the replies, or over their alternatives."""

    def hidden(self, depth: float, *, reference: bool) -> Tensor:
        """[N, D] hidden states behind a layer; see :meth:`Side.hidden`."""


@dataclass(eq=False)
class Side:
    """The forget or the retain half of a step; a pass runs when it is first read, and once.

    Reply b of every :class:`Forward` is the reply (or its alternative) of ``turns[b]``, packed or not. ``levels`` gives
    what :func:`mllmu.unlearning.holdout.holdout_levels` does, for methods with ``uses_holdout``.
    """

    turns: Sequence[Turn]
    passes: Passes
    levels: Callable[[], Mapping[QuestionType, float]] = dict

    @cached_property
    def current(self) -> Forward:
        """The model being trained, with gradient."""
        return self.again()

    @cached_property
    def reference(self) -> Forward:
        """The frozen reference (the target, unless the method says otherwise), without gradient."""
        return self.passes.forward(reference=True, alternative=False)

    @cached_property
    def alternative(self) -> Forward:
        """As ``current``, on the replies of :meth:`Method.alternative` instead of the trained ones."""
        return self.passes.forward(reference=False, alternative=True)

    @cached_property
    def alternative_reference(self) -> Forward:
        """As ``reference``, on the replies of :meth:`Method.alternative`."""
        return self.passes.forward(reference=True, alternative=True)

    def again(self) -> Forward:
        """A new pass of the model being trained: its weights may have changed since ``current``."""
        return self.passes.forward(reference=False, alternative=False)

    def hidden(self, depth: float, *, reference: bool = False) -> Tensor:
        """[N, D] hidden states from which the N reply tokens are predicted, as they leave one layer.

        Args:
            depth: of the layer, as a share of the language model's layers; see :func:`layer_at`.
            reference: of the frozen reference, without gradient.
        """
        return self.passes.hidden(depth, reference=reference)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step.

    Attributes:
        phase: which sides are trained: both, or one alone.
        weights: the trainable weights.
        memory: numbers that a method carries from step to step; kept in checkpoints.
        seed: the same in all steps of a training.
        done: share of the training's steps that lie behind, 0 at the first one.
    """

    forget: Side
    retain: Side
    phase: Phase = "joint"
    weights: Sequence[Tensor] = ()
    memory: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    done: float = 0.0


def layer_at(depth: float, num_layers: int) -> int:
    """Index of the layer behind which a share of all layers has run.

    >>> layer_at(0.25, 32), layer_at(1.0, 32), layer_at(0.25, 2)
    (7, 31, 0)
    """
    return max(0, round(depth * num_layers) - 1)


def turn_key(turn: Turn) -> tuple[str, str, str]:
    """What tells a turn from all others, for draws that depend on it alone."""
    return turn.person, turn.prompt, turn.image.name if turn.image else ""


class Method(Plugin):
    """Base of the unlearning methods; these settings belong to all of them.

    A method with ``trains = True`` defines ``forget_terms``, and ``retain_terms`` if it uses the retain side; one with
    ``trains = False`` is described by ``system_prompt`` (prompting), ``model`` (retrain) or ``modifier`` alone. All
    other methods are hooks that few need.

    Class attributes:
        trains: there are optimiser steps.
        modifies: the result is a modifier (see :mod:`mllmu.models.modifiers`) and no change of the weights; if the
            method trains, it trains the modifier's parameters.
        uses_reference: the terms compare with a frozen reference.
        model: whose weights the method starts from, and keeps if it does not train.
        official: settings by which the method does what the benchmark's released script does; empty without such one.
        preserves_text: text questions about all people, the forgotten ones too, are on the retain side.
        tuned: the settings ``mllmu tune`` searches, around their value in the recipe.
    """

    trains: ClassVar[bool] = True
    modifies: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False
    model: ClassVar[Literal["target", "retain_model"]] = "target"
    official: ClassVar[dict[str, Any]] = {}
    preserves_text: ClassVar[bool] = False
    tuned: ClassVar[tuple[str, ...]] = ("learning_rate", "epochs")

    compat: Literal["corrected", "official"] = "corrected"
    """'official': the other settings default to those of the benchmark's released script"""
    modality: Literal["image_text", "text", "both"] = "image_text"
    """what is unlearned: image + text, text only (the paper's unimodal variant), or both"""
    epochs: float = Field(1, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(2e-5, gt=0, le=100, description="learning rate of AdamW at the first step")
    batch_size: int = Field(4, ge=1, le=100_000, description="forget questions per step (and as many retain questions)")
    questions_together: int = Field(1, ge=1, le=10_000)
    """questions about one image that come in the same step; 1 mixes all, as published"""
    loss_on: Literal["answer", "all"] = "answer"
    """'all' also trains on the prompt tokens, as the published code does"""
    train_end: bool = Field(True, description="train the token that ends a reply too; the published code has none")
    layers: Literal["recipe", "published"] = "recipe"
    """'published' also adapts the vision tower's q, k and v, which have the same names"""
    decay: Literal["linear", "none"] = "linear"
    """course of the learning rate: linear to 0, or constant"""
    schedule: Literal["joint", "two_phase"] = "joint"
    """'two_phase': in every epoch a pass over the forget set, then one over the whole retain set (published code)"""
    reference: Literal["target", "retain_model"] = "target"
    """the frozen reference; the published NPO code uses a model trained on retain only"""

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("compat") != "official":
            return value
        if not cls.official:
            raise ValueError("the benchmark has no script of this method; leave out 'compat: official'")
        return {**cls.official, **value}

    @property
    def uses_retain(self) -> bool:
        """Retain questions are needed; may depend on the settings. A modifier is fitted to both sides."""
        return self.modifies

    def needs_second_model(self, *, lora: bool) -> bool:
        """The frozen reference is another model in memory: not the start with the new adapter off."""
        return self.uses_reference and (self.reference != self.model or not lora)

    @property
    def uses_holdout(self) -> bool:
        """Calibration people are needed, for :func:`mllmu.unlearning.holdout.level_B`; may depend on the settings."""
        return False

    def loss(self, step: Step) -> Terms:
        """The terms of one step; their sum is minimised. A step without terms changes nothing."""
        forget = self.forget_terms(step) if step.phase != "retain" else {}
        return forget | (self.retain_terms(step) if step.phase != "forget" else {})

    def forget_terms(self, step: Step) -> Terms:
        """The terms ``forget_...`` of a step; only its forget side may be used."""
        raise TypeError(f"{type(self).__name__} does not train")

    def retain_terms(self, step: Step) -> Terms:
        """The terms ``retain_...`` of a step; only its retain side may be used. None unless ``uses_retain``."""
        return {}

    def system_prompt(self, names: list[str]) -> str:
        """System prompt put before every question, given the names of the forgotten people; empty for none."""
        return ""

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        """The reply a forget question should get instead, for ``Side.alternative``; the trained one by default.

        :mod:`mllmu.unlearning.alternatives` has ready-made ones.

        Args:
            turn: the forget question.
            others: turns about the same topic of other people with other replies, forgotten and retained; may be empty.
            draw: the only source of chance; each turn has its own in each epoch.
        """
        return turn.reply

    def targets(self, num_layers: int) -> str | None:
        """Regular expression of the layers to train, instead of the recipe's; None leaves it to the recipe."""
        return PUBLISHED_LAYERS if self.layers == "published" else None

    def masks(self, saliency: Saliency) -> list[Tensor] | None:
        """Which entries of each trainable weight may change (True), decided before training; None: all."""
        return None

    def modifier(self, probe: Probe) -> Modifier:
        """The modifier, made from what can be measured before training; for methods with ``modifies``."""
        raise TypeError(f"{type(self).__name__} makes no modifier")

    @property
    def at_inference(self) -> ModifierSettings | None:
        """How the trained weights act at inference, if they are not simply taken over."""
        return None

    @property
    def kept_change(self) -> float:
        """What the trained change of the weights is multiplied with in the end; negative takes it the other way."""
        return 1.0


class RetainingMethod(Method):
    """Base of the methods with a weighted term on the retain side: the nll of its replies unless they define another.

    retain_nll = retain_weight * mean over retain tokens of -log p(token), in nats per token
    """

    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "retain_weight")

    retain_weight: float = Field(
        1.0, ge=0, le=10**6, description="weight of the retain replies' nll; 0 leaves them out"
    )

    @property
    def uses_retain(self) -> bool:
        return self.modifies or self.retain_weight > 0

    def retain_terms(self, step: Step) -> Terms:
        if not self.retain_weight:
            return {}
        return {"retain_nll": self.retain_weight * answer_nll(step.retain.current)}


class AnchoredMethod(RetainingMethod):
    """Base of the methods that also hold the retain predictions at those of the reference.

    retain_kl = kl_weight * mean over retain tokens of KL(reference || current), in nats per token
    """

    uses_reference: ClassVar[bool] = True

    kl_weight: float = Field(1.0, ge=0, le=10**6, description="weight of KL(reference || current) on retain")

    @property
    def uses_retain(self) -> bool:
        return super().uses_retain or self.kl_weight > 0

    def retain_terms(self, step: Step) -> Terms:
        terms = super().retain_terms(step)
        if self.kl_weight:
            kl = kl_to_reference(step.retain.current.logits_NV, step.retain.reference.logits_NV)
            terms["retain_kl"] = self.kl_weight * kl
        return terms
