"""What a send would come to, before it is one: nothing is written, nothing sent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from messaging.batches import local_numbers
from messaging.batches.rows import BatchRows, Chunk, RefusedRow, TakenRow, is_new, number_key
from messaging.batches.upload import BatchRequest
from messaging.consent import ledger
from messaging.consent.consents import ConsentRule
from messaging.costs import brakes
from messaging.costs.prices import Estimate, Going, estimate, prefix_of
from messaging.messages.accept import MOST_RECIPIENTS, validate_text
from messaging.messages.warnings import DOUBTFUL_NUMBER, Warnings, left_over, warn_of_left_over
from messaging.messages.way_out import WayOut
from messaging.storage.clocks import wall_clock
from messaging.storage.database import Database
from utils.csv_files import Header, header_of, read_rows
from utils.errors import InvalidInput, InvalidPhone, NoRecipients
from utils.json_shapes import booked_money
from utils.phone_numbers import read_phone, read_region
from utils.segments import EXTENDED, Segments, gsm7_alternative, measure
from utils.sender_ids import validate_sender
from utils.settings import Settings
from utils.uploaded_files import as_csv

UNKNOWN = "unknown"
MOST_SPILLS = 100
MOST_SAMPLES = 20
MOST_DUPLICATES = 100
MOST_REFUSED = 10_000
# A share: of a file of which more is refused a person looks first what it is.
MAX_REFUSED = 0.2
ROWS_AT_ONCE = 500
# A quote runs in a web thread: between two of these the others get the interpreter without a struggle.
PAUSE_SECONDS = 0.002


def quote_messages(
    settings: Settings,
    database: Database,
    to: Sequence[str],
    text: str,
    sender_id: str | None = None,
    default_region: str | None = None,
) -> dict[str, Any]:
    """One text to numbers as typed. The shape is that of `POST /v1/quote`. Raises InvalidInput."""
    validate_text(text)
    validate_sender(sender_id)
    if not to:
        raise NoRecipients(field="to")
    if len(to) > MOST_RECIPIENTS:
        raise InvalidInput(
            f"At most {MOST_RECIPIENTS} recipients in one call: quote a file instead",
            code="too_many_recipients",
            field="to",
        )
    warnings = Warnings()
    warn_of_left_over(warnings, left_over(text))
    sender_id = sender_id or settings.at_sender_id
    text = WayOut.of(settings, sender_id).composed(text)
    region = read_region(default_region) or settings.default_region
    chunks = _typed(to, text, region, warnings)
    quoted = _quote(settings, database, sender_id, chunks)
    return _with_regions(quoted, region) | warnings.in_json()


def quote_file(
    settings: Settings,
    database: Database,
    file: BinaryIO,
    text: str,
    sender_id: str | None = None,
    phone_column: str | None = None,
    sheet: str | None = None,
    default_region: str | None = None,
) -> dict[str, Any]:
    """A text with placeholders and a CSV file. Raises InvalidInput, InvalidFile for the file as a whole."""
    validate_text(text)
    validate_sender(sender_id)
    region = read_region(default_region) or settings.default_region
    sender_id = sender_id or settings.at_sender_id
    with as_csv(file, sheet) as plain:
        header = header_of(plain, phone_column)
        reader = BatchRows(text, header, region, WayOut.of(settings, sender_id))
        quoted = _quote(settings, database, sender_id, _chunks(reader, plain, header))
    return _with_regions(quoted, region) | reader.warnings.in_json()


class RowsLeftOut(NamedTuple):
    """`titles`: of the file's columns. `rows`: the first `MOST_REFUSED`, by line."""

    titles: Sequence[str]
    rows: list[RefusedRow]


def refused_rows(settings: Settings, plain: BinaryIO, asked: BatchRequest) -> RowsLeftOut:
    """Of a CSV file, before it is sent. Raises InvalidInput, InvalidFile for the file as a whole."""
    return _rows_left_out(settings, plain, asked, lambda chunk: chunk.refused)


def duplicate_rows(settings: Settings, plain: BinaryIO, asked: BatchRequest) -> RowsLeftOut:
    """As `refused_rows`: those whose number stood there before with the same text."""
    return _rows_left_out(settings, plain, asked, lambda chunk: chunk.duplicate_rows)


