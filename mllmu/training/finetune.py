"""Fine-tune a model on people: the one way in which target and retain_model are made."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from mllmu.config.recipe import Finetune
from mllmu.core import process
from mllmu.core.errors import DataError
from mllmu.core.process import derive
from mllmu.models.families import Turn, core
from mllmu.models.loading import Loaded, add_trainable, save_trained
from mllmu.training import fitting
from mllmu.training.batches import Order, forward, training_batch
from mllmu.training.loop import Schedule, Training, train
from mllmu.training.losses import answer_nll
from mllmu.training.sharding import spread


def finetune(loaded: Loaded, turns: Sequence[Turn], section: Finetune, training: Training) -> None:
    """Train adapters (or, without LoRA, the language model) on the turns; the result is saved into the folder.

    L = mean over the reply tokens of a step of -log p(token | image, question, reply so far), in nats.

    Every step mixes questions of many people, unless many of a person are to come together. The order depends on seed
    and epoch alone, not on the label, so two models that share a seed differ only in the people they are trained on.

    Raises:
        DataError: there is nothing to learn.
    """
    if not turns:
        raise DataError(f"{training.label}: no question to train on. Check data.source and finetune.modality.")
    loaded.encoder.check(turns)
    seed = derive(training.seed, "adapter")
    model = add_trainable(loaded.model, loaded.encoder.family, training.lora, seed=seed)
    if process.count() > 1:
        spread(loaded, model)
    images = tuple(turn.image for turn in turns)
    order = Order(images, section.batch_size, training.seed, "finetune", together=section.questions_together)
    make, training = partial(training_batch, loaded), replace(training, batch_size=section.batch_size)
    if core(model).num_parameters() > fitting.LARGE:
        fitting.choose(loaded, model, training, [[turns[index] for index in order.indices(0)]], make)

    def terms(step: int) -> dict[str, Tensor]:
        chosen = [turns[index] for index in order.indices(step)]
        return {"nll": answer_nll(forward(model, chosen, make, at_once=training.micro_batch_size))}

    schedule = Schedule(
        num_steps=order.num_steps(section.epochs),
        learning_rate=section.learning_rate,
        warmup=section.warmup,
        weight_decay=section.weight_decay,
    )
    train(model, terms, schedule, training)
    if process.leads():
        save_trained(model, training.folder)
