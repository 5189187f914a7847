"""One small change of all pictures, found by gradients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from mllmu.evaluation.attacks import AttackPoint, Loaded, NotAttackableError, Turn, Victim, variant
from mllmu.evaluation.attacks._searching import Searching, halves, loss_of
from mllmu.models.families import Batch

PIXELS = "pixel_values"


class UniversalPerturbation(Searching):
    """Search for one change of the pixels, within eps, that makes the model tell known facts; show it on other people.

    Projected gradient descent on the nll of the known answers: delta <- clip(delta - step sign(gradient), -eps, eps).
    The changed pictures are saved as ordinary images and shown like any portrait. The people whose facts are known are
    not among those that are asked. Only for models that bring all pictures to one size.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/1706.06083"
    label = "Universal perturbation"
    family = "image"

    eps: float = Field(12, gt=0, le=255, description="largest change of a pixel, of 255")
    step: float = Field(2, gt=0, le=255, description="change per iteration, of 255")

    def attack(self, victim: Victim) -> list[AttackPoint]:
        known, asked = halves(victim, [sample for sample in victim.samples if sample.image])
        loaded = victim.load(victim.ref)
        loaded.model.requires_grad_(requires_grad=False)
        frame = Frame(loaded)
        delta = self.search(loaded, frame, victim.answered(known), self.number(victim))
        samples = []
        for sample, turn in zip(asked, victim.answered(asked), strict=True):
            path = victim.folder / f"{Path(sample.image).stem}.png"
            frame.picture(loaded.encoder.batch([turn]).inputs[PIXELS].to(delta) + delta).save(path)
            samples.append(variant(sample, 0, image=str(path.absolute())))
        return [AttackPoint(values=victim.hits(loaded, samples))]

    def search(self, loaded: Loaded, frame: "Frame", turns: Sequence[Turn], iterations: int) -> Tensor:
        """[1, ...] the change of the prepared pixels.

        Raises:
            NotAttackableError: the pictures have different sizes when they are prepared, or no pixels of their own.
        """
        batch: Batch = loaded.encoder.batch(turns).to(loaded.device)
        plain = batch.inputs.get(PIXELS)
        if plain is None or plain.dim() != 4 or len(plain) != len(turns):
            raise NotAttackableError("the model cuts pictures into parts, so no change of the pixels fits all of them")
        delta = torch.zeros_like(plain[:1])
        for _ in range(iterations):
            delta.requires_grad_()
            batch.inputs[PIXELS] = plain + delta
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(loss_of(loaded, batch), delta)
            delta = frame.clipped(delta.detach() - frame.of_255(self.step) * slope.sign(), self.eps)
        return delta.detach()


class Frame:
    """Between prepared pixels and those of a picture: how the processor scales colours."""

    def __init__(self, loaded: Loaded) -> None:
        processor: Any = loaded.encoder.processor.image_processor
        mean, std = (torch.tensor(getattr(processor, name, (0.5,) * 3)).float() for name in ("image_mean", "image_std"))
        self.mean_311, self.std_311 = (each.to(loaded.device)[:, None, None] for each in (mean, std))

    def of_255(self, amount: float) -> Tensor:
        """[3, 1, 1] so many of 255 steps of a colour, as prepared pixels have them."""
        return amount / 255 / self.std_311

    def clipped(self, delta: Tensor, eps: float) -> Tensor:
        """The change, nowhere more than eps of 255."""
        return delta.clamp(-self.of_255(eps), self.of_255(eps))

    def picture(self, pixels_13HW: Tensor) -> Image.Image:
        """The picture that is prepared to these pixels, up to rounding."""
        colours = (pixels_13HW[0].float() * self.std_311 + self.mean_311).clamp(0, 1) * 255
        return Image.fromarray(colours.round().byte().permute(1, 2, 0).cpu().numpy())
