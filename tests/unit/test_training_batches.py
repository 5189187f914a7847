"""The order of training: every item once an epoch, decided by seed and epoch alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllmu.core.records import Question
from mllmu.models.families import Turn
from mllmu.training.batches import Order, training_turns


def epoch(order: Order, number: int) -> list[int]:
    first = number * order.steps_per_epoch
    return [item for step in range(first, first + order.steps_per_epoch) for item in order.indices(step)]


def order(**changes: object) -> Order:
    num_items = changes.pop("num_items", 10)
    plain = {"sets": (None,) * num_items, "batch_size": 4, "seed": 7, "label": "finetune"}  # type: ignore[operator]
    return Order(**(plain | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("num_items", [1, 4, 10, 17])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_item_comes_once_an_epoch(num_items: int, batch_size: int) -> None:
    one = order(num_items=num_items, batch_size=batch_size)
    for number in (0, 1, 5):
        assert sorted(epoch(one, number)) == list(range(num_items))


def test_batches_are_full_but_for_the_last_of_an_epoch() -> None:
    assert [len(order().indices(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_the_order_depends_on_seed_label_and_epoch_only() -> None:
    first = epoch(order(), 0)
    assert epoch(order(), 0) == first
    assert order(batch_size=10).indices(0) == first, "the batch size cuts the order, it does not change it"
    assert first != sorted(first)
    assert epoch(order(), 1) != first
    assert epoch(order(seed=8), 0) != first
    assert epoch(order(label="retain"), 0) != first


def test_a_step_can_be_asked_for_without_those_before_it() -> None:
    assert order().indices(5) == epoch(order(), 1)[8:]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 6), (0.5, 2), (1.34, 4), (0.01, 1), (7, 21)])
def test_epochs_may_be_fractions_and_make_at_least_one_step(epochs: float, steps: int) -> None:
    assert order().num_steps(epochs) == steps


def question(person: str, variant: str, modality: str) -> Question:
    return Question(
        id=f"{person}.{variant}.generation.{modality}.0",
        profile_id=person,
        variant=variant,  # type: ignore[arg-type]
        task="generation",
        modality=modality,  # type: ignore[arg-type]
        attribute="residence",
        text=f"Where does {person} live?",
        answer="In Riga.",
        value="Riga",
    )


def test_only_training_questions_of_the_modality_are_trained_with_the_canonical_portrait() -> None:
    asked = [
        question(p, v, m) for p in ("001", "002") for v in ("train", "eval", "test") for m in ("image_text", "text")
    ]
    seen = {m: training_turns(asked, Path(), modality=m) for m in ("image_text", "text", "both")}
    assert seen["image_text"] == [
        Turn(
            prompt=f"Where does {p} live?",
            reply="In Riga.",
            image=Path(f"images/{p}_0.png"),
            person=p,
            topic="residence",
            task="generation",
        )
        for p in ("001", "002")
    ]
    assert seen["text"] == [
        Turn(prompt=f"Where does {p} live?", reply="In Riga.", person=p, topic="residence", task="generation")
        for p in ("001", "002")
    ]
    assert len(seen["both"]) == 4


def test_a_question_about_no_known_attribute_has_no_topic() -> None:
    unknown = question("001", "train", "text").model_copy(update={"attribute": "other"})
    assert training_turns([unknown], Path(), modality="text")[0].topic == ""


def test_items_of_a_set_come_together_and_the_sets_are_mixed() -> None:
    sets = (*"aaaaaabbbbbb", None, None)
    one = order(batch_size=3, together=3, sets=sets)
    for number in range(3):
        assert sorted(epoch(one, number)) == list(range(14))
    assert epoch(one, 0) != epoch(one, 1)
    # without those that share with none, every step would be of one set
    bundles = order(batch_size=3, together=3, sets=sets[:12])
    for step in range(8):
        assert len({sets[item] for item in bundles.indices(step)}) == 1
    firsts = [sets[bundles.indices(step)[0]] for step in range(0, 40, 4)]
    assert set(firsts) == {"a", "b"}


def test_one_together_is_the_published_order() -> None:
    assert epoch(order(together=1, sets=tuple("aaaaabbbbb")), 0) == epoch(order(), 0)
