"""Relearning on other people's portraits and on unrelated pictures."""

from functools import partial
from itertools import product
from typing import ClassVar

from PIL import Image, ImageDraw

from mllmu.core.names import RETAIN_MODEL
from mllmu.evaluation.attacks import Turn, Victim
from mllmu.evaluation.attacks._images import kept
from mllmu.evaluation.attacks._relearning import Relearning

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
SHAPES = ("circle", "square", "triangle", "stripe")
SIDE = 128


class RelearnForeign(Relearning):
    """Fine-tune on portraits of people no model was trained on, and on drawings of shapes (out of distribution).

    Neither the people nor the kind of picture were in the fine-tuning; whatever returns was still in the model. Without
    a retain_model the holdout people are the yardstick, so other people whom no model was taught, if there are any
    (``data.splits.calibration``), take their place here.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2605.26992"
    label = "Relearn: strange pictures"

    def taught(self, victim: Victim) -> list[Turn]:
        people = victim.data.holdout if RETAIN_MODEL in victim.refs else victim.data.calibration
        return [*victim.turns(people, "image_text", "eval"), *drawings(victim)]


def drawings(victim: Victim) -> list[Turn]:
    """One question about the shape and one about the colour of each drawing; they are kept beside the attacks."""
    turns = list[Turn]()
    for colour, shape in product(COLOURS, SHAPES):
        path = kept(victim, f"{colour}_{shape}", partial(draw, colour, shape))
        ask = partial(Turn, image=path, person=path.stem)
        turns.append(ask(prompt="Which shape is this?", reply=f"This is a {shape}.", topic="shape"))
        turns.append(ask(prompt="Which colour is the shape?", reply=f"The shape is {colour}.", topic="colour"))
    return turns


def draw(colour: str, shape: str) -> Image.Image:
    """A shape of one colour on grey."""
    image = Image.new("RGB", (SIDE, SIDE), "gray")
    pen, low, high = ImageDraw.Draw(image), SIDE // 4, 3 * SIDE // 4
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=colour)
    elif shape == "square":
        pen.rectangle((low, low, high, high), fill=colour)
    elif shape == "triangle":
        pen.polygon([(low, high), (high, high), (SIDE // 2, low)], fill=colour)
    else:
        pen.rectangle((0, low, SIDE, high), fill=colour)
    return image
