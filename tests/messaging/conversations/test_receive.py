from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from messaging.consent import ledger
from messaging.conversations import threads
from messaging.conversations.receive import OTHER_WORDS
from messaging.operations.audit import audit
from messaging.storage import tables
from messaging.storage.database import Database, lock_keys
from tests.support.callback_rows import (
    OTHER_PHONE,
    PHONE,
    all_rows,
    at_once,
    inbound,
    move_time,
    only_row,
    open_inbox,
    opt_out,
)
from utils.settings import Settings


def receive(database: Database, settings: Settings, *bodies: bytes, **overrides: object) -> None:
    with open_inbox(database, settings, **overrides) as inbox:
        for body in bodies:
            inbox.receive("inbound", body)


def outcomes(database: Database) -> list[str]:
    return [row.reply_outcome for row in all_rows(database, tables.inbound_messages)]


def block(database: Database, phone: str = PHONE, sender_id: str | None = None, source: str = "api") -> None:
    scope = "all" if sender_id is None else "sender"
    with database.write() as connection:
        ledger.record_stop(connection, phone, scope, sender_id, source)


def test_a_text_is_kept_and_answered_from_the_number_it_came_to(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("hello", "in-1", to="40404", linkId="L7", networkCode="63902"))
    kept = only_row(database, tables.inbound_messages)
    assert (kept.sender, kept.recipient, kept.text, kept.meaning) == (PHONE, "40404", "hello", "message")
    assert (kept.provider_inbound_id, kept.link_id, kept.network) == ("in-1", "L7", "63902")
    assert kept.callback_id == only_row(database, tables.callbacks).id
    assert kept.reply_outcome == "queued"
    reply = only_row(database, tables.messages)
    assert (reply.recipient, reply.sender_id, reply.text) == (
        PHONE,
        "40404",
        'This is a response to: "hello"',
    )
    assert (reply.status, reply.origin, reply.priority) == ("queued", "reply", 0)
    assert (reply.inbound_id, reply.link_id, reply.estimated_parts) == (kept.id, "L7", 1)


def test_the_reply_wakes_a_worker(database: Database, settings: Settings) -> None:
    woken: list[bool] = []
    database.wake = lambda: woken.append(True)
    receive(database, settings, inbound("hello"))
    assert woken == [True]


def test_the_same_inbound_id_gets_one_reply_whatever_else_its_body_says(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("one"), inbound("one"), inbound("two"), inbound("three"))
    assert only_row(database, tables.inbound_messages).text == "one"
    assert len(all_rows(database, tables.messages)) == 1
    assert [(row.count, row.detail) for row in all_rows(database, tables.callbacks)] == [
        (2, None),
        (1, "this inbound id came before"),
        (1, "this inbound id came before"),
    ]


def test_a_stop_counts_though_its_id_came_before_with_other_words(
    database: Database, settings: Settings
) -> None:
    """A body cut short was taken for whole once: `ST` of `STOP`."""
    receive(database, settings, inbound("ST"), inbound("STOP"), inbound("STOP"), stop_reply="You are out.")
    assert only_row(database, tables.inbound_messages).text == "ST"
    assert [(row.count, row.outcome, row.detail) for row in all_rows(database, tables.callbacks)] == [
        (1, "applied", None),
        (2, "applied", OTHER_WORDS),
    ]
    block = only_row(database, tables.suppressions)
    assert (block.phone, block.sender_id) == (PHONE, "")
    echo, confirmation = all_rows(database, tables.messages)
    assert (echo.passes_opt_out, confirmation.text, confirmation.passes_opt_out) == (
        False,
        "You are out.",
        True,
    )


def test_a_start_counts_though_its_id_came_before_with_other_words(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("STOP", "in-0"), inbound("STA"), inbound("START"))
    assert all_rows(database, tables.suppressions) == []


def test_the_same_words_of_one_id_in_another_order_of_fields_do_not_undo_a_later_start(
    database: Database, settings: Settings
) -> None:
    again = b"id=in-1&text=STOP&to=20880&from=%2B254711000001"
    receive(database, settings, inbound("STOP"), inbound("START", "in-2"), again)
    assert all_rows(database, tables.suppressions) == []


