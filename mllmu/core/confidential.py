"""What looks like a key or a password: it is refused in a recipe, and never shown in a message.

Two signs are known: the name of a field (``api_key``, ``Authorization``), and the form of the value (``sk-...``, a user
name and password in a URL, the value of an environment variable whose name says that it is secret).
"""

from __future__ import annotations

import os
import re

HIDDEN = "(not shown)"
"""Stands for what may be a secret."""
_NAMES = (
    r"(?:(?:api|access|auth|secret|private|subscription|x)[_-]?)+(?:key|token)|(?:hf|hub|hugging_?face|bearer)_?token|"
    r"token|secret|client_secret|passwords?|passwd|passphrase|credentials?|authorization|cookie"
)
SECRET_NAME = re.compile(rf"(?:^|[._\s-])(?:{_NAMES})$", re.IGNORECASE)
"""A place in a recipe whose last name says that a secret stands there."""
_FORMS = (
    r"\b(?:sk|pk|rk)[-_](?:[A-Za-z0-9]+[-_])*[A-Za-z0-9]{16,}",
    r"\b(?:hf|gsk|r8|npm|dop_v1)_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}",
    r"\bxox[abeprs]-[\w-]{10,}|\b(?:nvapi|xai|pplx)-[\w-]{16,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}",
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.?[\w-]*",
    r"\b(?i:bearer|basic)\s+(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}",
    r"(?<=://)[^\s/@]+(?=@)",
    r"(?<=[?&;])(?:key|code|sig|token|(?i:api_?key|access_?token|secret|password))=[^\s&;#'\"]+",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
)
SECRET_FORM = re.compile("|".join(_FORMS))
"""A text that a provider's keys look like, or credentials in a URL or a header."""
_SAID = re.compile(
    rf"(?P<name>\b(?:{_NAMES}))(?P<sign>['\"]?\s*[:=]\s*['\"]?)(?!null\b|None\b|\d+\b)[^\s'\",;}}\])]{{4,}}",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_LEAST = 8
"""Characters of the value of a variable that is looked for: a shorter one would be found in ordinary words."""


def kept_secrets() -> list[str]:
    """The values of environment variables whose names say that they are secret."""
    return [value for name, value in os.environ.items() if _VARIABLE.search(name) and len(value) >= _LEAST]


def is_secret(name: str, text: str) -> bool:
    """Whether a text, at a place of this name, looks like a secret or is one of the environment.

    >>> is_secret("model.path", "llava-hf/llava-1.5-7b-hf"), is_secret("parameters.api_key", "x")
    (False, True)
    """
    found = SECRET_NAME.search(name) or SECRET_FORM.search(text) or any(key in text for key in kept_secrets())
    return bool(text.strip() and found)


def redacted(text: str) -> str:
    """The text without what looks like a secret or is one of the environment.

    >>> redacted("401 for https://me:pw@host/v1 with {'api_key': 'abcdefgh'}")
    "401 for https://(not shown)@host/v1 with {'api_key': '(not shown)'}"
    """
    for key in sorted(kept_secrets(), key=len, reverse=True):
        text = text.replace(key, HIDDEN)
    return _SAID.sub(rf"\g<name>\g<sign>{HIDDEN}", SECRET_FORM.sub(HIDDEN, text))
