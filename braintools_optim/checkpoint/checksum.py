"""A record's checksum, computed by another core while this one reads or writes."""

from __future__ import annotations

import threading
import weakref
import zlib
from collections import deque
from concurrent.futures import Future
from queue import SimpleQueue

__all__ = ['Checksum']

_BATCH = 1 << 21  # worth handing over: that takes as long as the sum of 100 KB
_PENDING = 3  # as many batches at most wait, besides the one that is gathered


class Checksum:
    """The CRC-32 of the buffers that it is given, which must stay as they are until `value`.

    One thread serves all records of a file, and ends with this object. (An executor would refuse to
    work while Python ends, which is when a save in the background may still be running.)
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue | None = None  # of the thread, once there is one
        self._pending: deque[Future] = deque()
        self.begin(0)

    def begin(self, start: int) -> None:
        """Begin anew from a number."""
        self._value = start
        self._waiting: list[memoryview | bytes] = []
        self._size = 0

    def add(self, data: memoryview | bytes) -> None:
        """Take what comes next."""
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            while len(self._pending) >= _PENDING:
                self._pending.popleft().result()
            self._hand_over()

    def value(self) -> int:
        """Return the sum of all that came; buffers may change from now on."""
        while self._pending:
            self._pending.popleft().result()
        self._fold(self._waiting)
        self._waiting, self._size = [], 0
        return self._value

    def _hand_over(self) -> None:
        if self._tasks is None:
            self._tasks = SimpleQueue()
            weakref.finalize(self, self._tasks.put, None)
            threading.Thread(
                target=_work, args=(self._tasks,), name='checksum', daemon=True
            ).start()
        summed: Future = Future()
        self._tasks.put((summed, self._fold, self._waiting))
        self._pending.append(summed)
        self._waiting, self._size = [], 0

    def _fold(self, batch: list[memoryview | bytes]) -> None:
        for data in batch:
            self._value = zlib.crc32(data, self._value)


def _work(tasks: SimpleQueue) -> None:
    """Do what comes, in order, until None does."""
    while (task := tasks.get()) is not None:
        summed, fold, batch = task
        try:
            summed.set_result(fold(batch))
        except BaseException as error:  # it is raised where the sum is asked for
            summed.set_exception(error)
        del task, summed, fold, batch  # nothing is kept alive while it waits
