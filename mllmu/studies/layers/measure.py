"""Look into every model of a run: read each layer, compare it with the target's, and put it into the target's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mllmu.core.records import Modality
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import IGNORE, Batch, Turn
from mllmu.models.loading import Loaded
from mllmu.models.parts import decoder_layers
from mllmu.studies.layers.layers import hidden_states, read_out, replaced
from mllmu.studies.layers.numbers import cka, erased, erased_depth
from mllmu.studies.layers.probing import Probe, run_probe
from mllmu.studies.layers.records import DepthRow, LayerRow


@dataclass(frozen=True)
class Look:
    """What one model showed: per layer the states [N, D] of all questions, and what can be read from them."""

    states: list[Tensor]
    readable: list[float]
    logp: list[float]


class Depths:
    """Measures models against one target on the same questions of one modality.

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
        self.seen = self.look(target)
        self.drops_gold: list[float] = []

    def look(self, loaded: Loaded, system_prompt: str = "") -> Look:
        """Run the questions through a model; ``system_prompt`` is its system prompt."""
        rows: list[list[Tensor]] = []
        count_layers = len(decoder_layers(loaded.model))
        hits_L, logps_L = torch.zeros(count_layers).double(), torch.zeros(count_layers).double()
        for batch in self._batches(loaded, system_prompt):
            states = hidden_states(loaded.model, batch)
            labels_N = batch.labels[:, 1:][batch.labels[:, 1:] != IGNORE]
            logp_LNV = torch.stack([read_out(loaded.model, state_ND) for state_ND in states])
            hits_L += (logp_LNV.argmax(-1) == labels_N).double().sum(1).cpu()
            logps_L += logp_LNV.gather(-1, labels_N.expand(len(states), -1)[..., None]).double().sum((1, 2)).cpu()
            rows.append(states)
        joined = [torch.cat([batch[layer] for batch in rows]) for layer in range(len(rows[0]))]
        count = len(joined[0])
        return Look(joined, (hits_L / count).tolist(), (logps_L / count).tolist())

    def drops(self, look: Look) -> list[float]:
        """By layer, what the target's mean log p of the fact's tokens loses with this model's states, in nats."""
        before = self._logp(None, look)
        return [before - self._logp(layer, look) for layer in range(len(decoder_layers(self.target.model)))]

    @torch.no_grad()
    def _logp(self, layer: int | None, look: Look) -> float:
        total, at = 0.0, 0
        for batch in self._batches(self.target, ""):
            count = int((batch.labels[:, 1:] != IGNORE).sum())
            if layer is None:
                total += float(run_forward(self.target.model, batch).token_logp_N.double().sum())
            else:
                with replaced(self.target.model, layer, batch, look.states[layer][at : at + count]):
                    total += float(run_forward(self.target.model, batch).token_logp_N.double().sum())
            at += count
        return total / at

    def rows(
        self, name: str, look: Look, drops: Sequence[float], probed: Sequence[tuple[float, float]]
    ) -> tuple[list[LayerRow], DepthRow]:
        """The records of one model; ``drops_gold`` must be those of the retain_model by now."""
        layers = [
            LayerRow(
                model=name,
                modality=self.modality,
                layer=layer,
                readable=look.readable[layer],
                logp=look.logp[layer],
                similarity=cka(state_ND, self.seen.states[layer]),
                erased=erased(drops[layer], self.drops_gold[layer]),
                probe=probed[layer][0] if probed else None,
                control=probed[layer][1] if probed else None,
            )
            for layer, state_ND in enumerate(look.states)
        ]
        depth = DepthRow(
            model=name,
            modality=self.modality,
            erased_depth=erased_depth(drops, self.drops_gold),
            num_questions=len(self.turns),
            num_tokens=len(look.states[0]),
        )
        return layers, depth

    def _batches(self, loaded: Loaded, system_prompt: str) -> list[Batch]:
        turns = [Turn(prompt=t.prompt, reply=t.reply, image=t.image, system=system_prompt) for t in self.turns]
        size = self.batch_size
        return [loaded.encoder.batch(turns[i : i + size]).to(loaded.device) for i in range(0, len(turns), size)]


def probe_accuracy(
    loaded: Loaded, asked: Sequence[Probe], system_prompt: str, *, batch_size: int, seed: int
) -> list[tuple[float, float]]:
    """Mean over the attributes of the accuracy of probe and control, by layer; empty without attributes."""
    each = [run_probe(loaded, one, system_prompt, batch_size=batch_size, seed=seed) for one in asked]
    layers = zip(*each, strict=True)
    return [(sum(p for p, _ in row) / len(row), sum(c for _, c in row) / len(row)) for row in layers]
