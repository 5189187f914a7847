"""Protocols: the presets and their switches, who is an example, and what a model is then shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers_models import load_ref, make_base

from mllmu.config.load import parse
from mllmu.config.protocol import OFFICIAL
from mllmu.config.recipe import Evaluate
from mllmu.core.errors import RecipeError
from mllmu.core.records import Cell, MetricResult, Sample
from mllmu.data.dataset import Dataset
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build as ask_about
from mllmu.data.sources.celebrities import Celebrities
from mllmu.data.sources.synthetic import Synthetic
from mllmu.evaluation.metrics import metrics_of
from mllmu.evaluation.numbers import declared as declare
from mllmu.evaluation.samples import render
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.families import Family
from mllmu.models.families.idefics2 import Idefics2
from mllmu.pipeline.protocols import comparison_tables, markdown
from mllmu.pipeline.report import protocol_warning
from mllmu.report import ModelRow, ReportInput
from mllmu.report.numbers import Numbers

FORGOTTEN = ["001", "002", "003"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    people, famous = Synthetic(num_people=8).profiles(0), Celebrities(num_people=6).profiles(0)
    questions = ask_about(people, QuestionOrder(seed=0, train_wordings=1)) + ask_about(
        famous, QuestionOrder(seed=0, variants=("eval",))
    )
    (folder / "images").mkdir()
    for person in people:
        for view in range(4):
            (folder / "images" / f"{person.id}_{view}.png").touch()
    return Dataset(folder, [*people, *famous], questions, {"40": FORGOTTEN, "holdout": []})


def samples(dataset: Dataset, protocol: Any, *, family: type[Family] = Family, **evaluate: Any) -> list[Sample]:
    chosen = Evaluate.model_validate({"protocol": protocol, **evaluate})
    return render(dataset, "40", chosen, selection=0.0, seed=0, family=family)


def examples_of(asked: list[Sample]) -> dict[tuple[str, str], set[str]]:
    """People shown as examples, by set and task."""
    found: dict[tuple[str, str], set[str]] = {}
    for sample in asked:
        people = {e.image.removeprefix("images/").partition("_")[0] for e in sample.examples if e.image}
        found.setdefault((sample.split, sample.task), set()).update(people)
    return found


def test_the_default_protocol_shows_no_examples_and_asks_as_ever(dataset: Dataset) -> None:
    asked = samples(dataset, {})
    assert {(s.raw_prompt, s.examples) for s in asked} == {(False, ())}
    assert samples(dataset, "corrected") == asked
    assert {s.task: s.max_new_tokens for s in asked} == {"classification": 8, "generation": 50, "cloze": 24}


def test_every_switch_of_the_official_protocol_can_be_set_alone() -> None:
    whole = Evaluate.model_validate({"protocol": "official"}).protocol
    assert {key: getattr(whole, key) for key in OFFICIAL if key != "shots"} == {
        key: value for key, value in OFFICIAL.items() if key != "shots"
    }
    changed = Evaluate.model_validate({"protocol": {"name": "official", "shots": {"cloze": ["007"]}}}).protocol
    assert (changed.shots.by_task["cloze"], changed.shots.by_task["classification"]) == (("007",), "published")
    assert (changed.shots.drawn_from, changed.shots.questions, changed.prompts) == ("asked", "all", "published")
    for key, value in OFFICIAL.items():
        alone = Evaluate.model_validate({"protocol": {key: value}}).protocol
        different = {k for k in OFFICIAL if getattr(alone, k) != getattr(Evaluate().protocol, k)}
        assert different == {key}


def test_a_number_of_shots_is_meant_for_every_task_that_has_examples() -> None:
    assert set(Evaluate.model_validate({"protocol": {"shots": 2}}).protocol.shots.by_task.values()) == {2}
    official = Evaluate.model_validate({"protocol": {"name": "official", "shots": 0}}).protocol.shots
    assert official.by_task == {"classification": 0, "cloze": 0, "generation": 0}


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"parsre": "strict"}, r"evaluate\.protocol\.parsre: unknown setting.*Did you mean 'parser'"),
        ({"shots": {"cloz": 1}}, r"evaluate\.protocol\.shots: 'cloz' is no .*Did you mean 'cloze'"),
        ({"shots": {"drawn_form": "asked"}}, r"'drawn_form' is no setting.*Did you mean 'drawn_from'"),
        ("oficial", r"evaluate\.protocol\.name: Input should be 'corrected' or 'official'"),
        ({"prompts": "published", "shots": {"generation": 1}}, "has no examples"),
        ({"max_new_tokens": 0}, "greater than 0"),
    ],
)
def test_a_wrong_protocol_says_what_is_wrong(protocol: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse({"name": "x", "evaluate": {"protocol": protocol}})


def test_a_label_of_a_comparison_must_name_a_folder() -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.compare"):
        parse({"name": "x", "evaluate": {"compare": {"../up": "official"}}})


def test_pool_examples_are_retained_people_who_are_asked_nothing_in_any_task(dataset: Dataset) -> None:
    asked = samples(dataset, {"shots": {"cloze": 2, "classification": 1}})
    shown = set.union(*examples_of(asked).values())
    assert len(shown) == 2 and not shown & set(FORGOTTEN)
    assert not shown & {s.profile_id for s in asked}
    assert {len(s.examples) for s in asked if s.task == "cloze"} == {2}
    assert {len(s.examples) for s in asked if s.task == "generation"} == {0}
    of_task = {s.examples for s in asked if (s.task, s.modality) == ("cloze", "text")}
    assert len(of_task) == 1, "a fixed pool: the same examples for everybody"


def test_a_limited_retain_set_gives_the_pool_its_other_people(dataset: Dataset) -> None:
    asked = samples(dataset, {"shots": 2}, max_profiles={"retain": 2})
    assert len({s.profile_id for s in asked if s.split == "retain"}) == 2


def test_asking_about_the_same_people_with_and_without_examples_differs_in_examples_alone(
    dataset: Dataset,
) -> None:
    bare = {s.id: s for s in samples(dataset, {})}
    for sample in samples(dataset, {"shots": 1}):
        assert sample.model_copy(update={"examples": ()}) == bare[sample.id]


def test_published_examples_come_from_the_set_itself_and_are_not_asked_there(dataset: Dataset) -> None:
    asked = samples(dataset, "official")
    shown = examples_of(asked)
    for split, members in (("forget", FORGOTTEN), ("test", FORGOTTEN), ("retain", dataset.retained("40"))):
        for task, number, questions in (("classification", 1, 5), ("cloze", 2, 4)):
            assert len(shown[split, task]) == number and shown[split, task] <= set(members)
            rest = {s.profile_id for s in asked if (s.split, s.task) == (split, task)}
            assert rest == set(members) - shown[split, task]
            assert {len(s.examples) for s in asked if (s.split, s.task) == (split, task)} == {questions}
        assert {s.profile_id for s in asked if (s.split, s.task) == (split, "generation")} == set(members)
    assert not any(s.examples for s in asked if s.split == "celebrity" or s.task == "generation")
    assert all(s.raw_prompt and s.max_new_tokens == 50 for s in asked)
    assert all(s.prompt.count("<image>") == len(s.examples) + 1 for s in asked if s.modality == "image_text")


def test_idefics2_has_one_cloze_person_and_few_tokens_for_a_letter_by_name(dataset: Dataset) -> None:
    asked = samples(dataset, "official", family=Idefics2)
    assert len(examples_of(asked)["forget", "cloze"]) == 1
    tokens = {(s.task, s.modality): s.max_new_tokens for s in asked}
    assert {kind for kind, limit in tokens.items() if limit == 5} == {("classification", "text")}


def test_example_people_can_be_named(dataset: Dataset) -> None:
    protocol = {"name": "official", "shots": {"classification": ["005", "003"], "cloze": 0}}
    shown = examples_of(samples(dataset, protocol))
    assert (shown["forget", "classification"], shown["retain", "classification"]) == ({"003"}, {"005"})
    with pytest.raises(RecipeError, match=r"shots.cloze: '001' is not among the 5 people retained at 40 %"):
        samples(dataset, {"shots": {"cloze": ["001"]}})


def test_the_test_set_shows_each_portrait_in_turn_or_one_of_a_person_and_task(dataset: Dataset) -> None:
    def views(protocol: Any) -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for s in samples(dataset, protocol):
            if s.split == "test" and s.image:
                found.setdefault((s.profile_id, s.task), set()).add(s.image.partition("_")[2])
        return found

    assert max(len(shown) for shown in views({}).values()) == 3
    assert {len(shown) for shown in views({"test_image": "one"}).values()} == {1}
    assert set.union(*views({"test_image": "one"}).values()) > {"1.png"}
    assert set.union(*views({"test_image": 1}).values()) == {"2.png"}
    with pytest.raises(RecipeError, match="has 3 transformed portraits"):
        views({"test_image": 3})


def test_metrics_of_log_probabilities_are_left_out_where_there_are_none() -> None:
    by_likelihood = {"accuracy_logp", "probability", "truth_ratio"}
    names = {metric.name for metric in metrics_of(Evaluate.model_validate({"protocol": "official"}))}
    assert not names & by_likelihood and {"accuracy_first_char", "bleu", "cloze_contains"} <= names
    assert by_likelihood <= {metric.name for metric in metrics_of(Evaluate())}


def few_shot(base: Path, number: int, image: str, prompt: str, **settings: Any) -> Sample:
    from helpers_models import sample

    shown = [("red.png", "Where?", "Riga, Latvia"), ("blue.png", "Which hat?", "green")]
    examples = [{"prompt": q, "reply": a, "image": i if image else ""} for i, q, a in shown]
    return sample(number, image=image, prompt=prompt, examples=examples, candidates={"target": "Riga"}, **settings)


def test_examples_are_earlier_exchanges_with_their_own_images(tiny_base: Path) -> None:
    from mllmu.models.encoding import as_turn

    loaded = load_ref(tiny_base)
    turn = as_turn(few_shot(tiny_base, 1, "green.png", "What <image> is it?"), tiny_base, "Be kind.")
    processor = loaded.encoder.processor
    ids = loaded.encoder.prompt(turn)
    mark = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert ids.count(mark) == 3 * 17
    collapsed = [token for i, token in enumerate(ids) if token != mark or ids[i - 1] != mark]
    assert processor.tokenizer.decode(collapsed) == (
        "USER: <image>\nWhere?\nASSISTANT: Riga, Latvia</s>USER: <image>\nWhich hat?\nASSISTANT: green</s>"
        "Be kind.\nUSER: <image>\nWhat < image> is it?\nASSISTANT:"
    )
    assert loaded.encoder.images([turn])["pixel_values"].shape[0] == 3


def test_replies_with_examples_are_the_same_alone_batched_and_shared(tiny_base: Path) -> None:
    loaded = load_ref(tiny_base)
    asked = [few_shot(tiny_base, n, image, "Where?" + "!" * n) for n, image in enumerate(["green.png"] * 2 + [""] * 2)]
    asked.append(few_shot(tiny_base, 9, "red.png", "Where?"))
    from helpers_models import sample

    asked.append(sample(10, image="red.png", prompt="Where?", candidates={"target": "Riga"}))

    def said(size: int, *, share: bool) -> dict[str, Any]:
        batches = plan_batches(asked, size)
        return {
            r.sample_id: r for batch in respond(loaded, batches, image_folder=tiny_base, share=share) for r in batch
        }

    one, many, shared = said(1, share=False), said(6, share=False), said(6, share=True)
    assert {k: r.text for k, r in one.items()} == {k: r.text for k, r in many.items()}
    assert {k: r.text for k, r in one.items()} == {k: r.text for k, r in shared.items()}
    for key, reply in one.items():
        assert shared[key].candidates["target"].logp == pytest.approx(reply.candidates["target"].logp, abs=1e-3)
    assert one["forget/009"].candidates["target"] != one["forget/010"].candidates["target"], "examples must be seen"


def test_literal_and_other_samples_may_share_a_batch(tiny_base: Path) -> None:
    from helpers_models import sample

    loaded = load_ref(tiny_base)
    literal = sample(1, prompt="USER: Where?\nASSISTANT:", raw_prompt=True)
    plain = sample(2, prompt="Where?", candidates={"target": "Riga"})
    said = {r.sample_id: r for batch in respond(loaded, [[plain, literal]], image_folder=tiny_base) for r in batch}
    assert said["forget/001"].text == said["forget/002"].text, "the same dialogue, written out or rendered"
    assert set(said["forget/002"].candidates) == {"target"} and not said["forget/001"].candidates


def test_a_guard_stands_before_a_literal_prompt(tmp_path: Path) -> None:
    from helpers_models import sample

    from mllmu.models.engine.raw_prompt import encode

    loaded = load_ref(make_base(tmp_path))
    asked = sample(1, prompt="USER: Where?\nASSISTANT:", raw_prompt=True)
    ids = encode(loaded, asked, tmp_path, system_prompt="Say no more.")["input_ids"][0]
    assert loaded.encoder.processor.tokenizer.decode(ids) == "Say no more.\nUSER: Where?\nASSISTANT:"


def test_the_report_shows_the_accuracy_of_the_protocol_and_says_so() -> None:
    row = {"split": "forget", "task": "classification", "modality": "text", "ci_low": None, "ci_high": None}
    row |= {"num": 4, "num_unparsed": 0, "num_profiles": 1}
    strict = row | {"model": "ga", "metric": "accuracy", "value": 0.5}
    first = row | {"model": "ga", "metric": "accuracy_first_char", "value": 0.25}
    chance = row | {"model": "chance", "metric": "accuracy", "value": 0.125}
    results = tuple(MetricResult.model_validate(result) for result in (strict, first, chance))
    models, cell = (ModelRow(name="ga", role="unlearned"),), Cell("forget", "classification", "text")
    for parser, shown in (("first_char", 0.25), ("strict", 0.5)):
        declared = declare(results, parser=parser, benchmarks={}, tables=())
        numbers = Numbers(ReportInput(title="t", models=models, results=results, declared=declared))
        scores = [numbers.main(name, cell) for name in ("ga", "chance")]
        assert [score and score.value for score in scores] == [shown, 0.125]
    assert protocol_warning(Evaluate().protocol) == ()
    assert "first character" in protocol_warning(Evaluate.model_validate({"protocol": "official"}).protocol)[0]


def test_the_table_counts_what_could_not_be_read() -> None:
    row = {"model": "ga", "metric": "accuracy", "split": "forget", "task": "classification", "modality": "text"}
    row |= {"ci_low": None, "ci_high": None, "num": 4, "num_unparsed": 2, "num_profiles": 1}
    rows = [MetricResult.model_validate(row | {"value": value}) for value in (0.5, None)]
    (table,) = comparison_tables({"this run": rows[:1], "official": rows[1:]})
    lines = markdown(table).splitlines()
    assert lines[0].startswith("### Classification (Accuracy, %")
    assert lines[4:6] == ["| this run | 50.0 (2?) |", "| official | – (2?) |"]


@pytest.mark.parametrize("kind", ["idefics2", "qwen2_5_vl"])
def test_chat_templates_tell_examples_as_earlier_exchanges(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    import helpers_families
    from helpers_models import sample

    from mllmu.models.encoding import as_turn

    loaded = load_ref(helpers_families.build(kind, tmp_path))
    asked = [few_shot(tiny_base, n, "green.png", "Where?" + "!" * n) for n in range(2)]
    alone = sample(3, image="green.png", prompt="Where?")
    texts = [loaded.family.dialogue(as_turn(s, tiny_base, ""), loaded.encoder.processor) for s in (asked[0], alone)]
    mark = loaded.family.mark(loaded.encoder.processor)
    assert (texts[0].count(mark), texts[1].count(mark)) == (3, 1)
    assert texts[0].index("Riga, Latvia") < texts[0].index("Which hat?") < texts[0].index("green")
    assert texts[0].endswith(texts[1][-40:])
    said = [
        [r.text for batch in respond(loaded, plan_batches(asked, size), image_folder=tiny_base) for r in batch]
        for size in (1, 2)
    ]
    assert said[0] == said[1]


def test_the_literal_path_feeds_idefics2_as_the_published_script_does(tiny_base: Path, tmp_path: Path) -> None:
    import helpers_families
    import torch
    from helpers_models import sample

    from mllmu.models.families import open_image

    loaded = load_ref(helpers_families.build("idefics2", tmp_path))
    processor, model = loaded.encoder.processor, loaded.model
    text = "USER: <image>\nQuestion: Who?\nCorrect Answer: B\nUSER: <image>\nWho?\nASSISTANT:"
    shown = [{"prompt": "", "reply": "B", "image": "red.png"}]
    asked = [
        sample(1, task="classification", image="blue.png", prompt=text, examples=shown, raw_prompt=True),
        sample(2, task="cloze", prompt="USER:\nShe is [Blank].\nASSISTANT:", raw_prompt=True),
    ]
    ours = [r.text for batch in respond(loaded, [asked], image_folder=tiny_base) for r in batch]
    images = [open_image(tiny_base / name) for name in ("red.png", "blue.png")]
    inputs = [
        processor(images=images, text=text, return_tensors="pt"),
        processor(images=None, text=asked[1].prompt, return_tensors="pt"),
    ]
    with torch.no_grad():
        whole = [
            processor.decode(model.generate(**one, max_new_tokens=6, do_sample=False)[0][2:], skip_special_tokens=True)
            for one in inputs
        ]
    assert ours == [one.split("ASSISTANT:")[1].strip() for one in whole]
