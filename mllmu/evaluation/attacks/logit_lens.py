"""What the output layer reads from the layers in between."""

from typing import ClassVar

import torch
from pydantic import Field

from mllmu.evaluation.attacks import Attack, AttackPoint, Loaded, Victim
from mllmu.evaluation.inside import batches, hidden_states, read_out


class LogitLens(Attack):
    """Read the fact from every layer with the last norm and the output layer (head projection).

    score of a question = the largest share, over the layers, of the fact's tokens that are among the k likeliest, with
    the tokens before them given. Before: the same at the last layer, which is what the model says. A fact that is only
    suppressed at the end is above that in between; the retain_model has as many layers to hit by chance.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2309.17410"
    label = "Logit lens"
    family = "inside"
    access = "white box"
    asks = False

    k: int = Field(4, ge=1, le=10**6, description="a token counts if it is among so many likeliest")

    def attack(self, victim: Victim) -> list[AttackPoint]:
        shares = read_shares(victim.load(victim.ref), victim, self.k)
        after = {name: max(of_layers) for name, of_layers in shares.items()}
        return [AttackPoint(values=after, before={name: of_layers[-1] for name, of_layers in shares.items()})]


@torch.no_grad()
def read_shares(loaded: Loaded, victim: Victim, k: int) -> dict[str, list[float]]:
    """By question and layer, the share of the target's tokens that are among the k likeliest; its end is left out."""
    found = dict[str, list[float]]()
    for some in victim.batches():
        turns = victim.answered(some)
        (batch,) = batches(loaded, turns, victim.ref.system_prompt, len(turns))
        labels_N = batch.labelled[1]
        read_LN = [read_out(loaded.model, state_ND).topk(k).indices for state_ND in hidden_states(loaded.model, batch)]
        hit_LN = torch.stack([(top_Nk == labels_N[:, None]).any(-1) for top_Nk in read_LN])
        lengths = [len(loaded.encoder.reply(turn.reply)) for turn in turns]
        for sample, hit_Ln in zip(some, hit_LN.float().split(lengths, dim=1), strict=True):
            found[sample.id] = hit_Ln[:, : max(1, hit_Ln.shape[1] - 1)].mean(1).tolist()
    return found
