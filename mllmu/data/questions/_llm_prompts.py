"""What is said to a model that writes, rewords or answers questions, and what its replies must fulfil.

A question may be asked if it is grounded in the profile, fair, and nameless beside the image. The names of the reply
classes are part of the schema that a request carries, and so of the key of a kept reply.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from mllmu.core.parsing import blanked, contains_words, in_other_words, normalise, render_answer
from mllmu.core.records import Modality, Profile, Question, TaskName
from mllmu.data.files import packaged_yaml
from mllmu.data.questions import _distractors
from mllmu.data.questions._rules import NUM_WRONG, Rule, first_broken, mentions, name_words, rules_of
from mllmu.data.questions._wordings import BLANK, SUBJECT, render_subject, wording
from mllmu.data.values import NONE
from mllmu.llm import Call, fence

FORMS: dict[TaskName, str] = {"classification": "choice", "generation": "sentence", "cloze": "cloze"}
SUBJECTS: dict[Modality, str] = {"image_text": "image", "text": "name"}


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Other(_Reply):
    """One question in other words."""

    number: int
    question: str


class Item(Other):
    """One written question."""

    answer: str
    rewording: str
    wrong: list[str]
    support: str


class Sheet(_Reply):
    """The questions of one person."""

    questions: list[Item]


class Others(_Reply):
    """The reworded questions of one person."""

    questions: list[Other]


class Answer(_Reply):
    """One answer."""

    number: int
    answer: str


class Answers(_Reply):
    """The answers about one person."""

    answers: list[Answer]


class Slot(NamedTuple):
    """A slot to fill: the call that asks for it, its number in that call, and the question that stands there so far."""

    call: str
    number: int
    question: Question


Prompt = Callable[[Profile, Sequence[Slot], int], Call]
"""Makes the call about some slots of one person in one round."""


def profile_text(profile: Profile) -> str:
    """A profile as a model sees it, and as its supporting passages are looked up: one line per attribute."""
    lines = [f"{name}: {value}" for name, value in profile.attributes.items()]
    return "\n".join([*lines, *([f"biography: {profile.biography}"] if profile.biography else [])])


def write_call(profile: Profile, slots: Sequence[Slot], attempt: int) -> Call:
    """Ask for the questions of some slots."""
    questions = [slot.question for slot in slots]
    fields = [{"form": FORMS[q.task], "subject": SUBJECTS[q.modality], "attribute": q.attribute} for q in questions]
    return _call("write", attempt, slots, fields, profile)


def reword_call(_: Profile, slots: Sequence[Slot], attempt: int) -> Call:
    """Ask for some questions in other words; neither profile nor answers are shown, so none can leak."""
    return _call("reword", attempt, slots, [{"text": fence("question", slot.question.text)} for slot in slots])


def answer_call(profile: Profile, slots: Sequence[Slot], attempt: int) -> Call:
    """Ask for answers from the profile alone."""
    fields = []
    for question in (slot.question for slot in slots):
        options = "; ".join(f"{letter}: {value}" for letter, value in question.options.items())
        fields.append({"text": fence("question", question.text) + (f" {fence('options', options)}" if options else "")})
    return _call("answer", attempt, slots, fields, profile)


def _call(
    what: str, attempt: int, slots: Sequence[Slot], fields: Sequence[dict[str, str]], profile: Profile | None = None
) -> Call:
    """The prompt of a kind, with one line per slot, and with the profile if the model may see it."""
    words = packaged_yaml("llm_prompts.yaml")["questions"]
    lines = [
        words[f"{what}_line"].format(number=slot.number, **values) for slot, values in zip(slots, fields, strict=True)
    ]
    shown = {"profile": fence("profile", profile_text(profile))} if profile else {}
    order = words[f"{what}_order"].format(attempt=attempt, lines="\n".join(lines), **shown)
    return Call(({"role": "system", "content": words[what].format()}, {"role": "user", "content": order.rstrip()}))


LETTERS = (8, 300)
"""Fewest and most characters of a question or an answer sentence."""
MAX_VALUE = 80
MAX_ANSWER = 60
"""A second reading may say the value in a sentence, but not a list of guesses: so many characters beside the value."""
_GENERIC = frozenset({"university", "college", "school", "institute", "academy", "named", "with", "from", "city"})
"""Words of a value that give nothing away: a question may ask for a university."""


def drafted(item: Item, planned: Question) -> Question:
    """The question that an item makes in a planned slot: the plan's attribute, value and letter, the model's words."""
    support = " ".join(item.support.split())
    wrong = _options(item.wrong, planned) if planned.options else item.wrong[:NUM_WRONG]
    return _filled(planned, item.question, support, wrong, item.answer, item.rewording)


def _options(wrong: Sequence[str], planned: Question) -> list[str]:
    """The model's wrong options; 'none' is one where it is one in the plan, and else a planned one is in its place."""
    plan = [value for value in planned.options.values() if value != planned.value]
    named = [value for value in wrong if value.casefold() != NONE]
    spare = [value for value in plan if not any(_distractors.clash(planned.attribute, value, one) for one in named)]
    none = [value for value in plan if value == NONE]
    return [*none, *named, *(value for value in spare if value != NONE)][:NUM_WRONG]


