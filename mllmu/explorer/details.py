"""One question in full: what was asked about whom, the truth, and what every model replied, with scores and reasons."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from mllmu.core.records import Response, Sample, Score
from mllmu.core.replies import parse_choice, said
from mllmu.data.tasks import OUTCOMES
from mllmu.evaluation.outcome import CUT, is_cut_within
from mllmu.explorer.questions import QuestionTable
from mllmu.explorer.replies import NONE

THOUGHT = "the reply ends within a thought"
LONGEST = 2000
"""Words and blanks of a reply up to which differences are marked: comparing takes the square of it."""
_PARTS = re.compile(r"\s+|\w+|[^\w\s]")


def question_detail(table: QuestionTable, index: int, reference: str) -> dict[str, Any]:
    """Everything about one question, as plain values.

    Args:
        index: of the question among the samples.
        reference: the model whose replies the others are compared with.
    """
    sample = table.samples[index]
    person = table.profiles.get(sample.profile_id)
    said_by = table.replies(reference).response(index).text
    return {
        **sample.model_dump(include={"id", "split", "task", "modality", "attribute", "part", "profile_id", "system"}),
        "index": index,
        "name": table.named(sample),
        "facts": dict(person.attributes) if person else {},
        "image": sample.image,
        "raw": sample.raw_prompt,
        "examples": [example.model_dump() for example in sample.examples],
        "prompt": sample.prompt,
        "truth": sample.target,
        "value": sample.value,
        "options": sample.options,
        "reference": reference,
        "models": [_reply(table, model, index, said_by) for model in table.models],
        "attacks": table.attacked.about(sample.id),
    }


def _reply(table: QuestionTable, model: str, index: int, reference: str) -> dict[str, Any]:
    replies, sample = table.replies(model), table.samples[index]
    response, scores, kind = replies.response(index), replies.scored(index), int(replies.outcomes[index])
    outcome = "" if kind == NONE else OUTCOMES[kind]
    return {
        "model": model,
        "outcome": outcome,
        "reply": marked(response.text, reference),
        "same": response.text == reference,
        "finished": response.finished,
        "num_tokens": response.num_tokens,
        "why": why_unread(sample, response) if outcome == "unread" else "",
        "truth": truth_logp(sample, response),
        "scores": [_score(score) for score in scores if score.metric not in OUTCOMES],
    }


def _score(score: Score) -> dict[str, Any]:
    return {"metric": score.metric, "value": score.value, "reason": score.reason}


def truth_logp(sample: Sample, response: Response) -> dict[str, Any] | None:
    """Log-probability of the truth as the reply, in nats, and over how many tokens; None if it was not measured."""
    found = response.candidates.get(sample.target if sample.options else "target")
    if found is None or not math.isfinite(found.logp):
        return None
    return {"logp": found.logp, "num_tokens": found.num_tokens}


def why_unread(sample: Sample, response: Response) -> str:
    """Why a reply is unread, in the order in which :func:`mllmu.evaluation.outcome.outcome` looks."""
    text = said(response.text)
    if response.text.strip() and not text.strip():
        return THOUGHT
    if is_cut_within(sample, response):
        return CUT
    return parse_choice(text, sample.options)[1] if sample.options else ""


def marked(text: str, reference: str) -> list[tuple[bool, str]]:
    """A text in pieces, each with whether it differs from another text; words and punctuation are compared.

    >>> marked("Lives in Riga now.", "Lives in Turin.")
    [(False, 'Lives in '), (True, 'Riga now'), (False, '.')]
    """
    words, others = _PARTS.findall(text), _PARTS.findall(reference)
    if max(len(words), len(others)) > LONGEST:
        return [(text != reference, text)]
    pieces: list[tuple[bool, str]] = []
    for kind, _, _, start, end in SequenceMatcher(None, others, words, autojunk=False).get_opcodes():
        if start < end:
            pieces.append((kind != "equal", "".join(words[start:end])))
    return _joined(pieces)


def _joined(pieces: Sequence[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Neighbours of one kind as one piece; a blank between two that differ belongs to them."""
    found: list[tuple[bool, str]] = []
    for number, (differs, text) in enumerate(pieces):
        between = not text.strip() and 0 < number < len(pieces) - 1
        differs = differs or (between and pieces[number - 1][0] and pieces[number + 1][0])
        if found and found[-1][0] == differs:
            found[-1] = (differs, found[-1][1] + text)
        else:
            found.append((differs, text))
    return found
