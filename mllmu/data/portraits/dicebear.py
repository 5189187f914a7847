"""Drawn portraits of people who do not exist, rendered locally from a cartoon style: no photograph, no download.

Art: "Avataaars" by Pablo Stanley, free for personal and commercial use, remixed by the DiceBear project (MIT),
see ``CREDITS``. A drawn portrait never resembles a real person; a celebrity's is invented too.
"""

import functools
import io
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import resvg_py
from dicebear import Avatar, Style
from PIL import Image, ImageColor

from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data.files import packaged_yaml
from mllmu.data.portraits import BACKGROUNDS, MAX_VIEWS, Portraits, transform
from mllmu.data.values import NONE

CREDITS = (
    "Portraits: remix of 'Avataaars' (https://avataaars.com/) by Pablo Stanley (https://twitter.com/pablostanley), "
    "free for personal and commercial use; drawn with DiceBear (https://www.dicebear.com/), MIT licence."
)

# The year in which living people are portrayed. Fixed, so that a portrait does not change with the calendar.
PORTRAIT_YEAR = 2025

_TABLES = packaged_yaml("portraits/dicebear.yaml")
# Our name of a feature -> the style's name.
HAIR, HEADWEAR, FACIAL_HAIR = _TABLES["hair"], _TABLES["headwear"], _TABLES["facial_hair"]
GLASSES, CLOTHES, PRINTS = _TABLES["glasses"], _TABLES["clothes"], _TABLES["prints"]
# Our name of a colour -> the colour.
SKIN, CLOTH, RIMS = _TABLES["skin"], _TABLES["cloth"], _TABLES["rims"]
NATURAL_HAIR, OLD_HAIR, DYED_HAIR = _TABLES["natural_hair"], _TABLES["old_hair"], _TABLES["dyed_hair"]
ALL_HAIR = NATURAL_HAIR | OLD_HAIR | DYED_HAIR
# Religious dress is a statement about belief; it is not invented for people who really lived.
RELIGIOUS = {"headscarf", "turban"}

# A colour nearer than this (Euclidean, RGB 0-255) to its neighbour in the image cannot be told from it.
MIN_DISTANCE = 70.0

Face = tuple[str, str, str]
"""Eyes, brows and mouth."""
NEUTRAL: Face = tuple(_TABLES["neutral"])
EXPRESSIONS: list[Face] = list(itertools.product(_TABLES["eyes"], _TABLES["brows"], _TABLES["mouths"]))


class DiceBear(Portraits):
    """Cartoon portraits, drawn locally from a person's id, gender and age (Avataaars by Pablo Stanley).

    Identity is a combination of features that stay visible at 64 pixels (:func:`features`) and is the same in
    every view. Expression, tilt, framing, background and light are not part of it. Features are drawn
    independently of nationality and profession, so an image gives away nothing but gender and rough age.
    """

    source = "https://www.dicebear.com/styles/avataaars/"
    invented = True

    def render(self, profile: Profile, view: int, seed: int) -> Image.Image:
        """Draw one view of one person; see :meth:`Portraits.render`."""
        self.check_view(view)
        traits = features(profile, seed)
        first, *others = _backgrounds(traits, profile, seed)
        if view == 0:
            sprite = _draw(traits, NEUTRAL, self.size)
            return transform(sprite, rng(seed), strength=0, background=first)
        # One order of expressions per person, so that no two views share one.
        faces = rng(seed, "portrait", profile.id, "view").sample(EXPRESSIONS, MAX_VIEWS)
        source = rng(seed, "portrait", profile.id, "view", view)
        return transform(_draw(traits, faces[view], self.size), source, 1.0, others[(view - 1) % len(others)])


def sprites(profile: Profile, seed: int, num: int, size: int) -> list[Image.Image]:
    """Draw a person in ``num`` different expressions on transparent ground, for training a vision tower.

    The first is the neutral one of view 0; the others come from a generator of their own ("train-view"), not from
    that of the evaluated views. Draw them once, then vary each with ``transform`` and a private generator.

    Returns:
        RGBA images of ``size`` x ``size`` pixels; ``num`` at most 432.
    """
    traits = features(profile, seed)
    faces = rng(seed, "portrait", profile.id, "train-view").sample(EXPRESSIONS, num)
    return [_draw(traits, face, size) for face in [NEUTRAL, *faces][:num]]


