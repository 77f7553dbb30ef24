""".ci/audit.py: what it makes of pip-audit's answer, above all where that knows nothing."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType
from typing import Any

import pytest

from utils.setting_types import REPOSITORY

UNKNOWN = {
    "name": "flask",
    "skip_reason": "Dependency not found on PyPI and could not be audited: flask (3.1.3)",
}
SOUND: dict[str, Any] = {"name": "redis", "version": "8.1.0", "vulns": []}
ILL = {
    "name": "requests",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}, {"id": "PYSEC-2", "fix_versions": []}],
}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", REPOSITORY / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies})


def test_a_vulnerability_fails_and_says_where_it_is_mended(audit: ModuleType) -> None:
    code, lines = audit.judge(answer(SOUND, ILL), "")
    assert code == 1
    assert lines[:2] == [
        "requests 2.0: PYSEC-1, mended in 2.1",
        "requests 2.0: PYSEC-2, mended in no release yet",
    ]


def test_what_nobody_could_look_up_is_not_called_sound(audit: ModuleType) -> None:
    assert audit.judge(answer(SOUND, UNKNOWN), "") == (
        0,
        ["pip-audit: 1 packages looked up; 1 could not be looked up"],
    )
    code, (said,) = audit.judge(answer(UNKNOWN), "")
    assert (code, "left out" in said, "not found on PyPI" in said) == (0, True, True)


@pytest.mark.parametrize("output", ["", "no JSON", "{}"])
def test_where_it_cannot_run_the_reason_is_told(audit: ModuleType, output: str) -> None:
    code, (said,) = audit.judge(output, "Failed to resolve 'pypi.org'")
    assert (code, said) == (0, "pip-audit is left out: Failed to resolve 'pypi.org'")