def reworded(question: Question, text: str, paired: Question) -> Question:
    """The paired test question: other words, the same values; options in its own order, sentences swapped."""
    others = [value for letter, value in question.options.items() if letter != question.answer]
    wrong = others or in_other_words(question.answer, question.value, question.value, question.alternatives)
    return _filled(paired, text, question.support, wrong, question.rewording, question.answer)


def _filled(planned: Question, text: str, support: str, wrong: Sequence[str], answer: str, rewording: str) -> Question:
    given: dict[str, Any] = {"text": text, "support": support}
    if planned.task == "classification":
        values = list(wrong)
        values.insert(list(planned.options).index(planned.answer), planned.value)
        given["options"] = dict(zip(planned.options, values, strict=False))
    elif planned.task == "cloze":
        given["alternatives"] = tuple(wrong)
    else:
        template = blanked(answer, planned.value) or ""
        filled = tuple(render_answer(template, value) for value in wrong)
        given |= {"answer": answer, "rewording": rewording, "alternatives": filled}
    return planned.model_copy(update=given)


def fault(item: Item, draft: Question, profile: Profile) -> str:
    """The first rule that a written question breaks, as ``<rule>: <what was expected>``; empty if it breaks none."""
    sentences = _of_sentences(item, draft.value) if draft.task == "generation" else ()
    rules = chain(_of_support(draft, profile), _of_wrong(item.wrong, draft, profile), sentences)
    return first_broken(rules) or text_fault(draft, profile)


def _of_support(draft: Question, profile: Profile) -> Iterator[Rule]:
    stands = draft.support and draft.support in " ".join(profile_text(profile).split())
    yield not stands, "support: expected a passage that stands in the profile word for word"
    yield not mentions(draft.support, draft.value), "support: expected a passage with the value in it"


def _of_wrong(wrong: Sequence[str], draft: Question, profile: Profile) -> Iterator[Rule]:
    nested = any(_distractors.clash(draft.attribute, *pair) for pair in combinations((draft.value, *wrong), 2))
    plain = {value.casefold().strip() for value in wrong}
    true = {value.casefold() for value in (*profile.attributes.values(), *profile.also.get(draft.attribute, ()))}
    alike = all(_distractors.same_form(draft.attribute, draft.value, value) for value in wrong)
    printable = all(_printable(value, (1, MAX_VALUE)) for value in wrong)
    yield len(wrong) != NUM_WRONG, f"wrong: expected {NUM_WRONG} wrong values"
    yield not printable, f"wrong: expected plain values of at most {MAX_VALUE} characters"
    yield nested, "wrong: expected values of which none contains another one or the right one, in any spelling"
    yield true & plain, "wrong: expected values that are not true of the person in another way"
    yield not alike, "wrong: expected the form of the right value"


