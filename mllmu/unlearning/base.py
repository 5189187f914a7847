"""What every unlearning method is: settings, and either a loss per step or a whole procedure.

A method never sees files, devices or optimisers. It gets a :class:`Step` with the forget and the retain side, each
under the current and under the reference model, and returns named loss terms; their sum is minimised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mllmu.plugins import Plugin
from mllmu.training.forward import Forward

Phase = Literal["joint", "forget", "retain"]


class Side:
    """The forget or the retain half of a step; the passes run when asked for, once."""

    def __init__(self, current: Callable[[], Forward], reference: Callable[[], Forward]) -> None:
        self._current = current
        self._reference = reference

    @cached_property
    def current(self) -> Forward:
        """The model being trained, with gradient."""
        return self._current()

    @cached_property
    def reference(self) -> Forward:
        """The frozen reference (the target, unless the method says otherwise), without gradient."""
        return self._reference()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step. In a phase of its own ("forget" or "retain") only that side may be used."""

    forget: Side
    retain: Side
    phase: Phase = "joint"

    @property
    def on_forget(self) -> bool:
        """Terms of the forget side are wanted."""
        return self.phase != "retain"

    @property
    def on_retain(self) -> bool:
        """Terms of the retain side are wanted."""
        return self.phase != "forget"


class Method(Plugin):
    """Base of the unlearning methods; these settings belong to all of them.

    A method with ``trains = True`` defines ``loss``; one with ``trains = False`` is described by ``guard_text``
    (prompting) or ``model`` (retrain) alone.

    Class attributes:
        trains: there are optimiser steps.
        uses_reference: a frozen reference is asked for.
        model: whose weights the method starts from, and keeps if it does not train.
    """

    trains: ClassVar[bool] = True
    uses_reference: ClassVar[bool] = False
    model: ClassVar[Literal["target", "retain_model"]] = "target"

    modality: Literal["image_text", "text", "both"] = Field(
        "image_text", description="what is unlearned: with pictures, by name (the paper's unimodal variant), or both"
    )
    epochs: float = Field(1, gt=0, description="passes over the forget set")
    learning_rate: float = Field(2e-5, gt=0)
    batch_size: int = Field(4, ge=1, description="forget questions a step (and as many retain questions)")
    loss_on: Literal["answer", "all"] = Field(
        "answer", description="'all' also trains on the prompt tokens, as the published code does"
    )
    schedule: Literal["joint", "two_phase"] = Field(
        "joint", description="'two_phase': all forget steps, then all retain steps, as the published code does"
    )
    reference: Literal["target", "retain_model"] = Field(
        "target", description="the frozen reference; the published NPO code uses a model trained on retain only"
    )

    @property
    def uses_retain(self) -> bool:
        """The retain side is used, so retain batches are drawn; may depend on the settings."""
        return False

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Named loss terms of one step, each a scalar already weighted; their sum is minimised.

        A name begins with the side it belongs to, ``forget_`` or ``retain_``. A phase in which the method has
        nothing to do gives no terms.
        """
        del step
        raise TypeError(f"{type(self).__name__} does not train")

    def guard_text(self, names: list[str]) -> str:
        """System prompt put before every question; empty for methods that change weights."""
        del names
        return ""
