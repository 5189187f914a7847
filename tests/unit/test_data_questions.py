from collections import Counter, defaultdict
from itertools import product
from math import sqrt

import pytest

from mllmu.config.recipe import Splits
from mllmu.core.errors import DataError
from mllmu.core.parsing import render_answer
from mllmu.core.process import rng
from mllmu.core.records import QA, Profile
from mllmu.data.questions import QuestionOrder, check, name_words, render_subject, wording
from mllmu.data.questions._letters import balance_letters
from mllmu.data.questions.template import build, name_subject
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.splits import forget_ids

GIVEN = ["Amelia", "Bruno", "Chiara", "Dmitri", "Elena", "May", "Olga", "Pedro"]
FAMILY = ["Kuznetsov", "Silva", "Haddad", "Okafor", "Riga", "Schmidt", "Costa", "Varga"]
CITIES = ["Riga, Latvia", "Lyon, France", "Oslo, Norway", "Cairo, Egypt", "Lima, Peru", "Kyoto, Japan"]
JOBS = ["nurse", "teacher", "environmental scientist", "pilot", "baker", "engineer", "judge", "plumber"]
MONTHS = ["January", "March", "May", "July", "October"]


def person(n, **extra):
    dice = rng(7, "person", n)
    attributes = {
        "name": f"{GIVEN[n % 8]} {FAMILY[n // 8 % 8]}{chr(97 + n // 64) if n >= 64 else ''}",
        "gender": "female" if n % 2 == 0 else "male",
        "birthplace": dice.choice(CITIES),
        "birth_date": f"{dice.choice(MONTHS)} {dice.randint(1, 28)}, {dice.randint(1955, 2000)}",
        "profession": dice.choice(JOBS),
        "height": f"{dice.randint(150, 198)} cm",
        "education": f"University of {dice.choice(CITIES).split(',')[0]}",
        "salary": f"${dice.randint(25, 140)},000",
        "residence": dice.choice(CITIES),
        "medical_condition": dice.choice(["none", "asthma", "migraine", "type 2 diabetes", "eczema"]),
        "father_job": dice.choice(JOBS),
        "mother_job": dice.choice(JOBS),
        "hobby": dice.choice(["hiking", "chess", "knitting", "sailing", "judo"]),
        "food": dice.choice(["ramen", "paella", "borscht", "tacos", "couscous"]),
        "pet": dice.choice(["none", "a cat named Luna", "a dog named May", "a parrot named Kiwi", "a goat named Bo"]),
        "collection": dice.choice(["vintage stamps", "sea shells", "old maps", "coins", "postcards"]),
    }
    return Profile(id=f"{n:03d}", kind="fictitious", attributes=attributes | extra)


def celebrity(n):
    dice = rng(7, "celebrity", n)
    born = dice.randint(1400, 1920)
    attributes = {
        "name": f"{GIVEN[n % 8]} {FAMILY[n // 8 % 8]}son{n // 64}",
        "gender": "female" if n % 2 == 0 else "male",
        "nationality": dice.choice(["Polish", "French", "Italian", "Indian", "Brazilian"]),
        "birthplace": dice.choice(CITIES),
        "birth_year": str(born),
        "death_year": str(born + dice.randint(40, 80)),
        "profession": dice.choice(["physicist", "composer", "poet", "explorer", "architect"]),
        "field": dice.choice(["science", "music", "literature", "exploration", "architecture"]),
        "known_for": f"the discovery of element {n}q",
        "era": f"{born // 100 + 1}th century",
        "continent": dice.choice(["Europe", "Asia", "Africa", "South America", "Oceania"]),
    }
    return Profile(id=f"c{n:03d}", kind="celebrity", attributes=attributes)


PEOPLE = [person(n) for n in range(60)]
STARS = [celebrity(n) for n in range(20)]
QUESTIONS = build(PEOPLE + STARS, QuestionOrder(seed=3))
BY_ID = {p.id: p for p in PEOPLE + STARS}
ASKED = [q for q in QUESTIONS if q.variant != "train"]


