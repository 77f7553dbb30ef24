"""Every word that the code writes as a reason is explained, for every skin, from one file."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator

import pytest

from messaging import statuses
from messaging.batches import control, importer
from messaging.costs import budgets
from messaging.messages import lost_texts, status_counts, unknown_outcomes
from messaging.operations import forget
from messaging.operations.held import TOO_MANY_REPLIES
from messaging.storage import tables
from utils import reasons
from utils.provider_codes import FAILURE_REASONS, REPORT_REASONS, STATUS_CODES, STATUS_WORDS, UNRECOGNISED
from utils.reasons import explain, in_json
from utils.setting_types import REPOSITORY

NAMED = {
    *(
        entry.reason
        for entry in (*STATUS_CODES.values(), *STATUS_WORDS.values(), UNRECOGNISED)
        if entry.reason
    ),
    *(entry.reason for entry in FAILURE_REASONS.values()),
    *REPORT_REASONS.values(),
    *(status_counts.AFTER + one for one in ("failed", "expired", "no_report", "unknown")),
    *(unknown_outcomes.RESENT, unknown_outcomes.CLOSED, lost_texts.REASON, TOO_MANY_REPLIES),
    *(budgets.MAX_COST, budgets.OTHER_CURRENCY, control.BY_HAND, forget.REASON),
    *(reasons.OPTED_OUT, reasons.TOO_LATE, reasons.DO_NOT_DISTURB),
    *(importer.INTERRUPTED, importer.TOO_MANY_REFUSED, tables.READ_BY_COMMAND),
}
SECTION = re.compile(r"docs/africastalking\.md, \d\w?(?: and \d\w?)?")


def written() -> Iterator[str]:
    """Words in `reason=…`, in a row's `"reason"`, and those that messages are settled with."""
    for path in sorted([*(REPOSITORY / "messaging").rglob("*.py"), *(REPOSITORY / "utils").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            values: list[ast.expr | None] = []
            if isinstance(node, ast.Call):
                values += [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                is_settled = name == "settle" and ast.unparse(node.args[2]).startswith("statuses.")
                values += node.args[3:4] if is_settled else []
            if isinstance(node, ast.Dict):
                names = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                values += [value for key, value in zip(names, node.values, strict=True) if key == "reason"]
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def entries() -> dict[str, dict[str, object]]:
    with reasons.REASONS_FILE.open("rb") as file:
        return tomllib.load(file)


def test_the_search_finds_words_of_every_kind() -> None:
    assert {"too_late", "opted_out", "timed_out", "credentials_refused", "sending_window"} <= {
        *written(),
        *NAMED,
    }


@pytest.mark.parametrize("reason", sorted({*NAMED, *written()}))
def test_every_reason_is_explained(reason: str) -> None:
    assert explain(reason) is not None


@pytest.mark.parametrize("reason", sorted(entries()))
def test_every_entry_has_a_sentence_and_a_source(reason: str) -> None:
    entry = entries()[reason]
    of_statuses = [one for one in entry.values() if isinstance(one, dict)]
    assert {name for name, one in entry.items() if isinstance(one, dict)} <= set(statuses.ALL)
    for one in (entry, *of_statuses):
        assert set(one) - set(statuses.ALL) <= {"explanation", "remedy", "source"}
        assert str(one["explanation"])[:1].isupper()
        assert not str(one["explanation"]).endswith(".")
        source = str(one["source"])
        assert source == "ours" or SECTION.fullmatch(source)


def test_a_status_may_give_a_word_another_meaning() -> None:
    ours, networks, answered = (explain("opted_out", one) for one in ("blocked", "failed", "rejected"))
    assert len({ours, networks, answered}) == 3


def test_an_http_status_is_named() -> None:
    found = explain("http_503")
    assert found is not None
    assert found.explanation == "Africa's Talking answered with HTTP 503"


@pytest.mark.parametrize("reason", [None, "never heard of", "http_", "explanation"])
def test_what_is_not_known_is_not_explained(reason: str | None) -> None:
    assert explain(reason) is None
    assert in_json(reason) == {"explanation": None, "remedy": None}
