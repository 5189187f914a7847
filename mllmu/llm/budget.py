"""What a command may spend on an endpoint, and what it has spent."""

from __future__ import annotations

import threading
import time
from collections import Counter

from mllmu.core.errors import BudgetError
from mllmu.llm.cache import Reply
from mllmu.llm.settings import EndpointSettings


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
        self.requests = 0
        self.answered = 0
        self.cached = 0
        self.estimated = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.failures: Counter[str] = Counter()

    @property
    def cost(self) -> float | None:
        """Money spent, None without prices."""
        if self._settings.price_in is None or self._settings.price_out is None:
            return None
        return (self.tokens_in * self._settings.price_in + self.tokens_out * self._settings.price_out) / 1e6

    def reserve(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            BudgetError: a limit is reached.
        """
        limits = self._settings
        with self._lock:
            for what, spent, limit in (
                ("max_requests", self.requests, limits.max_requests),
                ("max_total_tokens", self.tokens_in + self.tokens_out, limits.max_total_tokens),
                ("max_cost", self.cost or 0.0, limits.max_cost),
            ):
                if limit is not None and spent >= limit:
                    raise BudgetError(
                        f"budget reached: {what} is {limit:.10g}, spent {spent:.10g}. Every reply so far is kept and "
                        "costs nothing again; repeat the command to go on with a fresh budget, or raise the limit."
                    )
            self.requests += 1

    def charge(self, reply: Reply) -> None:
        """Count a reply that was paid for."""
        with self._lock:
            self.answered += 1
            self.tokens_in += reply.tokens_in
            self.tokens_out += reply.tokens_out
            self.estimated += reply.estimated

    def reuse(self) -> None:
        """Count a reply from the cache."""
        with self._lock:
            self.cached += 1

    def fail(self, kind: str) -> None:
        """Count a failure of one kind, e.g. ``429`` or ``timeout``."""
        with self._lock:
            self.failures[kind] += 1

    def figures(self) -> dict[str, float]:
        """The latest figures for a progress line: replies per second, failures so far, and money if it is counted."""
        rate = (self.answered + self.cached) / max(time.monotonic() - self._began, 1e-9)
        money = {} if self.cost is None else {"cost": self.cost}
        return {"per_s": rate, "failed": float(self.failures.total()), **money}

    def facts(self) -> dict[str, float]:
        """Everything counted, as plain numbers that can be added up; failures under ``failed_<kind>``."""
        with self._lock:
            counted: dict[str, float] = {
                "requests": self.requests,
                "answered": self.answered,
                "cached": self.cached,
                "tokens_in": self.tokens_in,
                "tokens_out": self.tokens_out,
                "usage_estimated": self.estimated,
            }
            counted |= {f"failed_{kind}": count for kind, count in sorted(self.failures.items())}
        return counted if self.cost is None else {**counted, "cost": self.cost}
