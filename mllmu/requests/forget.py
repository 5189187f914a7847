"""``mllmu forget``: from a list of people to a model without them, the evidence, and a certificate.

Every request has a run folder of its own below the folder of all requests, made by an ordinary recipe; the ledger
beside them says what happened. The same command continues a request that was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mllmu.config import load as recipes
from mllmu.config.recipe import Recipe
from mllmu.core import manifest
from mllmu.core.content import sha256
from mllmu.core.errors import DataError, GateError, RecipeError, RunStoreError
from mllmu.core.lock import held
from mllmu.core.process import Progress
from mllmu.core.runfolder import RunFolder, digest, read_json, seal, write_atomic, write_json
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.record import recorded
from mllmu.preflight.doctor.first import check_first
from mllmu.requests import auto, certificate
from mllmu.requests.evidence import Evidence, evidence_of
from mllmu.requests.ledger import Ledger, RequestEntry
from mllmu.requests.order import KEY, ForgetOrder, check_methods, make_recipe, methods_named, raw_recipe
from mllmu.requests.signing import Signer
from mllmu.requests.state import current, deploy, model_given, model_hash, target_of, within
from mllmu.requests.whom import wanted
from mllmu.studies.verify import verify_run

LISTED, ORDER = "forget.json", "order.json"
FINAL = ("verified", "refused", "rolled back", "purged")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a request: its entry, its certificate (HTML), and what was shown and what not, in sentences."""

    entry: RequestEntry
    page: Path
    sentences: Sequence[str]


