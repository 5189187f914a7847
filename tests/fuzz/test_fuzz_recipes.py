"""Damaged recipe files: each is read, or refused with one clear message."""

from __future__ import annotations

from pathlib import Path

import mutators
import pytest
import yaml
from rounds import Fuzz

from mllmu.config.load import dump, load, load_all, parse

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_damaged_text_of_a_recipe(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for rng in fuzz.rounds():
        text = mutators.text(rng, rng.choice(RECIPES).read_text(encoding="utf-8"))
        path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        with fuzz.attempt(text):
            load_all(path)


def test_damaged_bytes_of_a_recipe(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for rng in fuzz.rounds():
        content = mutators.raw(rng, rng.choice(RECIPES).read_bytes())
        path.write_bytes(content)
        with fuzz.attempt(content):
            load_all(path)


def test_values_of_a_recipe_and_their_way_through_a_file(fuzz: Fuzz, tmp_path: Path) -> None:
    """What is accepted and written out reads the same again."""
    path = tmp_path / "recipe.yaml"
    for rng in fuzz.rounds():
        raw = mutators.tree(rng, yaml.safe_load(rng.choice(RECIPES).read_text(encoding="utf-8")))
        with fuzz.attempt(raw):
            recipe = parse(raw if isinstance(raw, dict) else {"name": raw})
            path.write_text(dump(recipe), encoding="utf-8")
            if load(path) != recipe:
                fuzz.silent("written out, the recipe reads otherwise", raw)


@pytest.mark.parametrize("depth", [10, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_deep_nesting(opening: str, closing: str, depth: int, fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nreport:\n  title: " + opening * depth + closing * depth, encoding="utf-8")
    with fuzz.attempt(f"{opening} {depth} times"):
        load(path)
