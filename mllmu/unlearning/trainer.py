"""Run one unlearning method: its loss gets the forget and retain side of every step, and those of the reference.

The frozen reference never changes, so a second pass of it over the same replies in every epoch is waste. Instead the
replies that a training will need are laid out once, by image, in chunks; a chunk is run when the first of its replies
is needed, and kept. Which replies share a chunk depends on the data and the settings alone, never on the step, so a
training that was killed and goes on gets the same numbers to the last bit.

Kept are token log-probabilities or, where a loss compares whole distributions, the hidden states behind the last
layer, from which the frozen output layer makes the logits again: D numbers per token instead of V.

Shapes: B replies, N labelled tokens of all replies together, D hidden size, V vocabulary, X what is computed per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from mllmu.core import process
from mllmu.core.errors import DataError, ModelError
from mllmu.core.process import derive, rng
from mllmu.models.encoding import evaluating, grouped
from mllmu.models.engine.forward import Forward, apply_head, labelled, run_forward, run_labelled, run_logits
from mllmu.models.families import Batch, Turn, core, moved, num_layers
from mllmu.models.labels import label_everything, without_ends
from mllmu.models.layers import check_second_pass, run_hidden
from mllmu.models.loading import Loaded, add_trainable, save_trained, without_adapter
from mllmu.models.modifiers import write_settings
from mllmu.models.weights import scale_change
from mllmu.training import fitting
from mllmu.training.batches import Order, encoded, forward, plain, run_step, step_tokens
from mllmu.training.distributed import MakeBatch
from mllmu.training.loop import Schedule, Training, train
from mllmu.training.sharding import spread
from mllmu.unlearning.alternatives import Subject, others_about, subject
from mllmu.unlearning.base import Method, Phase, Side, Step, Terms, layer_at, turn_key
from mllmu.unlearning.holdout import QuestionType, holdout_levels
from mllmu.unlearning.probing import Saliency, SideName, make_modifier, restrict

CHUNK = 16
"""Replies per pass."""
GAIN = 1.5
"""So many times fewer tokens must be read than in every step. On the tiny model 2 times fewer (``npo``, 2 epochs) made
training a tenth faster; 1.3 times fewer (``kl_min``, no retain reply met twice) made it 6 % slower."""
Kept = Literal["logp", "hidden"]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What a method works on: turns to forget and to retain; for some a reference of its own, and holdout people."""

    forget: Sequence[Turn]
    retain: Sequence[Turn]
    reference: Loaded | None = None
    holdout: Sequence[Turn] = ()


def unlearn(loaded: Loaded, method: Method, sides: Sides, training: Training) -> None:
    """Train the target with the method's loss, or make its modifier; the changes are saved into the folder.

    The reference is the same weights with the new adapter off, so it needs no second model in memory. Without LoRA
    that is impossible and the reference must be loaded apart.

    Raises:
        DataError: a side that the method needs is empty.
        ModelError: the method needs a reference, and there is none; or a change would be lost at inference.
    """
    _check(method, sides, training)
    loaded.encoder.check([*sides.forget, *sides.retain])
    if method.modifies:
        modifier = make_modifier(loaded, method, sides.forget, sides.retain, training)
        if method.trains:
            # the reference changes with the modifier, so none of it is kept; a base in eval() computes nothing again
            training = replace(training, reference_mib=0, recompute=False)
            _Engine(loaded.model, loaded, method, sides, training).train(modifier)
        if process.leads():
            modifier.save(training.folder)
        return
    seed, targets = derive(training.seed, "adapter"), method.targets(num_layers(loaded.model))
    model = add_trainable(loaded.model, loaded.encoder.family, training.lora, seed=seed, targets=targets)
    if process.count() > 1:
        spread(loaded, model)
        if sides.reference:
            spread(sides.reference, sides.reference.model)
    engine = _Engine(model, loaded, method, sides, training)
    if (masks := method.masks(Saliency(engine.weights, engine.turns, method.batch_size, engine.measured))) is not None:
        restrict(engine.weights, masks)
    kept = method.kept_change
    start = [weight.detach().clone() for weight in engine.weights] if kept != 1 and training.lora is None else None
    engine.train(model)
    if kept != 1:
        scale_change(model, start, kept)
    if process.leads():
        save_trained(model, training.folder)
        if method.at_inference:
            write_settings(training.folder, method.at_inference)


