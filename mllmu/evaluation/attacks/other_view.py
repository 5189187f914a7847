"""Another picture of the same person."""

from collections.abc import Iterator
from typing import ClassVar

from mllmu.data.dataset import image_path
from mllmu.evaluation.attacks import Sample, Victim
from mllmu.evaluation.attacks._images import Depicting


class OtherView(Depicting):
    """Show the other pictures of the person that the data have, none of which was trained on."""

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    label = "Other views"

    def pictures(self, victim: Victim, sample: Sample) -> Iterator[str]:
        for view in range(victim.data.views(sample.profile_id)):
            if (path := image_path(sample.profile_id, view)) != sample.image:
                yield path
