"""Which role a page or a form needs. What is not named: a page `viewer`, a form `admin`."""

from __future__ import annotations

from typing import Final

from messaging.access.operators import ADMIN, APPROVER, SENDER, VIEWER

# Without a login.
PUBLIC: Final = frozenset({"show_login", "log_in", "show_choose_password", "choose_password"})
# A file comes with these: it is not read before its sender is known and there is room.
UPLOADS: Final = frozenset(
    {"check_send", "download_unsent_refused", "download_unsent_duplicates", "begin_send", "import_opt_outs"}
)
# Each of them asks for texts: SENDS_PER_MINUTE.
LIMITED: Final = frozenset({"begin_send", "reply", "resend_message"})
NEEDED: Final = {
    "log_out": VIEWER,
    "show_conversations": SENDER,
    "show_conversation": SENDER,
    "show_people": SENDER,
    "show_texts": SENDER,
    "find_person": SENDER,
    "show_person": SENDER,
    "reply": SENDER,
    "show_new_send": SENDER,
    "check_send": SENDER,
    "download_unsent_refused": SENDER,
    "download_unsent_duplicates": SENDER,
    "begin_send": SENDER,
    "measure_text": SENDER,
    "resend_message": SENDER,
    "close_message": SENDER,
    "mark_read": SENDER,
    "stop_texting": SENDER,
    "add_opt_out": SENDER,
    "withdraw_consent": SENDER,
    "pause_send": SENDER,
    "resume_send": SENDER,
    "cancel_send": SENDER,
    "show_refused": SENDER,
    "download_refused": SENDER,
    "download_duplicates": SENDER,
    "download_messages": SENDER,
    "download_undelivered": SENDER,
    "download_opt_outs": SENDER,
    "release_held": APPROVER,
    "cancel_held": APPROVER,
    "release_message": APPROVER,
    "cancel_message": APPROVER,
    "release_reply": APPROVER,
    "show_callbacks": ADMIN,
    "change_password": VIEWER,
    "end_session": VIEWER,
    "show_operators": ADMIN,
    "show_keys": ADMIN,
    "show_actions": ADMIN,
}
