"""A reply does not depend on who else is in the batch, and its likelihood is the one computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import load_ref, sample

from mllmu.core.errors import ModelError
from mllmu.core.records import Exchange, Response, Sample
from mllmu.models.encoding import as_turn
from mllmu.models.engine import respond as respond_module
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded

PROMPTS = ("Where?", "Which is the hat's colour: red, blue or green?", "Where was this person born?")
SAMPLES = [
    sample(
        number,
        prompt=PROMPTS[number % 3],
        image=("", "red.png", "green.png", "blue.png")[number % 4],
        candidates={"target": "Riga", "wrong_0": "Tallinn, Latvia", "twin": "Riga"},
        max_new_tokens=12 + number % 5,
    )
    for number in range(12)
]


def replies(
    loaded: Loaded, base: Path, *, size: int, share: bool, system_prompt: str = "", samples: list[Sample] = SAMPLES
) -> dict[str, Response]:
    batches = respond(loaded, plan_batches(samples, size), image_folder=base, system_prompt=system_prompt, share=share)
    return {response.sample_id: response for batch in batches for response in batch}


@pytest.mark.parametrize("share", [True, False])
def test_replies_do_not_depend_on_the_batch_size(loaded: Loaded, tiny_base: Path, share: bool) -> None:
    alone = replies(loaded, tiny_base, size=1, share=False)
    assert len({response.text for response in alone.values()}) > 1, "all replies alike would prove nothing"
    for size in (3, 7):
        together = replies(loaded, tiny_base, size=size, share=share)
        assert set(together) == {one.id for one in SAMPLES}
        for key, one in alone.items():
            other = together[key]
            assert (other.text, other.num_tokens, other.finished) == (one.text, one.num_tokens, one.finished)
            for name, scored in one.candidates.items():
                assert other.candidates[name].num_tokens == scored.num_tokens
                assert other.candidates[name].logp == pytest.approx(scored.logp, abs=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_candidate_logp_is_the_sum_computed_by_hand_on_one_row(loaded: Loaded, tiny_base: Path, share: bool) -> None:
    one = SAMPLES[1]
    prompt = loaded.encoder.prompt(as_turn(one, tiny_base, ""))
    reply = loaded.encoder.reply("Tallinn, Latvia")
    pixels = loaded.encoder.images([as_turn(one, tiny_base, "")])["pixel_values"]
    with torch.no_grad():
        logits_TV = loaded.model(input_ids=torch.tensor([prompt + reply]), pixel_values=pixels).logits[0]
    logp_TV = torch.log_softmax(logits_TV.double(), dim=-1)
    by_hand = sum(float(logp_TV[len(prompt) - 1 + i, token]) for i, token in enumerate(reply))
    got = replies(loaded, tiny_base, size=5, share=share)[one.id].candidates
    assert got["wrong_0"].logp == pytest.approx(by_hand, abs=1e-4)
    assert got["wrong_0"].num_tokens == len(reply)
    assert got["twin"] == got["target"]


@pytest.mark.parametrize("share", [True, False])
def test_a_image_goes_with_its_question_in_any_order(loaded: Loaded, tiny_base: Path, share: bool) -> None:
    asked = [sample(n, image=SAMPLES[n].image, candidates={"target": "Riga"}) for n in range(12)]
    forward, backward = (
        [r for batch in respond(loaded, [order], image_folder=tiny_base, share=share) for r in batch]
        for order in (asked, asked[::-1])
    )
    by_image: dict[str, set[float]] = {}
    for one, first, last in zip(asked, forward, backward[::-1], strict=True):
        assert first.sample_id == last.sample_id == one.id
        assert first.text == last.text
        assert first.candidates["target"].logp == pytest.approx(last.candidates["target"].logp, abs=1e-4)
        by_image.setdefault(one.image, set()).add(round(first.candidates["target"].logp, 3))
    assert len(set.union(*by_image.values())) == 4, "four images (one of them none) must give four likelihoods"


@pytest.mark.parametrize("share", [True, False])
def test_the_guard_stands_before_every_prompt(loaded: Loaded, tiny_base: Path, share: bool) -> None:
    system_prompt = "Say no more than you must."
    asked = [sample(0, system="Be brief.", candidates={"target": "Riga"})]
    turn = as_turn(asked[0], tiny_base, system_prompt)
    assert turn.system == f"{system_prompt}\nBe brief."
    text = loaded.encoder.processor.tokenizer.decode(loaded.encoder.prompt(turn))
    assert text.startswith(system_prompt)
    guarded = replies(loaded, tiny_base, size=1, share=share, system_prompt=system_prompt, samples=asked)
    spelled = replies(
        loaded, tiny_base, size=1, share=share, samples=[asked[0].model_copy(update={"system": turn.system})]
    )
    bare = replies(loaded, tiny_base, size=1, share=share, samples=asked)
    assert guarded == spelled
    assert guarded[asked[0].id].candidates != bare[asked[0].id].candidates


def test_a_turn_without_guard_or_system_has_no_system_text(tiny_base: Path) -> None:
    assert as_turn(sample(0), tiny_base, "") == Turn(prompt="Where?", label="forget/000")


@pytest.mark.parametrize("share", [True, False])
def test_a_reply_that_ends_by_itself_is_finished_and_its_end_is_not_counted(
    tiny_base: Path, loaded: Loaded, share: bool
) -> None:
    plain = replies(loaded, tiny_base, size=1, share=share, samples=[sample(0)])["forget/000"]
    assert (plain.num_tokens, plain.finished) == (6, False)
    # whatever the model says third is declared to be the end
    turn = as_turn(sample(0), tiny_base, "")
    batch = loaded.encoder.batch([turn]).inputs
    said = loaded.model.generate(**batch, max_new_tokens=6, do_sample=False, pad_token_id=0)[0][-6:].tolist()
    ended = load_ref(tiny_base)
    ended.model.generation_config.eos_token_id = [2, said[2]]
    got = replies(ended, tiny_base, size=1, share=share, samples=[sample(0)])["forget/000"]
    assert (got.num_tokens, got.finished) == (said.index(said[2]), True)
    at_limit = replies(
        ended, tiny_base, size=1, share=share, samples=[sample(0, max_new_tokens=said.index(said[2]) or 1)]
    )
    assert at_limit["forget/000"].finished == (said.index(said[2]) == 0)


def test_the_plan_has_every_sample_once_and_does_not_depend_on_the_order() -> None:
    plan = plan_batches(SAMPLES, 5)
    assert sorted(one.id for batch in plan for one in batch) == [one.id for one in SAMPLES]
    assert [len(batch) for batch in plan] == [5, 5, 2]
    assert plan_batches(SAMPLES[::-1], 5) == plan


def test_a_batch_ends_early_rather_than_between_questions_about_one_image() -> None:
    """Four images of 3 questions fill 12 of 14 places; the fifth would be cut in two."""
    samples = [sample(n, image=f"{n // 3}.png") for n in range(18)]
    assert [[one.image[0] for one in batch] for batch in plan_batches(samples, 14)] == [
        list("000111222333"),
        list("444555"),
    ]
    assert [len(batch) for batch in plan_batches(samples, 7)] == [7, 7, 4], "three of seven places are too many to lose"
    assert [len(batch) for batch in plan_batches([sample(n) for n in range(18)], 14)] == [14, 4], "no image to share"


def test_a_batch_ends_where_the_examples_change() -> None:
    shown = [(Exchange(prompt=text, reply="Riga"),) for text in ("Who?", "Where?")]
    samples = [sample(n, examples=shown[n % 2]) for n in range(6)]
    assert [[one.examples[0].prompt for one in batch] for batch in plan_batches(samples, 4)] == [
        ["Where?"] * 3,
        ["Who?"] * 3,
    ]


def test_questions_with_examples_of_their_own_come_together() -> None:
    """Pairs with the same examples fill a batch of eight, five questions have one of their own."""
    shown = [(Exchange(prompt=text, reply="Riga"),) for text in "eedccbbaaaaa"]
    samples = [sample(n, examples=one) for n, one in enumerate(shown)]
    plan = [["".join(one.examples[0].prompt for one in batch)] for batch in plan_batches(samples, 8)]
    assert plan == [["aaaaa"], ["bbccdee"]]
    assert [len(batch) for batch in plan_batches(samples[:7], 4)] == [2, 2, 1, 2], "a pair is half of a batch of four"


class Scarce:
    """Answers like the model, but has memory for some rows only."""

    def __init__(self, rows: int, error: Exception) -> None:
        self.rows = rows
        self.error = error
        self.sizes: list[int] = []
        self.real = respond_module.answer

    def __call__(self, loaded: Loaded, batch: list[Sample], **settings: Any) -> list[Response]:
        self.sizes.append(len(batch))
        if len(batch) > self.rows:
            raise self.error
        return self.real(loaded, batch, **settings)


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_and_no_reply_is_lost(
    loaded: Loaded, tiny_base: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = replies(loaded, tiny_base, size=12, share=True)
    scarce = Scarce(3, error)
    monkeypatch.setattr(respond_module, "answer", scarce)
    got = replies(loaded, tiny_base, size=8, share=True)
    assert scarce.sizes == [8, 4, 2, 2, 2, 2, 2, 2], "8 and 4 fail; what is left is asked by twos, the last four too"
    assert got.keys() == expected.keys()
    assert [got[key].text for key in got] == [expected[key].text for key in got]


def test_one_question_that_does_not_fit_is_named_and_other_errors_are_not_swallowed(
    loaded: Loaded, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(respond_module, "answer", Scarce(0, MemoryError()))
    with pytest.raises(ModelError, match="out of memory with a single question \\(forget/"):
        replies(loaded, tiny_base, size=1, share=True)
    monkeypatch.setattr(respond_module, "answer", Scarce(0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        replies(loaded, tiny_base, size=2, share=True)


@pytest.mark.parametrize("share", [True, False])
def test_a_reply_has_room_for_the_right_one_and_its_end(loaded: Loaded, tiny_base: Path, share: bool) -> None:
    long = "Tallinn, Latvia, Riga, Tallinn, Latvia, Riga"
    asked = [sample(0, max_new_tokens=2, target=long), sample(1, max_new_tokens=2, candidates={"wrong_0": long})]
    for response in replies(loaded, tiny_base, size=2, share=share, samples=asked).values():
        assert not response.finished and response.num_tokens == len(loaded.encoder.reply(long)) > 6


@pytest.mark.parametrize("share", [True, False])
def test_the_end_of_the_reply_is_no_part_of_a_letters_likelihood(loaded: Loaded, tiny_base: Path, share: bool) -> None:
    options = {"A": "Riga", "B": "Tallinn"}
    letters = {"candidates": {"A": "A", "B": "B"}, "options": options, "target": "B"}
    asked = [sample(0, **letters), sample(1, image="red.png", **letters), sample(2, candidates={"target": "B"})]
    got = replies(loaded, tiny_base, size=3, share=share, samples=asked)
    for one in asked:
        prompt, turn = loaded.encoder.prompt(as_turn(one, tiny_base, "")), as_turn(one, tiny_base, "")
        for key, text in one.candidates.items():
            ids = loaded.encoder.reply(text)
            counted = ids[:-1] if one.options else ids
            images = loaded.encoder.images([turn])
            with torch.no_grad():
                logits_TV = loaded.model(input_ids=torch.tensor([prompt + ids]), **images).logits[0]
            logp_TV = torch.log_softmax(logits_TV.double(), dim=-1)
            by_hand = sum(float(logp_TV[len(prompt) - 1 + i, token]) for i, token in enumerate(counted))
            assert got[one.id].candidates[key].num_tokens == len(counted)
            assert got[one.id].candidates[key].logp == pytest.approx(by_hand, abs=1e-4)
