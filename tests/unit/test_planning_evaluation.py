"""What evaluation is planned to hold against what the allocator really gave out, and against counts by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_models import COLOURS, load_ref, make_base, sample
from test_planning_memory import allocated

from mllmu.config.load import parse
from mllmu.config.recipe import Evaluate, ModelSection
from mllmu.core.records import Exchange
from mllmu.models.engine.memory import QuestionBatch
from mllmu.models.engine.respond import answer
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.preflight.plan.facts import ModelFacts, describe
from mllmu.preflight.plan.plan import Planner
from mllmu.preflight.plan.workload import Questions, most_written

PUBLISHED = {"name": "mllmu_bench", "path": "MLLMMU/MLLMU-Bench"}
WORDS = ("Riga is where she was born", "Oslo", "the colour of her hat is red and not green or blue")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("planned") / "base", width=96, layers=6)


def asked_of(loaded: Loaded, base: Path, samples: list[Any], images: int) -> QuestionBatch:
    """The samples as they are counted, from their real tokens."""
    encoder, one = loaded.encoder, samples[0]
    before = tuple(Turn(prompt=e.prompt, reply=e.reply, image=base / e.image) for e in one.examples)
    ids = encoder.prompt(Turn(prompt=one.prompt, image=base / one.image, before=before))
    mark = len(ids) - 1 - ids[::-1].index(loaded.image_token_id)
    shown = encoder.prompt(Turn(prompt=one.prompt, image=base / one.image))
    end = len(shown) - 1 - shown[::-1].index(loaded.image_token_id)
    replies = [len(encoder.reply(text)) for s in samples for text in s.candidates.values()]
    alike: dict[int, list[int]] = {}
    for length in replies:
        alike.setdefault((length - 1).bit_length(), []).append(length - 1)
    return QuestionBatch(
        questions=len(samples),
        images=images,
        opening=mark - end,
        image=end + 1,
        question=len(ids) - mark - 1,
        longest=max(replies),
        alike=max(len(some) * max(some) for some in alike.values()),
        written=most_written(),
    )


@pytest.mark.parametrize("shown", [(), ("blue", "red", "green")], ids=["plain", "examples"])
@pytest.mark.parametrize("share", [True, False], ids=["shared", "one by one"])
def test_the_planned_peak_of_evaluation_is_within_a_fifth_of_the_measured_one(
    base: Path, shown: tuple[str, ...], share: bool
) -> None:
    examples = tuple(Exchange(prompt="Where was he born?", reply="Riga", image=f"{one}.png") for one in shown)
    count = 120 if share else 24
    samples = [
        sample(n, image=f"{COLOURS[n % 3]}.png", prompt=f"{n:03d} Which colour has the hat of this person? Say it now.",
               candidates=dict(zip("ABC", WORDS, strict=True)), examples=examples, max_new_tokens=20)
        for n in range(count)
    ]  # fmt: skip
    samples.sort(key=lambda one: one.image)
    seen: list[Loaded] = []

    def work() -> None:
        loaded = load_ref(base)
        seen.append(loaded)
        answer(loaded, samples, image_folder=base, share=share)

    measured = allocated(work)
    facts = describe(ModelSection(path=str(base), device="cpu"), device="cpu")
    asked = asked_of(seen[0], base, samples, images=3)
    facts = replace(facts, shares=share)
    held = Questions(evaluate=Evaluate(), facts=facts, image_tokens=17).memory(asked, fused=True, people=3)
    assert measured > 2 * facts.resident, "the weights must not be all there is"
    assert facts.resident + sum(held) == pytest.approx(measured, rel=0.2)


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return describe(ModelSection(path="llava-hf/llava-1.5-7b-hf"), device="cuda")


def test_questions_about_nine_to_a_image_by_hand(facts: ModelFacts) -> None:
    """18 questions show 2 images of 576 tokens: 10 with 4 options of 2, 4 with 5 answers of 13, 4 with 4 of 5."""
    questions = Questions(evaluate=Evaluate(), facts=facts, image_tokens=576)
    (asked,) = questions.batches(18)
    assert (asked.images, asked.opening, asked.image, asked.question) == (2, 0, 582, 51)
    assert asked.alike == 4 * 5 * 13, "the free answers, more than letters of 2 tokens and words of 5"
    held = questions.memory(asked, fused=True, people=3)
    tokens = 2 * 582 + 18 * 51 + max(4 * 5 * 13, 18 * (51 + 32))
    assert held.cache == tokens * 2 * 32 * 4096 * 2
    assert held.features == 3 * 576 * 4096 * 2
    assert questions.memory(asked, fused=True, people=10**6).features == 2**30


def test_examples_make_a_batch_of_every_task_and_are_held_once(facts: ModelFacts) -> None:
    evaluate = Evaluate.model_validate({"protocol": {"shots": {"classification": 2, "cloze": 1}}})
    questions = Questions(evaluate=evaluate, facts=facts, image_tokens=576)
    assert [questions.examples(task) for task in evaluate.tasks] == [2, 0, 1]
    kinds = questions.batches(20)
    assert [kind.opening for kind in kinds] == [2 * (576 + 12 + 45 + 2), 576 + 12 + 28 + 5, 0]
    assert [kind.images for kind in kinds] == [4, 10, 10], "5 or 2 questions of a person come together"
    published = Evaluate.model_validate({"protocol": "official"})
    assert [replace(questions, evaluate=published).examples(task) for task in published.tasks] == [5, 0, 4]
    everything = Evaluate.model_validate({"protocol": {"shots": {"cloze": 3, "questions": "all"}}})
    assert replace(questions, evaluate=everything).examples("cloze") == 3 * 2


def test_what_is_read_once_is_counted_once(facts: ModelFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """One person's 4 clozes of 28 + 12 tokens, 4 candidates of 5, two of them with the image."""
    evaluate = Evaluate.model_validate({"tasks": ["cloze"]})
    questions = Questions(evaluate=evaluate, facts=facts, image_tokens=576)
    assert questions.tokens_read(1, 64) == 4 * (40 + 20) + 576
    monkeypatch.setattr(type(facts.family), "looks_ahead", "prompt")
    assert questions.tokens_read(1, 64) == 4 * (40 + 20) + 2 * 576
    apart = replace(facts, shares=False)
    assert replace(questions, facts=apart).tokens_read(1, 64) == 4 * (5 * 40 + 20) + 2 * 5 * 576


