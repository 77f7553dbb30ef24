"""Known vulnerabilities of what is pinned, by pip-audit. Exit code 1 where there are any.

Left out, with the reason, where no advisory source can be reached. pip-audit itself then says of each package that it
"could not be audited", and ends as if all were well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

REPOSITORY = Path(__file__).resolve().parents[1]
# Of its own environment, which uv makes and keeps: it needs more packages than the service.
TOOL = "pip-audit==2.10.1"
FILES = ("requirements.txt", "requirements-dev.txt")
SECONDS = 90


def ask() -> tuple[str, str]:
    """What it writes to standard output, and the last line of what it writes beside that."""
    command = [str(Path(sys.executable).with_name("uv")), "tool", "run", "--quiet", TOOL, "--format", "json"]
    command += ["--disable-pip", "--no-deps", "--progress-spinner", "off"]
    command += [part for name in FILES for part in ("--requirement", name)]
    try:
        done = subprocess.run(  # noqa: S603  (no shell, and our own arguments)
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", type(error).__name__
    return done.stdout, (done.stderr.strip().splitlines() or [""])[-1]


def judge(output: str, why: str) -> tuple[int, list[str]]:
    """The exit code, and what to say."""
    try:
        found: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        return 0, [f"pip-audit is left out: {why or 'it said nothing'}"]
    audited = [one for one in found if "skip_reason" not in one]
    if not audited:
        reason = found[0]["skip_reason"] if found else "there is nothing to look at"
        return 0, [f"pip-audit is left out, no advisory source can be reached: {reason}"]
    problems = [
        f"{one['name']} {one['version']}: {vulnerability['id']}, mended in"
        f" {', '.join(vulnerability['fix_versions']) or 'no release yet'}"
        for one in audited
        for vulnerability in one["vulns"]
    ]
    left = f"; {len(found) - len(audited)} could not be looked up" if len(found) > len(audited) else ""
    return (1 if problems else 0), [*problems, f"pip-audit: {len(audited)} packages looked up{left}"]


def main() -> int:
    code, lines = judge(*ask())
    for line in lines:
        click.echo(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
