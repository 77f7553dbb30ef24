"""AT's money strings: `KES 0.8000`, `UGX -14.5731`, or a bare `0` without a currency (docs/africastalking.md, 7)."""

import re
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache

# Below a trillion, so that its millionths fit the 64 bits they are booked in.
LEAST_AMOUNT, LARGEST_AMOUNT = Decimal("0.000001"), 10**12
_MONEY = re.compile(r"(?:([A-Z]{3})\s+)?([+-]?[0-9]{1,12}(?:\.[0-9]{1,12})?)")


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in one currency. `raw`: the string as AT wrote it, for the records."""

    amount: Decimal
    currency: str | None
    raw: str = field(default="", compare=False)

    @property
    def micros(self) -> int:
        """In millionths, as amounts are booked."""
        return int(self.amount.scaleb(6))

    def __str__(self) -> str:
        return f"{self.currency} {self.amount}" if self.currency else str(self.amount)


@lru_cache(maxsize=4096)  # the recipients of one POST share a handful of prices
def parse_money(text: str) -> Money | None:
    """Money as AT writes it; None for any other form, which is stored raw and never refused."""
    found = _MONEY.fullmatch(text.strip())
    if found is None:
        return None
    return Money(Decimal(found[2]), found[1], text)


def read_amount(text: str) -> Money | None:
    """An amount above 0 with its currency, as a person states a limit: `KES 5000`. None for anything else."""
    found = parse_money(text)
    is_amount = found is not None and found.currency and LEAST_AMOUNT <= found.amount < LARGEST_AMOUNT
    return found if is_amount else None


def in_units(micros: int) -> str:
    """An amount that is booked in millionths, as answers and files write it: `0.8000`."""
    return f"{Decimal(micros).scaleb(-6):.4f}"
