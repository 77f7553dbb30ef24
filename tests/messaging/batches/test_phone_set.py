from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from messaging.batches.phone_set import SeenNumbers


@given(numbers=st.lists(st.integers(1, 10**15 - 1)))
def test_it_knows_what_a_set_knows(numbers: list[int]) -> None:
    seen, known = SeenNumbers(), set[int]()
    for number in numbers:
        assert seen.add(f"+{number}") is (number not in known)
        known.add(number)
    assert len(seen) == len(known)


def test_it_forgets_nothing_while_it_grows() -> None:
    numbers = random.Random(1).sample(range(254_700_000_000, 254_800_000_000), 100_000)
    seen = SeenNumbers()
    assert all(seen.add(f"+{number}") for number in numbers)
    assert not any(seen.add(f"+{number}") for number in numbers)


def test_neighbours_do_not_crowd_it() -> None:
    seen = SeenNumbers()
    assert all(seen.add(f"+{number}") for number in range(254_700_000_000, 254_700_050_000))
    assert len(seen) == 50_000
