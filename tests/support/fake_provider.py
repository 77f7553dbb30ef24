"""Africa's Talking as a scripted loopback server, inside the test's process."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

TIMEOUT_SECONDS = 15.0


class FakeProvider:
    """Accepts every text unless told otherwise.

    `posts`: the forms it got. `script`: answers for the next POSTs, each (HTTP status, content type, body).
    `refused`: per-recipient (code, word) by number. `hold`: while cleared, POSTs wait for it.
    `balance`: what it says when asked; `balance_reads`: how often it was.
    """

    def __init__(self) -> None:
        self.posts: list[dict[str, str]] = []
        self.script: list[tuple[int, str, str]] = []
        self.refused: dict[str, tuple[int, str]] = {}
        self.balance = "KES 120.5000"
        self.balance_reads = 0
        self.hold = threading.Event()
        self.hold.set()
        self.arrived = threading.Semaphore(0)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, form: dict[str, str]) -> tuple[int, str, str]:
        self.posts.append(form)
        self.arrived.release()
        self.hold.wait(TIMEOUT_SECONDS)
        if self.script:
            return self.script.pop(0)
        numbers = form["to"].split(",")
        recipients = [self._recipient(number, place) for place, number in enumerate(numbers)]
        said = {"Message": f"Sent to {len(numbers)}/{len(numbers)}", "Recipients": recipients}
        return 201, "application/json", json.dumps({"SMSMessageData": said})

    def _recipient(self, number: str, place: int) -> dict[str, Any]:
        if number in self.refused:
            code, word = self.refused[number]
            return {"statusCode": code, "number": number, "status": word, "cost": "0", "messageId": "None"}
        message_id = f"ATXid_{len(self.posts)}_{place}"
        accepted = {"statusCode": 102, "status": "Success", "cost": "KES 0.8000", "messageId": message_id}
        return {"number": number, **accepted}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(raw, keep_blank_values=True).items()}
                self._send(*provider.answer(form))

            def do_GET(self) -> None:
                provider.balance_reads += 1
                self._send(200, "application/json", json.dumps({"UserData": {"balance": provider.balance}}))

            def _send(self, status: int, content_type: str, body: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler
