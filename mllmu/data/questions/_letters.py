"""Under which letter the right option stands: under each as often as under the others, in every set of questions.

The order of the wrong ones is drawn, whoever wrote them: a model that writes questions lists numbers by size.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import permutations

from mllmu.core.process import rng
from mllmu.core.records import Question
from mllmu.data.questions._rules import LETTERS


def balance_letters(questions: Sequence[Question], seed: int) -> list[Question]:
    """Evaluation questions with their options in another order; all others as they are.

    Within a variant and modality the people come in the order in which drawn forget sets take them, so that every
    forget set is balanced: four questions of a person have all four letters, and what is left over gets those that are
    rarest so far. Of the orders that do so one is drawn that suits the letters of each attribute best. So a letter is
    right in n/4 of the n questions of a forget set, up to one, and no person's letters can be foretold.

    The letters of a person depend on those of the people before.
    """
    asked: defaultdict[tuple[str, str], defaultdict[str, list[Question]]] = defaultdict(lambda: defaultdict(list))
    for question in questions:
        if question.variant != "train" and tuple(question.options) == LETTERS:
            asked[question.variant, question.modality][question.profile_id].append(question)
    letter_of: dict[str, str] = {}
    for (variant, modality), by_person in asked.items():
        counts: Counter[str] = Counter()
        by_attribute: Counter[tuple[str, str]] = Counter()
        for person in sorted(by_person, key=lambda one: rng(seed, "forget", one).random()):
            dice = rng(seed, person, "letters", variant, modality)
            own = sorted(by_person[person], key=lambda q: q.id)
            for block in (own[start : start + len(LETTERS)] for start in range(0, len(own), len(LETTERS))):
                costs = {
                    letters: (
                        sum(counts[letter] for letter in letters),
                        sum(by_attribute[q.attribute, letter] for q, letter in zip(block, letters, strict=True)),
                    )
                    for letters in permutations(LETTERS, len(block))
                }
                chosen = dice.choice([letters for letters, cost in costs.items() if cost == min(costs.values())])
                counts.update(chosen)
                by_attribute.update((q.attribute, letter) for q, letter in zip(block, chosen, strict=True))
                letter_of |= {q.id: letter for q, letter in zip(block, chosen, strict=True)}
    return [_moved(q, letter_of[q.id], seed) if q.id in letter_of else q for q in questions]


def _moved(question: Question, letter: str, seed: int) -> Question:
    """A question whose right option stands under another letter, and the wrong ones in a drawn order."""
    values = sorted(value for key, value in question.options.items() if key != question.answer)
    rng(seed, question.id, "options").shuffle(values)
    values.insert(LETTERS.index(letter), question.options[question.answer])
    return question.model_copy(update={"answer": letter, "options": dict(zip(LETTERS, values, strict=True))})
