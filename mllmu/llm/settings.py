"""The settings that every plug-in with an endpoint has, and the account of what a command spends on it."""

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from mllmu.core.cache import user_cache
from mllmu.core.confidential import HIDDEN, is_secret
from mllmu.core.errors import BudgetError, EndpointError
from mllmu.core.plugins import Plugin

COUNTED = ("requests", "answered", "cached", "tokens_in", "tokens_out", "usage_estimated")
FAILED = "failed_"
"""Begins the name of a count of failures of one kind, e.g. ``failed_429`` or ``failed_timeout``."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}|")
_RESERVED = frozenset({"model", "messages", "response_format", "stream", "n", "seed"})


def _check_variable(value: str) -> str:
    if value == HIDDEN:
        raise ValueError(
            "expected the NAME of an environment variable (letters, digits, _). "
            "Keys are never written into a recipe: export the key under that name"
        )
    return value


def _holds_secret(name: str, value: Any) -> bool:
    """Whether a setting, or a value at any depth in it, looks like a key or a password."""
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    found = isinstance(value, str) and is_secret(name, value)
    return found or any(_holds_secret(str(key), one) for key, one in inside)


def _check_url(value: str) -> str:
    if value == HIDDEN:
        raise ValueError(
            "expected http(s)://host[:port]/path without a user name, a key or anything behind '?'; "
            "the key comes from the environment"
        )
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.port == 0:
        raise ValueError("expected http(s)://host[:port]/path, e.g. http://localhost:8000/v1, and nothing behind it")
    return value.rstrip("/")


class EndpointSettings(Plugin):
    """Base of plug-ins that ask an endpoint: what to ask, how patiently, and how much it may cost."""

    operational: ClassVar[frozenset[str]] = frozenset({
        "key_variable", "concurrency", "timeout_s", "max_attempts", "max_wait_s", "cache",
        "max_requests", "max_total_tokens", "max_cost", "price_in", "price_out",
    })  # fmt: skip

    model: str = Field(min_length=1, description="the endpoint's name of the model")
    base_url: Annotated[str, AfterValidator(_check_url)] = "https://api.openai.com/v1"
    """everything before /chat/completions"""
    key_variable: Annotated[str, AfterValidator(_check_variable)] = "OPENAI_API_KEY"
    """environment variable that holds the key; empty for a server without keys"""
    temperature: float | None = Field(0.0, ge=0, le=2, description="null: not sent, for models that refuse it")
    max_tokens: int | None = Field(1000, ge=1, le=10**6, description="most tokens a reply may have; null: not sent")
    parameters: dict[str, JsonValue] = Field({}, description="further fields of every request, e.g. {top_p: 0.9}")
    structured: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    """how JSON is asked for; the two weaker ways put the schema into the prompt"""
    repair_turns: int = Field(2, ge=0, le=10, description="how often a reply that breaks the schema is sent back")
    concurrency: int = Field(8, ge=1, le=256, description="requests under way at a time")
    timeout_s: float = Field(60, gt=0, le=86_400, description="longest wait for one reply")
    max_attempts: int = Field(6, ge=1, le=100, description="tries per request before the run stops")
    max_wait_s: float = Field(120, ge=0, le=86_400)
    """longest pause between two tries, also if the server asks for more"""
    max_requests: int | None = Field(
        None, ge=0, le=10**9, description="budget of one command, in requests (failed ones count)"
    )
    max_total_tokens: int | None = Field(
        None, ge=0, le=10**12, description="budget of one command, in tokens read and written"
    )
    max_cost: float | None = Field(
        None, ge=0, le=10**9, description="budget of one command, in the currency of the prices"
    )
    price_in: float | None = Field(None, ge=0, le=10**6, description="price of a million tokens read")
    price_out: float | None = Field(None, ge=0, le=10**6, description="price of a million tokens written")
    cache: Path | None = Field(None, description="folder of kept replies; null: the user's cache folder, mllmu/llm")

    @model_validator(mode="before")
    @classmethod
    def _hide_secrets(cls, given: Any) -> Any:
        """An error message repeats what was given, so whatever may be a key goes before anything is checked."""
        if not isinstance(given, Mapping):
            return given
        if "key_variable" in given and given["key_variable"] is None:  # --set key_variable=
            given = {**given, "key_variable": ""}
        return {name: HIDDEN if cls._may_be_secret(name, value) else value for name, value in given.items()}

    @classmethod
    def _may_be_secret(cls, name: str, value: Any) -> bool:
        if name == "key_variable":
            return not (isinstance(value, str) and _VARIABLE.fullmatch(value)) or is_secret("", value)
        if name == "base_url" and isinstance(value, str) and re.search("[@?#]", value):
            return True
        return name not in cls.model_fields or _holds_secret(name, value)

    @field_validator("parameters", mode="before")
    @classmethod
    def _nothing_secret(cls, value: Any) -> Any:
        if value == HIDDEN:
            raise ValueError("a key or a password must not stand in a recipe; the key comes from the environment")
        return value

    @field_validator("parameters")
    @classmethod
    def _nothing_reserved(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(_RESERVED & set(value)):
            raise ValueError(f"'{taken[0]}' is set by the program itself; leave it out")
        return value

    @model_validator(mode="after")
    def _money_needs_prices(self) -> Self:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out belong together; give both or none")
        if self.max_cost is not None and self.price_in is None:
            raise ValueError("max_cost needs price_in and price_out, or nothing can be counted against it")
        return self

    def cache_folder(self) -> Path:
        """Where replies are kept: the setting, or ``mllmu/llm`` in the user's cache folder."""
        return self.cache or user_cache("llm")

    def key(self) -> str:
        """The key from the environment; empty if the endpoint needs none.

        Raises:
            EndpointError: the variable is not set, or holds what cannot be a key. The value is never shown.
        """
        if not self.key_variable:
            return ""
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise EndpointError(
                f"no key for {self.base_url}: the environment variable {self.key_variable} is not set. "
                f"Set it (export {self.key_variable}=...), name another one with key_variable, "
                "or give an empty key_variable for a server that needs no key."
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise EndpointError(
                f"the environment variable {self.key_variable} holds no key: expected one printable word."
            )
        return key


class Budget:
    """Counts requests, tokens and money of one command, and refuses the request that would begin beyond a limit.

    The number of requests is kept exactly. Tokens and money are known only when a reply is there, so they can be
    exceeded by the requests that are under way at that moment, at most ``concurrency``. Replies from the cache are
    free. cost = (tokens read * price_in + tokens written * price_out) / 10^6.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()

    @property
    def cost(self) -> float | None:
        """Money spent, None without prices."""
        if self._settings.price_in is None or self._settings.price_out is None:
            return None
        read, written = self._counts["tokens_in"], self._counts["tokens_out"]
        return (read * self._settings.price_in + written * self._settings.price_out) / 1e6

    def reserve(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            BudgetError: a limit is reached.
        """
        limits = self._settings
        with self._lock:
            for what, spent, limit in (
                ("max_requests", self._counts["requests"], limits.max_requests),
                ("max_total_tokens", self._counts["tokens_in"] + self._counts["tokens_out"], limits.max_total_tokens),
                ("max_cost", self.cost or 0.0, limits.max_cost),
            ):
                if limit is not None and spent >= limit:
                    raise BudgetError(
                        f"budget reached: {what} is {limit:.10g}, spent {spent:.10g}. Every reply so far is kept and "
                        "costs nothing again; repeat the command to go on with a fresh budget, or raise the limit."
                    )
            self._counts["requests"] += 1

    def count(self, **amounts: int) -> None:
        """Count replies, their tokens, or failures, by the names in :meth:`facts`."""
        with self._lock:
            self._counts.update(amounts)

    def figures(self) -> dict[str, float]:
        """The latest figures for a progress line: replies per second, failures so far, and money if it is counted."""
        facts = self.facts()
        rate = (facts["answered"] + facts["cached"]) / max(time.monotonic() - self._began, 1e-9)
        failed = sum(count for name, count in facts.items() if name.startswith(FAILED))
        return {"per_s": rate, "failed": failed, **({"cost": facts["cost"]} if "cost" in facts else {})}

    def facts(self) -> dict[str, float]:
        """Everything counted, as plain numbers that can be added up; failures under ``failed_<kind>``."""
        with self._lock:
            names = (*COUNTED, *sorted(name for name in self._counts if name.startswith(FAILED)))
            counted: dict[str, float] = {name: self._counts[name] for name in names}
        return counted if self.cost is None else {**counted, "cost": self.cost}

    def spent(self) -> str:
        """Everything counted, in one line."""
        return ", ".join(f"{name} {amount:g}" for name, amount in self.facts().items())
