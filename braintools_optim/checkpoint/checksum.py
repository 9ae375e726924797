"""The CRC-32 of records: the number of ``zlib.crc32``, for long ones in half of its time.

To a checksum, a message is a polynomial over the integers modulo 2, and its CRC what is left of it
modulo a fixed one. There ``x**(8 * PERIOD)`` equals ``x**(8 * SHIFT) + 1``, so a byte may be
replaced by two equal ones, PERIOD and PERIOD - SHIFT bytes further on. All bytes of a long message
are pushed ahead in this way until the last PERIOD of them say the same as the whole did, and only
these are given to zlib. Pushing is `xor` of arrays, which a processor does on many bytes at once.
"""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ['Checksum', 'checksum']

# the smallest pair of bytes that zlib's polynomial has is (91639, 41678); squared twice, it is this
# one, whose longer arrays are worth a call each
PERIOD, SHIFT = 366556, 166712
_LONG = 1 << 21  # where pushing begins to take less time
_ZLIB_IS_FAST = 'ng' in zlib.ZLIB_RUNTIME_VERSION  # zlib-ng has instructions for checksums
_EMPTY = 0xFFFFFFFF  # the value that zlib goes on from as if with a remainder of 0


class Checksum:
    """The CRC-32 of bytes that come in pieces."""

    def __init__(self, beginning: bytes):
        self._value = zlib.crc32(beginning)

    def add(self, piece: bytes | memoryview) -> None:
        """Go on with these bytes."""
        self._value = zlib.crc32(piece, self._value)

    def value(self) -> int:
        """Return the number, of what has come."""
        return self._value


class _Pushed(Checksum):
    """The same, from the last PERIOD bytes; they lie in a ring, whose oldest byte comes next."""

    def __init__(self, beginning: bytes):
        self._ring = np.zeros(PERIOD, np.uint8)
        self._next = 0
        inverted = bytes(~byte & 0xFF for byte in beginning[:4])  # as the CRC-32 is defined
        self.add(inverted + beginning[4:])

    def add(self, piece: bytes | memoryview) -> None:
        ring, data = self._ring, np.frombuffer(piece, np.uint8)
        while len(data):
            here, there = self._next, (self._next - SHIFT) % PERIOD
            count = min(len(data), SHIFT, PERIOD - here, PERIOD - there)  # no two overlap
            oldest, pushed_to = ring[here : here + count], ring[there : there + count]
            np.bitwise_xor(pushed_to, oldest, out=pushed_to)
            np.bitwise_xor(oldest, data[:count], out=oldest)  # a period on, it lies where it lay
            data = data[count:]
            self._next = (here + count) % PERIOD

    def value(self) -> int:
        ring = self._ring.data
        return zlib.crc32(ring[: self._next], zlib.crc32(ring[self._next :], _EMPTY))


def checksum(beginning: bytes, length: int) -> Checksum:
    """Return the checksum of four bytes or more, which so many will follow."""
    return Checksum(beginning) if length < _LONG or _ZLIB_IS_FAST else _Pushed(beginning)
