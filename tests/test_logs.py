import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.leaks import find_leaks
from utils.logs import LogHandler, choose_request_id, configure_logging, mask, mask_path, request_id

logger = logging.getLogger("service.test")


@pytest.fixture(autouse=True)
def logging_left_as_found() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    request_id.set(None)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    request_id.set(None)


def last_line(captured: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(captured.readouterr().err.splitlines()[-1])
    return line


def test_a_line_is_json_with_its_ids(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    logger.info("message %s", "accepted", extra={"message_id": 7, "is_new": True, "parts": [1, 2]})
    line = last_line(capsys)
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "service.test",
        "message": "message accepted",
        "message_id": 7,
        "is_new": True,
        "parts": [1, 2],
    }


def test_a_text_with_line_ends_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    logger.info("first\nsecond\r\n{}")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_configuring_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    configure_logging("WARNING")
    logger.info("unheard")
    logger.warning("heard")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_handlers_of_others_stay() -> None:
    theirs = logging.NullHandler()
    logging.getLogger().addHandler(theirs)
    configure_logging("INFO")
    assert theirs in logging.getLogger().handlers


def test_what_libraries_log_takes_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("huey", "gunicorn.error", "alembic"):
        logging.getLogger(name).addHandler(logging.StreamHandler())
    configure_logging("DEBUG")
    for name in ("huey", "gunicorn.error", "alembic.runtime"):
        logging.getLogger(name).warning("theirs")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["logger"] for line in lines] == ["huey", "gunicorn.error", "alembic.runtime"]


def test_the_wire_and_sql_are_not_logged_even_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG")
    logging.getLogger("urllib3.connectionpool").debug("GET /version1/messaging")
    logging.getLogger("sqlalchemy.engine").info("INSERT")
    assert capsys.readouterr().err == ""


def test_lines_of_one_request_share_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    chosen = choose_request_id()
    logger.info("first")
    assert last_line(capsys)["request_id"] == chosen
    logger.info("second", extra={"request_id": "its-own"})
    assert last_line(capsys)["request_id"] == "its-own"


@pytest.mark.parametrize(
    ("offered", "is_kept"),
    [
        ("4f1c-77aa", True),
        ("order-20261129", True),
        ("7468c9a251f9e9254712345678b2f756", True),
        ("8f14e45f-ceea-467f-a8f6-123456789012", True),
        ("short", False),
        ("a b\n" * 9, False),
        ("254711000001", False),
        ("otp-254712345678", False),
        ("order-0712345678", False),
        ("user254712345678", False),
        ("254-712-345-678", False),
        ("2a5b4-7c1d2e3-f4g5h6", False),
        ("x" * 65, False),
    ],
)
def test_an_offered_request_id_is_kept_when_it_is_plain(offered: str, is_kept: bool) -> None:
    assert (choose_request_id(offered) == offered) is is_kept
    assert choose_request_id() != choose_request_id()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to +254711000001", "to …001"),
        ("to 254711000001, 0711000001", "to …001, …001"),
        ("GET /v1/opt-outs/%2B254711000001", "GET /v1/opt-outs/…001"),
        ("GET /sms/twoway?token=abc", "GET /sms/twoway?…"),
        ("/sms/invoke-bulk-sms?api_key=k&phone=%2B254711000001 502", "/sms/invoke-bulk-sms?… 502"),
        ("connect postgresql://user:word@db/sms", "connect postgresql://…@db/sms"),
        ("failed [SQL: INSERT] [parameters: ('a text', 'x')]\nmore", "failed [SQL: INSERT] [parameters: …]"),
        ("to +254-711-000-001.", "to …001."),
        ("to +254.711.000.001, (0711) 000 001", "to …001, …001"),
        ("to 0711-000-001", "to …001"),
        ("at 2026-11-29 08:49:34 from 192.168.100.200", "at 2026-11-29 08:49:34 from 192.168.100.200"),
        ("attempt 12345678 took 0.123456789 s", "attempt 12345678 took 0.123456789 s"),
        ("ATXid_7468c9a251f9e9efcc6b2f7ea756a56c", "ATXid_7468c9a251f9e9efcc6b2f7ea756a56c"),
        ("8f14e45f-ceea-467f-a8f6-123456789012", "8f14e45f-ceea-467f-a8f6-123456789012"),
        ("evt_7468c9a2254712345678b2f7ea756a56", "evt_7468c9a2254712345678b2f7ea756a56"),
        ("2026-11-29-c254712345678a0f.jsonl", "2026-11-29-c254712345678a0f.jsonl"),
        ("at 2026-11-29T08:49:34.123456789Z", "at 2026-11-29T08:49:34.123456789Z"),
        ("cell_254712345678", "cell_…678"),
        ("user254712345678x", "user…678x"),
        ("254712345678-1, 0712345678_2", "…678-1, …678_2"),
        ("x.254712345678", "x.…678"),
        ("otp-+254712345678", "otp-…678"),
    ],
)
def test_numbers_queries_and_passwords_are_masked_and_ids_are_not(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    ("path", "masked"),
    [
        ("/v1/conversations/254-711-000-001", "/v1/conversations/…001"),
        ("/v1/conversations/254.711.000.001/read", "/v1/conversations/…001/read"),
        ("/v1/opt-outs/(0711) 000 001", "/v1/opt-outs/(…001"),
        ("/v1/opt-outs/+254\xe2\x80\x91711\xe2\x80\x91000\xe2\x80\x91001", "/v1/opt-outs/…001"),
        ("/v1/messages/12345678/resend", "/v1/messages/12345678/resend"),
    ],
)
def test_no_number_stands_in_the_access_log_however_it_is_written(path: str, masked: str) -> None:
    assert mask_path(path) == masked


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_at_a_terminal_a_line_is_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    configure_logging("INFO", secrets=("hunter2hunter2",))
    choose_request_id("4f1c-77aa")
    logger.info("message %s", "accepted\n\x1b[31m", extra={"message_ids": [7, 8], "why": "no hunter2hunter2"})
    try:
        int("+254711000001 x")
    except ValueError:
        logger.exception("failed for +254711000001")
    told = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
    told[0] = re.sub(r"^\d\d:\d\d:\d\d ", "", told[0])
    assert told[0] == (
        'message accepted\\u000a\\u001b[31m  message_ids=[7, 8]  why="no …"  request_id=4f1c-77aa'
    )
    assert "ERROR failed for …001" in told[1]
    assert told[2].startswith("Traceback")
    assert told[-1] == "ValueError: invalid literal for int() with base 10: '…001 x'"