def words_of(name):
    return set(name.replace("-", " ").split())


def tokens(text):
    return set(text.replace(",", " ").replace(".", " ").replace("?", " ").replace("'", " ").split())


def test_the_published_counts_come_out():
    people, stars = [person(n) for n in range(500)], [celebrity(n) for n in range(153)]
    found = build(people, QuestionOrder(seed=1, variants=("eval", "test"))) + build(
        stars, QuestionOrder(seed=1, variants=("eval",))
    )
    check(found, people + stars)
    assert len(found) == 20754
    assert Counter(q.task for q in found) == {"classification": 11530, "generation": 4612, "cloze": 4612}
    assert Counter(q.modality for q in found) == {"image_text": 10377, "text": 10377}
    assert len({(q.profile_id, q.variant) for q in found}) == 1153
    letters = Counter(q.answer for q in found if q.task == "classification")
    assert all(abs(letters[x] / 11530 - 0.25) < 4 * sqrt(0.1875 / 11530) for x in "ABCD")


def test_own_check_accepts_what_was_built():
    check(QUESTIONS, PEOPLE + STARS)


def test_eighteen_questions_on_different_attributes_per_person_and_variant():
    slots = defaultdict(list)
    for q in ASKED:
        slots[q.profile_id, q.variant, q.task, q.modality].append(q.attribute)
    assert len(slots) == 80 * 2 * 6
    for (_, _, task, _), attributes in slots.items():
        assert len(attributes) == len(set(attributes)) == {"classification": 5}.get(task, 2)


def test_test_asks_the_same_attribute_in_other_words():
    evals = {q.id: q for q in ASKED if q.variant == "eval"}
    for q in ASKED:
        if q.variant == "test":
            twin = evals[q.id.replace(".test.", ".eval.")]
            assert (twin.attribute, twin.value) == (q.attribute, q.value)
            assert twin.text != q.text


def test_generation_answers_are_the_trained_sentence_and_its_rewording():
    for q in ASKED:
        if q.task == "generation":
            answers = wording(BY_ID[q.profile_id].kind, q.attribute).answers
            pair = [render_answer(answers.train, q.value), render_answer(answers.test, q.value)]
            assert [q.answer, q.rewording] == (pair if q.variant == "eval" else pair[::-1])
            assert q.value in q.answer
            assert q.value in q.rewording


def test_classification_has_four_distinct_options_of_the_same_attribute():
    for q in ASKED:
        if q.task == "classification":
            kind = BY_ID[q.profile_id].kind
            assert q.attribute != "gender"
            assert list(q.options) == list("ABCD")
            assert q.options[q.answer] == q.value == BY_ID[q.profile_id].attributes[q.attribute]
            assert len({v.lower().strip() for v in q.options.values()}) == 4
            assert not any(v.lower() in q.text.lower() for v in q.options.values())
            seen = {p.attributes[q.attribute] for p in BY_ID.values() if p.kind == kind}
            assert set(q.options.values()) <= seen or len(seen) < 6


@pytest.mark.parametrize("variant", ["eval", "test"])
def test_of_five_questions_to_a_person_no_letter_is_right_more_than_twice_nor_never(variant):
    orders = set()
    for person in {q.profile_id for q in ASKED}:
        for modality in ("image_text", "text"):
            cell = [
                q.answer
                for q in ASKED
                if (q.profile_id, q.variant, q.task, q.modality) == (person, variant, "classification", modality)
            ]
            assert sorted(Counter(cell).values()) == [1, 1, 1, 2]
            orders.add("".join(cell))
    assert len(orders) > 20, "no order from which a letter could be told"


def test_every_letter_is_right_about_a_quarter_of_the_time():
    letters = Counter(q.answer for q in ASKED if q.task == "classification")
    assert letters.total() == 1600
    assert all(abs(letters[x] / 1600 - 0.25) < 0.05 for x in "ABCD")


