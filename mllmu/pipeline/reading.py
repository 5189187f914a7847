"""Commands that only read a run: what is not there is an error, and never a reason to train or to ask."""

from collections.abc import Mapping
from typing import Any

from mllmu.core.errors import RunStoreError
from mllmu.core.remade import check_only_remade
from mllmu.core.runfolder import UNIT_FILE, RunStore, Unit
from mllmu.pipeline.record import stage_of

MADE_BY_READING = "score"
"""The stage whose units are made from what is there."""


class ReadingStore(RunStore):
    """A run folder in which nothing is made but scores; whatever is missing is named."""

    def unit(self, name: str, inputs: Mapping[str, Any]) -> Unit:
        """Look up a finished unit, as :meth:`RunStore.unit` does.

        Raises:
            RunStoreError: it is not there, or unfinished.
        """
        if stage_of(name) != MADE_BY_READING and not (self.root / name / UNIT_FILE).is_file():
            raise RunStoreError(
                f"{self.root}: {name} is not there, and this command only reads. 'mllmu run' with the recipe makes "
                f"what is missing; 'mllmu status {self.root}' lists it."
            )
        return super().unit(name, inputs)

    def check_finished(self, unit: Unit) -> None:
        """As of :class:`RunStore`, but of what is out of date only scores are made again.

        Raises:
            RunStoreError: it is out of date.
        """
        if stage_of(unit.name) != MADE_BY_READING and not self.force:
            check_only_remade(unit, "'mllmu run' with the recipe makes it again; this command only reads.")
        super().check_finished(unit)
