"""The simulator as its own process on a free port, and a service so small that it only takes callbacks."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import requests

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 15
HEADERS = {"apiKey": "any", "Accept": "application/json"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(is_true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


class Receiver:
    """Takes callbacks. ``statuses`` are given to the next ones, then ``usual`` for ever."""

    def __init__(self) -> None:
        self.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def clear(self) -> None:
        self.callbacks: list[tuple[str, dict[str, str]]] = []
        self.queries: list[str] = []
        self.content_types: set[str] = set()
        self.statuses: list[int] = []
        self.usual = 200
        self.applies = True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.take(self.path, body, self.headers["Content-Type"])
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else receiver.usual)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                body = json.dumps({"applied": receiver.reports if receiver.applies else []}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None:
                pass

        return Handler

    def take(self, path: str, body: str, content_type: str) -> None:
        url = urlsplit(path)
        self.content_types.add(content_type)
        self.queries.append(url.query)
        self.callbacks.append((url.path, dict(parse_qsl(body, keep_blank_values=True))))

    def bodies(self, path: str) -> list[dict[str, str]]:
        return [body for taken, body in list(self.callbacks) if taken == path]

    @property
    def reports(self) -> list[dict[str, str]]:
        return self.bodies("/sms/delivery-reports")

    @property
    def inbound(self) -> list[dict[str, str]]:
        return self.bodies("/sms/twoway")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class RealSimulator:
    def __init__(self, database: Path, service_url: str, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "simulator", "--port", str(self.port)]
        self._command += ["--service-url", service_url, "--database", str(database)]
        self._command += ["--callback-retry-seconds", "0.3", "--report-delay-seconds", "0.05", *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.session = requests.Session()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, cwd=ROOT, stderr=subprocess.PIPE)
        eventually(self._answers, "the simulator answers")

    def _answers(self) -> bool:
        try:
            return self.session.get(f"{self.url}/_simulator/faults", timeout=5).ok
        except requests.ConnectionError:
            return False

    def end(self, with_signal: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(with_signal)
        self.process.wait(timeout=TIMEOUT_SECONDS)
        if self.process.stderr:
            self.process.stderr.close()
        # The server's own child ends with it, but a moment later: until then it would answer for the next one.
        eventually(lambda: not self._listens(), "the port is given back")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        self.session.close()

    def send(
        self, *numbers: str, message: str = "Habari", sender: str = "20880", timeout: float = 10
    ) -> requests.Response:
        form = {
            "username": "sandbox",
            "to": ",".join(numbers),
            "message": message,
            "from": sender,
            "enqueue": "1",
        }
        url = f"{self.url}/version1/messaging"
        return self.session.post(url, data=form, headers=HEADERS, timeout=timeout)

    def control(self, path: str, **body: Any) -> Any:
        answer = self.session.post(f"{self.url}/_simulator/{path}", json=body, timeout=10)
        assert answer.ok, answer.text
        return answer.json()

    def look(self, path: str) -> Any:
        return self.session.get(f"{self.url}/_simulator/{path}", timeout=10).json()

    def ledger(self) -> list[str]:
        return [item["to"] for item in self.look("ledger")["items"]]
