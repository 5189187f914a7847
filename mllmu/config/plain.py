"""What no value of a recipe may be: ``load`` looks for the signs, and what is wrong is told here."""

import math
import re
from typing import Annotated

from pydantic import AfterValidator

from mllmu.core.confidential import SECRET_FORM, is_secret
from mllmu.core.errors import RecipeError

MOST_BYTES = 2**18
"""Size of a recipe file: one with every method that there is has some kilobytes."""
MOST_VALUES = 20_000
MOST_ALIASES = 100
DEEPEST = 32
LARGEST = 10**15
"""Largest number of any setting, in amount; most have closer bounds of their own."""
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
SUSPECT = re.compile(rf"{_UNWRITABLE.pattern}|{SECRET_FORM.pattern}|(?s:.{{16}})")
"""A text that needs a closer look; a long one may hold a key of the environment."""


def refuse(value: object, place: str, *, beyond: bool) -> None:
    """RecipeError if a value is none that a recipe can hold; what may be secret is not repeated.

    Args:
        beyond: there are too many values, or it lies too deep.
    """
    if beyond:
        fault = (
            f"more than {MOST_VALUES:,} values, or nested more than {DEEPEST} deep. Does an alias (*name) lie inside "
            "of what it stands for?"
        )
    elif isinstance(value, float) and not math.isfinite(value):
        fault = f"expected a finite number (got {value})."
    elif isinstance(value, (int, float)):
        fault = f"expected a number between -{LARGEST:.0e} and {LARGEST:.0e}."
    elif _UNWRITABLE.search(str(value)):
        fault = "holds a character that no file can hold (NUL, or half of a surrogate pair). Write it without."
    elif is_secret(place, str(value)):
        fault = (
            "looks like a key or a password, and what a recipe holds is written into run folders. Keys come from the "
            "environment alone: export it (OPENAI_API_KEY, HF_TOKEN ...), and name the variable with key_variable."
        )
    else:
        return
    raise RecipeError(f"{place}: {fault}")


def _compiles(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from None
    return value


RegularExpression = Annotated[str, AfterValidator(_compiles)]
