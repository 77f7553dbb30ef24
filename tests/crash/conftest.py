from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.crash.scene import Scene
from tests.crash.stores import store_of_this_run


@pytest.fixture(scope="session")
def store() -> str:
    """One store per run, in turn by the day; `CRASH_STORE=sqlite` or `postgresql` chooses."""
    return store_of_this_run()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside the failure of a test on a stage: what stood in the database, and the ends of the processes' logs."""
    report = yield
    stage = getattr(item, "funcargs", {}).get("stage")
    if report.when == "call" and report.failed and isinstance(stage, Scene):
        report.sections.append(("the stage", stage.describe()))
    return report