def _rows_left_out(
    settings: Settings, plain: BinaryIO, asked: BatchRequest, those_of: Callable[[Chunk], list[RefusedRow]]
) -> RowsLeftOut:
    validate_text(asked.text)
    region = read_region(asked.default_region) or settings.default_region
    header = header_of(plain, asked.phone_column)
    way_out = WayOut.of(settings, asked.sender_id or settings.at_sender_id)
    rows: list[RefusedRow] = []
    for chunk in _chunks(BatchRows(asked.text, header, region, way_out), plain, header):
        rows += those_of(chunk)[: MOST_REFUSED - len(rows)]
    return RowsLeftOut(header.titles, rows)


def _chunks(reader: BatchRows, plain: BinaryIO, header: Header) -> Iterator[Chunk]:
    """Of a whole file, with a pause after each."""
    for chunk in reader.chunks(read_rows(plain, header), ROWS_AT_ONCE):
        yield chunk
        time.sleep(PAUSE_SECONDS)


def _with_regions(quoted: dict[str, Any], region: str | None) -> dict[str, Any]:
    return quoted | {"with_region": local_numbers.by_region(quoted["refused"], region)}


@dataclass(frozen=True, slots=True)
class Effort:
    """`texts`: what would leave. `seconds`: how long the rate limits make it take, AT's own time left out."""

    texts: int
    seconds: float


def effort(settings: Settings, found: dict[str, Any], text: str) -> Effort:
    """`found`: the quote of `text`, which goes out one by one where each row fills it in its own way."""
    texts = found["recipients"] - found["opted_out"] - found["no_consent"]
    posts = texts if "{{" in text else -(-texts // settings.at_max_recipients)
    by_rate = texts / settings.at_max_messages_per_second, posts / settings.at_max_requests_per_second
    return Effort(texts, max(by_rate))


def has_few_refused(found: dict[str, Any], max_refused: float = MAX_REFUSED) -> bool:
    """`found`: a quote of a file. `max_refused`: a share of its rows."""
    return bool(found["refused_total"] <= _rows(found) * max_refused)


def _rows(found: dict[str, Any]) -> int:
    return int(found["recipients"] + found["refused_total"] + found["duplicates"])


def find_brakes(settings: Settings, database: Database, found: dict[str, Any]) -> dict[str, Any]:
    """What of a quote a brake would hold: `approval`, the figures or None, and `unusual`, a sentence or None."""
    texts = found["recipients"]
    micros = {one["currency"]: int(Decimal(one["amount"]).scaleb(6)) for one in found["estimated_costs"]}
    costs = Estimate(micros, found["unpriced"]) if brakes.asks_for_money(settings) else None
    approval = brakes.needs_approval(settings.approval_above, texts, costs)
    with database.read() as connection:
        unusual = brakes.warn(settings, connection, wall_clock(connection), texts)
    return {"approval": None if approval is None else approval.detail, "unusual": unusual}


def require_few_refused(found: dict[str, Any], max_refused: float) -> None:
    """As `has_few_refused`. Raises InvalidInput (too_many_refused)."""
    if not has_few_refused(found, max_refused):
        refused = f"{found['refused_total']:,} of {_rows(found):,} rows"
        raise InvalidInput(
            f"{refused} would be refused, more than the {max_refused:.0%} that max_refused allows:"
            f" nothing was queued. {local_numbers.sentence(found['with_region'])}".rstrip(". "),
            code="too_many_refused",
            field="max_refused",
        )


@dataclass(slots=True)
class _Tally:
    recipients: int = 0
    refused: list[RefusedRow] = field(default_factory=list)
    refused_total: int = 0
    opted_out: int = 0
    no_consent: int = 0
    duplicates: int = 0
    duplicate_rows: list[RefusedRow] = field(default_factory=list)
    parts: int = 0
    encodings: Counter[str] = field(default_factory=Counter)
    spills: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, str]] = field(default_factory=list)
    # By prefix: an example of its numbers, its texts and their parts.
    examples: dict[str, str] = field(default_factory=dict)
    texts_by_prefix: Counter[str] = field(default_factory=Counter)
    parts_by_prefix: Counter[str] = field(default_factory=Counter)

    def add(self, chunk: Chunk, opted_out: set[str], lacking: set[str]) -> None:
        self.recipients += len(chunk.taken)
        self.duplicates += chunk.duplicates
        self.duplicate_rows += chunk.duplicate_rows[: MOST_DUPLICATES - len(self.duplicate_rows)]
        self.refused_total += chunk.refused_count
        self.refused += chunk.refused[: MOST_REFUSED - len(self.refused)]
        self.opted_out += sum(row.recipient in opted_out for row in chunk.taken)
        self.no_consent += sum(row.recipient in lacking for row in chunk.taken)
        measured: tuple[str, Segments] | None = None
        for row in chunk.taken:
            if row.recipient in opted_out or row.recipient in lacking:
                continue
            if measured is None or measured[0] != row.text:
                measured = (row.text, measure(row.text))
            self._add(row, measured[1])

    def _add(self, row: TakenRow, segments: Segments) -> None:
        if len(self.samples) < MOST_SAMPLES:
            self.samples.append({"to": row.recipient, "text": row.text})
        self.parts += segments.parts
        self.encodings[segments.encoding] += 1
        prefix = prefix_of(row.recipient)
        self.examples.setdefault(prefix, row.recipient)
        self.texts_by_prefix[prefix] += 1
        self.parts_by_prefix[prefix] += segments.parts
        if segments.parts > 1 and len(self.spills) < MOST_SPILLS:
            self.spills.append(_spill(row, segments))

    def going(self) -> Iterator[Going]:
        for prefix, example in self.examples.items():
            yield Going(example, self.texts_by_prefix[prefix], self.parts_by_prefix[prefix])


