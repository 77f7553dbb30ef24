from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from messaging.callbacks import replay
from messaging.callbacks.fetch_inbound import Fetched, fetch_inbound
from messaging.callbacks.receive import CallbackReceiver
from messaging.conversations import same_text
from messaging.conversations.same_text import Said, gap_between, is_late, match, read_moment
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from tests.support.delivery import change, count, every, only
from tests.support.simulator_process import SimulatorProcess
from utils.errors import ProviderUnreachable
from utils.settings import Settings
from utils.sms_utils import ProviderClient

pytest_plugins = ["tests.support.delivery_fixtures"]

PHONE, OTHER = "+254711000001", "+254711000002"
SHORTCODE = "20880"


class Shelf:
    """AT's inbox as its documents have it, a hundred texts at a time."""

    def __init__(self, *entries: Mapping[str, Any]) -> None:
        self.entries = [dict(entry) for entry in entries]

    def fetch_inbox(self, last_received_id: int | str = 0) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["id"] > int(last_received_id)][:100]


def entry(
    inbox_id: int, text: str, sender: str = PHONE, ago: timedelta = timedelta(), **more: Any
) -> dict[str, Any]:
    date = (utc_now() - ago).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"id": inbox_id, "from": sender, "to": SHORTCODE, "text": text, "date": date, "linkId": "", **more}


def callback(text: str, name: str, sender: str = PHONE, date: str | None = None, **more: str) -> bytes:
    fields = {"from": sender, "to": SHORTCODE, "text": text, "id": name, **more}
    return urlencode(fields | ({"date": date} if date else {})).encode()


def seconds_of(shown: Mapping[str, Any]) -> str:
    """The date of an inbox entry as a callback writes it."""
    return f"{shown['date'][:19]}Z"


def receive(database: Database, settings: Settings, *bodies: bytes) -> None:
    inbox = CallbackReceiver(database, settings)
    for body in bodies:
        inbox.receive("inbound", body)
    inbox.stop()


def fetch(database: Database, settings: Settings, provider: Any, after_id: int | None = None) -> Fetched:
    return list(fetch_inbound(settings, database, provider, after_id))[-1]


def texts(database: Database) -> list[str]:
    return [row.text for row in every(database, tables.inbound_messages)]


def replies(database: Database) -> int:
    return count(database, tables.messages, tables.messages.c.origin == "reply")


def test_what_no_callback_brought_is_taken_in_and_answered(database: Database, settings: Settings) -> None:
    done = fetch(database, settings, Shelf(entry(15071, "Habari"), entry(15072, "Hello", OTHER)))
    assert done == Fetched(read=2, added=2, known=0, unusable=0, last_id=15072)
    assert texts(database) == ["Habari", "Hello"]
    assert replies(database) == 2
    assert {(row.kind, row.outcome) for row in every(database, tables.callbacks)} == {("fetched", "applied")}


def test_a_second_run_adds_nothing(database: Database, settings: Settings) -> None:
    shelf = Shelf(entry(1, "Habari"))
    fetch(database, settings, shelf)
    assert fetch(database, settings, shelf) == Fetched(last_id=1)
    assert fetch(database, settings, shelf, after_id=0) == Fetched(read=1, known=1, last_id=1)
    assert (texts(database), replies(database)) == (["Habari"], 1)


def test_the_inbox_is_read_to_its_end(database: Database, settings: Settings) -> None:
    shelf = Shelf(*(entry(number, f"text {number}") for number in range(1, 251)))
    states = list(fetch_inbound(settings, database, shelf))
    assert [state.read for state in states] == [100, 200, 250, 250]
    assert states[-1].added == count(database, tables.inbound_messages) == 250


def test_a_run_that_is_cut_off_goes_on_where_it_was(database: Database, settings: Settings) -> None:
    shelf = Shelf(*(entry(number, f"text {number}") for number in range(1, 151)))
    next(fetch_inbound(settings, database, shelf))
    assert count(database, tables.inbound_messages) == 100
    assert fetch(database, settings, shelf) == Fetched(read=50, added=50, last_id=150)