def test_auto_takes_what_fits_and_is_advised_where_a_number_does_not() -> None:
    def planner(device: str, size: int | str) -> Planner:
        raw = {"name": "x", "model": {"path": "llava-hf/llava-1.5-7b-hf"}, "evaluate": {"batch_size": size}}
        return Planner(parse(raw), device)

    plans = [planner(device, "auto").evaluation(1) for device in ("rtx4090", "a100-80gb")]
    assert all(plan.fits for plan in plans)
    sizes = [int(plan.what.split("batches of ")[1].split()[0]) for plan in plans]
    assert 8 < sizes[0] < sizes[1]
    crowded = planner("rtx4090", 3000)
    stage = crowded.evaluation(1)
    fine = stage.model_copy(update={"stage": "finetune", "fits": True})
    (advice,) = crowded.advice((fine, stage))
    assert advice.startswith("evaluate: --set evaluate.batch_size=auto")
    assert advice.endswith("fits")


def test_images_are_looked_at_once_where_their_features_are_all_remembered() -> None:
    """500 people of 576 tokens take 2.2 GiB on LLaVA; 4,000 take more than is kept."""
    looks = []
    for people in (500, 4000):
        source = PUBLISHED if people == 500 else {"name": "synthetic", "num_people": people}
        raw = {"name": "x", "data": {"source": source}, "model": {"path": "llava-hf/llava-1.5-7b-hf"}}
        planner = Planner(parse(raw), "a100-80gb")
        assert planner.work.people == people
        looks.append(
            [planner.vision_flop(stage, 1000, "image_text") / planner.look_flop for stage in ("finetune", "unlearn")]
        )
        assert planner.vision_flop("finetune", 1000, "text") == 0
    assert looks == [[500, 0], [1000, 1000]]
