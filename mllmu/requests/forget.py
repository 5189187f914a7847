"""``mllmu forget``: from a list of people to a model without them, the evidence, and a certificate.

Every request has a run folder of its own below the folder of all requests, made by an ordinary recipe; the ledger
beside them says what happened. The same command continues a request that was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
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
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, digest, read_json, seal, write_atomic, write_json
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.record import recorded
from mllmu.pipeline.run import Run
from mllmu.preflight.doctor.first import check_first
from mllmu.requests import auto, certificate
from mllmu.requests.check import made_in
from mllmu.requests.evidence import evidence_of
from mllmu.requests.ledger import LEDGER, Ledger, LedgerHead, RequestEntry
from mllmu.requests.order import KEY, ForgetOrder, check_methods, make_recipe, methods_named, raw_recipe
from mllmu.requests.signing import Signer
from mllmu.requests.standing import NOTHING, ORDER, TakenFacts, check_start, taken_so_far
from mllmu.requests.state import current, deploy, model_given, model_hash, target_of, within
from mllmu.requests.whom import wanted
from mllmu.studies.verify import verify_run

LISTED = "forget.json"
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
        if self.status == "verified":  # its certificate is gone, or was not written
            self.ledger.ready()
            self._verify()
            return self._certify(*made_in(self.root, self.progress), self.ledger.of(self.name)[-1])
        recipe = self._begin()
        with self._refused(), held(self.root):
            self._unlearn(recipe)
        self._verify()
        self._check_start(lambda: self.before)
        deploy(self.folder, self.name, self.after, self.own)
        return self._certify(self.pipeline.state, self.key, self.model)

    def _verify(self) -> None:
        for sentence in verify_run(self.root, self.progress):
            self.progress.note(sentence)

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
        self._check_start(lambda: self._hash_of(*parts))
        recipe = recipes.parse(data, where=str(self.order.data))
        self.wanted = wanted(self.order, recipe, self.progress, self._taken_before())
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

    @property
    def _ledgers(self) -> list[Path]:
        """The folder of requests, and another one if its model is what the request begins from."""
        model = Path(self.order.model)
        other = (model / LEDGER).is_file() and model.resolve() != self.folder.resolve()
        return [self.folder, *([model] if other else [])]

    def _taken_before(self) -> TakenFacts:
        """What earlier requests have taken; of a request that was applied, as its recipe has it."""
        if self.status != "applied":
            return taken_so_far(self._ledgers)
        forget = recipes.load(self.root / RunFolder.RECIPE).unlearn.forget
        return TakenFacts(forget.earlier.people, tuple(forget.earlier.facts.items())) if forget else NOTHING

    def _check_start(self, before: Callable[[], str]) -> None:
        """RunStoreError unless a request begins from the model that the last one left; ``before`` gives its hash."""
        for folder in self._ledgers:
            check_start(folder, self.name if folder == self.folder else "", before)

    def _hash_of(self, base: str, revision: str | None, adapters: list[Path]) -> str:
        """The hash of a model by its parts; of a request that was applied, as its order has it."""
        if self.status == "applied":
            return str(read_json(self.root / ORDER).get("before", ""))
        paths = tuple(str(path.resolve()) for path in adapters)
        return model_hash(ModelRef(base=base, revision=revision, adapters=paths), self.folder)

    def _unlearn(self, recipe: Recipe) -> None:
        """Take the model, pass the gate, choose settings, unlearn, measure, attack, report."""
        self.pipeline = Pipeline(recipe, self.root, check=check_first, progress=self.progress)
        self.pipeline.run("unlearn")
        run = self.pipeline.state
        self.before = model_hash(within(target_of(self.root), self.name), self.folder)
        self._note(before=self.before, scope=self._scope())
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

    def _certify(self, run: Run, key: str, model: str, entry: RequestEntry | None = None) -> Outcome:
        """Write the certificate; with an entry of the ledger, of what that says, and no other one if it is still so."""
        evidence = evidence_of(run, key, model)
        sentences, own = certificate.sentences(evidence), manifest.manifest_hash(self.root)
        if entry is None or entry.evidence != own:
            entry = self._entry("verified", reason=sentences[0], evidence=own)
        head = LedgerHead(count=entry.number, hash=entry.hash)
        page = certificate.write(
            self.folder, self.name, evidence, entry, head, signer=self.signer, run=run, method=run.jobs[model]
        )
        return Outcome(entry=entry, page=page, sentences=sentences)


def forget(order: ForgetOrder, folder: Path, *, key: Path | None = None, name: str = "", progress: Progress) -> Outcome:
    """Carry out a request to delete people from a model; see :class:`DeletionRequest`.

    Args:
        folder: of all requests; made if there is none.
        key: file of the private key that signs.
    """
    with held(folder):
        signer = Signer(key, apart_from=folder) if key else None
        return DeletionRequest(order, folder, signer=signer, name=name, progress=progress).carry_out()