def test_what_a_callback_brought_is_known(database: Database, settings: Settings) -> None:
    shown = entry(7, "Habari")
    receive(database, settings, callback("Habari", "ATXid_1", date=seconds_of(shown)))
    assert fetch(database, settings, Shelf(shown)) == Fetched(read=1, known=1, last_id=7)
    assert replies(database) == 1
    assert only(database, tables.inbound_messages).inbox_id == 7


def test_a_callback_that_comes_after_the_fetch_is_the_same_text(
    database: Database, settings: Settings
) -> None:
    shown = entry(7, "Habari")
    fetch(database, settings, Shelf(shown))
    late = callback("Habari", "ATXid_1", date=seconds_of(shown), linkId="L1", networkCode="63902")
    receive(database, settings, late, late, callback("Habari", "ATXid_1", date=seconds_of(shown), cost="0"))
    row = only(database, tables.inbound_messages)
    assert (row.provider_inbound_id, row.inbox_id, row.awaits_callback) == ("ATXid_1", 7, False)
    assert (row.link_id, row.network) == ("L1", "63902")
    assert replies(database) == 1
    assert {one.outcome for one in every(database, tables.callbacks)} == {"applied"}


def test_a_person_who_says_yes_twice_has_said_it_twice(database: Database, settings: Settings) -> None:
    first, second = entry(1, "YES", ago=timedelta(seconds=40)), entry(2, "YES", ago=timedelta(seconds=10))
    receive(database, settings, callback("YES", "a", date=seconds_of(second)))
    assert fetch(database, settings, Shelf(first, second)).added == 1
    assert [row.inbox_id for row in every(database, tables.inbound_messages)] == [2, 1]
    # AT's own repeat of the one that came, and the late callback of the one that did not.
    receive(database, settings, callback("YES", "a", date=seconds_of(second), cost="0"))
    receive(database, settings, callback("YES", "b", date=seconds_of(first)))
    rows = every(database, tables.inbound_messages)
    assert [(row.provider_inbound_id, row.awaits_callback) for row in rows] == [("a", False), ("b", False)]


@pytest.mark.parametrize(("ago", "said_again"), [(timedelta(hours=11), 1), (timedelta(days=3), 2)])
def test_a_callback_without_date_is_the_fetched_text_only_while_at_may_still_bring_it(
    database: Database, settings: Settings, ago: timedelta, said_again: int
) -> None:
    fetch(database, settings, Shelf(entry(1, "YES", ago=ago)))
    receive(database, settings, callback("YES", "a"))
    assert len(texts(database)) == said_again


def test_a_stop_without_date_counts_though_one_was_fetched_long_ago(
    database: Database, settings: Settings
) -> None:
    fetch(database, settings, Shelf(entry(1, "STOP", ago=timedelta(days=3))))
    receive(database, settings, callback("START", "a"), callback("STOP", "b"))
    assert [row.phone for row in every(database, tables.suppressions)] == [PHONE]


class SmallPages(Shelf):
    def fetch_inbox(self, last_received_id: int | str = 0) -> list[dict[str, Any]]:
        return super().fetch_inbox(last_received_id)[:3]


def test_a_callback_and_a_fetch_at_the_same_moment_make_one_text(
    database: Database, settings: Settings
) -> None:
    settings = settings.model_copy(update={"replies_per_hour": 60})
    entries = [entry(number, f"text {number}") for number in range(1, 61)]
    inbox = CallbackReceiver(database, settings)
    with ThreadPoolExecutor(6) as pool:
        fetching = pool.submit(fetch, database, settings, SmallPages(*entries))
        bodies = [callback(one["text"], f"in-{one['id']}", date=seconds_of(one)) for one in entries]
        list(pool.map(lambda body: inbox.receive("inbound", body), bodies))
        assert fetching.result().read == 60
    inbox.stop()
    rows = every(database, tables.inbound_messages)
    assert sorted(row.text for row in rows) == sorted(one["text"] for one in entries)
    assert sorted(row.inbox_id for row in rows) == list(range(1, 61))
    assert all(row.provider_inbound_id.startswith("in-") for row in rows)
    assert replies(database) == 60


def test_a_text_like_an_older_one_is_new(database: Database, settings: Settings) -> None:
    old = entry(1, "BAL", ago=timedelta(hours=5))
    receive(database, settings, callback("BAL", "a", date=seconds_of(old)))
    assert fetch(database, settings, Shelf(entry(2, "BAL"))).added == 1
    assert texts(database) == ["BAL", "BAL"]


