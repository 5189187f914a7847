"""The rules every set of questions keeps, as one check that the pipeline runs before anything is written."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from math import sqrt

from mllmu.core.errors import DataError
from mllmu.core.parsing import SPACELESS
from mllmu.core.records import MODALITIES, TASKS, Profile, Question, TaskName
from mllmu.data.questions._wordings import BLANK
from mllmu.data.tasks import task_of

LETTERS = ("A", "B", "C", "D")
SLOTS: dict[TaskName, int] = {task: task_of(task).size.questions for task in TASKS}
"""Questions per person, variant and modality: 2 x (5 + 2 + 2) = 18."""
NUM_WRONG = 3
MEND = "Correct the question where it was written, or leave the person out (data.review)."
Rule = tuple[object, str]
"""Whether a rule is broken (by truth), and what it expects."""
_BALANCE_FROM = 400  # fewer questions say nothing about the balance of letters


def evaluation_id(question_id: str) -> str:
    """The id of the evaluation question that a test question is paired with; other ids stay as they are."""
    return question_id.replace(".test.", ".eval.", 1)


def mentions(text: str, value: str) -> bool:
    """Whether a text contains a value, whatever the case."""
    return value.casefold().strip() in text.casefold()


@cache
def name_words(name: str) -> re.Pattern[str]:
    """Pattern that finds any word of a name; words like 'de' or 'of' and initials do not count.

    Words count that begin with a capital, or with a letter of a script that has none; where it puts no spaces between
    words, they are also found inside of others. Where no word counts, the whole name does.

    >>> bool(name_words("Joan of Arc").search("the siege of Paris"))
    False
    """
    parts = [word for word in re.split(r"[\s\-]+", name) if len(word.strip(".,'")) > 1]
    telling = [word for word in parts if word[0].isalpha() and not word[0].islower()]
    found = [re.escape(word) for word in telling] or [r"\s*".join(map(re.escape, name.split()))]
    patterns = (word if re.search(f"[{SPACELESS}]", word) else rf"(?<!\w){word}(?!\w)" for word in found if word)
    return re.compile("|".join(patterns) or r"(?!)")


def first_broken(rules: Iterable[Rule]) -> str:
    """What the first broken rule expects; empty if none is broken."""
    return next((what for broken, what in rules if broken), "")


def check(questions: Sequence[Question], profiles: Sequence[Profile]) -> None:
    """Raise DataError at the first broken rule.

    Rules: ids are unique and say what the question is; 18 evaluation questions per person and variant, on
    different attributes within task and modality; test asks what eval asks, in other words; the image's
    questions never say the name and the text's questions do; no question gives its answer away; four distinct
    options with letters in balance; three distinct wrong alternatives. Published training text is exempt
    from the rules of wording.
    """
    known = {p.id: p for p in profiles}
    _check_ids(questions, known)
    for q in questions:
        if what := first_broken(rules_of(q, known[q.profile_id])):
            _fail(q, what)
    _check_slots(questions)
    _check_pairs(questions)
    _check_balance(questions)


def check_published(questions: Sequence[Question], profiles: Sequence[Profile]) -> dict[str, int]:
    """Check that published questions can be used, and count their flaws instead of refusing them.

    Usable: ids are unique and say what the question is, the person is known, question and answer have text, a
    classification has its answer among at least two options. Anything else that breaks a rule of :func:`check` is the
    published benchmark's own trait, and is counted.

    Returns:
        Number of questions per flaw, without flaws that do not occur; a question may have several.

    Raises:
        DataError: a question cannot be used.
    """
    known = {p.id: p for p in profiles}
    _check_ids(questions, known)
    flaws: Counter[str] = Counter()
    for q in questions:
        if not q.text.strip() or not q.answer.strip():
            _fail(q, "the question or its answer is empty")
        if q.task == "classification" and (len(q.options) < 2 or q.answer not in q.options):
            _fail(q, f"the answer {q.answer!r} is not one of at least two options {q.options}")
        if q.variant != "train":
            flaws.update(what for broken, what in _flaws(q, known[q.profile_id]) if broken)
    return dict(sorted(flaws.items()))


def _flaws(q: Question, profile: Profile) -> Iterator[Rule]:
    by_name = q.modality == "image_text" and q.attribute != "name" and name_words(profile.name).search(q.text)
    yield q.value and mentions(q.text, q.value), "the question contains its answer"
    yield by_name, "a question with the image says a word of the name"
    yield q.modality == "text" and profile.name not in q.text, "a text question does not say the whole name"
    if q.task == "classification":
        distinct = {option.casefold().strip() for option in q.options.values()}
        yield len(distinct) < len(q.options), "two options are the same"
        yield tuple(q.options) != LETTERS, "not the options A to D"
    yield q.task == "cloze" and q.text.count(BLANK) != 1, "not exactly one blank"


def _check_ids(questions: Sequence[Question], known: Mapping[str, Profile]) -> None:
    seen: set[str] = set()
    for q in questions:
        if q.profile_id not in known:
            _fail(q, f"its person '{q.profile_id}' is not among the {len(known)} profiles")
        if q.id in seen:
            _fail(q, "the id occurs twice")
        seen.add(q.id)
        if not re.fullmatch(rf"{re.escape(f'{q.profile_id}.{q.variant}.{q.task}.{q.modality}')}\.\d+", q.id):
            _fail(q, "expected the id <profile>.<variant>.<task>.<modality>.<n>")


def _fail(question: Question, what: str) -> None:
    raise DataError(f"question {question.id} ({question.attribute}): {what}. Got {question.text!r}. {MEND}")


def rules_of(q: Question, profile: Profile) -> Iterator[Rule]:
    """The rules that a question keeps by itself, see :func:`check`."""
    own = profile.attributes.get(q.attribute)
    bare = q.task != "classification" and q.value not in q.answer
    yield q.modality == "text" and q.attribute == "name", "the text modality says the name and cannot ask for it"
    yield bare, f"the answer {q.answer!r} does not contain the value {q.value!r}"
    if q.variant == "train" and profile.training_qa:
        return
    yield q.value != own, f"the value {q.value!r} is not the profile's {own!r}"
    yield mentions(q.text, q.value), f"the question contains its value {q.value!r}"
    if q.modality == "text":
        yield profile.name not in q.text, f"a text question must say the name {profile.name!r}"
    else:
        beside = () if q.attribute == "name" else (q.answer, q.rewording, *q.options.values(), *q.alternatives)
        telling = [text for text in (q.text, *beside) if name_words(profile.name).search(text)]
        yield telling, f"a question with the image must not say the name {profile.name!r}, found in {telling}"
    if q.variant != "train":
        yield from _rules_of_answers(q)


def _rules_of_answers(q: Question) -> Iterator[Rule]:
    """Options of a classification, wrong alternatives of the others."""
    if q.task == "classification":
        texts = list(q.options.values())
        fitting = tuple(q.options) == LETTERS and q.options.get(q.answer) == q.value
        yield q.attribute == "gender", "a gender has no four options"
        yield not fitting, f"expected options A-D with the value under {q.answer!r}, got {q.options}"
        yield any(mentions(q.text, option) for option in texts), f"the question contains one of its options {texts}"
    else:
        texts, got = [q.answer, *q.alternatives], len(q.alternatives)
        yield got != NUM_WRONG, f"expected {NUM_WRONG} wrong alternatives, got {got}"
    distinct = {text.casefold().strip() for text in texts}
    yield len(distinct) != len(texts), f"options or alternatives are not distinct: {texts}"
    if q.task == "cloze":
        filled = q.text.count(BLANK) == 1 and q.answer == q.value
        yield not filled, f"expected one blank {BLANK} and the bare value as answer, got {q.answer!r}"
    if q.task == "generation":
        reworded = q.value in q.rewording and q.rewording != q.answer
        yield not reworded, f"expected a rewording with the value, got {q.rewording!r}"


def _check_slots(questions: Sequence[Question]) -> None:
    asked: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for q in questions:
        asked[q.profile_id, q.variant, q.task, q.modality].append(q.attribute)
    evaluated = dict.fromkeys((q.profile_id, q.variant) for q in questions if q.variant != "train")
    for (person, variant), (task, num), modality in product(evaluated, SLOTS.items(), MODALITIES):
        got = asked[person, variant, task, modality]
        if len(got) != num or len(set(got)) != num:
            raise DataError(
                f"person {person}, {variant}, {task}, {modality}: expected {num} questions on different"
                f" attributes, got {got}. {MEND}"
            )


def _check_pairs(questions: Sequence[Question]) -> None:
    """A test question asks the attribute of the eval question in its slot, with other words."""
    evals = {q.id: q for q in questions if q.variant == "eval"}
    for q in questions:
        first = evals.get(evaluation_id(q.id)) if q.variant == "test" else None
        if first and (first.attribute != q.attribute or first.text == q.text):
            _fail(q, f"expected {first.id} ({first.attribute}) reworded")
        if first and q.task == "generation" and first.answer == q.answer:
            _fail(q, f"expected another answer wording than {first.id}")


def _check_balance(questions: Sequence[Question]) -> None:
    """Each letter is right about 25 % of the time, within five standard errors."""
    letters = Counter(q.answer for q in questions if q.task == "classification")
    num = letters.total()
    if num < _BALANCE_FROM:
        return
    for letter in LETTERS:
        if abs(letters[letter] / num - 0.25) > 5 * sqrt(0.25 * 0.75 / num):
            raise DataError(f"right options: {letter} is right {letters[letter]} of {num} times, expected about 25 %.")
