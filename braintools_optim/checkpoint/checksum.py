"""A record's checksum, computed by another core while this one reads or writes."""

from __future__ import annotations

import threading
import zlib

__all__ = ['Checksum']

_BATCH = 1 << 22  # worth a thread: starting one takes as long as the sum of 100 KB


class Checksum:
    """The CRC-32 of the buffers that it is given, which must stay as they are until `value`."""

    def __init__(self, start: int):
        self._value = start
        self._waiting: list[memoryview | bytes] = []
        self._size = 0
        self._thread: threading.Thread | None = None

    def add(self, data: memoryview | bytes) -> None:
        """Take what comes next."""
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            self._join()  # so no more than two batches are held
            thread = threading.Thread(target=self._fold, args=(self._waiting,))
            self._waiting, self._size = [], 0
            thread.start()
            self._thread = thread

    def value(self) -> int:
        """Return the sum of all that came; buffers may change from now on."""
        self._join()
        self._fold(self._waiting)
        self._waiting, self._size = [], 0
        return self._value

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _fold(self, batch: list[memoryview | bytes]) -> None:
        for data in batch:
            self._value = zlib.crc32(data, self._value)
