"""The operator's own system, as a process: verifies each event by the published library, writes it down, answers.

`python -m tests.support.webhook_receiver PORT SECRET FOLDER`. In FOLDER, `accepted` and `refused` get a JSON line
per POST (on the disk before the answer), and `behaviour.json`, where it exists, says how to answer:
`{"status": 503}`, `{"status": 302, "location": …}`, `{"hang_seconds": 30}`, `{"forget": true}` (accepts, writes it
down, and cuts the connection instead of answering).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.stack import ROOT, eventually, free_port, is_free


class Receiver(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, secret: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.webhook, self.folder = Webhook(secret), folder

    def behaviour(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "behaviour.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def note(self, name: str, line: dict[str, Any]) -> None:
        with (self.folder / name).open("a") as log:
            log.write(json.dumps(line) + "\n")
            log.flush()
            os.fsync(log.fileno())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        behaviour = self.server.behaviour()
        time.sleep(behaviour.get("hang_seconds", 0))
        status = behaviour.get("status", 200)
        if status == 200:
            status = self._take(body)
        if behaviour.get("forget"):
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        if "location" in behaviour:
            self.send_header("Location", behaviour["location"])
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def _take(self, body: bytes) -> int:
        event_id = self.headers.get("webhook-id")
        try:
            event = self.server.webhook.verify(body, dict(self.headers.items()))
        except WebhookVerificationError as error:
            self.server.note("refused", {"id": event_id, "why": str(error)})
            return 400
        self.server.note("accepted", {"id": event_id, "event": event})
        return 200

    def log_message(self, *_: object) -> None:
        pass


class ReceiverProcess:
    """Started and killed by a test; the port and what was received outlive it."""

    def __init__(self, folder: Path, secret: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.secret, self.port = folder, secret, free_port()
        self.url = f"http://127.0.0.1:{self.port}/events?from=sms"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.support.webhook_receiver"]
        arguments = [str(self.port), self.secret, str(self.folder)]
        with (self.folder / "receiver.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=log, stderr=log)
        eventually(lambda: not is_free(self.port), "the receiver listens")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def behave(self, **behaviour: Any) -> None:
        new = self.folder / "behaviour.new"
        new.write_text(json.dumps(behaviour))
        new.replace(self.folder / "behaviour.json")

    def accepted(self) -> list[dict[str, Any]]:
        return self._lines("accepted")

    def refused(self) -> list[dict[str, Any]]:
        return self._lines("refused")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            lines = (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []
        # A receiver that was killed may have left half a line.
        return [json.loads(line) for line in lines if line.endswith("}")]


if __name__ == "__main__":
    Receiver(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])).serve_forever()