def features(profile: Profile, seed: int) -> dict[str, str]:
    """Return what identifies a person in an image, in plain words.

    Keys: ``hair``, ``hair_colour``, ``headwear``, ``headwear_colour``, ``skin``, ``facial_hair``,
    ``facial_hair_colour``, ``glasses``, ``glasses_colour``, ``clothes``, ``clothes_colour``, ``print``. A feature
    the person does not have, or that headwear hides, is ``none``; so counting unequal values counts visible
    differences. Women and minors have no facial hair; grey and white hair grow likelier with age.
    """
    draw = rng(seed, "portrait", profile.id)
    gender = profile.attributes.get("gender", "").lower()
    age = _age(profile.attributes)
    skin = draw.choice(list(SKIN))
    traits = {"skin": skin, **_head(draw, profile, gender, age, skin)}
    traits |= _beard(draw, gender, age, traits)
    traits["glasses"] = draw.choice([NONE] * 4 + ["square", "square", "round", "round", "sunglasses", "dark shades"])
    traits["glasses_colour"] = NONE if traits["glasses"] == NONE else draw.choice(list(RIMS))
    traits["clothes"] = draw.choice(list(CLOTHES))
    traits["clothes_colour"] = draw.choice(_far(CLOTH, [SKIN[skin], *_top_colours(traits)]))
    traits["print"] = draw.choice(PRINTS) if traits["clothes"] == "print" else NONE
    return traits


def _head(draw: random.Random, profile: Profile, gender: str, age: int, skin: str) -> dict[str, str]:
    """Hair or headwear, with its colour."""
    real = profile.kind == "celebrity"
    if draw.random() < 0.2:
        worn = _by_gender(gender, "headwear")
        headwear = draw.choice([name for name in worn if not (real and name in RELIGIOUS)])
        colour = draw.choice(_far(CLOTH, [SKIN[skin]]))
        return {"hair": NONE, "hair_colour": NONE, "headwear": headwear, "headwear_colour": colour}
    shapes = _by_gender(gender, "hair")
    hair = draw.choice([name for name in shapes if name != "bald top" or age >= 35])
    if draw.random() < _share_of_grey(age):
        palette = OLD_HAIR
    elif not real and age < 60 and draw.random() < 0.25:
        palette = DYED_HAIR
    else:
        palette = NATURAL_HAIR
    colour = draw.choice(_far(palette, [SKIN[skin]]))
    return {"hair": hair, "hair_colour": colour, "headwear": NONE, "headwear_colour": NONE}


def _beard(draw: random.Random, gender: str, age: int, traits: Mapping[str, str]) -> dict[str, str]:
    """Facial hair with its colour: mostly that of the hair, never a dyed one."""
    if gender == "female" or age < 18 or draw.random() < 0.4:
        return {"facial_hair": NONE, "facial_hair_colour": NONE}
    colour = traits["hair_colour"]
    grown = (NATURAL_HAIR | OLD_HAIR) if age >= 55 else NATURAL_HAIR
    if colour not in NATURAL_HAIR | OLD_HAIR or draw.random() < 0.25:
        colour = draw.choice(_far(grown, [SKIN[traits["skin"]]]))
    return {"facial_hair": draw.choice(list(FACIAL_HAIR)), "facial_hair_colour": colour}


def _by_gender(gender: str, what: str) -> list[str]:
    """The shapes of a gender; of both where the gender is not given or another one."""
    shapes: dict[str, list[str]] = {name: _TABLES[f"{name}_{what}"] for name in ("male", "female")}
    return shapes.get(gender) or list(dict.fromkeys([*shapes["male"], *shapes["female"]]))


def _share_of_grey(age: int) -> float:
    """Share of people of an age whose hair is drawn grey or white."""
    return 0.0 if age < 45 else 0.2 if age < 55 else 0.5 if age < 70 else 0.8