@pytest.mark.parametrize("change_of", [{"from": OTHER}, {"to": "20881"}, {"text": "Habari?"}])
def test_another_sender_number_or_word_is_another_text(
    database: Database, settings: Settings, change_of: dict[str, str]
) -> None:
    shown = entry(1, "Habari")
    receive(database, settings, callback("Habari", "a", date=seconds_of(shown)))
    assert fetch(database, settings, Shelf(shown | change_of)).added == 1


def test_stop_counts_however_late_it_is_fetched_and_is_not_answered(
    database: Database, settings: Settings
) -> None:
    fetch(database, settings, Shelf(entry(1, "STOP", ago=timedelta(days=3))))
    assert [row.phone for row in every(database, tables.suppressions)] == [PHONE]
    assert (only(database, tables.inbound_messages).reply_outcome, replies(database)) == ("late", 0)


def test_an_old_text_is_kept_but_not_answered(database: Database, settings: Settings) -> None:
    fetch(database, settings, Shelf(entry(1, "Habari", ago=timedelta(hours=2))))
    row = only(database, tables.inbound_messages)
    assert (row.reply_outcome, replies(database)) == ("late", 0)
    assert utc_now() - row.received_at < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("earlier", "later", "is_stopped"), [("START", "STOP", True), ("STOP", "START", False)]
)
def test_the_word_that_was_said_last_stands_whichever_came_first(
    database: Database, settings: Settings, earlier: str, later: str, is_stopped: bool
) -> None:
    """The earlier one is fetched when the later one has long come by callback."""
    receive(database, settings, callback("STOP", "0", date="2026-01-01T00:00:00Z"))
    receive(database, settings, callback(later, "1", date=seconds_of(entry(0, ""))))
    fetch(database, settings, Shelf(entry(1, earlier, ago=timedelta(minutes=30))))
    assert bool(every(database, tables.suppressions)) is is_stopped


@pytest.mark.parametrize(("words", "is_stopped"), [(("STOP", "START"), False), (("START", "STOP"), True)])
def test_fetched_words_take_effect_in_the_order_they_were_said(
    database: Database, settings: Settings, words: tuple[str, str], is_stopped: bool
) -> None:
    shelf = Shelf(
        *(entry(number, word, ago=timedelta(hours=5 - number)) for number, word in enumerate(words, 1))
    )
    fetch(database, settings, shelf)
    assert bool(every(database, tables.suppressions)) is is_stopped


def test_an_entry_that_lacks_a_field_is_quarantined_and_holds_nobody_up(
    database: Database, settings: Settings
) -> None:
    broken = {name: value for name, value in entry(1, "x").items() if name != "from"}
    done = fetch(database, settings, Shelf(broken, entry(2, "Habari")))
    assert (done.added, done.unusable, done.last_id) == (1, 1, 2)
    assert {row.outcome for row in every(database, tables.callbacks)} == {"quarantined", "applied"}


def test_an_inbox_that_does_not_move_on_ends_the_run(database: Database, settings: Settings) -> None:
    stuck = SimpleNamespace(fetch_inbox=lambda last_id: [entry(1, "Habari")])
    states = fetch_inbound(settings, database, stuck)
    assert next(states).added == 1
    with pytest.raises(ProviderUnreachable, match="does not move on after id 1"):
        next(states)


def test_a_fetched_text_is_told_to_the_operators_own_system(database: Database, settings: Settings) -> None:
    database.forwards = True
    fetch(database, settings, Shelf(entry(1, "Habari")))
    assert [row.type for row in every(database, tables.forward_events)] == ["inbound.received"]


def test_a_fetched_text_can_be_replayed_from_the_journal(database: Database, settings: Settings) -> None:
    fetch(database, settings, Shelf(entry(1, "Habari")))
    assert replay.replay(database, settings, [1]) == replay.ReplayCounts(unchanged=1)
    change(database, tables.callbacks, 1, outcome="unapplied")
    with database.write() as connection:
        connection.execute(tables.inbound_messages.delete())
    assert replay.replay(database, settings, [1]) == replay.ReplayCounts(applied=1)
    assert only(database, tables.inbound_messages).inbox_id == 1