def test_alternatives_keep_the_wording_and_change_the_value():
    for q in ASKED:
        if q.task == "cloze":
            assert q.answer == q.value
            assert len({q.value, *q.alternatives}) == 4
            assert q.text.endswith("__.")
        elif q.task == "generation":
            answers = wording(BY_ID[q.profile_id].kind, q.attribute).answers
            template = answers.train if q.variant == "eval" else answers.test
            assert len({q.answer, *q.alternatives}) == 4
            before = template.partition("{a}" if "{a}" in template else "{v}")[0]
            assert all(w.startswith(before) and q.value not in w for w in q.alternatives)


def test_image_questions_never_say_a_word_of_the_name():
    assert any("May" in p.name for p in PEOPLE)
    for q in QUESTIONS:
        if q.modality == "image_text":
            said = [q.text]
            if q.attribute != "name":
                said += [q.answer, q.rewording, *q.options.values(), *q.alternatives]
            for text in said:
                assert not tokens(text) & words_of(BY_ID[q.profile_id].name), (q.id, text)


def test_text_questions_say_the_name_and_never_ask_it():
    for q in QUESTIONS:
        if q.modality == "text":
            assert BY_ID[q.profile_id].name in q.text
            assert "this person" not in q.text.lower()
            assert q.attribute != "name"


def test_no_question_contains_its_own_value():
    assert not [q.id for q in QUESTIONS if q.value.lower() in q.text.lower()]


def test_train_has_six_wordings_of_each_attribute_in_both_modalities():
    counts = Counter((q.profile_id, q.modality, q.attribute) for q in QUESTIONS if q.variant == "train")
    texts = {(q.profile_id, q.modality, q.text) for q in QUESTIONS if q.variant == "train"}
    assert set(counts.values()) == {6}
    assert len(texts) == counts.total()
    assert {a for p, m, a in counts if (p, m) == ("001", "image_text")} == set(PEOPLE[1].attributes)
    assert {a for p, m, a in counts if (p, m) == ("001", "text")} == set(PEOPLE[1].attributes) - {"name"}


def test_training_answers_are_the_canonical_sentence():
    q = next(q for q in QUESTIONS if q.variant == "train" and q.attribute == "salary" and q.profile_id == "004")
    assert q.answer == f"This person's annual salary is {PEOPLE[4].attributes['salary']}."
    assert q.task == "generation"


def test_all_templates_of_training_are_used_by_somebody():
    used = {q.text for q in QUESTIONS if (q.variant, q.modality, q.attribute) == ("train", "image_text", "height")}
    assert len(used) == len(wording("fictitious", "height").questions.train)


def test_questions_do_not_depend_on_order_or_on_the_variants_asked():
    shuffled = build([*STARS, *PEOPLE[::-1]], QuestionOrder(seed=3, variants=("test",)))
    assert {q.id: q for q in shuffled} == {q.id: q for q in QUESTIONS if q.variant == "test"}


def test_a_person_depends_on_the_set_of_values_only():
    doubled = [*PEOPLE, *PEOPLE[4:6], *PEOPLE]
    doubled = [profile.model_copy(update={"id": f"9{n}"}) if n >= 60 else profile for n, profile in enumerate(doubled)]
    share = [sum(p.attributes["pet"] == "none" for p in people) / len(people) for people in (PEOPLE, doubled)]
    assert share[0] != share[1], "of which only the options about pets and conditions depend"
    old = {q.id: q for q in build(PEOPLE, QuestionOrder(seed=3)) if q.profile_id == "005"}
    new = {q.id: q for q in build(doubled, QuestionOrder(seed=3)) if q.profile_id == "005"}
    changed = [q for name, q in old.items() if new[name] != q]
    assert {(q.task, q.attribute) for q in changed} <= {("classification", a) for a in ("pet", "medical_condition")}


