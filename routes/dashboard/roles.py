"""Which role a page or a form needs. What is not named: a page `viewer`, a form `admin`."""

from __future__ import annotations

from typing import Final

from messaging.access.operators import ADMIN, VIEWER

# Without a login.
PUBLIC: Final = frozenset({"show_login", "log_in", "show_choose_password", "choose_password"})
NEEDED: Final = {
    "log_out": VIEWER,
    "change_password": VIEWER,
    "end_session": VIEWER,
    "show_operators": ADMIN,
    "show_keys": ADMIN,
    "show_actions": ADMIN,
}