def _quote(
    settings: Settings, database: Database, sender_id: str | None, chunks: Iterable[Chunk]
) -> dict[str, Any]:
    tally, rule = _Tally(), ConsentRule.of(settings)
    for chunk in chunks:
        with database.read() as connection:
            phones = [row.recipient for row in chunk.taken]
            opted_out = ledger.suppressed(connection, phones, sender_id)
            lacking = rule.lacking(connection, phones, sender_id) - opted_out
        tally.add(chunk, opted_out, lacking)
    with database.read() as connection:
        costs = estimate(connection, sender_id, tally.going())
    return _in_json(tally, costs)


def _typed(to: Sequence[str], text: str, default_region: str | None, warnings: Warnings) -> Iterator[Chunk]:
    seen, parts = set[int](), measure(text).parts
    numbered = enumerate(to, 1)
    while some := list(islice(numbered, ROWS_AT_ONCE)):
        chunk = Chunk(rows=len(some))
        for place, typed in some:
            try:
                phone, doubt, _region = read_phone(typed, default_region)
            except InvalidPhone as error:
                chunk.refused.append(RefusedRow(place, typed, error.code, error.message))
                continue
            if is_new(number_key(phone), seen):
                chunk.taken.append(TakenRow(phone, text, parts))
                if doubt:
                    warnings.add(DOUBTFUL_NUMBER, doubt, to=phone)
            else:
                chunk.duplicates += 1
        yield chunk
        time.sleep(PAUSE_SECONDS)


def _spill(row: TakenRow, segments: Segments) -> dict[str, Any]:
    """`character`: what makes the text longer than its letters: the first outside GSM-7, or one that counts twice
    there. None where the text is simply long."""
    character = segments.spill
    if character is None and _parts_of(len(row.text)) < segments.parts:
        character = next(one for one in row.text if one in EXTENDED)
    suggestion = None if character is None or character in EXTENDED else gsm7_alternative(character)
    return {
        "to": row.recipient,
        "parts": segments.parts,
        "character": character,
        "suggestion": suggestion,
    }


def _parts_of(septets: int) -> int:
    return 1 if septets <= 160 else -(-septets // 153)


def _in_json(tally: _Tally, estimated: Estimate) -> dict[str, Any]:
    costs = [booked_money(micros, currency) for currency, micros in sorted(estimated.micros.items())]
    is_known = len(costs) == 1 and not estimated.unpriced
    return {
        "recipients": tally.recipients,
        "refused": [_row_in_json(one) for one in tally.refused],
        "refused_total": tally.refused_total,
        "opted_out": tally.opted_out,
        "no_consent": tally.no_consent,
        "duplicates": tally.duplicates,
        "duplicate_rows": [_row_in_json(one) for one in tally.duplicate_rows],
        "parts": tally.parts,
        "encodings": {name: tally.encodings[name] for name in ("GSM-7", "UCS-2")},
        "spills": tally.spills,
        "samples": tally.samples,
        "estimated_cost": costs[0] if is_known else UNKNOWN,
        "estimated_costs": costs,
        "unpriced": estimated.unpriced,
    }


def _row_in_json(row: RefusedRow) -> dict[str, Any]:
    return {"line": row.line, "to": row.value, "code": row.code, "message": row.reason}