def test_the_same_inbound_id_at_the_same_moment_gets_one_reply(
    database: Database, settings: Settings
) -> None:
    with open_inbox(database, settings) as one, open_inbox(database, settings) as other:
        at_once(
            [
                lambda inbox=inbox, number=number: inbox.receive("inbound", inbound(f"text {number}", "in-1"))
                for number, inbox in enumerate([one, other] * 3)
            ]
        )
    assert len(all_rows(database, tables.callbacks)) == 6
    assert len(all_rows(database, tables.inbound_messages)) == 1
    assert len(all_rows(database, tables.messages)) == 1


def test_texts_of_many_people_in_one_commit_are_all_answered(database: Database, settings: Settings) -> None:
    phones = [f"+2547110{number:05d}" for number in range(20)]
    with open_inbox(database, settings) as inbox:
        at_once(
            [lambda phone=phone: inbox.receive("inbound", inbound("x", phone, phone)) for phone in phones]
        )
    assert sorted(row.recipient for row in all_rows(database, tables.messages)) == phones
    by_id = {row.id: row.sender for row in all_rows(database, tables.inbound_messages)}
    assert all(by_id[row.inbound_id] == row.recipient for row in all_rows(database, tables.messages))


@pytest.mark.parametrize(
    ("sender", "outcome"),
    [
        ("MTN", "not_a_phone"),
        ("12345", "not_a_phone"),
        ("+999123", "not_a_phone"),
        ("20880", "own_number"),
        ("+20880", "own_number"),
        ("Acme", "own_number"),
        ("+254700000020", "own_number"),
    ],
)
def test_only_real_numbers_of_others_are_answered(
    database: Database, settings: Settings, sender: str, outcome: str
) -> None:
    # The text came to a long number of ours, which is not a setting.
    body = inbound("hello", sender=sender, to="+254700000020")
    receive(database, settings, body, at_shortcode="20880", at_sender_id="ACME")
    assert outcomes(database) == [outcome]
    assert all_rows(database, tables.messages) == []


def test_no_template_no_reply(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("hello"), reply_template="")
    assert outcomes(database) == ["off"]


def test_an_empty_reply_is_not_sent(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound(" "), reply_template="{text}")
    assert outcomes(database) == ["off"]
    assert all_rows(database, tables.messages) == []


def test_stop_blocks_everything_and_is_confirmed_once(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("Stop.", "1", linkId="L7"), inbound("STOP", "2"))
    kept = all_rows(database, tables.inbound_messages)[0]
    assert kept.meaning == "stop"
    assert outcomes(database) == ["queued", "stop"]
    confirmation = only_row(database, tables.messages)
    assert confirmation.text.startswith("You will get no more texts")
    assert (confirmation.passes_opt_out, confirmation.link_id) == (True, None)
    with database.read() as connection:
        assert ledger.suppressed(connection, [PHONE], "ANYONE") == {PHONE}
        (entry,) = ledger.entries(connection)
    assert (entry.scope, entry.source, entry.callback_id) == ("all", "keyword", kept.callback_id)


def test_a_confirmation_may_be_turned_off(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("STOP", "1"), inbound("START", "2"), stop_reply="", start_reply="")
    assert outcomes(database) == ["stop", "off"]
    assert all_rows(database, tables.messages) == []


def test_a_confirmation_passes_no_other_block(database: Database, settings: Settings) -> None:
    block(database, sender_id="20880", source="refused_406")
    receive(database, settings, inbound("STOP"))
    assert outcomes(database) == ["opted_out"]
    assert all_rows(database, tables.messages) == []


def test_help_is_answered_and_without_its_text_is_an_ordinary_one(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("HELP", "1"))
    receive(database, settings, inbound("HELP", "2"), help_reply="")
    assert [row.text for row in all_rows(database, tables.messages)] == [
        "Reply STOP to end our texts, START to get them again.",
        'This is a response to: "HELP"',
    ]


def test_a_start_of_somebody_who_is_not_stopped_is_an_ordinary_text(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("START"))
    assert only_row(database, tables.messages).text == 'This is a response to: "START"'