def _check(method: Method, sides: Sides, training: Training) -> None:
    if not sides.forget or (method.uses_retain and not sides.retain):
        empty = "retain" if sides.forget else "forget"
        raise DataError(f"{training.label}: nothing to {empty} in modality {method.modality}.")
    if method.uses_reference and training.lora is None and sides.reference is None:
        raise ModelError(
            f"{training.label}: compares with a frozen reference, but without adapters there is none to switch off. "
            "Set unlearn.lora, or load a second model and pass it as the reference."
        )


class _Engine:
    """Turns a step number into the loss terms of a method."""

    def __init__(self, model: Any, loaded: Loaded, method: Method, sides: Sides, training: Training) -> None:
        if method.at_inference:
            check_second_pass(model)
        self.training = training = replace(training, batch_size=method.batch_size)
        self.model, self.loaded, self.method, self.holdout = model, loaded, method, sides.holdout
        self.turns: dict[SideName, Sequence[Turn]] = {"forget": sides.forget, "retain": sides.retain}
        self.orders = {
            name: Order(
                tuple(turn.image for turn in turns), method.batch_size, training.seed, name, method.questions_together
            )
            for name, turns in self.turns.items()
        }
        self.forget_steps = self.orders["forget"].num_steps(method.epochs)
        two_phases = method.schedule == "two_phase" and method.uses_retain
        self.retain_steps = self.orders["retain"].num_steps(method.epochs) if two_phases else 0
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.memory: dict[str, float] = {}
        frozen = sides.reference or replace(loaded, model=model)
        self.reference = Reference(loaded=frozen, make=partial(step_batch, frozen, method), training=training)
        self.memories: dict[tuple[SideName, bool], ReferenceMemory | None] = {}

    def train(self, trained: Any) -> None:
        """Train the parameters of a module: the model, or a modifier that acts on it."""
        schedule = Schedule(
            num_steps=self.forget_steps + self.retain_steps,
            learning_rate=self.method.learning_rate,
            decay=self.method.decay == "linear",
        )
        if core(self.model).num_parameters() > fitting.LARGE:
            make, compares = partial(step_batch, self.loaded, self.method), self.method.uses_reference
            sides = [self.side(name, 0).turns for name, turns in self.turns.items() if turns]
            fitting.choose(self.loaded, self.model, self.training, sides, make, reference=compares)
        train(trained, self.terms, schedule, self.training, self.memory)

    def terms(self, step: int) -> Terms:
        phase, index = self.places[step]
        forget, retain = self.side("forget", index), self.side("retain", index)
        own: dict[str, Any] = {"weights": self.weights, "memory": self.memory, "seed": self.training.seed}
        return self.method.loss(Step(forget=forget, retain=retain, phase=phase, done=step / len(self.places), **own))

    @cached_property
    def places(self) -> list[tuple[Phase, int]]:
        """Phase of every step, and its number on the sides; in two phases an epoch of each side in turn."""
        if not self.retain_steps:
            return [("joint", step) for step in range(self.forget_steps)]
        steps: dict[SideName, int] = {"forget": self.forget_steps, "retain": self.retain_steps}
        placed = [(i // self.orders[name].steps_per_epoch, name, i) for name in steps for i in range(steps[name])]
        return [(name, i) for _, name, i in sorted(placed, key=lambda place: place[0])]

    def measured(self, turns: Sequence[Turn]) -> Forward:
        """One pass over some replies before training, without dropout."""
        self.model.eval()
        make = partial(step_batch, self.loaded, self.method)
        return forward(self.model, turns, make, at_once=self.training.micro_batch_size)

    def side(self, name: SideName, step: int) -> Side:
        order = self.orders[name]
        chosen = [self.turns[name][index] for index in order.indices(step)]
        return Side(chosen, _Passes(self, name, chosen, epoch=step // order.steps_per_epoch), lambda: self.levels)

    @cached_property
    def levels(self) -> dict[QuestionType, float]:
        """What the reference gives true replies about holdout people, by modality and task."""
        return holdout_levels(self.holdout, self.reference.forward)

    def memory_of(self, name: SideName, *, alternative: bool) -> ReferenceMemory | None:
        """What the reference gives the replies of a side, or their alternatives; None: it is run in every step."""
        key = (name, alternative)
        if key not in self.memories:
            turns = self._turns_met(name, alternative=alternative) if self.training.reference_mib > 0 else []
            shared = self.loaded.packs and self.method.loss_on == "answer"
            worth = bool(turns) and pays(self.loaded, turns, shared=shared)
            self.memories[key] = ReferenceMemory(self.reference, turns) if worth else None
        return self.memories[key]

    def _turns_met(self, name: SideName, *, alternative: bool) -> list[Turn]:
        """The turns of a side that the whole training meets, in the order of the side, each as often as it is met."""
        order, turns = self.orders[name], self.turns[name]
        num_steps = self.retain_steps if name == "retain" and self.retain_steps else self.forget_steps
        met = sorted((item, step // order.steps_per_epoch) for step in range(num_steps) for item in order.indices(step))
        return [self.instead(turns[item], epoch) if alternative else turns[item] for item, epoch in met]

    def instead(self, turn: Turn, epoch: int) -> Turn:
        """The turn with the reply that is wanted instead, or the method's alternative one."""
        if turn.instead:
            return replace(turn, reply=turn.instead)
        draw = rng(self.training.seed, "alternative", *turn_key(turn), epoch)
        return replace(turn, reply=self.method.alternative(turn, others_about(turn, self._about), draw))

    @cached_property
    def _about(self) -> dict[Subject, list[Turn]]:
        return grouped((*self.turns["forget"], *self.turns["retain"]), subject)


def step_batch(loaded: Loaded, method: Method, turns: Sequence[Turn]) -> Batch:
    """The batch of one side of a step; its labels are what the method trains."""
    if method.loss_on == "answer":
        batch = encoded(loaded, turns)
    else:
        # a shared prompt token would be counted once instead of once per question, so nothing is packed here
        batch = label_everything(plain(loaded, turns), image_token_id=loaded.image_token_id)
    return (batch if method.train_end else without_ends(batch, loaded.ends)).to(loaded.device)


@dataclass(frozen=True)
class _Passes:
    """The passes of one side of one step."""

    engine: _Engine
    name: SideName
    turns: Sequence[Turn]
    epoch: int
    batches: dict[tuple[Turn, ...], Batch] = field(default_factory=dict)

    def forward(self, *, reference: bool, alternative: bool) -> Forward:
        engine, at_once = self.engine, self.engine.training.micro_batch_size
        turns = [engine.instead(turn, self.epoch) for turn in self.turns] if alternative else self.turns
        if not reference:
            return forward(engine.model, turns, self._make, at_once=at_once)
        memory = engine.memory_of(self.name, alternative=alternative)
        if memory is None:
            return engine.reference.forward(turns)
        return Recalled(memory, turns, *step_tokens(turns, self._make, at_once))

    def hidden(self, depth: float, *, reference: bool) -> Tensor:
        engine = self.engine
        run = partial(run_hidden, layer=layer_at(depth, num_layers(engine.loaded.model)))
        if reference:
            return engine.reference.run(run, self.turns)[0]
        return run_step(partial(run, engine.model), self.turns, self._make, engine.training.micro_batch_size)[0]

    def _make(self, turns: Sequence[Turn]) -> Batch:
        """The batch of turns for the model in training; several passes of a step take the same one."""
        key = tuple(turns)
        if key not in self.batches:
            self.batches[key] = step_batch(self.engine.loaded, self.engine.method, turns)
        return self.batches[key]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The frozen reference: a model of its own, or the model in training with the new adapter off.

    Attributes:
        make: encodes turns for the reference, labels included.
    """

    loaded: Loaded
    make: MakeBatch
    training: Training

    @contextmanager
    def frozen(self) -> Iterator[Any]:
        """The model as the reference, without gradient and dropout, while the context lasts."""
        model = self.loaded.model
        with evaluating(model), torch.no_grad(), without_adapter(model):
            yield model

    def run(self, run: Callable[[Any, Batch], Tensor], turns: Sequence[Turn]) -> tuple[Tensor, Tensor, Tensor]:
        """[N, X] what ``run`` gives for the labelled tokens; see :func:`mllmu.training.batches.run_step`."""
        with self.frozen() as model:
            return run_step(partial(run, model), turns, self.make, self.training.micro_batch_size)

    def forward(self, turns: Sequence[Turn]) -> Forward:
        """One pass over the replies of some turns."""
        return Forward(*self.run(run_logits, turns), len(turns))


def pays(loaded: Loaded, turns: Sequence[Turn], *, shared: bool) -> bool:
    """Whether remembering saves enough; decided by counting tokens, so it is the same after a restart.

    Args:
        turns: every turn as often as its reply will be needed.
        shared: passes are packed, so an image is read once for all its questions.
    """
    encoder, mark = loaded.encoder, loaded.image_token_id
    prompts = {turn: encoder.prompt(turn) for turn in turns}
    lengths = {turn: len(prompt) + len(encoder.reply(turn.reply)) for turn, prompt in prompts.items()}
    images = {turn: prompt.count(mark) for turn, prompt in prompts.items()} if shared else {}
    once = sum(lengths.values()) - sum(images.values())
    once += sum({turn.images: count for turn, count in images.items()}.values())
    return sum(lengths[turn] for turn in turns) > GAIN * once


class ReferenceMemory:
    """Recalls what the reference gives a fixed set of replies.

    If the hidden states of all replies do not fit into ``reference_mib``, logits are computed again whenever they are
    read, with one note.

    Args:
        turns: all whose replies will be needed; their order and number decide what is run together.
    """

    def __init__(self, reference: Reference, turns: Iterable[Turn]) -> None:
        self.reference = reference
        ordered = sorted(dict.fromkeys(turns), key=lambda turn: (turn.image is None, str(turn.image)))
        self._chunks = [ordered[i : i + CHUNK] for i in range(0, len(ordered), CHUNK)]
        self._chunk_of = {turn: index for index, chunk in enumerate(self._chunks) for turn in chunk}
        self._kept: dict[Kept, dict[Turn, Tensor]] = {"logp": {}, "hidden": {}}

    def logp_N(self, turns: Sequence[Turn], row_N: Tensor) -> Tensor:
        """[N] log p(token) of the tokens of the turns, in nats."""
        return self._fetch("logp", turns, row_N)

    def logits_NV(self, turns: Sequence[Turn], row_N: Tensor) -> Tensor:
        """[N, V] logits that predict the tokens of the turns."""
        if not self._fits:
            return self.reference.forward(turns).logits_NV
        with self.reference.frozen() as model:
            return apply_head(core(model), self._fetch("hidden", turns, row_N)).float()

    @cached_property
    def _fits(self) -> bool:
        """Hidden states of all replies have room; decided by their size alone, so it is the same after a restart."""
        training, own = self.reference.training, core(self.reference.loaded.model)
        num_tokens = sum(len(labelled(self.reference.make(chunk))[0]) for chunk in self._chunks)
        needed_mib = num_tokens * own.config.get_text_config().hidden_size * own.dtype.itemsize / 2**20
        fits = bool(needed_mib <= training.reference_mib)
        if not fits:
            training.progress.note(
                f"{training.label}: the reference is run in every step: what it gives takes {needed_mib:,.0f} MiB, "
                f"more than unlearn.reference_mib ({training.reference_mib:,.0f})."
            )
        return fits

    def _fetch(self, what: Kept, turns: Sequence[Turn], row_N: Tensor) -> Tensor:
        """[N] or [N, D] for tokens of the turns; runs the chunks that have not been run yet."""
        kept = self._kept[what]
        for index in sorted({self._chunk_of[turn] for turn in turns if turn not in kept}):
            chunk = self._chunks[index]
            values_NX, _, chunk_row_N = self.reference.run(run_labelled if what == "hidden" else run_logp, chunk)
            sizes = torch.bincount(chunk_row_N, minlength=len(chunk)).tolist()
            parts = values_NX[by_reply(chunk_row_N)].cpu().split(sizes)
            kept.update(zip(chunk, parts if what == "hidden" else [part[:, 0] for part in parts], strict=True))
        values = moved(torch.cat([kept[turn] for turn in turns]), row_N.device)
        return torch.empty_like(values).index_copy_(0, by_reply(row_N), values)


class Recalled(Forward):
    """A pass that was run earlier: what it gave ``turns`` is fetched when it is read, tokens in the order given."""

    memory: ReferenceMemory
    turns: Sequence[Turn]

    def __init__(self, memory: ReferenceMemory, turns: Sequence[Turn], labels_N: Tensor, row_N: Tensor) -> None:
        # the fields are frozen, and two of them are computed below
        self.__dict__.update(memory=memory, turns=turns, labels_N=labels_N, row_N=row_N, num_rows=len(turns))

    @cached_property
    def logits_NV(self) -> Tensor:
        return self.memory.logits_NV(self.turns, self.row_N)

    @cached_property
    def token_logp_N(self) -> Tensor:
        return self.memory.logp_N(self.turns, self.row_N)


def run_logp(model: Any, batch: Batch) -> Tensor:
    """[N, 1] log p(token) of the labelled tokens, in nats."""
    return run_forward(model, batch).token_logp_N[:, None]


def by_reply(row_N: Tensor) -> Tensor:
    """[N] where the tokens of reply 0 are, then those of reply 1, ...; the tokens of a reply are in order already.

    >>> by_reply(torch.tensor([1, 1, 0, 2, 0])).tolist()
    [2, 4, 0, 1, 3]
    """
    return row_N.argsort(stable=True)
