"""What requests change in the stages: the sides of the methods, the system prompt, and the sets that are asked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mllmu.core.records import Question
from mllmu.core.runfolder import digest
from mllmu.data.facts import FactSet, together
from mllmu.models.families import Turn
from mllmu.pipeline.run import Run
from mllmu.unlearning.base import Method
from mllmu.unlearning.trainer import Sides


def further_inputs(run: Run) -> dict[str, Any]:
    """What the unit of a method depends on besides, where the recipe has requests or a seed for unlearning."""
    seed, steps = run.recipe.seeds.unlearn, run.data.steps
    forget = run.recipe.unlearn.forget
    earlier = forget.earlier.model_dump(mode="json") if forget else {}
    inputs: dict[str, Any] = {"seed": seed} if seed is not None else {}
    inputs |= {"earlier": digest(earlier)} if any(earlier.values()) else {}
    return inputs | ({"facts": digest([step.record() for step in steps])} if steps else {})


def sides_of_facts(run: Run, method: Method, number: int = 0) -> Sides:
    """All that a method reads of the data, where requests say what is forgotten.

    On the forget side are the questions about the request's facts, each with its coarse answer as the one that is
    wanted instead, if it has one. On the retain side is all that no request so far has taken, coarse answers included.

    Args:
        number: of the request; 0: all at once.
    """
    steps: tuple[FactSet, ...] = run.data.steps
    now, gone = (steps[number - 1], together(steps[:number])) if number else (together(steps),) * 2
    trained = [question for question in run.data.questions if question.variant == "train"]
    retain = _turns(run, gone.left(trained), method.modality) if method.uses_retain else []
    return Sides(
        forget=forget_turns(run, now, trained, method.modality),
        retain=retain + (_turns(run, trained, "text") if method.preserves_text else []),
        holdout=run.turns(run.data.calibration, method.modality, "eval") if method.uses_holdout else (),
    )


def forget_turns(run: Run, facts: FactSet, questions: Sequence[Question], modality: str) -> list[Turn]:
    """The questions about some facts, with what is to be answered instead."""
    asked = facts.of(questions)
    wanted = {id(question): facts.instead(question) for question in asked}
    plain = [question for question in asked if wanted[id(question)] is None]
    pairs = [(question, other) for question in asked if (other := wanted[id(question)])]
    fine, rough = (_turns(run, [pair[side] for pair in pairs], modality) for side in (0, 1))
    changed = [replace(turn, instead=other.reply) for turn, other in zip(fine, rough, strict=True)]
    return [*_turns(run, plain, modality), *changed]


def _turns(run: Run, questions: Sequence[Question], modality: str) -> list[Turn]:
    return run.turns(run.data.people, modality, among=questions)


def narrowed(prompt: str, facts: FactSet) -> str:
    """A system prompt about people, with a sentence that says which facts about them it is about; '' stays ''."""
    if not prompt or not facts.partial:
        return prompt
    levels = {name: level for own in facts.facts.values() for name, level in (own or {}).items()}
    hidden = [_named(name) for name, level in levels.items() if not level]
    rough = [f"of the {_named(name)} tell only the {level}" for name, level in levels.items() if level]
    about = [f"their {', '.join(hidden)}"] if hidden else []
    only = f" Private are only: {'; '.join([*about, *rough])}. Answer everything else about these people as usual."
    return prompt + only


def _named(attribute: str) -> str:
    return attribute.removeprefix("fact_").replace("_", " ")