def _age(attributes: Mapping[str, str]) -> int:
    """Age in the portrait, in years: at death for the dead, else in PORTRAIT_YEAR; 40 if no year is known."""
    born = _year(attributes.get("birth_date") or attributes.get("birth_year", ""))
    died = _year(attributes.get("death_year", "")) or PORTRAIT_YEAR
    if born is None or not 0 <= died - born <= 120:
        return 40
    return died - born


def _year(text: str) -> int | None:
    found = re.search(r"(?<!\d)\d{3,4}(?!\d)", text)
    return int(found.group()) if found else None


def _gap(colour: str, neighbours: Iterable[str]) -> float:
    """Euclidean distance of a hex colour to the nearest neighbour in RGB, 0 to 441."""
    return min(math.dist(ImageColor.getrgb(colour), ImageColor.getrgb(other)) for other in neighbours)


def _far(palette: Mapping[str, str], neighbours: Iterable[str]) -> list[str]:
    """Names of the colours that can be told from all neighbours; the single farthest if none can."""
    gaps = {name: _gap(colour, neighbours) for name, colour in palette.items()}
    return [name for name, gap in gaps.items() if gap >= MIN_DISTANCE] or [max(gaps, key=gaps.__getitem__)]


def _top_colours(traits: Mapping[str, str]) -> list[str]:
    """Hex colours of what is seen of hair, headwear and beard."""
    hair, beard = (ALL_HAIR.get(traits[f"{part}_colour"]) for part in ("hair", "facial_hair"))
    return [colour for colour in (hair, CLOTH.get(traits["headwear_colour"]), beard) if colour]


def _backgrounds(traits: Mapping[str, str], profile: Profile, seed: int) -> list[str]:
    """A neutral background for view 0, then one for each transformed view; all differ, all contrast with the figure."""
    figure = [SKIN[traits["skin"]], CLOTH[traits["clothes_colour"]], *_top_colours(traits)]
    gap, draw = functools.partial(_gap, neighbours=figure), rng(seed, "portrait", profile.id, "background")
    neutral = draw.choice(sorted(_TABLES["neutral_backgrounds"], key=gap, reverse=True)[:3])
    others = sorted(BACKGROUNDS, key=gap, reverse=True)[:8]
    return [neutral, *draw.sample(others, len(others))]


@functools.cache
def _style() -> Style:
    """The parsed style: reading and checking it costs far more than an image."""
    return Style(json.loads(files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")))


def _draw(traits: Mapping[str, str], face: Face, size: int) -> Image.Image:
    """Rasterise a person with (eyes, brows, mouth) at exactly the wanted size; RGBA on transparent ground."""
    svg = Avatar(_style(), _options(traits, face)).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGBA")


def _options(traits: Mapping[str, str], face: Face) -> dict[str, Any]:
    """Translate features and expression into the style's options; nothing is left to the style's own chance."""
    beard, glasses = traits["facial_hair"], traits["glasses"]
    variants = {
        "top": HAIR.get(traits["hair"]) or HEADWEAR[traits["headwear"]],
        "facialHair": FACIAL_HAIR.get(beard, "beardLight"),
        "accessories": GLASSES.get(glasses, "round"),
        "clothes": CLOTHES[traits["clothes"]],
        "clothesGraphic": traits["print"] if traits["print"] != NONE else PRINTS[0],
        **dict(zip(("eyes", "eyebrows", "mouth"), face, strict=True)),
        "nose": "default",
    }
    colours = {
        "skin": SKIN[traits["skin"]],
        "hair": ALL_HAIR.get(traits["hair_colour"], "#241a18"),
        "hat": CLOTH.get(traits["headwear_colour"], "#262e33"),
        "facialHair": ALL_HAIR.get(traits["facial_hair_colour"], "#241a18"),
        "accessories": RIMS.get(traits["glasses_colour"], "#262e33"),
        "clothes": CLOTH[traits["clothes_colour"]],
    }
    return {
        "seed": "portrait",
        **{f"{part}Variant": [name] for part, name in variants.items()},
        **{f"{part}Color": [colour] for part, colour in colours.items()},
        "topProbability": 100,
        "facialHairProbability": 0 if beard == NONE else 100,
        "accessoriesProbability": 0 if glasses == NONE else 100,
    }
