"""Groups of people by gender, age and origin: for forget sets that are skewed, and for who pays for a request."""

import re
from collections.abc import Mapping

YEAR = re.compile(r"\b(1[89]|20)\d\d\b")


def groups_of(attributes: Mapping[str, str]) -> list[str]:
    """The groups that a person belongs to: gender, decade of birth, country of birth, as far as they are known.

    >>> groups_of({"gender": "female", "birth_date": "May 2, 1988", "birthplace": "Oran, Algeria"})
    ['female', 'born in the 1980s', 'from Algeria']
    """
    found = [attributes["gender"]] if attributes.get("gender") else []
    if year := YEAR.search(attributes.get("birth_date", "")):
        found.append(f"born in the {year.group()[:3]}0s")
    if country := attributes.get("birthplace", "").rpartition(",")[2].strip():
        found.append(f"from {country}")
    return found
