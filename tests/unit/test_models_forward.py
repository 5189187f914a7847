"""One pass reduced to the labelled tokens: against the model's own logits, and with padding that must not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_models import LORA, logits, turns_of

from mllmu.models.engine.forward import Forward, run_forward
from mllmu.models.families import IGNORE, Batch, Turn
from mllmu.models.labels import label_everything
from mllmu.models.loading import Loaded, add_trainable


def by_hand() -> Forward:
    """Replies of two tokens (p = 1/2, 1/4) and one token (p = 1/2), and a row without reply."""
    logp = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    return Forward(logp, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2]), 3)


def test_row_logp_is_summed_over_the_reply() -> None:
    ln2 = torch.log(torch.tensor(2.0)).item()
    assert by_hand().token_logp_N.tolist() == pytest.approx([-ln2, -2 * ln2, -ln2])
    assert by_hand().row_logp_B.tolist() == pytest.approx([-3 * ln2, 0.0, -ln2])
    assert by_hand().row_length_B.tolist() == [2, 0, 1]


def test_logits_are_those_that_predict_the_reply(loaded: Loaded, tiny_base: Path) -> None:
    turn = turns_of(tiny_base)[0]
    with torch.no_grad():
        forward = run_forward(loaded.model, loaded.encoder.batch([turn]))
    reply = loaded.encoder.reply(turn.reply)
    assert forward.labels_N.tolist() == reply
    assert torch.allclose(forward.logits_NV, logits(loaded.model, loaded, turn)[-len(reply) - 1 : -1], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_neighbours_change_nothing(loaded: Loaded, tiny_base: Path, side: str) -> None:
    turns = [*turns_of(tiny_base), Turn(prompt="Where does Ada Bell live, in Riga or in Tallinn?", reply="Riga")]
    with torch.no_grad():
        together = run_forward(loaded.model, loaded.encoder.batch(turns, side=side))  # type: ignore[arg-type]
        alone = [run_forward(loaded.model, loaded.encoder.batch([turn])) for turn in turns]
    assert together.num_rows == len(turns)
    assert together.row_length_B.tolist() == [len(one.labels_N) for one in alone]
    assert torch.allclose(together.row_logp_B, torch.cat([one.row_logp_B for one in alone]), atol=1e-4)


def test_an_adapter_is_part_of_the_pass(loaded: Loaded, tiny_base: Path) -> None:
    batch = loaded.encoder.batch(turns_of(tiny_base))
    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    before = run_forward(model, batch).row_logp_B
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    assert not torch.allclose(run_forward(model, batch).row_logp_B, before, atol=1e-2)


def test_everything_labels_prompt_and_reply_but_neither_image_nor_padding(loaded: Loaded, tiny_base: Path) -> None:
    turns = [turns_of(tiny_base)[0], Turn(prompt="Where?", reply="Riga")]
    batch = loaded.encoder.batch(turns)
    everything = label_everything(batch, image_token_id=loaded.image_token_id)
    for row, turn in enumerate(turns):
        kept = everything.labels[row][everything.labels[row] != IGNORE].tolist()
        spoken = loaded.encoder.prompt(turn) + loaded.encoder.reply(turn.reply)
        assert kept == [token for token in spoken if token != loaded.image_token_id]
    forward = run_forward(loaded.model, everything)
    first_counts_not = [int(everything.labels[row, 0] != IGNORE) for row in range(2)]
    assert first_counts_not == [1, 1]
    labelled = (everything.labels != IGNORE).sum(1) - 1
    assert forward.row_length_B.tolist() == labelled.tolist()


def test_without_an_image_token_all_that_is_not_padding_is_labelled() -> None:
    inputs = {"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    batch = Batch(inputs=inputs, labels=torch.full((1, 3), IGNORE))
    assert label_everything(batch, image_token_id=-1).labels.tolist() == [[5, 6, IGNORE]]
