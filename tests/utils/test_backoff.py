from datetime import timedelta

import pytest

from utils.backoff import backoff


@pytest.mark.parametrize(
    ("tries", "seconds"), [(0, 5), (1, 5), (2, 10), (3, 20), (7, 320), (8, 600), (10**6, 600)]
)
def test_each_wait_is_twice_the_one_before_up_to_the_longest(tries: int, seconds: int) -> None:
    first, longest = timedelta(seconds=5), timedelta(minutes=10)
    assert backoff(tries, first, longest) == timedelta(seconds=seconds)
