"""``python -m simulator``: an offline Africa's Talking on this machine."""

import argparse
import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from .config import Config, ConfigurationError
from .server import serve


def main(arguments: list[str] | None = None) -> None:
    parser = command_line()
    chosen = vars(parser.parse_args(arguments))
    is_temporary = chosen["database"] is None
    try:
        config = Config(**chosen | {"database": chosen["database"] or Path()})
    except ConfigurationError as error:
        parser.error(str(error))
    if is_temporary:
        config = replace(config, database=Path(tempfile.mkdtemp(prefix="simulator-")) / "simulator.db")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    serve(config, is_temporary=is_temporary)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m simulator", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="a loopback address")
    add("--port", type=int, default=8001, help="0 picks a free one")
    add("--service-url", default="http://127.0.0.1:8000", help="the service that gets the callbacks")
    add("--token", help="sent as ?token= with every callback")
    add("--shortcode", default="20880", help="where phones send to unless they say otherwise")
    add("--api-key", help="the only key accepted; without it any key is")
    add(
        "--database",
        type=Path,
        help="keeps texts and owed callbacks over restarts (default: a temporary file)",
    )
    add(
        "--callback-retry-seconds",
        type=float,
        default=60.0,
        help="pause before an unanswered callback is repeated",
    )
    add(
        "--report-delay-seconds", type=float, default=0.3, help="from accepting a text to its delivery report"
    )
    return parser


if __name__ == "__main__":
    main()
