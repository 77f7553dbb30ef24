from __future__ import annotations

import io
from typing import Any

import pytest
from sqlalchemy import delete

from messaging.batches import quote as quotes
from messaging.batches.local_numbers import sentence
from messaging.consent import ledger
from messaging.costs import prices
from messaging.storage import tables
from messaging.storage.clocks import utc_now
from messaging.storage.database import Database
from utils.errors import EmptyMessage, NoRecipients
from utils.money import parse_money
from utils.provider_answers import RecipientAnswer
from utils.settings import Settings

ALICE, BOB, CHIDI = "+254711000001", "+254711000002", "+2348031234567"


def learn(
    database: Database,
    number: str,
    cost: str,
    text: str = "Hello",
    sender_id: str | None = None,
    **fields: Any,
) -> None:
    answer = RecipientAnswer(number, "accepted", cost=parse_money(cost), **fields)
    with database.write() as connection:
        prices.learn(database, connection, sender_id, text, [answer], utc_now())


def quote(database: Database, settings: Settings, to: list[str], text: str = "Hello", **fields: Any) -> Any:
    return quotes.quote_messages(settings, database, to, text, **fields)


def cost_of(quoted: Any) -> Any:
    return quoted["estimated_cost"]


def test_local_numbers_are_counted_by_the_region_that_would_take_them(
    database: Database, settings: Settings
) -> None:
    local = [f"07110000{number:02}" for number in range(20)]
    found = quote(database, settings, [ALICE, *local, "not a number"])
    assert (found["recipients"], found["refused_total"]) == (1, 21)
    assert {"region": "KE", "taken": 20} in found["with_region"]
    assert "default_region or DEFAULT_REGION): of the refused numbers 20 would be taken with" in sentence(
        found["with_region"]
    )
    there = settings.model_copy(update={"default_region": "KE"})
    assert quote(database, there, [ALICE, *local])["with_region"] == []
    assert sentence([]) == ""


def test_what_a_file_fills_in_is_measured_as_it_is_sent(database: Database, settings: Settings) -> None:
    rows = f"{ALICE},Ame\u0301lie\n{BOB},\u200b\n"
    found = quotes.quote_file(settings, database, io.BytesIO(f"phone,name\n{rows}".encode()), "{{name}}")
    assert found["samples"] == [{"to": ALICE, "text": "Amélie"}]
    assert (found["encodings"], found["refused_total"]) == ({"GSM-7": 1, "UCS-2": 0}, 1)


def test_a_cost_is_unknown_until_a_price_was_seen(database: Database, settings: Settings) -> None:
    assert cost_of(quote(database, settings, [ALICE])) == "unknown"
    learn(database, ALICE, "KES 1.6000", text="x" * 161)
    assert cost_of(quote(database, settings, [ALICE, BOB])) == {"amount": "1.6000", "currency": "KES"}
    assert cost_of(quote(database, settings, [ALICE], "x" * 307)) == {"amount": "2.4000", "currency": "KES"}


def test_the_last_price_counts_and_the_parts_of_the_bill_before_our_own(
    database: Database, settings: Settings
) -> None:
    learn(database, ALICE, "KES 1.0000")
    learn(database, ALICE, "KES 1.6000", parts=2)
    assert cost_of(quote(database, settings, [ALICE])) == {"amount": "0.8000", "currency": "KES"}


def test_doubtful_numbers_are_counted_and_named(database: Database, settings: Settings) -> None:
    typed = quote(database, settings, [ALICE, "+2547110000012", "+254 7110000012"])
    assert (typed["recipients"], typed["duplicates"], typed["warning_counts"]) == (
        2,
        1,
        {"doubtful_number": 1},
    )
    assert [(one["to"], "line" in one) for one in typed["warnings"]] == [("+2547110000012", False)]
    file = io.BytesIO(f"phone\n{ALICE}\n+2547110000012\n".encode())
    filed = quotes.quote_file(settings, database, file, "Hello")
    assert [(one["line"], one["to"]) for one in filed["warnings"]] == [(3, "+2547110000012")]
    assert quote(database, settings, [ALICE])["warnings"] == []


def test_the_first_texts_are_shown_filled_in(database: Database, settings: Settings) -> None:
    file = io.BytesIO(b"phone,name\n" + b"".join(b"+2547110000%d,N%d\n" % (n, n) for n in range(10, 40)))
    quoted = quotes.quote_file(settings, database, file, "Dear {{name}}")
    assert quoted["samples"] == [{"to": f"+2547110000{n}", "text": f"Dear N{n}"} for n in range(10, 30)]


def test_a_text_with_an_unfilled_placeholder_is_warned_of(database: Database, settings: Settings) -> None:
    for text in ("Dear {name}", "Dear {{name}}"):
        assert quote(database, settings, [ALICE], text)["warning_counts"] == {"unfilled_placeholder": 1}


def test_a_price_that_goes_up_and_down_again_is_followed(database: Database, settings: Settings) -> None:
    for cost in ("KES 1.0000", "KES 1.0000", "KES 1.0000", "KES 2.0000", "KES 1.0000"):
        learn(database, ALICE, cost)
        assert cost_of(quote(database, settings, [ALICE]))["amount"] == cost.removeprefix("KES ")


def test_a_price_is_not_asked_for_again_and_again(database: Database, settings: Settings) -> None:
    learn(database, ALICE, "KES 1.0000")
    learn(database, ALICE, "KES 1.0000")
    with database.write() as connection:
        connection.execute(delete(tables.prices))
    learn(database, ALICE, "KES 1.0000")
    assert cost_of(quote(database, settings, [ALICE])) == "unknown"


