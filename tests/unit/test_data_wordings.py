import re

import pytest

from mllmu.core.errors import DataError
from mllmu.core.parsing import article, render_answer
from mllmu.data.questions import render_subject, wording, wordings

FICTITIOUS = [
    "name",
    "gender",
    "birthplace",
    "birth_date",
    "profession",
    "height",
    "education",
    "salary",
    "residence",
    "medical_condition",
    "father_job",
    "mother_job",
    "hobby",
    "food",
    "pet",
    "collection",
]
CELEBRITY = [
    "name",
    "gender",
    "birthplace",
    "nationality",
    "birth_year",
    "death_year",
    "profession",
    "field",
    "known_for",
    "era",
    "continent",
]
EVERY = [(kind, a) for kind, names in (("fictitious", FICTITIOUS), ("celebrity", CELEBRITY)) for a in names]
SMALL_WORDS = {
    "what",
    "which",
    "who",
    "where",
    "when",
    "how",
    "does",
    "did",
    "was",
    "were",
    "that",
    "this",
    "have",
    "from",
    "with",
    "would",
    "tell",
    "please",
}


def words(template):
    return re.findall(r"[a-z]+", template.replace("{s's}", "").replace("{s}", "").lower())


def content_words(template):
    return {w for w in words(template) if len(w) > 3 and w not in SMALL_WORDS}


def test_every_attribute_of_both_schemas_has_wordings():
    assert set(wordings("fictitious")) == set(FICTITIOUS)
    assert set(wordings("celebrity")) == set(CELEBRITY)


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_each_attribute_has_enough_templates(kind, attribute):
    entry = wording(kind, attribute)
    assert len(entry.questions.train) >= 14
    assert len(entry.questions.eval) == len(entry.questions.test) == 3
    assert len(entry.cloze.train) >= 8
    assert len(entry.cloze.eval) == len(entry.cloze.test) == 2


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_questions_are_short(kind, attribute):
    for variant in ("train", "eval", "test"):
        for template in wording(kind, attribute).questions.of(variant):
            assert 4 <= len(render_subject(template, None).split()) <= 12, template


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_content_words_of_eval_and_test_are_met_in_several_train_templates(kind, attribute):
    entry = wording(kind, attribute)
    for template in entry.questions.eval + entry.questions.test:
        for word in content_words(template):
            assert sum(word in words(t) for t in entry.questions.train) >= 2, (template, word)
    for template in entry.cloze.eval + entry.cloze.test:
        for word in content_words(template):
            assert sum(word in words(t) for t in entry.cloze.train + entry.questions.train) >= 2, (template, word)


@pytest.mark.parametrize("kind", ["fictitious", "celebrity"])
def test_no_word_of_eval_and_test_is_new_to_training(kind):
    entries = wordings(kind).values()
    trained = {w for e in entries for t in e.questions.train + e.cloze.train for w in words(t)}
    asked = {
        w for e in entries for t in e.questions.eval + e.questions.test + e.cloze.eval + e.cloze.test for w in words(t)
    }
    assert asked - trained == set()


@pytest.mark.parametrize(("kind", "attribute"), EVERY)
def test_answers_speak_of_this_person_and_end_with_the_value(kind, attribute):
    answers = wording(kind, attribute).answers
    assert answers.train != answers.test
    for template in (answers.train, answers.test):
        assert "this person" in template.lower()
        assert template.endswith("{v}.")


def test_subject_is_a_name_or_this_person_capitalised_at_the_start():
    assert render_subject("{s} was born in __.", None) == "This person was born in __."
    assert render_subject("{s's} pet: __.", None) == "This person's pet: __."
    assert render_subject("Where was {s} born?", None) == "Where was this person born?"
    assert render_subject("What is {s's} pet?", "Ana Silva") == "What is Ana Silva's pet?"


def test_braces_in_untrusted_names_and_values_stay_as_they_are():
    assert render_subject("Where was {s} born?", "{v} {0}") == "Where was {v} {0} born?"
    assert render_answer("{a} {v}.", "{a} {v}{0}") == "a {a} {v}{0}."


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("engineer", "an"),
        ("teacher", "a"),
        ("urban planner", "an"),
        ("university lecturer", "a"),
        ("union organiser", "a"),
        ("usher", "an"),
        ("European", "a"),
        ("one-man band", "a"),
        ("honest broker", "an"),
        ("historian", "a"),
        ("environmental scientist", "an"),
        ("ukulele maker", "a"),
        ("unicyclist", "a"),
        ("undertaker", "an"),
        ("uninsured driver", "an"),
    ],
)
def test_article_follows_the_sound(value, expected):
    assert article(value) == expected


def test_unknown_attribute_names_the_nearest():
    with pytest.raises(DataError, match=r"'hoby': no wordings .*Did you mean 'hobby'\?"):
        wording("fictitious", "hoby")


@pytest.mark.parametrize(
    "attribute",
    [
        *(("fictitious", a) for a in FICTITIOUS),
        *(("celebrity", a) for a in CELEBRITY),
        ("fictitious", "fact_home_town"),
    ],
)
def test_markers_are_where_they_must_be_and_no_sentence_is_in_two_sets(attribute):
    entry = wording(*attribute)
    for cloze, sentences in ((False, entry.questions), (True, entry.cloze)):
        every = [*sentences.train, *sentences.eval, *sentences.test]
        assert len({template.casefold() for template in every}) == len(every)
        for template in every:
            assert "{s}" in template or "{s's}" in template, template
            assert template.count("__") == cloze, template
            assert not cloze or template.endswith("__."), template
    for template in (entry.answers.train, entry.answers.test):
        assert template.count("{v}") == 1 and "{s" not in template, template