class DeletionRequest:
    """One request in a folder of requests, which must be held.

    Args:
        order: what the user asks for.
        folder: of all requests.
        signer: signs the ledger and the certificate; None leaves both unsigned.
        name: of the request; empty: that of the unfinished request with the same order, or the next number.
        progress: shows what is done.
    """

    def __init__(
        self, order: ForgetOrder, folder: Path, *, signer: Signer | None, name: str = "", progress: Progress
    ) -> None:
        self.order, self.folder, self.signer, self.progress = order, folder, signer, progress
        self.ledger = Ledger(folder, signer)
        self.asked = self._asked()
        self.name = name or self._next_name()
        self.root = folder / self.name
        self._continue()

    def _asked(self) -> str:
        """A digest of the order, by which a stopped request is found again."""
        files = (self.order.people, self.order.facts)
        return digest([str(self.order), *(path.read_bytes().hex() for path in files if path and path.is_file())])

    def _next_name(self) -> str:
        entries = self.ledger.entries()
        last = {entry.request: entry.status for entry in entries}
        for name, status in last.items():
            if not self._closed(name, status) and read_json(self.folder / name / ORDER).get("asked") == self.asked:
                return name
        return next(f"r{n:03d}" for n in range(1, len(entries) + 2) if f"r{n:03d}" not in last)

    def _closed(self, name: str, status: str) -> bool:
        """Whether nothing remains to be done; a process may end between the last entry and the certificate."""
        return status in FINAL and (status != "verified" or certificate.path_of(self.folder, name).is_file())

    def _continue(self) -> None:
        """A request that is in the ledger can only be continued with the order that it was begun with."""
        own = [entry for entry in self.ledger.entries() if entry.request == self.name]
        if own and self._closed(self.name, own[-1].status):
            raise RunStoreError(f"{self.folder}: request {self.name} is {own[-1].status}. Choose another --request.")
        if own and read_json(self.root / ORDER).get("asked") != self.asked:
            raise RunStoreError(
                f"{self.root}: request {self.name} was begun with other people, model, data or settings. Repeat that "
                "command, or choose another --request."
            )
        self.status = own[-1].status if own else ""

    def carry_out(self) -> Outcome:
        """Unlearn, measure, verify and certify; what is done is not done again.

        Raises:
            MllmuError: the request cannot be carried out; where that is its own fault the ledger says 'refused'.
        """
        recipe = self._begin()
        with self._refused(), held(self.root):
            self._unlearn(recipe)
        for sentence in verify_run(self.root, self.progress):
            self.progress.note(sentence)
        deploy(self.folder, self.name, self.after, self.own)
        evidence = evidence_of(self.pipeline.state, self.key, self.model)
        sentences = certificate.sentences(evidence)
        entry = self._entry("verified", reason=sentences[0], evidence=manifest.manifest_hash(self.root))
        page = self._certify(evidence, entry)
        return Outcome(entry=entry, page=page, sentences=sentences)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except (GateError, DataError, RecipeError) as error:
            reason = "the model does not know these people" if isinstance(error, GateError) else "cannot be carried out"
            self._entry("refused", reason=reason)
            raise

    def _entry(self, status: Any, **more: Any) -> RequestEntry:
        record = read_json(self.root / ORDER)
        fields: dict[str, Any] = {name: tuple(record[name]) for name in ("subjects", "scope") if name in record}
        fields |= {name: record[name] for name in ("before", "after", "recipe") if name in record}
        return self.ledger.append(self.name, status, **{**fields, **more})

    def _note(self, **more: Any) -> None:
        write_json(self.root / ORDER, seal({**read_json(self.root / ORDER), **more}))

    def _begin(self) -> Recipe:
        """Find the model and the people, make the recipe, and only then enter the request as received.

        Raises:
            MllmuError: the command itself is wrong; nothing is entered.
        """
        parts, raw = self._model_before(), raw_recipe(self.order)
        data = {"name": self.name, "data": raw["data"], "seed": raw["seed"]}
        self.wanted = wanted(self.order, recipes.parse(data, where=str(self.order.data)), self.progress)
        self._make = partial(make_recipe, self.order, self.name, self.wanted, listed=self.root / LISTED, parts=parts)
        recipe = self._make(methods=methods_named(self.order))
        check_methods(recipe)
        self.root.mkdir(parents=True, exist_ok=True)
        with held(self.root):
            write_atomic(self.root / LISTED, json.dumps({KEY: self.wanted.people}) + "\n")
            self._note(asked=self.asked, subjects=self.wanted.people, facts=self.wanted.facts)
        if not self.status:
            self._entry("received")
            self.status = "received"
        return recipe

    def _model_before(self) -> tuple[str, str | None, list[Path]]:
        """Base, revision and adapters to begin with; a request that was stopped may have deployed its own by now."""
        deployed = current(self.folder) if Path(self.order.model).resolve() == self.folder.resolve() else None
        if self.status and deployed and deployed.request == self.name:
            recipe = recipes.load(self.root / RunFolder.RECIPE)
            return recipe.model.path, recipe.model.revision, list(recipe.finetune.given or ())
        return model_given(self.order.model, self.order.base)

    def _unlearn(self, recipe: Recipe) -> None:
        """Take the model, pass the gate, choose settings, unlearn, measure, attack, report."""
        self.pipeline = Pipeline(recipe, self.root, check=check_first, progress=self.progress)
        self.pipeline.run("unlearn")
        run = self.pipeline.state
        before = within(target_of(self.root), self.name)
        self._note(before=model_hash(before, self.folder), scope=self._scope())
        if not recipe.unlearn.methods:
            with recorded(run):
                best, _ = auto.choose(run)
            recipe = self._make(methods=[best])
            self.pipeline = Pipeline(recipe, self.root, progress=self.progress)
            self.pipeline.run("unlearn")
            run = self.pipeline.state
        (self.key,), (self.model,) = run.keys, run.jobs
        self.after = within(run.ref(self.key, self.model), self.name)
        self.own = model_hash(self.after, self.folder)
        self._note(after=self.own, recipe=sha256(self.root / RunFolder.RECIPE), key=self.key, model=self.model)
        if self.status == "received":
            self._entry("applied")
            self.status = "applied"
        self.pipeline.run()

    def _scope(self) -> list[str]:
        """The attributes that are to be forgotten; of whole people those that they are asked about."""
        if self.wanted.facts:
            return self.wanted.scope
        run = self.pipeline.state
        wanted = set(run.data.splits[run.keys[0]])
        return sorted({q.attribute for q in run.data.questions if q.profile_id in wanted})

    def _certify(self, evidence: Evidence, entry: RequestEntry) -> Path:
        head = self.ledger.head()
        assert head is not None  # noqa: S101 - the entry has just been written
        return certificate.write(
            self.folder, self.name, evidence, entry, head, signer=self.signer, run=self.pipeline.state,
            method=self.pipeline.state.jobs[self.model],
        )  # fmt: skip


def forget(order: ForgetOrder, folder: Path, *, key: Path | None = None, name: str = "", progress: Progress) -> Outcome:
    """Carry out a request to delete people from a model; see :class:`DeletionRequest`.

    Args:
        folder: of all requests; made if there is none.
        key: file of the private key that signs.
    """
    with held(folder):
        signer = Signer(key, apart_from=folder) if key else None
        return DeletionRequest(order, folder, signer=signer, name=name, progress=progress).carry_out()