def test_the_simulators_inbox_fills_what_its_callbacks_never_brought(
    database: Database,
    simulator: SimulatorProcess,
    simulator_settings: Settings,
    simulator_client: ProviderClient,
) -> None:
    """Nobody listens where this simulator posts its callbacks."""
    said = [f"text {number}" for number in range(105)]
    for text in said:
        simulator._control("inbound", {"from": PHONE, "to": SHORTCODE, "text": text})
    done = fetch(database, simulator_settings, simulator_client)
    assert (done.read, done.added) == (105, 105)
    assert texts(database) == said
    assert fetch(database, simulator_settings, simulator_client).read == 0


def row(
    text: str = "YES", date: str | None = None, received_at: datetime | None = None, row_id: int = 1
) -> Any:
    return SimpleNamespace(
        id=row_id, sender=PHONE, recipient=SHORTCODE, text=text, provider_date=date, received_at=received_at
    )


def said(date: str | None, text: str = "YES", key: int = 1) -> Said:
    return Said(key, PHONE, SHORTCODE, text, date)


AT_EIGHT = "2018-03-19T08:34:18.445Z"


@pytest.mark.parametrize(
    ("theirs", "is_near"),
    [
        ("2018-03-19T08:34:18Z", True),
        ("2018-03-19T08:35:50Z", True),
        ("2018-03-19T11:34:18+03:00", True),
        ("2018-03-19 08:34:18", True),
        ("2018-03-19 11:34:18", True),
        ("2018-03-19T11:34:18Z", False),
        ("2018-03-19 12:34:18", False),
        ("2018-03-19T08:40:18Z", False),
    ],
)
def test_dates_in_all_of_ats_formats_are_compared(theirs: str, is_near: bool) -> None:
    assert (gap_between(said(AT_EIGHT), row(date=theirs)) is not None) is is_near


@pytest.mark.parametrize(("hours", "is_near"), [(-1.0, False), (0.0, True), (11.9, True), (12.5, False)])
def test_a_callback_without_date_may_be_half_a_day_late(hours: float, is_near: bool) -> None:
    received_at = datetime(2018, 3, 19, 8, 34, 18, tzinfo=UTC) + timedelta(hours=hours)
    assert (gap_between(said(AT_EIGHT), row(received_at=received_at)) is not None) is is_near


def test_each_text_takes_the_nearest_row_and_no_row_twice() -> None:
    rows = [row(date="2018-03-19T08:34:00Z", row_id=1), row(date="2018-03-19T08:34:30Z", row_id=2)]
    found = match([said("2018-03-19T08:34:29Z", key=10), said("2018-03-19T08:34:31Z", key=11)], rows)
    assert found == {10: 2, 11: 1}
    assert match([said(None, key=key) for key in (1, 2, 3)], rows) == {1: 1, 2: 2}


@pytest.mark.parametrize(
    ("date", "hours", "is_near"),
    [
        (AT_EIGHT, 11.9, True),
        (AT_EIGHT, 12.5, False),
        (AT_EIGHT, -1.0, False),
        ("2018-03-19 11:34:18", 0.0, True),
        (None, 1.0, True),
        (None, 12.5, False),
    ],
)
def test_a_fetched_text_is_not_that_of_a_callback_half_a_day_later(
    date: str | None, hours: float, is_near: bool
) -> None:
    moment = datetime(2018, 3, 19, 8, 34, 18, tzinfo=UTC)
    arrived = said(None)._replace(received_at=moment + timedelta(hours=hours))
    assert (gap_between(arrived, row(date=date, received_at=moment)) is not None) is is_near


def test_a_number_of_ours_is_the_same_with_and_without_its_plus() -> None:
    fetched = said(AT_EIGHT)._replace(recipient="+254711082000")
    came = row(date=AT_EIGHT)
    came.recipient = "254711082000"
    assert match([fetched], [came]) == {1: 1}


@pytest.mark.parametrize("date", [None, "", "yesterday", "2018-13-45"])
def test_a_date_that_cannot_be_read_is_none(date: str | None) -> None:
    assert read_moment(date) is None
    assert is_late(f"{same_text.PREFIX}1", date, utc_now())


def test_only_a_fetched_text_can_be_late() -> None:
    assert not is_late("ATXid_1", "2018-03-19T08:34:18Z", utc_now())
