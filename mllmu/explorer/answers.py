"""What the page gets from models: prompts as they are read, and replies to the user's own questions.

The libraries of models are imported when the first of them is wanted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from mllmu.core.errors import DataError
from mllmu.core.records import CandidateLogp
from mllmu.explorer.site import ExploredRun, Query

if TYPE_CHECKING:
    from mllmu.explorer.asking import RunAsker

FIELDS = ("evaluation", "model", "text", "person", "image", "truth")
"""What a page sends with a question; all of it text, the image in base64."""


class ModelAnswers:
    """Answers of the models of some runs.

    Args:
        scratch: a folder for images that a page sends.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._askers: dict[tuple[Path, str], RunAsker] = {}
        self._lock = Lock()

    def _asker(self, run: ExploredRun, evaluation: str) -> RunAsker:
        from mllmu.explorer.asking import RunAsker

        key = run.table(evaluation).folder.name.removeprefix("forget_")
        with self._lock:
            if (run.root, key) not in self._askers:
                self._askers[run.root, key] = RunAsker(run.root, key)
            return self._askers[run.root, key]

    def rendered(self, run: ExploredRun, query: Query) -> dict[str, str]:
        """The prompt of a question as a model reads it."""
        wanted = {name: values[-1] for name, values in query.items()}
        table = run.table(wanted.get("evaluation", ""))
        if wanted.get("id") not in table.index:
            raise DataError(f"no question '{wanted.get('id')}' in this evaluation.")
        asker, sample = self._asker(run, wanted.get("evaluation", "")), table.samples[table.index[wanted["id"]]]
        (model,) = asker.checked([wanted.get("model") or asker.models[0]])
        return {"model": model, "text": asker.rendered(sample, model)}

    def ask(self, run: ExploredRun, content: Any) -> dict[str, Any]:
        """What one model replies to a question of the user's own.

        Raises:
            DataError: what the page has sent is no question.
        """
        sent = checked(content)
        asker = self._asker(run, sent["evaluation"])
        if sent["person"] and sent["person"] not in asker.profiles:
            raise DataError(f"'{sent['person']}' is no id of a person of this run.")
        image = self._saved(sent["image"]) if sent["image"] else sent["person"]
        question = asker.question(sent["text"], image=image, truth=sent["truth"])
        ((model, response),) = asker.ask(question, asker.checked([sent["model"]]))
        truth = question.truth
        return {
            "model": model,
            "reply": response.text,
            "finished": response.finished,
            "person": f"{question.person.name} ({question.person.id})" if question.person else "",
            "truth": truth._asdict() if truth else None,
            "value": _logp(response.candidates.get("target")),
            "sentence": _logp(response.candidates.get("sentence")),
        }

    def _saved(self, image: str) -> Path:
        """An image that was sent, as a file of its own: what is known of images is remembered by their path."""
        try:
            data = base64.b64decode(image, validate=True)
        except binascii.Error:
            raise DataError("image: expected a file in base64.") from None
        path = self._scratch / f"{hashlib.sha256(data).hexdigest()}.image"
        path.write_bytes(data)
        return path


def checked(content: Any) -> Mapping[str, str]:
    """What a page has sent, all fields of it there; DataError if it is anything else."""
    known = isinstance(content, Mapping) and all(k in FIELDS and isinstance(v, str) for k, v in content.items())
    if not known:
        raise DataError(f"expected texts named {', '.join(FIELDS)}.")
    return {name: content.get(name, "") for name in FIELDS}


def _logp(found: CandidateLogp | None) -> dict[str, Any] | None:
    return found.model_dump() if found else None
