"""Questions written by a language model behind an endpoint, grounded in the profile and read twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.progress import Progress
from mllmu.core.records import Profile
from mllmu.data.questions import Order, Questions, Written
from mllmu.data.questions._llm_prompts import Sheet, write_call
from mllmu.data.questions._llm_review import opened, reviewed, unmarked
from mllmu.data.questions._llm_rounds import Desk, by_person, reasons, sides
from mllmu.data.questions.template import filled_in
from mllmu.llm import Budget, EndpointSettings, Preview, count_cached


class Llm(EndpointSettings, Questions):
    """The 18 questions a person and their rewordings for the Test set, in a model's words, checked twice.

    Code decides what is asked: which attributes, the right value, and the letter it stands under, as the templates do.
    The model writes the question, the wrong answers, the sentences, and quotes the passage of the profile that proves
    the answer. Code then checks what it can (:mod:`mllmu.data.questions._llm_rules`), and a second reading, by
    ``checker`` or by the same model, answers every question from the profile alone; where it answers otherwise, the
    question goes. Rewordings for the Test set are made of accepted questions without the profile, and checked alike.
    What was thrown out is written again, up to ``max_rounds`` times, and is kept in ``data/rejected.jsonl``.

    Training questions, and people of other kinds than ``kinds``, stay with the templates. At least four calls a person
    with a Test set and two without.

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
    max_tokens: int | None = Field(6000, ge=1, description="most tokens of a reply; about 150 a question")

    def write(self, people: Sequence[Profile], order: Order, progress: Progress) -> Written:
        """Write, check, reword and check; see the class.

        Raises:
            DataError: ``fallback: stop``, and some questions were still rejected after the last round.
            EndpointError, BudgetError: the endpoint cannot be used, or the budget is reached; replies are kept.
        """
        plan = filled_in(people, order)
        chosen = {profile.id: profile for profile in people if profile.kind in self.kinds}
        if not any(q.variant == "eval" and q.profile_id in chosen for q in plan):
            return Written(plan)
        # what a review has marked is planned at first, so that all the rest is what it was and is not paid again
        before = [q for q in filled_in(people, unmarked(order)) if q.profile_id in chosen]
        budget, first = Budget(self), sides(before)
        desk = self._done(Desk(self, chosen, first, budget, progress))
        asked, rejected = {**{q.id: q for q in before}, **desk.final}, desk.rejected()
        if places := opened(asked.values(), plan, order):
            again = self._done(
                Desk(self, chosen, sides(places), budget, progress, reviewed(desk, asked, places, order))
            )
            asked |= {**{q.id: q for q in places}, **again.final}
            rejected += again.rejected()
        written = sum(bool(asked[q.id].support) for q in first.planned)
        facts = {"written": written, "by_template": len(first.planned) - written, "rejected": len(rejected)}
        told = [f"{written} of {len(first.planned)} written by the model, {facts['by_template']} by template"]
        told += [f"{len(rejected)} rejected ({reasons(rejected)})", f"{len(sides(places).planned)} anew after a review"]
        spent = ", ".join(f"{name} {amount:g}" for name, amount in budget.facts().items())
        progress.note(f"questions: {', '.join(told[: 2 + bool(places)])}; {spent}")
        return Written([asked.get(q.id, q) for q in plan], rejected, {**facts, **budget.facts()})

    def _done(self, desk: Desk) -> Desk:
        """The desk with its work done."""
        desk.work()
        if desk.missing and self.fallback == "stop":
            raise DataError(
                f"data.questions: {len(desk.missing)} of {desk.num_planned} questions are still rejected after "
                f"{self.max_rounds} rounds ({reasons(desk.rejected())}). All replies are kept in "
                f"{self.cache_folder()}; raise max_rounds, use another model, or set fallback: template to ask these "
                "in the words of the templates."
            )
        return desk

    def preview(self, people: Sequence[Profile], order: Order, num_prompts: int) -> Preview:
        """The first prompts, and how many calls there would be if nothing had to be written again."""
        chosen = {profile.id: profile for profile in people if profile.kind in self.kinds}
        planned = sides([q for q in filled_in(people, order) if q.profile_id in chosen]).planned
        calls = [write_call(chosen[person], places, 1) for person, places in by_person(planned).items()]
        shown = tuple("\n\n".join(part["content"] for part in call.messages) for call in calls[:num_prompts])
        a_person = 4 if "test" in order.variants else 2
        return Preview(a_person * len(calls), count_cached(self, Sheet, calls), shown)


PLUGIN = Llm
