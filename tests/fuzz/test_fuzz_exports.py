"""Damaged exports of the Wikidata query service, and copies of a published data set with damaged rows or ids."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import mutators
import pytest
from PIL import Image
from rounds import Fuzz

from mllmu.core.records import Profile
from mllmu.data.portraits import Portraits
from mllmu.data.sources.celebrities import Celebrities
from mllmu.data.sources.mllmu_bench import MllmuBench

HEAD = [
    "item", "itemLabel", "genderLabel", "place_of_birthLabel", "date_of_birth", "date_of_death", "occupationLabel",
    "countryLabel", "fieldLabel",
]  # fmt: skip
CELLS = (
    "", "Q5482740", "P31", "L7-S1", "t1213411", "_:b17", "http://www.wikidata.org/entity/Q64", "de", "zh-hans", "mul",
    "http://www.wikidata.org/.well-known/genid/3a5f", "-0427-01-01T00:00:00Z", "0980-01-01T00:00:00Z", "1999", "N/A",
    "unknown", "#REF!", "Ada Bell", "female", "none",
)  # fmt: skip
"""What stands in the cells of exports."""
NO_LABEL = re.compile(r"https?:.*|[QPL]\d+|t\d+|_:.*|[a-z]{2}")


def rows() -> list[dict[str, str]]:
    return [
        dict(zip(HEAD, (
            f"http://www.wikidata.org/entity/Q{900 + n}", f"Person Nr{'abcdefghij'[n]}", ("female", "male")[n % 2],
            f"Town {n}", f"18{10 + n}-03-14T00:00:00Z", f"19{10 + n}-01-01T00:00:00Z", f"job {n}", f"Land {n}",
            f"field {n}",
        ), strict=True))
        for n in range(10)
    ]  # fmt: skip


def as_csv(table: list[dict[str, str]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, HEAD)
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()


def read(path: Path) -> list[Profile]:
    """The people; the account of what was left out is made too."""
    source = Celebrities(path=path)
    people = source.profiles(0)
    json.dumps(source.account())
    return people


def test_damaged_text_of_an_export(fuzz: Fuzz, tmp_path: Path) -> None:
    path, text = tmp_path / "q.csv", as_csv(rows())
    for rng in fuzz.rounds():
        damaged = mutators.text(rng, text)
        path.write_bytes(damaged.encode("utf-8", errors="surrogatepass"))
        with fuzz.attempt(damaged[:300]):
            read(path)


def test_values_of_an_export_in_json(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    for rng in fuzz.rounds():
        changed = mutators.tree(rng, rows())
        path.write_text(json.dumps(changed), encoding="utf-8")
        with fuzz.attempt(changed):
            read(path)


def test_cells_of_an_export_that_are_no_facts(fuzz: Fuzz, tmp_path: Path) -> None:
    """Everyone else stays, no id or address becomes a fact, and whatever is left out is in the account."""
    path, whole = tmp_path / "q.csv", {}
    path.write_text(as_csv(rows()), encoding="utf-8")
    whole = {person.id: person for person in read(path)}
    for rng in fuzz.rounds():
        changed, place = rows(), rng.randrange(10)
        head, cell = rng.choice(HEAD), rng.choice(CELLS)
        changed[place][head] = cell
        path.write_text(as_csv(changed), encoding="utf-8")
        with fuzz.attempt((head, cell)):
            source = Celebrities(path=path)
            people = {person.id: person for person in source.profiles(0)}
            if any(people.get(key) != person for key, person in whole.items() if key != f"Q{900 + place}"):
                fuzz.silent("another person changed", (head, cell))
            facts = [fact for person in people.values() for fact in person.attributes.values()]
            if any(map(NO_LABEL.fullmatch, facts)):
                fuzz.silent(f"taken for a fact: {facts}", (head, cell))
            if len(people) < 10 and not source.account()["left_out"]:
                fuzz.silent("a person left out without a word", (head, cell))


class Plain(Portraits):
    """One colour per person and view, which is drawn in no time."""

    def render(self, profile: Profile, view: int, seed: int) -> Image.Image:
        del seed
        return Image.new("RGB", (self.size, self.size), (int(profile.id), view, 0))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of twenty people in the published layout."""
    from mllmu.config.recipe import DataSection
    from mllmu.core.process import SilentProgress
    from mllmu.data import build
    from mllmu.data.dataset import load
    from mllmu.data.published.export import export

    folder = tmp_path_factory.mktemp("published")
    splits = {"forget_ratios": [0.05, 0.1, 0.15], "holdout": 0}
    source = {"name": "synthetic", "num_people": 20}
    small = {
        "portraits": {"name": f"{__name__}:Plain", "size": 32, "num_views": 2},
        "train_wordings": 1,
        "celebrities": None,
    }
    section = DataSection.model_validate({"source": source, "splits": splits, **small})
    build.make(section, 5, folder / "made", SilentProgress())
    export(load(folder / "made"), folder / "bench")
    return folder / "bench"


def test_ids_of_published_tables_that_lost_their_zeros(fuzz: Fuzz, published: Path, tmp_path: Path) -> None:
    """Whichever tables hold numbers, the same people are forgotten and asked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = MllmuBench(path=published)
    forget, questions = whole.forget_ids(), whole.questions(whole.profiles(0), 0)
    configs = [folder.name for folder in sorted(published.iterdir()) if folder.name != "ft_Data"]
    for round_, rng in enumerate(fuzz.rounds(0.2)):
        copy = tmp_path / str(round_)
        numbered = rng.sample(configs, rng.randrange(1, len(configs)))
        kind = rng.choice((pa.int64(), pa.float64(), pa.string()))
        for config in sorted(published.iterdir()):
            (copy / config.name).mkdir(parents=True)
            for shard in sorted(config.iterdir()):
                table = pq.read_table(shard)
                if config.name in numbered:
                    ids = pa.array([int(person) for person in table["ID"].to_pylist()]).cast(kind)
                    table = table.set_column(table.column_names.index("ID"), "ID", ids)
                pq.write_table(table, copy / config.name / shard.name)
        with fuzz.attempt((numbered, str(kind))):
            source = MllmuBench(path=copy)
            if source.forget_ids() != forget or source.questions(source.profiles(0), 0) != questions:
                fuzz.silent("other people or questions", (numbered, str(kind)))


def test_rows_of_a_published_table(fuzz: Fuzz, published: Path, tmp_path: Path) -> None:
    """A damaged row is used as far as it can be, or listed; the forget sets stay whole or are refused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = {config.name: pq.read_table(next(config.iterdir())) for config in published.iterdir()}
    filled = sorted(name for name, table in tables.items() if table.num_rows)
    for round_, rng in enumerate(fuzz.rounds(0.2)):
        name = rng.choice(filled)
        table = tables[name]
        column = rng.choice([head for head in table.column_names if not head.startswith("image")])
        cells: list[Any] = table[column].to_pylist()
        place = rng.randrange(len(cells))
        cells[place] = mutators.text(rng, cells[place]) if isinstance(cells[place], str) else None
        try:
            changed = pa.array(cells, type=table.schema.field(column).type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
            continue  # what a column cannot hold
        copy = tmp_path / str(round_)
        for config, other in tables.items():
            (copy / config).mkdir(parents=True)
            other = other.set_column(other.column_names.index(column), column, changed) if config == name else other
            pq.write_table(other, copy / config / "train.parquet")
        with fuzz.attempt((name, column, cells[place])):
            source = MllmuBench(path=copy)
            source.questions(source.profiles(0), 0)
            source.forget_ids()