def _of_sentences(item: Item, value: str) -> Iterator[Rule]:
    sentences = item.answer, item.rewording
    templates = [blanked(sentence, value) or "" for sentence in sentences]
    printable = all(_printable(sentence, LETTERS) for sentence in sentences)
    once = "answer: expected two sentences that contain the value once, spelt as in the profile"
    yield not all(templates), once
    yield overlap(*templates) >= 1, "answer: expected a rewording in other words"
    yield not printable, f"answer: expected one line of {LETTERS[0]} to {LETTERS[1]} characters"


def text_fault(draft: Question, profile: Profile) -> str:
    """The first rule about the words of a question that is broken, written or reworded; empty if none is."""
    return first_broken(_of_text(draft, profile))


def _of_text(draft: Question, profile: Profile) -> Iterator[Rule]:
    text, value = draft.text, draft.value
    yield not _printable(text, LETTERS), f"text: expected one line of {LETTERS[0]} to {LETTERS[1]} characters"
    if draft.task == "cloze":
        fits = text.count(BLANK) == 1 and "___" not in text and not text.endswith("?")
        yield not fits, f"blank: expected a statement with {BLANK} once"
    else:
        ends = "_" not in text and text.endswith(("?", "."))
        yield not ends, "text: expected a question or a request, with its mark at the end"
    if draft.modality == "image_text":
        hidden = SUBJECT in text.casefold() and not name_words(profile.name).search(text)
        yield not hidden, f"name: expected '{SUBJECT}' and no part of the name beside the image"
    else:
        yield profile.name not in text, "name: expected the full name where there is no image"
    leaks = mentions(text, value) or _telling(value) & set(normalise(text).split())
    others = any(contains_words(text, other) for other in _other_facts(draft.attribute, profile))
    yield leaks, "leak: expected a question that does not hold its answer or a telling word of it"
    yield others, "leak: expected a question that tells nothing else about the person"
    trained = normalise(text) in _trained(profile, draft.attribute)
    yield trained, "taught: expected other words than a question of the training set"
    broken = first_broken(rules_of(draft, profile))
    yield broken, f"rules: {broken}"


def _telling(value: str) -> set[str]:
    return {word for word in normalise(value).split() if len(word) > 3 and word not in _GENERIC}


def _other_facts(asked: str, profile: Profile) -> set[str]:
    """What the profile says about other attributes, whole and up to a comma."""
    others = [v for a, v in profile.attributes.items() if a not in (asked, "name", "gender") and v != NONE]
    return {part for value in others for part in (value, *value.split(", ")) if len(part) > 3}


def _trained(profile: Profile, attribute: str) -> set[str]:
    entry = wording(profile.kind, attribute)
    templates = (*entry.questions.train, *entry.cloze.train)
    texts = [render_subject(template, name) for template in templates for name in (None, profile.name)]
    return {normalise(text) for text in [*texts, *(qa.question for qa in profile.training_qa)]}


def overlap(one: str, other: str) -> float:
    """Share of words in common, 0 to 1: |A and B| / |A or B| of the sets of words; 1 where there are none.

    >>> overlap("Where was this person born?", "In which city was this person born?")
    0.5
    """
    a, b = (set(normalise(text).split()) for text in (one, other))
    return len(a & b) / len(a | b) if a | b else 1.0


def distance_fault(question: Question, text: str, name: str, most: float) -> str:
    """Whether a reworded question still has too many words of the old one; the subject does not count."""
    bare = [t.replace(name, "").replace(SUBJECT, "").replace(SUBJECT.capitalize(), "") for t in (question.text, text)]
    return f"overlap: expected at most {100 * most:g} % of the words in common" if overlap(*bare) > most else ""


def agrees(question: Question, answer: str) -> bool:
    """Whether a second reading gives the right answer: its letter, or the value and little else."""
    said, value = normalise(answer), normalise(question.value)
    if question.task == "classification":
        return answer.strip(" .:()").upper() == question.answer or said == value
    if question.value.casefold() == NONE:
        return said.split()[:1] in ([NONE], ["no"])
    return contains_words(said, value) and len(said) <= len(value) + MAX_ANSWER


def _printable(text: str, letters: tuple[int, int]) -> bool:
    return text.isprintable() and text == " ".join(text.split()) and letters[0] <= len(text) <= letters[1]
