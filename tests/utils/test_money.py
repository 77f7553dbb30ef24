from decimal import Decimal

import pytest

from utils.money import Money, parse_money


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [
        ("KES 0.8000", "0.8000", "KES"),
        ("0", "0", None),
        ("UGX -14.5731", "-14.5731", "UGX"),
        ("USD 999999589.6168", "999999589.6168", "USD"),
        ("TZS 44.0000", "44.0000", "TZS"),
        (" KES  1.00 ", "1.00", "KES"),
    ],
)
def test_the_providers_money_is_exact_and_keeps_its_text(
    text: str, amount: str, currency: str | None
) -> None:
    found = parse_money(text)
    assert found == Money(Decimal(amount), currency)
    assert found is not None
    assert str(found.amount) == amount
    assert found.raw == text


@pytest.mark.parametrize(
    "text", ["", "KES", "free", "KES 1,000.00", "NaN", "KES Infinity", "kes 1", "1e9", "KES ٣", "9" * 40]
)
def test_any_other_form_is_no_money(text: str) -> None:
    assert parse_money(text) is None


def test_money_is_written_as_the_provider_writes_it() -> None:
    assert [str(parse_money(text)) for text in ("KES 0.8000", "0")] == ["KES 0.8000", "0"]
