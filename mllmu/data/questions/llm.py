"""Questions written by a language model behind an endpoint, grounded in the profile and read twice."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from mllmu.core.process import Progress
from mllmu.core.records import Profile
from mllmu.data.questions import QuestionOrder, QuestionWriter, Written
from mllmu.data.questions._llm_prompts import Sheet, write_call
from mllmu.data.questions._llm_rounds import QuestionRounds, by_person, reasons, reopen
from mllmu.data.questions.template import build
from mllmu.llm import Budget, EndpointSettings, Preview


class LlmQuestions(EndpointSettings, QuestionWriter):
    """The 18 questions per person and their rewordings for the Test set, in a model's words, checked twice.

    Code decides what is asked: which attributes, the right value, and the letter it stands under, as the templates do.
    The model writes the question, the wrong answers, the sentences, and quotes the passage of the profile that proves
    the answer. Code then checks what it can (:mod:`mllmu.data.questions._llm_prompts`), and a second reading, by
    ``checker`` or by the same model, answers every question from the profile alone; where it answers otherwise, the
    question goes. Rewordings for the Test set are made of accepted questions without the profile, and checked alike.
    What was thrown out is written again, up to ``max_rounds`` times, and is kept in ``data/rejected.jsonl``.

    Training questions, and people of other kinds than ``kinds``, stay with the templates. At least four calls per
    person with a Test set and two without.

    Source: the construction of MLLMU-Bench, arXiv:2410.22108 (a model writes and paraphrases questions); the plan, the
    rules, the second reading and the prompts are ours.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"

    kinds: tuple[Literal["fictitious", "celebrity"], ...] = Field(
        ("fictitious",), min_length=1, description="whom the model asks about; the others are asked by template"
    )
    checker: str = Field("", description="model of the second reading, at the same endpoint; empty: the same model")
    max_rounds: int = Field(
        3, ge=1, le=20, description="how often a rejected question is written again, first included"
    )
    max_overlap: float = Field(0.7, gt=0, le=1, description="most words a rewording may share with its question")
    fallback: Literal["template", "stop"] = Field(
        "template", description="what happens to a question that is still rejected after the last round"
    )
    temperature: float | None = Field(0.7, ge=0, le=2, description="null: not sent, for models that refuse it")
    max_tokens: int | None = Field(6000, ge=1, description="most tokens of a reply; about 150 per question")

    def write(self, people: Sequence[Profile], order: QuestionOrder, progress: Progress) -> Written:
        """Write, check, reword and check; see the class.

        Raises:
            DataError: ``fallback: stop``, and some questions were still rejected after the last round.
            EndpointError, BudgetError: the endpoint cannot be used, or the budget is reached; replies are kept.
        """
        plan = build(people, order)
        chosen = {profile.id: profile for profile in people if profile.kind in self.kinds}
        if not any(q.variant == "eval" and q.profile_id in chosen for q in plan):
            return Written(plan)
        # what a review has marked is planned at first, so that all the rest is what it was and is not paid again
        before = [q for q in build(people, order._replace(marked=frozenset())) if q.profile_id in chosen]
        budget = Budget(self)
        rounds = QuestionRounds(self, chosen, budget, progress)
        asked = rounds.fill(before)
        slots = reopen(asked.values(), plan, order)
        if slots:
            asked |= rounds.fill_anew(slots, asked, order)
        supported = [bool(asked[q.id].support) for q in before if q.variant == "eval"]
        written, num, anew = sum(supported), len(supported), sum(q.variant == "eval" for q in slots)
        parts = [f"{written} of {num} written by the model, {num - written} by template"]
        parts += [f"{len(rounds.rejected)} rejected ({reasons(rounds.rejected)})"]
        parts += [f"{anew} anew after a review"] if slots else []
        progress.note(f"questions: {', '.join(parts)}; {budget.spent()}")
        facts = {"written": written, "by_template": num - written, "rejected": len(rounds.rejected), **budget.facts()}
        return Written([asked.get(q.id, q) for q in plan], tuple(rounds.rejected), facts)

    def preview(self, people: Sequence[Profile], order: QuestionOrder, num_prompts: int) -> Preview:
        """The first prompts, and how many calls there would be if nothing had to be written again."""
        chosen = {profile.id: profile for profile in people if profile.kind in self.kinds}
        planned = (q for q in build(people, order) if q.profile_id in chosen and q.variant == "eval")
        calls = [write_call(chosen[slots[0].call], slots, 1) for slots in by_person(planned)]
        found = Preview.of(self, Sheet, calls, num_prompts)
        return found._replace(num_calls=len(calls) * (4 if "test" in order.variants else 2))


PLUGIN = LlmQuestions
