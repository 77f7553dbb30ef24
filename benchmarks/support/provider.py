"""A provider that costs next to nothing: `python -m benchmarks.support.provider PORT`.

It answers a send in AT's recorded shape (docs/africastalking.md, 1b), counts what each number got, and may post a
report of each text back over connections that stay open. The simulator keeps books and pictures phones: with it, these
benchmarks would mostly measure the simulator. Both sides of a ratio have the same process of this one.

An id that it gives ends in the number's digits, so that the books can be asked whether each answer went to its text.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any

ID_PREFIX = "ATXid_"
SERIAL_DIGITS = 20
ENTRY = (
    '{{"cost":"KES 0.8000","messageId":"' + ID_PREFIX + '{serial:0{width}x}{digits}","number":"+{digits}",'
    '"status":"Success","statusCode":102}}'
)
BODY = '{{"SMSMessageData":{{"Message":"Sent to {count}/{count} Total Cost: USD 0.0079","Recipients":[{entries}]}}}}'
REPORT = "phoneNumber=%2B{digits}&retryCount=0&id={provider_id}&status=Success&networkCode=63902"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Manners:
    """How it is to behave from now on. Without a `report_path` it reports nothing."""

    latency_seconds: float = 0.0
    report_port: int = 0
    report_path: str = ""
    report_connections: int = 0


@dataclass(slots=True)
class Seen:
    """Since it was last told how to behave. Times in seconds since 1970; `refused`: reports not answered with 200."""

    posts: int = 0
    recipients: int = 0
    distinct: int = 0
    digits_sum: int = 0
    first_at: float = 0.0
    reported: int = 0
    refused: int = 0
    reported_at: float = 0.0


@dataclass(slots=True)
class Provider:
    manners: Manners = field(default_factory=Manners)
    seen: Seen = field(default_factory=Seen)
    serial: int = 0
    numbers: Counter[bytes] = field(default_factory=Counter)
    owed: deque[bytes] = field(default_factory=deque)
    something_owed: asyncio.Event = field(default_factory=asyncio.Event)
    couriers: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, manners: Manners) -> None:
        self.manners, self.seen = manners, Seen()
        self.numbers.clear()
        self.owed.clear()
        for courier in self.couriers:
            courier.cancel()
        self.couriers = [asyncio.create_task(self._deliver()) for _ in range(manners.report_connections)]

    def take(self, form: bytes) -> bytes:
        """The answer to one POST."""
        to = next(pair for pair in form.split(b"&") if pair.startswith(b"to="))
        numbers = to[3:].replace(b"%2B", b"").split(b"%2C")
        self.seen.first_at = self.seen.first_at or time.time()
        self.seen.posts += 1
        self.seen.recipients += len(numbers)
        self.numbers.update(numbers)
        entries = []
        for digits in numbers:
            self.serial += 1
            entries.append(
                ENTRY.format(serial=self.serial, width=SERIAL_DIGITS, digits=digits.decode("ascii"))
            )
            if self.manners.report_path:
                self.owed.append(self._report(digits.decode("ascii")))
        self.something_owed.set()
        return BODY.format(count=len(numbers), entries=",".join(entries)).encode()

    def told(self) -> dict[str, Any]:
        self.seen.distinct = len(self.numbers)
        self.seen.digits_sum = sum(int(one) * count for one, count in self.numbers.items())
        return asdict(self.seen)

    def _report(self, digits: str) -> bytes:
        provider_id = f"{ID_PREFIX}{self.serial:0{SERIAL_DIGITS}x}{digits}"
        body = REPORT.format(digits=digits, provider_id=provider_id)
        return (
            f"POST {self.manners.report_path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    async def _deliver(self) -> None:
        """One connection: the next report leaves when the last one was answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.manners.report_port)
        try:
            while True:
                while not self.owed:
                    self.something_owed.clear()
                    await self.something_owed.wait()
                writer.write(self.owed.popleft())
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_length(head))
                self._note(is_taken=head.startswith(b"HTTP/1.1 200 "))
        finally:
            writer.close()

    def _note(self, *, is_taken: bool) -> None:
        self.seen.reported += is_taken
        self.seen.refused += not is_taken
        self.seen.reported_at = time.time()


class _Connection(asyncio.Protocol):
    """HTTP as far as our own clients speak it: a head, a length, a body."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= _length(head):
            self._received = b""
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path == b"/version1/messaging":
            answer = self._provider.take(body)
            latency = self._provider.manners.latency_seconds
            if latency:
                asyncio.get_running_loop().call_later(latency, self._write, b"201 Created", answer)
            else:
                self._write(b"201 Created", answer)
        elif path == b"/begin":
            self._provider.begin(Manners(**json.loads(body)))
            self._write(b"200 OK", b"{}")
        else:
            self._write(b"200 OK", json.dumps(self._provider.told()).encode())

    def _write(self, status: bytes, answer: bytes) -> None:
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(answer)) + answer)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


async def serve(port: int) -> None:
    provider = Provider()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(provider), "127.0.0.1", port, backlog=128
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
