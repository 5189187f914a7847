"""A person as the ``biography`` cell of the published data set, written and read, and as one descriptive answer."""

import json
import re
from typing import Any

from mllmu.core.records import Profile
from mllmu.data.files import packaged_yaml

_TABLE = packaged_yaml("published/biography.yaml")
_KEYS: dict[str, str] = _TABLE["keys"]
_PARENTS: dict[str, str] = _TABLE["parents"]


def biography(profile: Profile) -> str:
    """Return the JSON object of a person under the published keys; keys without a value are left out.

    >>> biography(Profile(id="1", kind="fictitious", attributes={"name": "Ada Bell", "father_job": "baker"}))
    '{"Name": "Ada Bell", "Parents": {"Father": "baker"}}'
    """
    known = profile.attributes
    cell: dict[str, object] = {key: known[name] for key, name in _KEYS.items() if name in known}
    parents = {key: known[name] for key, name in _PARENTS.items() if name in known}
    extra = {"Parents": parents, "Fun Facts": _facts(profile), "Description": profile.biography}
    return json.dumps(cell | {key: value for key, value in extra.items() if value}, ensure_ascii=False)


def description(profile: Profile) -> str:
    """The profile's own biography, or its facts in one line: 'Name: Ada Bell. Born: Riga, Latvia. ...'"""
    known = profile.attributes
    pairs = [f"{key}: {known[name]}" for key, name in _KEYS.items() if name in known]
    return profile.biography or ". ".join([*pairs, *_facts(profile)]) + "."


def _facts(profile: Profile) -> list[str]:
    known = profile.attributes
    return [f"{name.replace('_', ' ').capitalize()}: {known[name]}" for name in _TABLE["fun_facts"] if name in known]


def attributes_of(cell: Any) -> dict[str, str]:
    """The attributes of a ``biography`` cell; unknown keys and empty values are left out.

    >>> attributes_of('{"Name:": "Ada Bell", "Medical Conditions": "Asthma", "Parents": {"Father:": "baker"}}')
    {'name': 'Ada Bell', 'medical_condition': 'Asthma', 'father_job': 'baker'}
    """
    try:
        value = json.loads(cell) if isinstance(cell, str) else cell
    except (json.JSONDecodeError, RecursionError):
        return {}
    found: dict[str, str] = {}
    for key, entry in _plain_items(value):
        if key in _READ and isinstance(entry, str) and entry.strip():
            found.setdefault(_READ[key], entry.strip())
        elif key == "parent":
            jobs = {name: job for name, job in _plain_items(entry) if isinstance(job, str) and job.strip()}
            found |= {f"{name}_job": jobs[name].strip() for name in ("father", "mother") if name in jobs}
    return found


def _plain_items(value: Any) -> list[tuple[str, Any]]:
    return [(_plain(key), entry) for key, entry in value.items()] if isinstance(value, dict) else []


def _plain(key: Any) -> str:
    """A key without case, spaces, colons and a plural s."""
    return re.sub(r"[^a-z]", "", str(key).casefold()).removesuffix("s")


_READ = {_plain(key): name for key, name in (_KEYS | _TABLE["other_keys"]).items()}
"""Plain keys as they are written here and by others, and our names."""
