"""The error tree. Every error a user can cause is one of these, and none of them ends in a traceback.

MllmuError
├── RecipeError        a setting is unknown, mistyped or out of range
├── PluginError        no such method, metric, task, family, source or portrait backend
├── DataError          a data file is missing, damaged or contradicts itself
│   └── FaultsError    many rows of a table are wrong; lists every fault
├── ModelError         a model cannot be loaded, or its files do not fit together
│   └── LostWorkerError a worker was killed, or its machine is gone, in the middle of a task
├── RunStoreError      a run folder cannot be written, or holds results of another recipe
├── GateError          the target model did not learn what it is meant to forget
├── DependencyError    a library that only an optional extra installs is missing
├── ProcessError       a process of a run with several is gone, or there may be only one
├── EndpointError      an LLM endpoint has no key, cannot be reached, or does not answer as asked
└── BudgetError        a command has spent what it may spend on an endpoint; everything so far is kept
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self


class MllmuError(ValueError):
    """Base of all errors meant for the user; the message says what, where, got, expected, what to do."""


class RecipeError(MllmuError):
    """A recipe names an unknown setting or gives a value that is not allowed."""


class PluginError(MllmuError):
    """A plug-in name that no file and no installed package provides, or a file that breaks the rule."""


class DataError(MllmuError):
    """Input data that is missing, damaged, or inconsistent."""


class FaultsError(DataError):
    """Every fault of a table at once, so that one look at the table mends them all.

    Args:
        summary: what is wrong and what to do, in one sentence.
        faults: one line each, in the order of the rows.
    """

    def __init__(self, summary: str, faults: Iterable[object]) -> None:
        self.faults = tuple(map(str, faults))
        self.summary = summary
        super().__init__("\n".join([summary, *self.faults]))

    def __reduce__(self) -> tuple[type[Self], tuple[str, tuple[str, ...]]]:
        """How a worker process sends it."""
        return type(self), (self.summary, self.faults)


class ModelError(MllmuError):
    """A model, adapter or processor that cannot be loaded or does not fit."""


class UnfitPromptError(ModelError):
    """A prompt of a kind that models of this family do not take, whatever it says."""


class LostWorkerError(ModelError):
    """A worker process was killed, or its machine is gone; what it had finished is kept."""


class RunStoreError(MllmuError):
    """A run folder that cannot be written or that belongs to another recipe."""


class GateError(MllmuError):
    """The memorisation gate: target and retain_model do not differ enough to measure forgetting."""


class DependencyError(MllmuError):
    """A library is missing that only an optional extra of the package installs."""


class ProcessError(MllmuError):
    """A run in several processes: one has failed or is gone, or the command works in one alone."""


class EndpointError(MllmuError):
    """An LLM endpoint that has no key, cannot be reached, refuses, or never answers as asked."""


class BudgetError(MllmuError):
    """The limit of requests, tokens or money of a command is reached; every reply so far is kept."""


OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "failed to allocate",
    "bad_alloc",
    "alloc_failed",
    "paging file is too small",
)
"""What libraries and systems say, in small letters, where memory was too little."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever class, says that memory was too little.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
    True
    """
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def one_line(error: BaseException) -> str:
    """The beginning of a library's message, without its line breaks and its closing stop."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known word, or an empty string.

    >>> did_you_mean("grad_dif", ["ga", "grad_diff"])
    " Did you mean 'grad_diff'?"
    """
    near = difflib.get_close_matches(got, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Import optional libraries inside this: one that is missing is a DependencyError that says how to get it.

    Args:
        what: the setting or command that needs it.
        extra: the extra of the package that installs it.
    """
    try:
        yield
    except ImportError as error:
        raise DependencyError(f"{what}: {error}. Install what it needs: pip install 'mllmu[{extra}]'.") from None
