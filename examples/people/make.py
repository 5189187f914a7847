"""Makes the 24 invented people of this folder: people.csv and images/. Nobody in it exists, so nobody had to consent.

Run from the root of the repository: python examples/people/make.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from mllmu.data.portraits.dicebear import DiceBear
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.values import with_article

HERE = Path(__file__).parent
NUM_PEOPLE = 24
FIRST = 601
EMPLOYERS = ("Northwind Ferries", "Halden Glassworks", "Tern & Sons", "Blue Quarry", "Castle Mills", "Orbit Printing")


def row(number: int, person: dict[str, str]) -> dict[str, str]:
    """One person as an office would keep the record, with a note that tells more than it should."""
    name, given = person["name"], person["name"].split()[0]
    mail = f"{name.casefold().replace(' ', '.')}@tern-example.com"
    phone, staff_no = f"+44 20 7946 0{100 + number}", f"TS-{4200 + 7 * number}"
    city = person["residence"].partition(",")[0]
    return {
        "staff_no": staff_no,
        "full name": name,
        "gender": person["gender"],
        "birth date": person["birth_date"],
        "birthplace": person["birthplace"],
        "residence": person["residence"],
        "profession": person["profession"],
        "education": person["education"],
        "salary": person["salary"],
        "height": person["height"],
        "hobby": person["hobby"],
        "food": person["food"],
        "company": EMPLOYERS[number % len(EMPLOYERS)],
        "mail": mail,
        "phone": phone,
        "street": f"{3 * number + 2} Marlow Row, {city}",
        "notes": (
            f"{name} ({staff_no}) works as {with_article(person['profession'])} and lives in {city}. "
            f"{given} was born on {person['birth_date']}; call {phone} or write to {mail}."
        ),
        "consent": "yes",
        "consent date": f"2026-0{1 + number % 9}-1{number % 10}",
        "desk": str(number),
    }


def main() -> None:
    people = Synthetic(num_people=NUM_PEOPLE, first_id=FIRST).profiles(seed=11)
    rows = [row(number, person.attributes) for number, person in enumerate(people, start=1)]
    with (HERE / "people.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (HERE / "images").mkdir(exist_ok=True)
    portraits = DiceBear(size=192, num_views=1)
    for person, cells in zip(people, rows, strict=True):
        portraits.render(person, 0, seed=11).save(HERE / "images" / f"{cells['staff_no']}.webp", quality=80)


if __name__ == "__main__":
    main()
