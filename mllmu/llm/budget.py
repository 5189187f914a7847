"""What a command may spend on an endpoint, and what it has spent."""

from __future__ import annotations

import threading
import time
from collections import Counter

from mllmu.core.errors import BudgetError
from mllmu.llm.settings import EndpointSettings

COUNTED = ("requests", "answered", "cached", "tokens_in", "tokens_out", "usage_estimated")
FAILED = "failed_"
"""Begins the name of a count of failures of one kind, e.g. ``failed_429`` or ``failed_timeout``."""


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
