from __future__ import annotations

import pytest
from flask_openapi import OpenAPI

from tests.routes.conftest import MakeApp
from tests.routes.dashboard.test_access_pages import FIRST, Visitor


@pytest.fixture
def app(make_app: MakeApp) -> OpenAPI:
    return make_app(dashboard_password=FIRST, secret_key="a-key-that-signs-cookies")


@pytest.fixture
def visitor(app: OpenAPI) -> Visitor:
    """The first admin."""
    found = Visitor(app)
    found.log_in("admin", FIRST)
    return found