def test_stop_may_be_narrowed_to_the_number_it_was_texted_to(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("STOP", to="40404"), stop_scope="sender")
    with database.read() as connection:
        assert ledger.suppressed(connection, [PHONE], "40404") == {PHONE}
        assert ledger.suppressed(connection, [PHONE], "20880") == set()


@pytest.mark.parametrize(
    ("sender", "region", "blocked"),
    [
        ("0711000777", "KE", ["+254711000777"]),
        ("+254 711 000 778", None, ["+254711000778"]),
        ("00254711000779", None, ["+254711000779"]),
        ("254-711-000-780", "KE", ["+254711000780"]),
        # Italy's by its calling code, South Africa's by the region.
        ("391234567", "ZA", ["+27391234567", "+391234567"]),
        # What gateways and people put round a number.
        ("tel:+254711000777", None, ["+254711000777"]),
        ("+254711000777/TYPE=PLMN", None, ["+254711000777"]),
        ("sip:254711000777@example.org;user=phone", None, ["+254711000777"]),
        ("'+254711000777", None, ["+254711000777"]),
        ("++254711000777", None, ["+254711000777"]),
        ("000254711000777", None, ["+254711000777"]),
        (
            "+\u0662\u0665\u0664\u0667\u0661\u0661\u0660\u0660\u0660\u0667\u0667\u0667",
            None,
            ["+254711000777"],
        ),
        ("+0711000777", "KE", ["+254711000777"]),
        ("MTN", "KE", ["MTN"]),
        ("Promo 0711000777", "KE", ["Promo 0711000777"]),
        ("0711000777", None, ["0711000777"]),
        ("+1711000777", "KE", ["1711000777"]),
        ("a sender with a name of more than twenty characters", None, ["a sender with a name"]),
    ],
)
def test_a_stop_blocks_every_number_that_its_sender_may_be(
    database: Database, settings: Settings, sender: str, region: str | None, blocked: list[str]
) -> None:
    """And the very string where it is none."""
    receive(database, settings, inbound("STOP", sender=sender), default_region=region)
    assert sorted(row.phone for row in all_rows(database, tables.suppressions)) == blocked


@pytest.mark.parametrize(
    ("phone", "region", "blocked"),
    [
        ("0711000777", "KE", ["+254711000777"]),
        ("+254 711 000 778", None, ["+254711000778"]),
        ("391234567", "ZA", ["+27391234567", "+391234567"]),
        ("nobody", None, ["nobody"]),
    ],
)
def test_a_networks_opt_out_blocks_every_number_that_it_may_mean(
    database: Database, settings: Settings, phone: str, region: str | None, blocked: list[str]
) -> None:
    with open_inbox(database, settings, default_region=region) as inbox:
        inbox.receive("opt_out", opt_out(phone))
    assert sorted(row.phone for row in all_rows(database, tables.suppressions)) == blocked


def test_who_said_stop_in_the_national_form_gets_no_further_text(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("STOP", sender="0711000001"), default_region="KE", stop_reply="")
    receive(database, settings, inbound("hello", "in-2", sender=PHONE))
    assert outcomes(database)[-1] == "opted_out"
    assert all_rows(database, tables.messages) == []


@pytest.mark.parametrize(
    ("sender", "listed_as"),
    [
        ("MTN", "'MTN'"),
        ("+25471100x777", "'25471100x777'"),
        ("the customers of a network", "'the customers of a n'"),
    ],
)
def test_an_opt_out_of_what_is_no_number_is_listed_for_a_person_until_start(
    database: Database, settings: Settings, sender: str, listed_as: str
) -> None:
    receive(database, settings, inbound("STOP", sender=sender))
    (listed,) = [one for one in audit(database).listed if one["kind"] == "opt_out_without_number"]
    assert listed["id"] == only_row(database, tables.suppressions).opt_out_id
    assert listed_as in listed["detail"]
    receive(database, settings, inbound("START", "in-2", sender=sender))
    assert all_rows(database, tables.suppressions) == []


@pytest.mark.parametrize("text", ["please stop", "STOP STOP STOP", "STOP SMS", "unsub"])
def test_a_stop_in_other_words_blocks_and_is_confirmed(
    database: Database, settings: Settings, text: str
) -> None:
    receive(database, settings, inbound(text), stop_reply="You are out.")
    assert only_row(database, tables.suppressions).phone == PHONE
    assert only_row(database, tables.messages).text == "You are out."


