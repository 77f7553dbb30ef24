"""Sending a file: a check that sends nothing, then the send itself, once however often the button is pressed."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast
from zoneinfo import ZoneInfo

from flask import jsonify, render_template, request
from werkzeug.wrappers import Response

from messaging.batches import exports, quote, upload
from messaging.batches.upload import AlreadySent, BatchRequest
from messaging.costs.prices import cost_of_one
from messaging.messages.way_out import WayOut
from routes.dashboard.blueprint import dashboard_bp, done, read_phone
from routes.dashboard.filters import as_cost
from routes.service import current_database, current_service
from utils.african_countries import AFRICAN_COUNTRIES, country_name
from utils.csv_files import header_of
from utils.errors import InvalidInput
from utils.local_times import read_local_time
from utils.segments import gsm7_alternative, measure
from utils.settings import Settings
from utils.texts import compose
from utils.uploaded_files import Opened, opened

CALLERS = "Operators with the role `sender` or more."
LONGEST_PASTED = 200_000
SHOWN_ROWS = 100
FIELDS = (
    *("numbers", "text", "sender_id", "name", "send_at", "max_cost", "once"),
    *("phone_column", "default_region", "sheet"),
)
# Of a workbook with more, the others are named at the API.
MOST_SHEETS = 100
# A first line that names columns has no number in it.
DIGITS_OF_A_NUMBER = 7
FindRows = Callable[[Settings, BinaryIO, BatchRequest], quote.RowsLeftOut]
FILE_WORDS = {
    "several_phone_columns": "More than one column may hold the numbers ({columns}):"
    " choose it under “To whom”, then check again.",
    "missing_phone_column": "No column of the file is called “phone” or the like:"
    " choose the one that holds the numbers under “To whom”, then check again.",
}
NO_FIRST_LINE = (
    "The first line of the file has to name its columns, like phone,name. Here it holds a number already:"
    " put such a line above it."
)


@dataclass(frozen=True, slots=True)
class Form:
    """`stream`: the file, or the pasted numbers as one."""

    asked: BatchRequest
    stream: BinaryIO
    once: str
    is_pasted: bool


@dashboard_bp.get("/sends/new")
def show_new_send() -> str:
    """The form: a file or numbers, a text, and when."""
    return _page({"once": secrets.token_hex(16)})


@dashboard_bp.post("/sends/check")
def check_send() -> str | tuple[str, int]:
    """Says what it would come to: recipients, refused rows, parts, cost. Nothing is sent."""
    try:
        found = _check(_read())
    except InvalidInput as error:
        return _page(request.form, **_problem(error)), 400
    return _page(request.form, **found)


@dashboard_bp.post("/sends/refused.csv")
def download_unsent_refused() -> Response | tuple[str, int]:
    """The rows that would be refused, to be mended before anything is sent."""
    return _download(quote.refused_rows, "refused.csv")


@dashboard_bp.post("/sends/duplicates.csv")
def download_unsent_duplicates() -> Response | tuple[str, int]:
    """The rows whose number stands there before with the same text."""
    return _download(quote.duplicate_rows, "duplicates.csv")


@dashboard_bp.post("/sends/new")
def begin_send() -> Response | tuple[str, int]:
    """Takes it in."""
    try:
        form = _read()
        settings = current_service().settings
        again = request.form.get("again") == "1"
        about = form.asked, form.stream, form.once
        answer = upload.receive(settings, current_database(), *about, may_repeat=again)
    except (InvalidInput, AlreadySent) as error:
        return _page(request.form, **_problem(error)), 400
    return done("It is taken in. This page follows it.", "show_send", id=answer.body["id"])


@dashboard_bp.post("/sends/measure")
def measure_text() -> Response:
    """How long a text is, while it is typed."""
    try:
        text = _as_sent(request.form.get("text", ""), request.form.get("sender_id"))
    except InvalidInput as error:
        return jsonify({"problem": error.message})
    found = measure(text)
    said: dict[str, Any] = {"encoding": found.encoding, "parts": found.parts, "characters": len(text)}
    if found.spill is not None:
        said |= {"character": found.spill, "alternative": gsm7_alternative(found.spill)}
    return jsonify(said | _cost_said(found.parts))


def _cost_said(parts: int) -> dict[str, str]:
    """Of an answer: a send has its cost from the check."""
    to, number = request.args.get("to"), request.args.get("number")
    cost = cost_of_one(current_database(), number, read_phone(to), parts) if to and parts else None
    return {} if cost is None else {"cost": as_cost(cost)}


def _as_sent(text: str, sender_id: str | None) -> str:
    """An answer in a conversation names no sender, and has no way out. Raises InvalidInput."""
    if not text or sender_id is None:
        return compose(text)
    settings = current_service().settings
    return WayOut.of(settings, sender_id or settings.at_sender_id).composed(text)


def _read() -> Form:
    """Raises InvalidInput that names the field."""
    form, given = request.form, request.files.get("file")
    has_file = given is not None and bool(given.filename)
    stream = (
        cast(BinaryIO, given.stream) if given is not None and has_file else _pasted(form.get("numbers", ""))
    )
    sheet = (has_file and form.get("sheet")) or None
    name = form.get("name") or (_name_of(given.filename, sheet) if given is not None and has_file else None)
    asked = BatchRequest(
        form.get("text", ""),
        form.get("sender_id") or None,
        name,
        _when(form.get("send_at")),
        max_cost=form.get("max_cost") or None,
        phone_column=(has_file and form.get("phone_column")) or None,
        max_refused=quote.MAX_REFUSED,
        sheet=sheet,
        default_region=form.get("default_region") or None,
    )
    return Form(asked, stream, form.get("once") or secrets.token_hex(16), not has_file)


def _name_of(filename: str | None, sheet: str | None) -> str | None:
    """Two sheets of one workbook are two sends, and the list tells them apart."""
    return f"{filename}, {sheet}"[: upload.LONGEST_NAME] if filename and sheet else filename


def _countries() -> dict[str, str]:
    """By their two letters. DEFAULT_REGION may be elsewhere."""
    own = current_service().settings.default_region
    return AFRICAN_COUNTRIES | ({} if own is None else {own: country_name(own)})


def _pasted(numbers: str) -> BinaryIO:
    if not numbers.strip():
        raise InvalidInput("Choose a file, or paste numbers", code="missing_file", field="file")
    if len(numbers) > LONGEST_PASTED:
        raise InvalidInput("So many numbers come as a file", code="too_long", field="numbers")
    lines = (one.strip() for line in numbers.splitlines() for one in line.replace(";", ",").split(","))
    return io.BytesIO("\n".join(["phone", *(one for one in lines if one)]).encode())


def _when(typed: str | None) -> datetime | None:
    """In TIME_ZONE."""
    zone = ZoneInfo(current_service().settings.time_zone)
    return read_local_time(typed, zone).astimezone(UTC) if typed else None


def _check(form: Form) -> dict[str, Any]:
    """What the page says of it. A workbook is made into CSV once for all of it."""
    service, asked = current_service(), form.asked
    upload.validate(service.database, asked)
    with _opened(form) as given:
        header = header_of(given.csv, asked.phone_column)
        earlier = upload.sent_before(service.database, asked.text, given.csv)
        about = asked.text, asked.sender_id, asked.phone_column, None, asked.default_region
        found = quote.quote_file(service.settings, service.database, given.csv, *about)
    chosen = header.titles[header.phone]
    columns = {"columns": _columns(header.titles), "column": chosen, "is_pasted": form.is_pasted}
    columns |= {"sheets": given.sheets[:MOST_SHEETS]}
    return _told(found, asked.text) | columns | {"earlier": earlier}


def _download(find: FindRows, name: str) -> Response | tuple[str, int]:
    try:
        lines = _lines_left_out(_read(), find)
    except InvalidInput as error:
        return _page(request.form, **_problem(error)), 400
    found = Response("".join(lines), mimetype="text/csv")
    found.headers.set("Content-Disposition", "attachment", filename=name)
    return found


def _lines_left_out(form: Form, find: FindRows) -> Iterator[str]:
    with _opened(form) as given:
        titles, rows = find(current_service().settings, given.csv, form.asked)
    # A line was put above what was pasted.
    rows = [row._replace(line=row.line - form.is_pasted) for row in rows]
    return exports.refused_csv_of(titles, rows)


@contextmanager
def _opened(form: Form) -> Iterator[Opened]:
    """What is wrong with one sheet of a workbook may be right with another: the error names them all."""
    with opened(form.stream, form.asked.sheet) as given:
        try:
            yield given
        except InvalidInput as error:
            error.details["sheets"] = given.sheets[:MOST_SHEETS]
            raise


def _told(found: dict[str, Any], text: str) -> dict[str, Any]:
    samples = found["samples"] if "{{" in text else found["samples"][:1]
    service = current_service()
    known = {"quote": found, "samples": samples, "shown_rows": SHOWN_ROWS}
    known |= {"effort": quote.effort(service.settings, found, text)}
    brakes = quote.find_brakes(service.settings, service.database, found)
    return known | brakes | {"has_few_refused": quote.has_few_refused(found)}


def _problem(error: InvalidInput | AlreadySent) -> dict[str, Any]:
    """In a clerk's words; where the column of the numbers is not clear, with those that there are."""
    sheets = {"sheets": error.details.get("sheets", []), "has_lost_sheet": error.code == "missing_sheet"}
    if error.code not in FILE_WORDS:
        return {"problem": error.message} | sheets
    columns = _columns(error.details.get("columns", []))
    if any(sum(map(str.isdigit, one)) >= DIGITS_OF_A_NUMBER for one in columns):
        return {"problem": NO_FIRST_LINE} | sheets
    sentence = FILE_WORDS[error.code].format(columns=", ".join(columns))
    return {"problem": sentence, "columns": columns, "is_open": True} | sheets


def _columns(titles: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(one for one in titles if one))


def _page(form: Any, **known: Any) -> str:
    typed = {name: form.get(name, "") for name in FIELDS}
    return render_template(
        "dashboard/new_send.html",
        typed=typed,
        settings=current_service().settings,
        countries=_countries(),
        **known,
    )
