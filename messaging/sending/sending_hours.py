"""When a sender may send to a country: a small file of rules, and the classes that the operator gave senders."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from utils.phone_numbers import region_of
from utils.sender_ids import sender_key
from utils.setting_types import REPOSITORY

RULES = REPOSITORY / "data" / "sending_windows.toml"
PROMOTIONAL = "promotional"
# The network's clock is not ours.
AFTER_OPENING = timedelta(minutes=1)
# What is claimed may wait for the rate limit as long as its lease.
BEFORE_CLOSING = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Window:
    """Open each day from `opens` to `closes`, local times of `zone`."""

    country: str
    sender_class: str
    zone: ZoneInfo
    opens: time
    closes: time

    def is_open(self, now: datetime) -> bool:
        local = now.astimezone(self.zone)
        return (
            self._at(local, self.opens) + AFTER_OPENING
            <= local
            < self._at(local, self.closes) - BEFORE_CLOSING
        )

    def next_opening(self, now: datetime) -> datetime:
        local = now.astimezone(self.zone)
        opening = self._at(local, self.opens) + AFTER_OPENING
        return (opening if local < opening else opening + timedelta(days=1)).astimezone(UTC)

    def _at(self, local: datetime, moment: time) -> datetime:
        return local.replace(hour=moment.hour, minute=moment.minute, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class SendingWindows:
    """`classes`: sender class by sender id, as the settings have it."""

    classes: Mapping[str, str]

    @classmethod
    def of(cls, sender_classes: Mapping[str, str]) -> SendingWindows:
        return cls({sender_key(sender): name for sender, name in sender_classes.items()})

    def opening_for(self, sender_id: str | None, recipient: str, now: datetime) -> datetime | None:
        """When this text may go; None: now."""
        sender_class = self.classes.get(sender_key(sender_id)) if self.classes else None
        if sender_class is None:
            return None
        window = rules().get((region_of(recipient) or "", sender_class))
        return None if window is None or window.is_open(now) else window.next_opening(now)


NO_WINDOWS = SendingWindows({})


def curfew_of(recipient: str | None) -> Window:
    """The window that a refusal for the hour is about. Only Nigeria refuses so (docs/africastalking.md, 3)."""
    region = region_of(recipient) if recipient else None
    return rules().get((region or "", PROMOTIONAL)) or rules()["NG", PROMOTIONAL]


@cache
def rules() -> Mapping[tuple[str, str], Window]:
    """By country and sender class."""
    read = tomllib.loads(RULES.read_text(encoding="utf-8"))["windows"]
    windows = [
        Window(one["country"], one["sender_class"], ZoneInfo(one["zone"]), one["opens"], one["closes"])
        for one in read
    ]
    return {(one.country, one.sender_class): one for one in windows}