def test_a_network_has_its_own_price_and_lends_it_to_its_country(
    database: Database, settings: Settings
) -> None:
    learn(database, ALICE, "KES 0.8000")
    learn(database, "+254733000001", "KES 1.0000")
    assert cost_of(quote(database, settings, [BOB]))["amount"] == "0.8000"
    assert cost_of(quote(database, settings, ["+254722000001"]))["amount"] == "1.0000"
    assert cost_of(quote(database, settings, [CHIDI])) == "unknown"


def test_one_recipient_without_a_price_makes_the_whole_unknown(
    database: Database, settings: Settings
) -> None:
    learn(database, ALICE, "KES 0.8000")
    quoted = quote(database, settings, [ALICE, CHIDI])
    assert (quoted["estimated_cost"], quoted["unpriced"]) == ("unknown", 1)
    assert quoted["estimated_costs"] == [{"amount": "0.8000", "currency": "KES"}]


def test_currencies_are_never_added(database: Database, settings: Settings) -> None:
    learn(database, ALICE, "KES 0.8000")
    learn(database, CHIDI, "NGN 2.2000")
    quoted = quote(database, settings, [ALICE, CHIDI])
    assert (quoted["estimated_cost"], quoted["unpriced"]) == ("unknown", 0)
    assert [one["currency"] for one in quoted["estimated_costs"]] == ["KES", "NGN"]


def test_what_was_free_or_refused_tells_no_price(database: Database, settings: Settings) -> None:
    learn(database, ALICE, "0")
    learn(database, ALICE, "KES 0.0000")
    assert cost_of(quote(database, settings, [ALICE])) == "unknown"


def test_a_senders_own_price_comes_before_what_another_paid(database: Database, settings: Settings) -> None:
    """As the brake counts: what the page says of an approval is what then happens."""
    learn(database, ALICE, "KES 0.8000")
    assert cost_of(quote(database, settings, [ALICE], sender_id="ACME"))["amount"] == "0.8000"
    learn(database, ALICE, "KES 1.1000", sender_id="ACME")
    learn(database, ALICE, "KES 0.9000")
    assert cost_of(quote(database, settings, [ALICE], sender_id="ACME"))["amount"] == "1.1000"


def test_who_opted_out_is_counted_and_not_billed(database: Database, settings: Settings) -> None:
    with database.write() as connection:
        ledger.record_stop(connection, BOB, "all", None, source="operator", detail=None)
    quoted = quote(database, settings, [ALICE, BOB, ALICE, "12"])
    counted = ("recipients", "opted_out", "duplicates", "refused_total", "parts")
    assert [quoted[name] for name in counted] == [2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "parts", "character", "suggestion"),
    [
        ("x" * 161, 2, None, None),
        ("x" * 70 + "’", 2, "’", "'"),
        ("x" * 70 + "喂", 2, "喂", None),
        ("x" * 159 + "€", 2, "€", None),
    ],
)
def test_a_spill_names_the_character_that_causes_it(
    database: Database, settings: Settings, text: str, parts: int, character: str, suggestion: str
) -> None:
    expected = {"to": ALICE, "parts": parts, "character": character, "suggestion": suggestion}
    assert quote(database, settings, [ALICE], text)["spills"] == [expected]


def test_a_text_that_fits_spills_nothing(database: Database, settings: Settings) -> None:
    for text in ("x" * 160, "x" * 69 + "’"):
        assert quote(database, settings, [ALICE], text)["spills"] == []


def test_a_file_is_quoted_row_by_row(database: Database, settings: Settings) -> None:
    rows = "".join(f"+2547110{n:05d},{'’' if n < 150 else 'a'}\n" for n in range(1200))
    file = io.BytesIO(f"phone,mark\n{rows}".encode())
    quoted = quotes.quote_file(settings, database, file, "x" * 70 + "{{mark}}")
    assert (quoted["recipients"], quoted["parts"]) == (1200, 1350)
    assert quoted["encodings"] == {"GSM-7": 1050, "UCS-2": 150}
    assert len(quoted["spills"]) == 100


def test_nothing_to_quote_is_refused(database: Database, settings: Settings) -> None:
    with pytest.raises(NoRecipients):
        quote(database, settings, [])
    with pytest.raises(EmptyMessage):
        quote(database, settings, [ALICE], " ")


def test_rows_that_are_left_out_are_named_by_line(database: Database, settings: Settings) -> None:
    raw = f"phone\n{ALICE}\n12\n{ALICE}\n".encode()
    quoted = quotes.quote_file(settings, database, io.BytesIO(raw), "Hello")
    assert [(one["line"], one["to"]) for one in quoted["refused"]] == [(3, "12")]
    (twice,) = quoted["duplicate_rows"]
    assert (twice["line"], twice["to"], twice["code"]) == (4, ALICE, "duplicate")
    many = f"phone\n{ALICE}\n".encode() + f"{ALICE}\n".encode() * 700
    found = quotes.quote_file(settings, database, io.BytesIO(many), "Hello")
    assert (found["duplicates"], len(found["duplicate_rows"])) == (700, quotes.MOST_DUPLICATES)


def test_how_long_it_takes_is_one_sum(database: Database, settings: Settings) -> None:
    """A POST for each person where each has a text of their own."""
    slow = settings.model_copy(
        update={
            "at_max_messages_per_second": 100,
            "at_max_requests_per_second": 1,
            "at_max_recipients": 100,
        }
    )
    found = quote(database, settings, [f"+2547110000{n}" for n in range(10, 40)])
    assert quotes.effort(slow, found, "Hello") == quotes.Effort(30, 1.0)
    assert quotes.effort(slow, found, "Hello {{name}}") == quotes.Effort(30, 30.0)
