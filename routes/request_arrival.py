"""How much of an HTTP request has come: enough to know when a thread can read it without waiting."""

from __future__ import annotations

import re

LONGEST_HEAD_BYTES = 64 * 1024
# More than is kept of a callback (256 KiB). Of a longer body a thread reads the rest.
HELD_BODY_BYTES = 320 * 1024
HEAD_END = b"\r\n\r\n"
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*0*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked", re.IGNORECASE)
EXPECTS_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
CHUNK_SIZE = re.compile(rb"0*([0-9a-fA-F]{1,8})(?=[ \t;\r])")


class Arrival:
    """The next request of one connection. It is only measured here: gunicorn's parser judges it."""

    def __init__(self, data: bytes = b"", is_closing: bool = False) -> None:
        self.data = bytearray(data)
        self.deadline = 0.0
        self.is_closing = is_closing
        # Whole enough, and waits for a place to be read.
        self.is_paused = False
        self.has_ended = False
        self.expects_continue = False
        self._body_start = 0
        self._length: int | None = 0
        self._next_chunk = 0

    def add(self, piece: bytes) -> None:
        """An empty piece is the end of the stream."""
        self.data += piece
        self.has_ended = not piece

    @property
    def has_head(self) -> bool:
        return self._body_start > 0

    @property
    def is_too_long(self) -> bool:
        return not self.has_head and len(self.data) > LONGEST_HEAD_BYTES

    @property
    def is_readable(self) -> bool:
        """Whole, or as much of it as is held here, or as much as will ever come."""
        self._find_head()
        held = len(self.data) - self._body_start
        return self.has_head and (self.is_whole or self.has_ended or held >= HELD_BODY_BYTES)

    @property
    def is_whole(self) -> bool:
        if self._length is None:
            self._find_last_chunk()
        return self._length is not None and len(self.data) >= self._body_start + self._length

    def _find_head(self) -> None:
        end = -1 if self.has_head else self.data.find(HEAD_END)
        if end < 0:
            return
        head = bytes(self.data[: end + 2])
        self._body_start = self._next_chunk = end + len(HEAD_END)
        self.expects_continue = EXPECTS_CONTINUE.search(head) is not None
        length = CONTENT_LENGTH.search(head)
        self._length = None if CHUNKED.search(head) else int(length[1]) if length else 0

    def _find_last_chunk(self) -> None:
        """Goes on where it stopped. A malformed chunk counts as the last: gunicorn refuses it when it reads it."""
        while self._length is None and (line_end := self.data.find(b"\r\n", self._next_chunk)) >= 0:
            digits = CHUNK_SIZE.match(self.data, self._next_chunk)
            if digits is None:
                self._length = 0
            elif int(digits[1], 16) > 0:
                self._next_chunk = line_end + 2 + int(digits[1], 16) + 2
            else:
                trailers_end = self.data.find(HEAD_END, line_end)
                if trailers_end < 0:
                    return
                self._length = trailers_end + len(HEAD_END) - self._body_start
