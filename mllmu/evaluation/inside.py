"""What each layer of a model holds: its hidden states, what can be read from them, and what they change in the target.

A linear probe shows whether a value of an attribute can be read from a layer, for people the probe never saw: it is
trained on people that stay and tested on those to forget, so it cannot remember a face. Its control is trained on the
same states with the values shuffled among the people.

Shapes: B rows, L layers, N labelled tokens of all rows together (of a probe: questions), D and E hidden sizes, V
vocabulary, C classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mllmu.core.errors import ModelError
from mllmu.core.process import rng
from mllmu.core.records import Modality, Question, Record
from mllmu.data.dataset import Dataset
from mllmu.models.engine.forward import apply_head, run_forward
from mllmu.models.families import IGNORE, Batch, Turn, core
from mllmu.models.layers import decoder_layers, last_norm
from mllmu.models.loading import Loaded
from mllmu.training.batches import training_turns

MIN_DROP = 0.05
"""Layers where even the retain_model's state takes away less than this, in nats, say nothing about erasure."""
MIN_PEOPLE = 5
"""A value is a class of a probe if at least so many people that stay have it."""


class LayerRow(Record):
    """One layer of one model, asked in one modality; layer 0 is the first layer of the language model.

    Attributes:
        readable: share of the fact's tokens that the last norm and the head read from this layer (logit lens).
        logp: mean log p of these tokens, read the same way, in nats.
        similarity: linear CKA with the target's states; None with fewer than four tokens.
        erased: what the target loses with this model's state, as a share of what it loses with the retain_model's.
        probe, control: accuracy of a linear probe on the people to forget, trained on the others, and the same with
            values shuffled among the people it is trained on; None without an attribute to probe.
    """

    model: str
    modality: Modality
    layer: int
    readable: float
    logp: float
    similarity: float | None = None
    erased: float | None = None
    probe: float | None = None
    control: float | None = None

    @property
    def above_control(self) -> float | None:
        """How much more accurate the probe is than its control."""
        return None if self.probe is None or self.control is None else self.probe - self.control


class ErasureRow(Record):
    """One model in one modality: how far all its layers together have erased the facts; 1 is as if never learned."""

    model: str
    modality: Modality
    erased: float | None
    num_questions: int
    num_tokens: int


class NoStatesError(ModelError):
    """A model that no layer's state stands for."""