def listed(database: Database) -> list[int]:
    return [one["id"] for one in audit(database).listed if one["kind"] == "possible_opt_out"]


def test_a_stop_word_with_more_is_neither_obeyed_nor_echoed_but_listed_for_a_person(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("STOP 12345", "in-1"), inbound("hello", "in-2", sender=OTHER_PHONE))
    assert outcomes(database) == ["possible_opt_out", "queued"]
    assert [row.possible_opt_out for row in all_rows(database, tables.inbound_messages)] == [True, False]
    assert all_rows(database, tables.suppressions) == []
    assert only_row(database, tables.messages).recipient == OTHER_PHONE
    assert listed(database) == [1]


@pytest.mark.parametrize("decision", ["opted out", "read"])
def test_a_possible_opt_out_is_listed_until_a_person_has_decided(
    database: Database, settings: Settings, decision: str
) -> None:
    receive(database, settings, inbound("do not stop"))
    assert listed(database) == [1]
    if decision == "read":
        threads.mark_read(database, PHONE)
    else:
        block(database)
    assert listed(database) == []


def test_who_opted_out_gets_no_reply_and_an_ordinary_text_does_not_bring_them_back(
    database: Database, settings: Settings
) -> None:
    receive(database, settings, inbound("STOP", "1"), inbound("are you there?", "2"), inbound("hello", "3"))
    assert outcomes(database) == ["queued", "opted_out", "opted_out"]
    assert only_row(database, tables.messages).passes_opt_out
    assert len(all_rows(database, tables.suppressions)) == 1


def test_a_block_of_another_sender_does_not_stop_the_reply(database: Database, settings: Settings) -> None:
    block(database, sender_id="ACME")
    receive(database, settings, inbound("hello"))
    assert outcomes(database) == ["queued"]


def test_start_lifts_what_stop_has_blocked_and_is_answered(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("STOP", "1"), inbound("START", "2"))
    assert [row.meaning for row in all_rows(database, tables.inbound_messages)] == ["stop", "start"]
    assert outcomes(database) == ["queued", "queued"]
    assert all_rows(database, tables.messages)[1].text.startswith("You will get our texts again")
    assert all_rows(database, tables.suppressions) == []


def test_start_does_not_lift_what_the_network_has_blocked(database: Database, settings: Settings) -> None:
    with open_inbox(database, settings) as inbox:
        inbox.receive("inbound", inbound("STOP", "1"))
        inbox.receive("opt_out", opt_out())
        inbox.receive("inbound", inbound("START", "2"))
    assert outcomes(database) == ["queued", "opted_out"]
    assert only_row(database, tables.suppressions).phone == PHONE


@pytest.mark.parametrize(
    ("stopped_at", "started_at", "is_stopped"),
    [
        ("2026-11-24T10:05:00Z", "2026-11-24T10:00:00Z", True),
        ("2026-11-24 10:05:00", "2026-11-24 10:00:00", True),
        ("2026-11-24T10:05:00.500Z", "2026-11-24T13:05:00+03:00", True),
        ("2026-11-24T10:00:00Z", "2026-11-24T10:05:00Z", False),
        ("2026-11-24 10:00:00", "2026-11-24 10:30:00", False),
        ("2026-11-24T10:00:00Z", "2026-11-24T10:00:00Z", False),
        ("2026-11-24T10:05:00Z", "2026-11-24 10:00:00", False),
        ("2026-11-24T10:05:00Z", "soon", False),
        ("", "2026-11-24T10:00:00Z", False),
    ],
)
def test_a_start_that_comes_late_does_not_undo_a_stop_that_was_said_after_it(
    database: Database, settings: Settings, stopped_at: str, started_at: str, is_stopped: bool
) -> None:
    """AT brings again for hours what it could not bring; other dates than AT's own, in one form, decide nothing."""
    receive(database, settings, inbound("STOP", "1", date=stopped_at), inbound("START", "2", date=started_at))
    assert bool(all_rows(database, tables.suppressions)) is is_stopped