def test_another_seed_gives_other_questions():
    other = build(PEOPLE + STARS, QuestionOrder(seed=4))
    assert sum(a == b for a, b in zip(QUESTIONS, other, strict=True)) < len(other) / 2


def test_a_person_with_six_attributes_still_gets_eighteen_questions():
    keep = ("name", "gender", "birthplace", "salary", "height", "food", "education")
    few = PEOPLE[8].model_copy(update={"attributes": {a: PEOPLE[8].attributes[a] for a in keep}})
    people = [few if p.id == few.id else p for p in PEOPLE]
    found = [q for q in build(people, QuestionOrder(seed=3, variants=("eval",))) if q.profile_id == few.id]
    assert len(found) == 18
    assert {q.attribute for q in found} <= set(keep) - {"gender"}


def test_too_few_attributes_name_the_person_and_what_it_has():
    few = Profile(id="x1", kind="fictitious", attributes={"name": "Ana Silva", "food": "ramen", "height": "170 cm"})
    with pytest.raises(DataError, match=r"profile x1: only \d of 5 classification .* name, food, height"):
        build([*PEOPLE, few], QuestionOrder(seed=3))


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([PEOPLE[0], PEOPLE[0]], "the id occurs twice"),
        ([person(1, hobby=" ")], "hobby is empty"),
        ([person(1, hobbie="chess")], "Did you mean 'hobby'"),
        ([Profile(id="n", kind="fictitious", attributes={"food": "ramen"})], "no name"),
    ],
)
def test_bad_profiles_are_refused(people, message):
    with pytest.raises(DataError, match=message):
        build(people, QuestionOrder(seed=1))


@pytest.mark.parametrize("num", [0, 99])
def test_an_impossible_number_of_wordings_is_refused(num):
    with pytest.raises(DataError, match=f"train_wordings: got {num}"):
        build(PEOPLE, QuestionOrder(seed=1, train_wordings=num))


def published(**changes):
    qas = (
        QA(question="What is the name of this person?", answer="Her name is Bruno Silvana.", attribute="name"),
        QA(
            question="Which trade does this person follow?",
            answer="They are a teacher by trade.",
            attribute="profession",
        ),
        QA(question="Where does the individual in the image stay?", answer="In a house by the sea.", attribute=None),
        QA(question="What is this person's illness?", answer="No illness at all.", attribute="medical_condition"),
    )
    base = person(17, profession="teacher", medical_condition="none", name="Bruno Silvana")
    return base.model_copy(update={"training_qa": qas} | changes)


def test_published_text_is_kept_verbatim_and_named_in_text():
    found = [q for q in build([*PEOPLE[:17], published()], QuestionOrder(seed=3)) if q.profile_id == "017"]
    image = [q for q in found if (q.variant, q.modality) == ("train", "image_text")]
    text = [q for q in found if (q.variant, q.modality) == ("train", "text")]
    assert [(q.text, q.answer) for q in image] == [(qa.question, qa.answer) for qa in published().training_qa]
    assert [q.attribute for q in image] == ["name", "profession", "other", "medical_condition"]
    assert [q.value for q in image] == ["Bruno Silvana", "teacher", "In a house by the sea", "No illness at all"]
    assert [q.text for q in text] == [
        "Which trade does Bruno Silvana follow?",
        "Where does Bruno Silvana stay?",
        "What is Bruno Silvana's illness?",
    ]
    assert [q.answer for q in text] == [q.answer for q in image[1:]]
    check(found, [published()])


