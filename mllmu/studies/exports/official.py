"""The official metrics of MLLMU-Bench as plain functions, and how lm-eval reads the questions beside this file.

This file is copied into every exported folder of tasks; it needs nothing but lm-eval and what that installs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def load(name: str, **_: Any) -> dict[str, Any]:
    """The questions of a task, from ``questions/<name>.jsonl``, as lm-eval takes a data set of one's own."""
    from datasets import Dataset

    with (HERE / "questions" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The images of a question in the order of their marks: those of its examples, then its own."""
    from PIL import Image

    return [Image.open(HERE / image).convert("RGB") for image in doc["images"]]


def accuracy_first_char(reply: str, answer: str) -> float:
    """Classification: 1 if the first character of the reply is the letter of the right option.

    >>> accuracy_first_char(" b) nurse", "B"), accuracy_first_char("The answer is B", "B")
    (1.0, 0.0)
    """
    return float(reply.strip()[:1].upper() == answer)


def cloze_contains(reply: str, answer: str) -> float:
    """Cloze: 1 if the reply contains the missing value, whatever its case.

    >>> cloze_contains("she lives in riga.", "Riga")
    1.0
    """
    return float(answer.lower() in reply.lower())


def rougeL(reply: str, answer: str) -> float:
    """Generation: F1 of the longest common subsequence of stemmed words, as the package ``rouge-score`` has it."""
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"], use_stemmer=True).score(answer, reply)["rougeL"].fmeasure)


def classification(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The metric of a question of multiple choice, by its name."""
    return {"accuracy_first_char": accuracy_first_char(results[0], doc["answer"])}


def cloze(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The metric of a question to fill in, by its name."""
    return {"cloze_contains": cloze_contains(results[0], doc["answer"])}


def generation(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The metric of a question for a sentence, by its name."""
    return {"rougeL": rougeL(results[0], doc["answer"])}
