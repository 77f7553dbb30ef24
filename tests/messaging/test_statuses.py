from __future__ import annotations

import pytest

from messaging import statuses
from messaging.statuses import STEPS, may_follow_by_report

REPORTED = ("accepted", "delivered", "failed", "expired")


@pytest.mark.parametrize("final", sorted(statuses.FINAL))
@pytest.mark.parametrize("reported", REPORTED)
def test_no_report_moves_a_final_status(final: str, reported: str) -> None:
    assert not may_follow_by_report(final, reported)


@pytest.mark.parametrize("yielding", ["no_report", "expired", "failed", "unknown", "accepted"])
def test_a_success_overrules_whatever_is_not_final(yielding: str) -> None:
    assert may_follow_by_report(yielding, "delivered")


@pytest.mark.parametrize("bad", ["failed", "expired"])
def test_a_bad_word_does_not_overrule_another(bad: str) -> None:
    assert not may_follow_by_report("failed" if bad == "expired" else "expired", bad)


@pytest.mark.parametrize("settled", sorted(statuses.SETTLED))
def test_the_word_sent_moves_nothing_that_is_settled(settled: str) -> None:
    assert not may_follow_by_report(settled, "accepted")


@pytest.mark.parametrize("before_the_answer", ["queued", "sending", "held"])
@pytest.mark.parametrize("reported", REPORTED)
def test_a_message_that_was_not_answered_yet_is_not_moved_by_a_report(
    before_the_answer: str, reported: str
) -> None:
    assert not may_follow_by_report(before_the_answer, reported)


def test_every_step_by_a_report_is_one_that_the_audit_allows() -> None:
    moves = [(now, then) for now in statuses.ALL for then in REPORTED if may_follow_by_report(now, then)]
    assert moves
    assert [(now, then) for now, then in moves if then not in STEPS[now]] == []


def test_the_audit_knows_every_status_but_sending_which_has_no_event() -> None:
    assert set(STEPS) == set(statuses.ALL) - {"sending"}
    assert all(after in statuses.ALL for follow in STEPS.values() for after in follow)


@pytest.mark.parametrize("final", sorted(statuses.FINAL))
def test_nothing_follows_a_final_status(final: str) -> None:
    assert STEPS[final] == frozenset()


def test_no_step_leads_back_into_the_queue_but_from_before_an_answer_or_an_unknown_one() -> None:
    assert {now for now, follow in STEPS.items() if "queued" in follow} == {"queued", "unknown", "held"}