def test_at_a_terminal_neither_a_noted_value_nor_a_traceback_is_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    configure_logging("INFO")

    def fail() -> None:
        raise ValueError("bad\x1b[2J\rmore\x0bmore\x85end")

    try:
        fail()
    except ValueError:
        logger.exception("failed", extra={"path": "/a\n12:00:00\x1b[31m", "names": ["\x1b[0m"]})
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert [one for one in "\x1b\r\x0b\x85" if one in written] == []
    told = written.removesuffix("\n").split("\n")
    assert "path=/a\\u000a12:00:00\\u001b[31m" in told[0]
    assert told[1].startswith("Traceback")
    assert told[-1] == "ValueError: bad\\u001b[2J\\u000dmore\\u000bmore\\u0085end"


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("text", False), ("auto", True)])
def test_the_setting_decides_before_the_terminal(
    capsys: pytest.CaptureFixture[str], form: str, is_json: bool
) -> None:
    configure_logging("INFO", form=form)
    logger.info("told")
    assert capsys.readouterr().err.startswith("{") is is_json


def test_what_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    hostile = "\x9b2J\x7f\u2028\u202eevil\u2066\ufeff"
    logger.info("said %s", hostile)
    written = capsys.readouterr().err
    assert not any(one in written for one in "\x9b\x7f\u2028\u202e\u2066\ufeff")
    assert json.loads(written)["message"] == f"said {hostile}"


def test_a_configured_secret_is_blotted_out_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", secrets=("hunter2hunter2", "hunter2", "id"))
    logger.info("key %s, id 7", "hunter2hunter2", extra={"headers": {"apiKey": "hunter2"}})
    line = last_line(capsys)
    assert (line["message"], line["headers"]) == ("key …, id 7", {"apiKey": "…"})


def test_a_traceback_is_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", secrets=("hunter2hunter2",))
    try:
        int("+254711000001 with hunter2hunter2")
    except ValueError:
        logger.exception("failed")
    told = last_line(capsys)["exception"]
    assert "ValueError: invalid literal for int() with base 10: '…001 with …'" in told
    assert "test_a_traceback_is_masked_too" in told


def test_a_closed_stream_does_not_end_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _text: str) -> int:
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr("sys.stderr", Closed())
    LogHandler().handle(logging.makeLogRecord({"msg": "lost"}))


@pytest.mark.parametrize(
    "line",
    [
        '{"to": "+254711000001"}',
        "to 254711000001.",
        "0711000001",
        "phone=%2B15005550006",
        "a-token",
        "hello Alice",
    ],
)
def test_the_search_of_the_crash_suite_finds_what_no_log_may_hold(tmp_path: Path, line: str) -> None:
    (tmp_path / "simulator.log").write_text(line)
    (tmp_path / "web.log").write_text('{"to": "…001", "ids": [254711, 12], "thread": "…123"}\n')
    assert find_leaks(tmp_path, ["a-token"], ["hello Alice"]) == []
    (tmp_path / "worker.log").write_text(f"fine\n{line}\n")
    (leak,) = find_leaks(tmp_path, ["a-token"], ["hello Alice"])
    assert leak.startswith("worker.log: …")
