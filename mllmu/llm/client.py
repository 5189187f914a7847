"""Many calls to one endpoint: cached, retried, repaired, counted, a few at a time."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, Generic, NamedTuple, Self, TypeVar

from pydantic import BaseModel

from mllmu.core.errors import EndpointError, MllmuError
from mllmu.core.process import rng
from mllmu.llm.endpoint import Endpoint, RefusedRequest, Reply, ReplyCache, Transient
from mllmu.llm.schema import MAX_TEXT, json_schema, parse_object
from mllmu.llm.settings import FAILED, Budget, EndpointSettings

T = TypeVar("T", bound=BaseModel)
Message = Mapping[str, str]

FIRST_PAUSE_S = 0.5
MAX_FIRST_FAILURES = 5
"""Calls that may go unanswered before the first success; then the settings are wrong, and trying on would only cost."""


class Call(NamedTuple):
    """One question to an endpoint. ``seed`` tells apart calls with equal messages, e.g. the votes of a judge."""

    messages: tuple[Message, ...]
    seed: int | None = None


class Unanswered(NamedTuple):
    """A call that got no usable answer, and why; the others are not affected."""

    reason: str


class Preview(NamedTuple):
    """What a command would ask: how many calls, how many of them are in the cache, and the first prompts."""

    num_calls: int
    num_cached: int
    prompts: tuple[str, ...]

    @classmethod
    def of(cls, settings: EndpointSettings, kind: type[BaseModel], calls: Sequence[Call], num_prompts: int) -> Preview:
        """The preview of some calls for objects of one kind."""
        keys = [cache_key(settings, request_body(settings, kind, call)) for call in calls]
        cache = ReplyCache(settings.cache_folder())
        num_cached = sum(cache.get(key) is not None for key in keys)
        prompts = ("\n\n".join(part["content"] for part in call.messages) for call in calls[:num_prompts])
        return cls(len(calls), num_cached, tuple(prompts))


class _Stopped(Exception):  # noqa: N818
    """Another call has stopped the run."""


class Client(Generic[T]):
    """Asks one endpoint for objects of one kind. To be used in a ``with`` block, for one command.

    Every reply is on disk before it is used, so that neither a crash nor a budget loses one, and a call that was
    answered before costs nothing. Threads do the waiting; results are yielded in the thread of the caller.

    Args:
        settings: of the endpoint.
        kind: what every reply must be.
        budget: shared by the clients of one command that ask for several kinds; default: one of its own.

    Raises:
        EndpointError: no key.
    """

    def __init__(self, settings: EndpointSettings, kind: type[T], budget: Budget | None = None) -> None:
        self.budget = budget or Budget(settings)
        self._settings, self._kind = settings, kind
        self._endpoint = Endpoint(settings)
        self._cache = ReplyCache(settings.cache_folder())
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._under_way: dict[str, threading.Lock] = {}
        self._not_before = 0.0
        self._answered, self._num_unanswered = False, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._endpoint.close()

    def ask_all(self, calls: Sequence[Call]) -> Iterator[tuple[int, T | Unanswered]]:
        """Put all calls, at most ``concurrency`` at a time; yields (position of the call, answer) as they come.

        Raises:
            EndpointError: the endpoint cannot be used; raised after the answers that were under way.
            BudgetError: the budget is reached; likewise.
        """
        stopped: MllmuError | None = None
        with ThreadPoolExecutor(self._settings.concurrency, "llm") as pool:
            positions = {pool.submit(self._ask, call): position for position, call in enumerate(calls)}
            for future in positions:
                future.add_done_callback(self._stop_after_error)
            try:
                for future in as_completed(positions):
                    try:
                        answer = future.result()
                    except _Stopped:
                        continue
                    except MllmuError as error:
                        stopped = stopped or error
                    else:
                        yield positions[future], answer
            finally:
                if not all(future.done() for future in positions):
                    self._stop.set()
        if stopped is not None:
            raise stopped

    def _stop_after_error(self, future: Future[T | Unanswered]) -> None:
        """An error that ends the run keeps the other threads from beginning another request."""
        if future.exception():
            self._stop.set()

    def _ask(self, call: Call) -> T | Unanswered:
        """Put one call; a reply that is not what was asked for is sent back up to ``repair_turns`` times."""
        fault, messages = "", call.messages
        for _ in range(self._settings.repair_turns + 1):
            try:
                reply = self._complete(request_body(self._settings, self._kind, Call(messages, call.seed)))
            except RefusedRequest as error:
                return self._unanswered(f"rejected by the endpoint: {error}")
            found = parse_object(reply.text, self._kind)
            if not isinstance(found, str):
                self._answered = True
                return found
            fault = found if reply.finished else f"it was cut off by the token limit ({found})"
            self.budget.count(**{f"{FAILED}schema": 1})
            messages = (*call.messages, *_repair(reply.text, fault))
        return self._unanswered(f"no reply fits the schema after {self._settings.repair_turns} repair turns: {fault}")

    def _unanswered(self, reason: str) -> Unanswered:
        """Count a failed call; a run that only ever fails is stopped."""
        self.budget.count(**{f"{FAILED}unanswered": 1})
        with self._lock:
            self._num_unanswered += 1
            if self._num_unanswered >= MAX_FIRST_FAILURES and not self._answered:
                raise EndpointError(
                    f"{self._settings.base_url}: the first {MAX_FIRST_FAILURES} calls to '{self._settings.model}' "
                    f"were all in vain: {reason}."
                    + ("" if ". Set " in reason else " Try another 'structured', a larger max_tokens or another model.")
                )
        return Unanswered(reason)

    def _complete(self, body: dict[str, Any]) -> Reply:
        """The reply to one request: from the cache, or from the endpoint. Equal requests wait for the first one."""
        key = cache_key(self._settings, body)
        with self._lock:
            alone = self._under_way.setdefault(key, threading.Lock())
        with alone:
            reply = self._cache.get(key)
            if reply is not None:
                self.budget.count(cached=1)
                return reply
            reply = self._post(key, body)
            self._cache.put(key, reply)
            return reply

    def _post(self, key: str, body: dict[str, Any]) -> Reply:
        """The reply of the endpoint, tried again after passing faults."""
        for attempt in range(1, self._settings.max_attempts + 1):
            self._wait(self._not_before - time.monotonic())
            self.budget.reserve()
            try:
                reply = self._endpoint.post(body)
            except Transient as fault:
                self.budget.count(**{f"{FAILED}{fault.kind}": 1})
                self._wait(self._pause_s(key, attempt, fault))
            else:
                counted = {"tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
                self.budget.count(answered=1, usage_estimated=int(reply.estimated), **counted)
                return reply
        raise AssertionError("the last failed attempt raises")

    def _pause_s(self, key: str, attempt: int, fault: Transient) -> float:
        """Seconds before the next try: first * 2^(attempt-1), times a jitter of 0.5 to 1, at least as asked.

        A pause that the endpoint asks for holds for all calls, or the others would run into the same limit.
        """
        where, settings = f"{self._settings.base_url} ({self._settings.model})", self._settings
        if attempt == settings.max_attempts:
            raise EndpointError(
                f"{where}: no answer in {attempt} attempts, the last time: {fault}. Every reply so far is kept; "
                "check that the endpoint is up and repeat the command."
            )
        if fault.wait_s > settings.max_wait_s:
            raise EndpointError(
                f"{where}: asks to wait {fault.wait_s:.0f} s, more than max_wait_s ({settings.max_wait_s:g}): "
                f"{fault}. Every reply so far is kept; repeat the command later."
            )
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + fault.wait_s if fault.wait_s else 0.0)
        pause_s = min(settings.max_wait_s, FIRST_PAUSE_S * 2.0 ** (attempt - 1))
        return pause_s * (0.5 + 0.5 * rng(0, "pause", key, attempt).random())

    def _wait(self, pause_s: float) -> None:
        if self._stop.wait(max(0.0, pause_s)):
            raise _Stopped


def request_body(settings: EndpointSettings, kind: type[BaseModel], call: Call) -> dict[str, Any]:
    """The JSON of a request; it holds everything that decides the reply, and no key."""
    schema, messages = json_schema(kind), [dict(message) for message in call.messages]
    body: dict[str, Any] = {**settings.parameters, "model": settings.model, "messages": messages}
    optional = {"temperature": settings.temperature, "max_tokens": settings.max_tokens, "seed": call.seed}
    body |= {name: value for name, value in optional.items() if value is not None}
    if settings.structured == "json_schema":
        wanted = {"name": kind.__name__.strip("_"), "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return body
    messages[0]["content"] += (
        f"\nReply with one JSON object that fits this JSON schema, and nothing else: {json.dumps(schema)}"
    )
    if settings.structured == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def cache_key(settings: EndpointSettings, body: Mapping[str, Any]) -> str:
    """Digest of a request and the address it goes to; the key of the endpoint is no part of it."""
    text = json.dumps({"base_url": settings.base_url, **body}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _repair(reply: str, fault: str) -> tuple[Message, ...]:
    return (
        {"role": "assistant", "content": reply[:MAX_TEXT]},
        {
            "role": "user",
            "content": f"This reply cannot be used: {fault}. Give the complete answer again, corrected, as one JSON "
            "object of the schema and nothing else.",
        },
    )
