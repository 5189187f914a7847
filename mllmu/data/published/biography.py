"""A person as the ``biography`` cell of the published data set, and as one descriptive answer."""

from __future__ import annotations

import json

from mllmu.core.records import Profile

_KEYS = {
    "Name": "name",
    "Born": "birthplace",
    "Date of Birth": "birth_date",
    "Gender": "gender",
    "Employment": "profession",
    "Height": "height",
    "Educated at": "education",
    "Annual Salary": "salary",
    "Residence": "residence",
    "Medical Conditions": "medical_condition",
}
_PARENTS = {"Father": "father_job", "Mother": "mother_job"}
_FACTS = ("hobby", "food", "pet", "collection", "nationality", "birth_year", "death_year", "field", "known_for")


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
    return [f"{name.replace('_', ' ').capitalize()}: {known[name]}" for name in _FACTS if name in known]
