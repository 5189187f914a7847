"""Teach people to a model: the one fine-tuning of target and retain_model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from mllmu.config.recipe import Finetune
from mllmu.core.errors import DataError
from mllmu.core.progress import Progress
from mllmu.core.ranks import leads
from mllmu.core.seeding import derive
from mllmu.models.adapters import add_trainable, save_trained
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.training.batching import Order
from mllmu.training.distributed import forward
from mllmu.training.loop import Schedule, train
from mllmu.training.losses import answer_nll
from mllmu.training.packing import training_batch
from mllmu.training.sharding import spread


def finetune(
    loaded: Loaded, turns: Sequence[Turn], section: Finetune, *, folder: Path, seed: int, progress: Progress, label: str
) -> None:
    """Train adapters (or, without LoRA, the language model) on the turns; the result is saved into ``folder``.

    L = mean over the reply tokens of a step of -log p(token | image, question, reply so far), in nats.

    Every step mixes questions of many people, unless many of a person are to come together. The order depends on seed
    and epoch alone, not on ``label``, so two models that share a seed differ only in whom they are taught.

    Raises:
        DataError: there is nothing to learn.
    """
    if not turns:
        raise DataError(f"{label}: nobody to teach. Check data.source and finetune.modality.")
    loaded.encoder.check(turns)
    model = add_trainable(loaded.model, loaded.encoder.family, section.lora, seed=derive(seed, "adapter"))
    spread(loaded, model)
    order = Order(
        num_items=len(turns),
        batch_size=section.batch_size,
        seed=seed,
        label="finetune",
        together=section.questions_together,
        sets=tuple(turn.image for turn in turns),
    )

    make = partial(training_batch, loaded)

    def terms(step: int) -> dict[str, Tensor]:
        chosen = [turns[i] for i in order.indices(step)]
        return {"nll": answer_nll(forward(model, chosen, make, at_once=section.micro_batch_size))}

    schedule = Schedule(
        num_steps=order.num_steps(section.epochs),
        learning_rate=section.learning_rate,
        warmup=section.warmup,
        weight_decay=section.weight_decay,
        checkpoint_every_s=section.checkpoint_every_s,
    )
    train(model, terms, schedule, folder=folder, seed=seed, progress=progress, label=label)
    if leads():
        save_trained(model, folder)
