"""A key for a command that sends, so that whoever does not hear how it ended may repeat it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from utils.errors import InvalidInput

KEY: Callable[[Any], Any] = click.option(
    "--idempotency-key", help="The same key within a day sends once; without one a new key is shown."
)


@contextmanager
def key_shown(given: str | None) -> Iterator[str]:
    """A key of our own where none is given, told on standard error unless the request itself was refused."""
    key = given or secrets.token_hex(8)
    is_refused = False
    try:
        yield key
    except InvalidInput:
        is_refused = True
        raise
    finally:
        if not (given or is_refused):
            click.echo(f"Idempotency-Key: {key}", err=True)
