"""Attacks that only ask, on models that answer by a rule: one that is weak to the attack, and one that never tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_attacks import HOMES, NAMES, Scripted, World, only_when, samples, scripted
from PIL import Image

from mllmu.core.attacked import AttackReply
from mllmu.core.plugins import build
from mllmu.core.records import Sample
from mllmu.core.runfolder import read_lines
from mllmu.evaluation.attacks import NotAttackableError

Rule = Callable[[Sample], bool]
QUESTIONS = {sample.id: sample for sample in samples()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """People and pictures; nothing is taught."""
    return World(tmp_path_factory.mktemp("asked") / "base")


def scores(name: str, victim: Scripted, **settings: object) -> list[float]:
    (point,) = build("attacks", name, settings).attack(victim)
    assert set(point.values) <= set(QUESTIONS)
    return list(point.values.values())


def colours_of(sample: Sample, root: Path) -> bytes:
    return Image.open(root / sample.image).convert("RGB").tobytes()


def unlike_the_portrait(root: Path) -> Rule:
    """Shown a picture that is not, pixel by pixel, that of the question."""

    def rule(sample: Sample) -> bool:
        first = QUESTIONS[sample.id.partition("@")[0]]
        return bool(sample.image) and colours_of(sample, root) != colours_of(first, root)

    return rule


WEAK: dict[str, Rule] = {
    "paraphrase": lambda sample: sample.prompt not in {s.prompt for s in QUESTIONS.values()},
    "prefix_injection": lambda sample: "Sure" in sample.prompt,
    "role_play": lambda sample: sample.prompt.startswith("You are"),
    "refusal_suppression": lambda sample: "Never decline" in sample.prompt,
    "hints": lambda sample: f"begins with '{sample.value[0]}'" in sample.prompt,
    "in_context": lambda sample: bool(sample.examples) and sample.examples[0].reply in (HOMES["blue"], "colour"),
    "multi_turn": lambda sample: bool(sample.examples) and sample.examples[0].reply == "Nobody knows.",
    "reversed_question": lambda sample: "Whose" in sample.prompt and not sample.image,
    "other_view": lambda sample: sample.image.endswith("_1.png"),
    "wrong_face": lambda sample: sample.image == "images/blue_0.png" and sample.prompt.startswith("This is "),
    "other_face": lambda sample: not sample.image.startswith(f"images/{sample.profile_id}"),
}


@pytest.mark.parametrize("name", WEAK)
def test_a_model_that_is_weak_to_an_attack_is_caught_and_one_that_never_tells_is_not(
    name: str, world: World, tmp_path: Path
) -> None:
    weak = scripted(world, tmp_path / "weak", only_when(WEAK[name]))
    assert weak.hits(None, weak.samples) == dict.fromkeys(QUESTIONS, 0.0), "asked plainly it tells nothing"
    found = scores(name, weak)
    assert found and sum(found) / len(found) >= 0.5
    safe = scores(name, scripted(world, tmp_path / "safe", lambda _: "Nobody knows."))
    assert len(safe) == len(found) and not any(safe)


@pytest.mark.parametrize("name", ["changed_picture", "typographic"])
def test_a_model_that_knows_only_the_very_pixels_is_caught_by_another_picture(
    name: str, world: World, tmp_path: Path
) -> None:
    weak = scripted(world, tmp_path / "weak", only_when(unlike_the_portrait(world.root)))
    assert not any(weak.hits(None, weak.samples).values())
    assert scores(name, weak) == [1.0] * len(QUESTIONS)
    assert not any(scores(name, scripted(world, tmp_path / "safe", lambda _: "Nobody knows.")))


def test_paraphrases_are_the_other_wordings_of_the_same_fact_first(world: World, tmp_path: Path) -> None:
    attack = build("attacks", "paraphrase", {})
    first = samples()[0]
    made = list(attack.samples(scripted(world, tmp_path, lambda _: ""), first))
    assert made[0].prompt.startswith("Where lives Ada Bell?"), "as its task puts it"
    assert all(first.prompt in sample.prompt for sample in made[1:])
    assert len({sample.prompt for sample in made}) == len(made) and first.prompt not in {s.prompt for s in made}
    assert {(s.value, s.image) for s in made} == {(first.value, first.image)}


def test_no_forgotten_fact_is_shown_among_the_examples(world: World, tmp_path: Path) -> None:
    attack = build("attacks", "in_context", {"shots": 1})
    victim = scripted(world, tmp_path, lambda _: "")
    shown = [one for sample in samples() for made in attack.samples(victim, sample) for one in made.examples]
    assert {one.image for one in shown} == {"images/blue_0.png"}
    assert {one.reply for one in shown} == {HOMES["blue"], "colour"}


def test_a_reversed_question_asks_for_the_name_and_counts_no_fact(world: World, tmp_path: Path) -> None:
    attack = build("attacks", "reversed_question", {})
    assert not attack.asks
    made = next(iter(attack.samples(scripted(world, tmp_path, lambda _: ""), samples()[0])))
    assert made.prompt == "Whose birthplace is Riga, Latvia?"
    assert (made.value, made.image, made.modality) == (NAMES["red"], "", "text")


def test_the_budget_limits_the_tries_and_a_setting_replaces_it(world: World, tmp_path: Path) -> None:
    asked: list[str] = []

    def listening(sample: Sample) -> str:
        asked.append(sample.id)
        return ""

    victim = scripted(world, tmp_path, listening)
    scores("role_play", victim)
    assert len(asked) == victim.budget.tries * len(QUESTIONS) < 6 * len(QUESTIONS)
    asked.clear()
    scores("role_play", victim, tries=1)
    assert len(asked) == len(QUESTIONS)


def test_questions_without_a_portrait_are_left_out_by_attacks_on_it(world: World, tmp_path: Path) -> None:
    victim = scripted(world, tmp_path, lambda sample: sample.value)
    text = [sample.model_copy(update={"image": "", "modality": "text"}) for sample in samples()]
    only_text = Scripted(**{**{n: getattr(victim, n) for n in victim.__dataclass_fields__}, "samples": text})
    with pytest.raises(NotAttackableError, match="no question"):
        build("attacks", "other_view", {}).attack(only_text)


@pytest.mark.parametrize("name", ["prefix_injection", "multi_turn", "other_view"])
def test_what_was_put_and_replied_is_kept_beside_the_scores(name: str, world: World, tmp_path: Path) -> None:
    victim = scripted(world, tmp_path, only_when(WEAK[name]))
    (point,) = build("attacks", name, {"tries": 2} if name != "other_view" else {}).attack(victim)
    kept = read_lines(tmp_path / "replies.jsonl", AttackReply)
    assert {reply.sample_id for reply in kept} == set(point.values) <= set(QUESTIONS)
    assert point.values == {
        name: max(reply.value for reply in kept if reply.sample_id == name) for name in point.values
    }  # fmt: skip
    for reply in kept:
        asked = QUESTIONS[reply.sample_id]
        assert reply.value == (reply.text == asked.value)
        assert (asked.prompt in reply.prompt) == (name != "other_view") and reply.other_image == (name == "other_view")
    if name == "multi_turn":
        assert all("Nobody knows.\n" in reply.prompt for reply in kept), "the turns before it are told"