def test_a_stop_counts_whatever_date_it_has(database: Database, settings: Settings) -> None:
    receive(
        database,
        settings,
        inbound("START", "1", date="2026-11-24T10:05:00Z"),
        inbound("STOP", "2", date="2026-11-24T10:00:00Z"),
    )
    assert only_row(database, tables.suppressions).phone == PHONE


def test_the_sixth_equal_reply_within_five_minutes_is_held(database: Database, settings: Settings) -> None:
    receive(database, settings, *(inbound("ping", f"in-{number}") for number in range(7)))
    assert outcomes(database) == ["queued"] * 5 + ["held"] * 2
    assert len(all_rows(database, tables.messages)) == 5


def test_more_replies_in_an_hour_than_a_person_wants_are_held_whatever_their_words(
    database: Database, settings: Settings
) -> None:
    """An autoresponder with a clock in its text."""
    receive(database, settings, *(inbound(f"Away, it is {n}", f"in-{n}") for n in range(23)))
    assert outcomes(database) == ["queued"] * 20 + ["held"] * 3
    receive(database, settings, inbound("hello", "other", OTHER_PHONE), inbound("STOP", "in-last"))
    assert outcomes(database)[-2:] == ["queued", "queued"]
    assert all_rows(database, tables.messages)[-1].passes_opt_out


def test_more_replies_in_a_day_than_a_person_wants_are_held(database: Database, settings: Settings) -> None:
    limits = {"replies_per_hour": 3, "replies_per_day": 5}
    for hour in range(3):
        receive(database, settings, *(inbound(f"{hour}.{n}", f"in-{hour}-{n}") for n in range(3)), **limits)
        move_time(database, tables.messages, "created_at", timedelta(hours=1))
    assert outcomes(database) == ["queued"] * 5 + ["held"] * 4
    move_time(database, tables.messages, "created_at", timedelta(hours=22))
    receive(database, settings, inbound("tomorrow", "in-9"), **limits)
    assert outcomes(database)[-1] == "queued"


def test_other_texts_and_other_people_are_not_held(database: Database, settings: Settings) -> None:
    receive(database, settings, *(inbound("ping", f"in-{number}") for number in range(6)))
    receive(database, settings, inbound("pong", "other text"), inbound("ping", "other person", OTHER_PHONE))
    assert outcomes(database)[-2:] == ["queued", "queued"]


def test_after_five_minutes_equal_replies_go_again(database: Database, settings: Settings) -> None:
    receive(database, settings, *(inbound("ping", f"in-{number}") for number in range(6)))
    move_time(database, tables.messages, "created_at", timedelta(minutes=5))
    receive(database, settings, inbound("ping", "later"))
    assert outcomes(database)[-2:] == ["held", "queued"]


def test_equal_texts_that_are_no_replies_do_not_count(database: Database, settings: Settings) -> None:
    receive(database, settings, *(inbound("ping", f"in-{number}") for number in range(5)))
    with database.write() as connection:
        connection.execute(tables.messages.update().values(origin="api"))
    receive(database, settings, inbound("ping", "later"))
    assert outcomes(database)[-1] == "queued"


def test_a_loop_over_several_inboxes_is_held_at_the_same_number(
    database: Database, settings: Settings
) -> None:
    with open_inbox(database, settings) as one, open_inbox(database, settings) as other:
        at_once(
            [
                lambda inbox=inbox, number=number: inbox.receive("inbound", inbound("ping", f"in-{number}"))
                for number, inbox in enumerate([one, other] * 6)
            ]
        )
    assert sorted(outcomes(database)) == ["held"] * 7 + ["queued"] * 5


def test_a_long_text_is_echoed_in_one_part(database: Database, settings: Settings) -> None:
    receive(database, settings, inbound("ሰላም " * 100))
    reply = only_row(database, tables.messages)
    assert reply.estimated_parts == 1
    assert reply.text.endswith('..."')


def test_replies_to_one_number_are_counted_one_after_the_other(
    database: Database, settings: Settings
) -> None:
    with open_inbox(database, settings) as inbox:
        thread = threading.Thread(target=inbox.receive, args=("inbound", inbound("ping")))
        with database.write() as connection:
            lock_keys(connection, [f"reply:{PHONE}"])
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
        thread.join(10)
    assert outcomes(database) == ["queued"]
