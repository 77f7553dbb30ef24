"""CSV files as people upload them: unsorted numbers, some twice, some that cannot be, some without their plus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TEMPLATE = "Dear {{name}}, your clinic opens at nine on Monday. Bring your card. Reply STOP to end this."
MIX = "of 100 rows 2 are duplicates, 2 are refused and 2 have lost their plus"
_NAMES = ("Achieng Otieno", "Wanjiru Kamau", "Kiprop Cheruiyot", "Amina Hassan", "Mutua Mwangi")
_TOWNS = ("Kisumu", "Nairobi", "Eldoret", "Mombasa", "Machakos")
# Has no factor in common with the numbers' range, so that all differ and neighbours lie far apart.
_STRIDE, _RANGE = 61_803_399, 10**8


@dataclass(frozen=True, slots=True)
class RecipientFile:
    """What is in it: `taken`, `refused` and `duplicates` make up its `rows`."""

    path: Path
    rows: int

    @property
    def taken(self) -> int:
        return self.rows - self.refused - self.duplicates

    @property
    def refused(self) -> int:
        return self.rows // 50

    @property
    def duplicates(self) -> int:
        return self.rows // 50


def write_recipients(path: Path, rows: int) -> RecipientFile:
    """`rows` in hundreds."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("phone,name,town\n")
        for start in range(0, rows, 100):
            file.writelines(_hundred(start))
    return RecipientFile(path, rows)


def _hundred(start: int) -> Iterator[str]:
    for number in range(start, start + 100):
        phone, name = _phone(number), _NAMES[number % 5]
        match number % 100:
            case 20 | 70:
                phone = _phone(start)
            case 30:
                phone = phone[:8]
            case 80:
                name = ""
            case 40 | 90:
                phone = phone[1:]
        yield f"{phone},{name},{_TOWNS[number % 3]}\n"


def _phone(number: int) -> str:
    return f"+2547{number * _STRIDE % _RANGE:08d}"
