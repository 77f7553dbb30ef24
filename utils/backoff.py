"""Exponential backoff: each wait is twice the one before, up to a limit."""

from datetime import timedelta

# 2 ** 10 times the first wait exceeds every limit in use; without a bound the power would grow with the tries.
_MOST_DOUBLINGS = 10


def backoff(tries: int, first: timedelta, longest: timedelta) -> timedelta:
    """The wait after so many tries: `first` after one try (or none), then doubled each time."""
    doublings = min(max(tries - 1, 0), _MOST_DOUBLINGS)
    return min(first * (1 << doublings), longest)