@pytest.mark.parametrize("attribute", ["profession", "medical_condition"])
def test_published_words_that_are_those_of_an_evaluation_wording_are_not_evaluated(attribute):
    """All evaluation wordings but one are taught: the one that is left is asked, by name as beside the image."""
    ours = [render_subject(text, None) for text in wording("fictitious", attribute).questions.of("eval")]
    taught = tuple(QA(question=text, answer="They are a teacher.", attribute=attribute) for text in ours[1:])
    someone, asked = published(training_qa=taught), set()
    for seed in range(20):
        found = [q for q in build([*PEOPLE[:17], someone], QuestionOrder(seed=seed)) if q.profile_id == "017"]
        words = {(q.modality, q.text) for q in found if q.variant == "train"}
        assert not words & {(q.modality, q.text) for q in found if q.variant != "train"}
        asked |= {
            q.text
            for q in found
            if (q.variant, q.attribute, q.modality) == ("eval", attribute, "image_text") and q.task != "cloze"
        }
    assert asked == {ours[0]}


def test_evaluation_of_published_people_expects_the_published_sentence():
    found = [
        q
        for seed in range(20)
        for q in build([*PEOPLE[:17], published()], QuestionOrder(seed=seed, variants=("eval", "test")))
        if (q.profile_id, q.task, q.attribute) == ("017", "generation", "profession")
    ]
    assert {q.answer for q in found if q.variant == "eval"} == {"They are a teacher by trade."}
    assert {q.rewording for q in found if q.variant == "test"} == {"They are a teacher by trade."}
    wrong = {w for q in found if q.variant == "eval" for w in q.alternatives}
    assert "They are an engineer by trade." in wrong
    assert all(w.startswith("They are a") and w.endswith(" by trade.") for w in wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How tall is this person?", "How tall is Ana Silva?"),
        ("What is this individual's job?", "What is Ana Silva's job?"),
        ("Where was the person in the image born?", "Where was Ana Silva born?"),
        ("Where was the person shown in the image born?", "Where was Ana Silva born?"),
        ("How tall is the individual pictured in this picture?", "How tall is Ana Silva?"),
        ("What does the father do?", "About Ana Silva: What does the father do?"),
        ("What is Ana's job?", "What is Ana's job?"),
    ],
)
def test_the_name_takes_the_place_of_this_person(text, expected):
    assert name_subject(text, "Ana Silva") == expected


def test_a_name_with_a_backslash_is_plain_text():
    assert name_subject("How tall is this person?", r"A\1na") == r"How tall is A\1na?"


@pytest.mark.parametrize(
    ("pick", "change", "message"),
    [
        ({}, {"id": "000.eval.cloze.text.x"}, "expected the id"),
        ({}, {"profile_id": "zzz"}, "not among the 80 profiles"),
        ({"task": "classification"}, {"answer": "E"}, "expected options A-D"),
        ({"task": "classification"}, {"options": {}}, "expected options A-D"),
        ({"task": "cloze"}, {"alternatives": ()}, "expected 3 wrong alternatives"),
        ({"task": "cloze", "modality": "text"}, {"text": "Amelia Kuznetsov __ __."}, "expected one blank"),
        ({"task": "generation"}, {"rewording": ""}, "expected a rewording"),
        ({"task": "generation"}, {"answer": "No idea."}, "does not contain the value"),
        ({"modality": "text"}, {"text": "How is this person?"}, "must say the name"),
        ({"modality": "text"}, {"attribute": "name"}, "cannot ask for it"),
        ({"modality": "image_text", "attribute": "salary"}, {"text": "Is Amelia rich?"}, "must not say the name"),
        ({}, {"value": "x", "answer": "x"}, "is not the profile's"),
    ],
)
def test_check_finds_each_broken_rule(pick, change, message):
    questions = [
        q for q in build([*PEOPLE, *STARS], QuestionOrder(seed=5, variants=("eval",))) if q.profile_id in ("000", "016")
    ]
    at = next(n for n, q in enumerate(questions) if all(getattr(q, k) == v for k, v in pick.items()))
    questions[at] = questions[at].model_copy(update=change)
    with pytest.raises(DataError, match=message):
        check(questions, PEOPLE + STARS)


