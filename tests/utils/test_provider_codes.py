import pytest

from utils.provider_codes import (
    FAILURE_REASONS,
    NETWORK_CODES,
    STATUS_CODES,
    UNRECOGNISED,
    describe_status,
    find_failure,
    find_network,
    find_status,
    read_report_status,
)
from utils.reasons import explain

SEED = [
    (101, "Success", "Message sent successfully"),
    (102, "Queued", "Message queued for delivery"),
    (401, "RiskHold", "Message flagged for review"),
    (402, "InvalidSenderId", "Invalid sender ID"),
    (403, "InvalidPhoneNumber", "Invalid recipient number"),
    (404, "UnsupportedNumberType", "Number type not supported"),
    (405, "InsufficientBalance", "Insufficient account balance"),
    (406, "UserInBlackList", "Recipient opted out"),
    (407, "CouldNotRoute", "Unable to route message"),
    (500, "InternalServerError", "Africa's Talking server error"),
]


@pytest.mark.parametrize(("code", "name", "description"), SEED)
def test_a_documented_code_is_described_with_its_name(code: int, name: str, description: str) -> None:
    assert describe_status(code) == describe_status(str(code)) == describe_status(name)
    assert describe_status(code).startswith(f"{name}: {description}.")


@pytest.mark.parametrize("code", [999, "999", "HeldForLunch", "", -1])
def test_an_unknown_code_gets_a_sentence_too(code: int | str) -> None:
    assert describe_status(code).startswith(
        f"{code}: Africa's Talking answered with a status it does not document."
    )


OUTCOMES = {
    "accepted": {100, 101, 102},
    "rejected": {403, 404, 406, 407, 502},
    "not_sent": {402, 405, 409},
    "unknown": {401, 500, 501},
}


def test_every_code_has_the_outcome_that_the_design_gives_it() -> None:
    found = {
        outcome: {code for code, entry in STATUS_CODES.items() if entry.outcome == outcome}
        for outcome in OUTCOMES
    }
    assert found == OUTCOMES
    assert sum(map(len, OUTCOMES.values())) == len(STATUS_CODES)


def test_only_the_account_and_the_sender_are_paused_for_their_own_fault() -> None:
    pauses = {code: entry.pauses for code, entry in STATUS_CODES.items() if entry.pauses}
    assert pauses == {402: "sender", 405: "account"}
    assert [code for code, entry in STATUS_CODES.items() if entry.suppresses] == [406]
    assert [code for code, entry in STATUS_CODES.items() if entry.reschedules] == [409]


def test_whoever_is_not_accepted_is_told_why_and_what_to_do() -> None:
    for entry in STATUS_CODES.values():
        assert (entry.reason is None) is (entry.outcome == "accepted")
        assert (entry.remedy is None) is (entry.outcome == "accepted")


@pytest.mark.parametrize(
    ("code", "word", "name"),
    [
        (406, "anything", "UserInBlackList"),
        ("406", None, "UserInBlackList"),
        (None, "UserInBlacklist", "UserInBlackList"),
        (None, "userinblacklist ", "UserInBlackList"),
        (None, "Could Not Send", "Could Not Send"),
        (None, "InvalidPhoneNumber", "InvalidPhoneNumber"),
        (103, "Success", "Success"),
        (True, None, "Unrecognised"),
        ("\u0664\u0660\u0666", None, "Unrecognised"),
        (None, None, "Unrecognised"),
        ({}, [], "Unrecognised"),
    ],
)
def test_a_code_counts_before_its_word_and_case_does_not(code: object, word: object, name: str) -> None:
    assert find_status(code, word).name == name


def test_what_is_not_documented_is_unknown() -> None:
    assert UNRECOGNISED.outcome == "unknown"


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("Success", "delivered"),
        ("SUCCESS", "delivered"),
        ("Sent", "accepted"),
        ("Submitted", "accepted"),
        ("Buffered", "accepted"),
        ("Failed", "failed"),
        ("Rejected", "failed"),
        ("AbsentSubscriber", "failed"),
        ("Expired", "expired"),
        ("Teleported", None),
        ("", None),
    ],
)
def test_a_reports_word_becomes_our_status(word: str, status: str | None) -> None:
    assert read_report_status(word) == status


DOCUMENTED_REASONS = (
    "InsufficientCredit InvalidLinkId UserIsInactive UserInBlackList UserAccountSuspended NotNetworkSubcriber "
    "UserNotSubscribedToProduct UserDoesNotExist DeliveryFailure DoNotDisturbRejection NotNetworkSubscriber "
    "UserInBlacklist"
)


@pytest.mark.parametrize("word", DOCUMENTED_REASONS.split())
def test_every_documented_failure_is_explained_in_both_spellings(word: str) -> None:
    found = find_failure(word)
    assert found is not None
    explained = explain(found.reason, "failed")
    assert explained is not None
    assert explained.remedy
    assert found.is_opt_out is (word.casefold() == "userinblacklist")


def test_an_unknown_failure_is_none() -> None:
    assert find_failure("Gremlins") is None
    assert len({entry.name for entry in FAILURE_REASONS.values()}) == 10


def test_a_network_has_a_name_and_a_country() -> None:
    found = find_network(" 63902 ")
    assert found is not None
    assert (found.name, found.country) == ("Safaricom", "KE")
    assert find_network("00000") is None
    assert all(code.isdigit() and len(code) == 5 for code in NETWORK_CODES)
