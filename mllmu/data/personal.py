"""Whether data are about people who exist: such data, and models that are taught them, are not published by the way."""

from mllmu.config.load import data_plugins
from mllmu.config.recipe import DataSection
from mllmu.core import plugins
from mllmu.core.errors import MllmuError

PERSONAL = (
    "made from a table or images of real people, or by a source that does not say that its people are invented. Under "
    "pseudonyms, too, facts and portraits are personal data, and who knows some facts about a person finds the others."
)


def real_people(section: DataSection) -> tuple[str, ...]:
    """The settings whose people may be real: of what does not declare its people, or their faces, ``invented``."""
    return tuple(
        f"data.{name}: {spec.name}"
        for name, kind, spec in data_plugins(section)
        if kind != "questions" and not getattr(plugins.find(kind, spec.name), "invented", False)
    )


def check_push(section: DataSection, repository: str | None, *, allowed: bool) -> None:
    """Raise MllmuError before what real people are recognised by is put on a hub without being asked for twice."""
    found = real_people(section)
    if repository and found and not allowed:
        raise MllmuError(
            f"--push {repository}: refused, {found[0]} is about real people, as far as mllmu knows. Facts under "
            "pseudonyms are still theirs, and a model that was taught them tells them, also after unlearning. Nothing "
            "was uploaded. If everybody concerned agrees or the law allows it, say so: --push-real-people."
        )