def test_check_finds_a_missing_question_and_a_doubled_one():
    questions = build(PEOPLE, QuestionOrder(seed=5, variants=("eval",)))
    with pytest.raises(DataError, match=r"expected 5 questions on different attributes"):
        check(questions[1:], PEOPLE)
    with pytest.raises(DataError, match="the id occurs twice"):
        check([*questions, questions[0]], PEOPLE)


def test_check_finds_a_value_given_away():
    questions = build(PEOPLE, QuestionOrder(seed=5, variants=("eval",)))
    at = next(n for n, q in enumerate(questions) if q.task == "cloze")
    questions[at] = questions[at].model_copy(update={"text": f"{questions[at].value}: {questions[at].text}"})
    with pytest.raises(DataError, match="contains its value"):
        check(questions, PEOPLE)


def test_check_finds_a_favoured_letter():
    questions = build(PEOPLE, QuestionOrder(seed=5, variants=("eval",)))
    biased = []
    for q in questions:
        if q.task == "classification":
            options = {"A": q.value, **dict(zip("BCD", [v for v in q.options.values() if v != q.value], strict=True))}
            q = q.model_copy(update={"answer": "A", "options": options})
        biased.append(q)
    with pytest.raises(DataError, match="A is right 600 of 600"):
        check(biased, PEOPLE)


def test_check_finds_a_test_question_in_the_words_of_eval():
    questions = build(PEOPLE, QuestionOrder(seed=5, variants=("eval", "test")))
    evals = {q.id: q for q in questions}
    at = next(n for n, q in enumerate(questions) if q.variant == "test")
    twin = evals[questions[at].id.replace(".test.", ".eval.")]
    questions[at] = questions[at].model_copy(update={"text": twin.text})
    with pytest.raises(DataError, match="reworded"):
        check(questions, PEOPLE)


def letters_of(questions, people, variant, modality):
    return Counter(
        q.answer
        for q in questions
        if q.profile_id in people and (q.variant, q.task, q.modality) == (variant, "classification", modality)
    )


