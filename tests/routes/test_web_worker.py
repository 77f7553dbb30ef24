"""The web worker's own answers to its system, without a server round it."""

import errno

import pytest

from routes.web_worker import WholeRequestWorker


class FullListener:
    def __init__(self, error: int) -> None:
        self.error = error

    def accept(self) -> None:
        raise OSError(self.error, "no")


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
def test_a_system_that_has_no_room_for_a_connection_does_not_end_the_worker(error: int) -> None:
    worker = WholeRequestWorker.__new__(WholeRequestWorker)
    worker._waiting = {}
    worker.nr_conns = 0
    worker.accept(FullListener(error))
    assert worker.nr_conns == 0


def test_a_listener_that_is_broken_ends_the_worker() -> None:
    worker = WholeRequestWorker.__new__(WholeRequestWorker)
    with pytest.raises(OSError, match="no"):
        worker.accept(FullListener(errno.EBADF))