@torch.no_grad()
def hidden_states(model: Any, batch: Batch) -> list[Tensor]:
    """L tensors [N, D] in float32: what leaves each layer where a labelled token is predicted, before the last norm.

    Raises:
        NoStatesError: the layers run more than once per pass, so what the model says comes from several states.
    """
    states: list[Tensor] = []
    predicting_BT = batch.labels[:, 1:] != IGNORE

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        states.append(_hidden(output)[:, :-1][predicting_BT].float())

    handles = [layer.register_forward_hook(keep) for layer in decoder_layers(model)]
    try:
        core(model).model(**batch.inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if len(states) > len(handles):
        raise NoStatesError("the model subtracts the logits of a second pass, so no layer has one state for both")
    return states


@torch.no_grad()
def read_out(model: Any, hidden_ND: Tensor) -> Tensor:
    """Logit lens: [N, V] log-probabilities that the last norm and the head give to hidden states of any layer."""
    normed_ND = last_norm(model)(hidden_ND.to(core(model).dtype))
    return torch.log_softmax(apply_head(core(model), normed_ND).float(), dim=-1)


@contextmanager
def replaced(model: Any, layer: int, batch: Batch, hidden_ND: Tensor) -> Iterator[None]:
    """Within this context, what leaves a layer where a labelled token is predicted is ``hidden_ND``."""
    predicting_BT = torch.zeros_like(batch.labels, dtype=torch.bool)
    predicting_BT[:, :-1] = batch.labels[:, 1:] != IGNORE

    def swap(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        changed_BTD = _hidden(output).clone()
        changed_BTD[predicting_BT] = hidden_ND.to(changed_BTD.dtype)
        return (changed_BTD, *output[1:]) if isinstance(output, tuple) else changed_BTD

    handle = decoder_layers(model)[layer].register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def batches(loaded: Loaded, turns: Sequence[Turn], system_prompt: str, size: int) -> Iterator[Batch]:
    """The turns behind a model's system prompt, ``size`` at a time."""
    prompted = [replace(turn, system=system_prompt, before=()) for turn in turns]
    for start in range(0, len(turns), size):
        yield loaded.encoder.batch(prompted[start : start + size]).to(loaded.device)


class LayerStates(NamedTuple):
    """Per layer of one model: the states [N, D] of all questions, and what the logit lens reads from them."""

    states: list[Tensor]
    readable: list[float]
    logp: list[float]


class LayerComparison:
    """Compares the layers of models with those of the target, on the same questions of one modality.

    The first model that is measured must be the retain_model: what its states take away from the target is the
    yardstick of all others.

    Args:
        target: stays loaded; the others come one at a time.
        turns: questions with the fact as reply, asked in one modality.
        batch_size: questions at once.
    """

    def __init__(self, target: Loaded, turns: Sequence[Turn], modality: Modality, *, batch_size: int) -> None:
        self.target = target
        self.turns = turns
        self.modality = modality
        self.batch_size = batch_size
        self.of_target = self._read(target, "")
        self.yardstick: list[float] = []

    def measure(
        self, name: str, loaded: Loaded, system_prompt: str, probes: Sequence[tuple[float, float]]
    ) -> tuple[list[LayerRow], ErasureRow]:
        """The records of one model; ``probes`` are the accuracies of probe and control per layer, empty for none."""
        read = self._read(loaded, system_prompt)
        drops = self._drops(read)
        self.yardstick = self.yardstick or drops
        rows = [
            LayerRow(
                model=name,
                modality=self.modality,
                layer=layer,
                readable=read.readable[layer],
                logp=read.logp[layer],
                similarity=cka(state_ND, self.of_target.states[layer]),
                erased=erased(drops[layer], self.yardstick[layer]),
                probe=probes[layer][0] if probes else None,
                control=probes[layer][1] if probes else None,
            )
            for layer, state_ND in enumerate(read.states)
        ]
        return rows, ErasureRow(
            model=name,
            modality=self.modality,
            erased=mean_erased(drops, self.yardstick),
            num_questions=len(self.turns),
            num_tokens=len(read.states[0]),
        )

    def _read(self, loaded: Loaded, system_prompt: str) -> LayerStates:
        by_batch: list[list[Tensor]] = []
        num_layers = len(decoder_layers(loaded.model))
        hits_L, logps_L = torch.zeros(num_layers).double(), torch.zeros(num_layers).double()
        for batch in batches(loaded, self.turns, system_prompt, self.batch_size):
            states = hidden_states(loaded.model, batch)
            labels_N = batch.labels[:, 1:][batch.labels[:, 1:] != IGNORE]
            logp_LNV = torch.stack([read_out(loaded.model, state_ND) for state_ND in states])
            hits_L += (logp_LNV.argmax(-1) == labels_N).double().sum(1).cpu()
            logps_L += logp_LNV.gather(-1, labels_N.expand(len(states), -1)[..., None]).double().sum((1, 2)).cpu()
            by_batch.append(states)
        joined = [torch.cat(states) for states in zip(*by_batch, strict=True)]
        num_tokens = len(joined[0])
        return LayerStates(joined, (hits_L / num_tokens).tolist(), (logps_L / num_tokens).tolist())

    def _drops(self, read: LayerStates) -> list[float]:
        """By layer, what the target's mean log p of the fact's tokens loses with another model's states, in nats."""
        before = self._target_logp(None, read)
        return [before - self._target_logp(layer, read) for layer in range(len(decoder_layers(self.target.model)))]

    @torch.no_grad()
    def _target_logp(self, layer: int | None, read: LayerStates) -> float:
        model, total, start = self.target.model, 0.0, 0
        for batch in batches(self.target, self.turns, "", self.batch_size):
            end = start + int((batch.labels[:, 1:] != IGNORE).sum())
            patch = nullcontext() if layer is None else replaced(model, layer, batch, read.states[layer][start:end])
            with patch:
                total += float(run_forward(model, batch).token_logp_N.double().sum())
            start = end
        return total / start


def cka(x_ND: Tensor, y_ND: Tensor) -> float | None:
    """Linear CKA with the unbiased estimator of HSIC; 1 for states that differ by a rotation and a scale only.

    cka = hsic(x, y) / sqrt(hsic(x, x) * hsic(y, y)); hsic(x, y) from the Gram matrices without their diagonals
    (Song et al. 2012). None with fewer than four rows, and where all rows of one side are alike.

    Source: Kornblith et al. 2019, arXiv:1905.00414; the unbiased estimator as in Nguyen et al. 2021, arXiv:2010.15327.
    """
    if len(x_ND) < 4:
        return None
    k_NN, l_NN = _gram(x_ND), _gram(y_ND)
    scale = _hsic(k_NN, k_NN) * _hsic(l_NN, l_NN)
    return None if scale <= 0 else float(_hsic(k_NN, l_NN) / scale**0.5)


def _gram(x_ND: Tensor) -> Tensor:
    centred_ND = x_ND.double() - x_ND.double().mean(0)
    return (centred_ND @ centred_ND.T).fill_diagonal_(0)


def _hsic(k_NN: Tensor, l_NN: Tensor) -> float:
    n = len(k_NN)
    trace = (k_NN * l_NN).sum()
    outer = k_NN.sum() * l_NN.sum() / ((n - 1) * (n - 2))
    cross = 2 * (k_NN.sum(0) * l_NN.sum(0)).sum() / (n - 2)
    return float((trace + outer - cross) / (n * (n - 3)))


def erased(drop_model: float, drop_retain_model: float) -> float | None:
    """Share of a layer's knowledge that is erased: clip(drop of the model / drop of the retain_model, 0, 1).

    A drop is what the target's log p of the reply loses when its state behind the layer is replaced by another
    model's. None where the retain_model's state takes nothing away either.

    >>> erased(0.5, 2.0), erased(3.0, 2.0), erased(-0.1, 2.0), erased(1.0, 0.01)
    (0.25, 1.0, 0.0, None)
    """
    return None if drop_retain_model < MIN_DROP else min(1.0, max(0.0, drop_model / drop_retain_model))


def mean_erased(drops_model: Sequence[float], drops_retain_model: Sequence[float]) -> float | None:
    """Mean of :func:`erased` over the layers, weighted by the retain_model's drop; 1 is as if never learned.

    >>> mean_erased([1.0, 1.0], [1.0, 3.0])
    0.5
    """
    pairs = [(erased(m, r), r) for m, r in zip(drops_model, drops_retain_model, strict=True)]
    measured = [(share, weight) for share, weight in pairs if share is not None]
    total = sum(weight for _, weight in measured)
    return sum(share * weight for share, weight in measured) / total if measured else None


class AttributeProbe(NamedTuple):
    """One attribute: a question about it per person, the person's class, and whether it is in the test set."""

    attribute: str
    turns: list[Turn]
    classes: list[int]
    tested: list[bool]


def attribute_probes(dataset: Dataset, key: str, modality: Modality) -> list[AttributeProbe]:
    """The attributes with at least two classes, of which people to forget have at least one."""
    forget, first = set(dataset.splits[key]), _first_questions(dataset, modality)
    probes = []
    for attribute in sorted({attribute for _, attribute in first}):
        questions = [question for (_, about), question in first.items() if about == attribute]
        counts = Counter(q.value for q in questions if q.profile_id not in forget)
        values = sorted(value for value, count in counts.items() if count >= MIN_PEOPLE)
        questions = [q for q in questions if q.value in values]
        tested = [q.profile_id in forget for q in questions]
        if len(values) > 1 and any(tested):
            turns = training_turns(questions, dataset.folder, modality=modality)
            probes.append(AttributeProbe(attribute, turns, [values.index(q.value) for q in questions], tested))
    return probes


def _first_questions(dataset: Dataset, modality: Modality) -> dict[tuple[str, str], Question]:
    """The first plain training question about each attribute of each person."""
    first: dict[tuple[str, str], Question] = {}
    people = set(dataset.people)
    for question in dataset.questions:
        plain = question.variant == "train" and question.task == "generation" and question.modality == modality
        if plain and question.profile_id in people:
            first.setdefault((question.profile_id, question.attribute), question)
    return first


def mean_accuracy(
    loaded: Loaded, probes: Sequence[AttributeProbe], system_prompt: str, *, batch_size: int, seed: int
) -> list[tuple[float, float]]:
    """Accuracy of probe and control per layer, averaged over the attributes; empty without attributes."""
    by_probe = [_accuracies(loaded, probe, system_prompt, batch_size, seed) for probe in probes]
    layers = zip(*by_probe, strict=True)
    return [(sum(p for p, _ in layer) / len(layer), sum(c for _, c in layer) / len(layer)) for layer in layers]


def _accuracies(
    loaded: Loaded, probe: AttributeProbe, system_prompt: str, batch_size: int, seed: int
) -> list[tuple[float, float]]:
    """Accuracy of a probe and its control on the people to forget, per layer."""
    states_LND = states_before_reply(loaded, probe.turns, system_prompt, batch_size).double().cpu()
    classes_N, tested_N = torch.tensor(probe.classes), torch.tensor(probe.tested)
    train_N = classes_N[~tested_N]
    shuffled = train_N.tolist()
    rng(seed, "control", probe.attribute).shuffle(shuffled)
    accuracies = []
    for x_ND in states_LND:
        train_ND, test_ND, test_N = x_ND[~tested_N], x_ND[tested_N], classes_N[tested_N]
        control = ridge_accuracy(train_ND, torch.tensor(shuffled), test_ND, test_N)
        accuracies.append((ridge_accuracy(train_ND, train_N, test_ND, test_N), control))
    return accuracies


def states_before_reply(loaded: Loaded, turns: Sequence[Turn], system_prompt: str, batch_size: int) -> Tensor:
    """[L, N, D] states from which the first token of each reply is predicted."""
    rows: list[Tensor] = []
    for index, batch in enumerate(batches(loaded, turns, system_prompt, batch_size)):
        lengths = [len(loaded.encoder.reply(turn.reply)) for turn in turns[index * batch_size :][:batch_size]]
        firsts = [sum(lengths[:row]) for row in range(len(lengths))]
        rows.append(torch.stack(hidden_states(loaded.model, batch))[:, firsts])
    return torch.cat(rows, dim=1)


def ridge_accuracy(train_ND: Tensor, train_N: Tensor, test_ND: Tensor, test_N: Tensor) -> float:
    """Share of the rows of ``test`` whose class :func:`ridge_choices` names."""
    return float((ridge_choices(train_ND, train_N, test_ND) == test_N).double().mean())


def ridge_choices(train_ND: Tensor, train_N: Tensor, test_ND: Tensor) -> Tensor:
    """[N] classes that a linear classifier of ``train`` names: ridge regression on one-hot classes, in closed form.

    Features are standardised by the training rows. Nothing is random and nothing is tuned.
    """
    classes = int(train_N.max()) + 1
    mean_D, std_D = train_ND.mean(0), train_ND.std(0).clamp(min=1e-6)
    x_ND = _with_constant((train_ND - mean_D) / std_D)
    y_NC = torch.eye(classes, dtype=x_ND.dtype)[train_N]
    penalty_EE = len(x_ND) * torch.eye(x_ND.shape[1], dtype=x_ND.dtype) / x_ND.shape[1]
    weights_EC = torch.linalg.solve(x_ND.T @ x_ND + penalty_EE, x_ND.T @ y_NC)
    chosen_N: Tensor = (_with_constant((test_ND - mean_D) / std_D) @ weights_EC).argmax(1)
    return chosen_N


def _with_constant(x_ND: Tensor) -> Tensor:
    return torch.cat([x_ND, torch.ones(len(x_ND), 1, dtype=x_ND.dtype)], dim=1)
