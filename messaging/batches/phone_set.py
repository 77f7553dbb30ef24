"""Which numbers a batch has, in memory that hardly grows: 16 bytes a number where a set of ints takes 66."""

from __future__ import annotations

from array import array

_SMALLEST = 1 << 16
# Fibonacci hashing: numbers of one network differ in their last digits only, and this spreads them.
_MULTIPLIER = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


class SeenNumbers:
    """A set of E.164 numbers, by open addressing in one array: 15 digits fit in 50 bits."""

    def __init__(self) -> None:
        self._count = 0
        self._resize(_SMALLEST)

    def __len__(self) -> int:
        return self._count

    def add(self, e164: str) -> bool:
        """Whether it is new."""
        number = int(e164[1:])
        table, mask = self._table, self._mask
        place = (number * _MULTIPLIER & _WORD) >> self._shift
        while held := table[place]:
            if held == number:
                return False
            place = (place + 1) & mask
        table[place] = number
        self._count += 1
        if self._count > self._limit:
            self._grow()
        return True

    def _grow(self) -> None:
        old = self._table
        self._resize(len(old) * 2)
        table, mask = self._table, self._mask
        for number in filter(None, old):
            place = (number * _MULTIPLIER & _WORD) >> self._shift
            while table[place]:
                place = (place + 1) & mask
            table[place] = number

    def _resize(self, size: int) -> None:
        self._table = array("Q", bytes(8 * size))
        self._mask = size - 1
        self._shift = 64 - self._mask.bit_length()
        self._limit = size * 5 // 8
