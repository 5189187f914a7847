"""One file per source of people; each has ``profiles(seed) -> list[Profile]``."""