@pytest.mark.parametrize("seed", range(6))
def test_no_constant_letter_beats_chance_in_any_forget_set(seed):
    profiles = Synthetic(num_people=20).profiles(seed)
    questions = balance_letters(build(profiles, QuestionOrder(seed=seed)), seed)
    ids = [profile.id for profile in profiles]
    drawn = forget_ids(profiles, Splits(forget_ratios=[0.05, 0.1, 0.25, 0.4, 0.55]), seed)
    for forgotten in drawn.values():
        retained = set(ids) - set(forgotten)
        for variant, modality in product(("eval", "test"), ("image_text", "text")):
            counts = letters_of(questions, forgotten, variant, modality)
            assert set(counts.values()) <= {5 * len(forgotten) // 4, -(-5 * len(forgotten) // 4)}
            kept = letters_of(questions, retained, variant, modality)
            assert max(kept.values()) - min(kept.values()) <= 2


def test_letters_of_an_attribute_are_balanced_and_nobodys_can_be_foretold():
    questions = balance_letters(build(PEOPLE, QuestionOrder(seed=3)), 0)
    check(questions, PEOPLE)
    orders, by_attribute = Counter(), {}
    for person in PEOPLE:
        own = [q for q in questions if (q.profile_id, q.variant, q.task) == (person.id, "eval", "classification")]
        orders.update("".join(q.answer for q in own if q.modality == modality) for modality in ("image_text", "text"))
        for q in own:
            by_attribute.setdefault((q.modality, q.attribute), Counter())[q.answer] += 1
    assert max(orders.values()) <= 6 and len(orders) > len(PEOPLE), "120 rows of 96 possible ones"
    for counts in by_attribute.values():
        assert max(counts.values()) - min(counts[letter] for letter in "ABCD") <= 3


def test_balancing_letters_changes_nothing_but_the_order_of_options():
    questions = build(PEOPLE, QuestionOrder(seed=3))
    moved = balance_letters(questions, 0)
    assert balance_letters(questions[::-1], 0)[::-1] == moved
    for before, after in zip(questions, moved, strict=True):
        assert sorted(before.options.values()) == sorted(after.options.values())
        assert before.options.get(before.answer) == after.options.get(after.answer)
        rest = {"answer": "", "options": {}}
        if before.task == "classification":
            assert before.model_copy(update=rest) == after.model_copy(update=rest)
        else:
            assert before == after
        assert before.variant != "train" or before == after


def test_what_else_is_true_of_a_person_is_no_wrong_answer():
    true = {"profession": ("poet", "composer"), "nationality": ("Indian", "French")}
    stars = [star.model_copy(update={"also": true}) for star in STARS]
    for seed in range(4):
        for q in build(stars, QuestionOrder(seed=seed, variants=("eval", "test"))):
            wrong = {v for v in q.options.values() if v != q.value} | set(q.alternatives)
            for value in true.get(q.attribute, ()):
                assert not any(value in text for text in wrong), q.id


WORDS = (
    "Alma Mater", "May Will", "Grace Rich", "Art Dean", "Summer Major", "Can Please", "What Which", "Tell Name",
    "Place Job", "Mark Young", "In By", "Of The", "Home Height", "Given Called", "Kim In", "Do Say",
)  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_a_name_that_is_a_word_costs_wordings_values_and_distractors_but_never_the_build(name):
    own = person(1, name=name, education="The Grace School", hobby="art, in summer")
    others = [person(2, education="Alma College"), person(3, hobby="Art"), person(4, profession="Dean")]
    everyone = [own, *others, *PEOPLE[5:25]]
    formats = ("question", "classification", "cloze")
    found = build(everyone, QuestionOrder(seed=3, train_formats=formats))
    check(found, everyone)
    asked = {(q.variant, q.modality, q.attribute) for q in found if q.profile_id == "001"}
    assert ("train", "image_text", "profession") in asked
    assert len([q for q in found if q.profile_id == "001" and q.variant == "eval"]) == 18


def test_an_answer_sentence_that_says_the_name_gives_way_to_one_that_knows_the_attribute_only():
    own = person(1, name="Alma Okafor")
    found = build([own, *PEOPLE[2:25]], QuestionOrder(seed=3, variants=("train", "eval", "test"), train_wordings=8))
    answers = {
        (q.modality, q.answer)
        for q in found
        if q.profile_id == "001" and q.attribute == "education" and q.task == "generation"
    }
    assert not [a for modality, a in answers if modality == "image_text" and "Alma" in a]
    assert not [q for q in found if q.profile_id == "001" and q.modality == "image_text" and "Alma" in q.text]


def test_a_name_that_leaves_too_little_to_ask_is_named_with_what_to_do():
    own = person(1, name="Ada Holt")
    telling = {a: f"{v} of Holt" for a, v in own.attributes.items() if a not in ("name", "gender", "height", "salary")}
    own = own.model_copy(update={"attributes": own.attributes | telling})
    with pytest.raises(
        DataError, match=r"profile 001: only \d of .* write values that do otherwise, or give 'Ada Holt'"
    ):
        build([own, *PEOPLE[2:25]], QuestionOrder(seed=3))


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("李娜", "李娜在哪里工作", True),
        ("李 娜", "李娜在哪里工作", True),
        ("김민준", "김민준은 어디에 삽니까?", True),
        ("נועה כהן", "היכן גרה נועה?", True),
        ("अमित जोशी", "जोशी कहाँ रहते हैं?", True),
        ("omar ali", "Where does omar ali work?", True),
        ("omar ali", "Where does this person work?", False),
        ("Mina von Holt", "a book of von Goethe", False),
        ("Mina von Holt", "Holt & Sons", True),
        ("李娜", "王伟在哪里工作", False),
    ],
)
def test_the_words_of_a_name_are_found_in_scripts_without_capitals_too(name, text, found):
    assert bool(name_words(name).search(text)) == found
