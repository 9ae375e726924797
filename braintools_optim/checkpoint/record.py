"""The records of a file: ``[kind, payload, crc32]`` after eight magic bytes.

All lengths and checksums are written in msgpack's widest form, so that a record has 12 bytes
beside its payload, and a file's length follows from its header. The checksum covers the number of
the record (8 bytes, little endian), its kind and its payload.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

import msgpack

from ..errors import CorruptCheckpoint
from .checksum import Checksum, checksum
from .dtype import PIECE

__all__ = ['CHUNK', 'DATA', 'END', 'HEADER', 'MAGIC', 'Reader', 'Writer', 'length_of']

MAGIC = b'\x89BTO\r\n\x1a\n'
HEADER, DATA, END = 1, 2, 3
CHUNK = 1 << 26  # far below msgpack's 2**32, so an array may be longer than that
_WRITTEN = 1 << 21  # bytes that are written at once: fewer than these take the system longer

_OPEN = struct.Struct('>BBBI')  # an array of three, the kind, a bin with its length
_CLOSE = struct.Struct('>BI')  # a 32-bit number
_ARRAY, _BIN, _UINT = 0x93, 0xC6, 0xCE
_NUMBER = struct.Struct('<QB')
_FRAME = _OPEN.size + _CLOSE.size


def _other_beginning(found: bytes) -> str:
    return (
        f'it begins with {found!r}, a checkpoint begins with {MAGIC!r} (import_braintools reads '
        f'those of braintools, load_state_dict takes what other encoders wrote of a state_dict)'
    )


def _sum(number: int, kind: int, length: int) -> Checksum:
    """Return the checksum of a record whose payload comes."""
    return checksum(_NUMBER.pack(number, kind), length)


def length_of(header: int, data: int) -> int:
    """Return how long a file is whose header and data have these lengths."""
    chunks = -(-data // CHUNK)
    end = len(msgpack.packb(chunks + 2))
    return len(MAGIC) + _FRAME * (chunks + 2) + header + data + end


class Writer:
    """Writes a header, then data cut into chunks, then the end."""

    def __init__(self, put: Callable[[memoryview | bytes], Any], header: bytes, data: int):
        self._put = put
        self._number = 0
        self._left = data  # what was announced, and hasn't come
        self._room = 0  # what the open chunk still takes
        self._sum: Checksum  # of the record that is open
        put(MAGIC)
        self._whole(HEADER, header)

    def _open(self, kind: int, length: int) -> None:
        self._put(_OPEN.pack(_ARRAY, kind, _BIN, length))
        self._sum = _sum(self._number, kind, length)
        self._number += 1

    def _close(self) -> None:
        self._put(_CLOSE.pack(_UINT, self._sum.value()))

    def _whole(self, kind: int, payload: bytes) -> None:
        self._open(kind, len(payload))
        self._sum.add(payload)
        self._put(payload)
        self._close()

    def write(self, view: memoryview, done: Callable[[int], Any] = int) -> None:
        """Write some of the data."""
        while len(view):
            if not self._room:
                self._room = min(CHUNK, self._left)
                self._left -= self._room
                self._open(DATA, self._room)
            piece = view[: min(_WRITTEN, self._room)]
            self._sum.add(piece)
            self._put(piece)
            view = view[len(piece) :]
            self._room -= len(piece)
            done(len(piece))
            if not self._room:
                self._close()

    def end(self) -> None:
        """Write the last record: how many there are."""
        assert not self._left and not self._room, 'less data than was announced'
        self._whole(END, msgpack.packb(self._number + 1))


class Reader:
    """Reads what `Writer` wrote; raises `CorruptCheckpoint` at the first thing that is wrong."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._number = -1
        self._offset = 0  # of the record that is being read
        self._next = len(MAGIC)
        self._left = 0  # announced by the header
        self._room = 0  # of the open chunk
        self._sum: Checksum  # of the record that is open
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            self._number = 0
            self.fail(_other_beginning(magic))

    def fail(self, problem: str) -> NoReturn:
        """Raise, telling where."""
        raise CorruptCheckpoint(problem, max(self._number, 0), self._offset)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            self.fail('the file ends within it')
        return data

    def _open(self, kind: int) -> int:
        self._number += 1
        self._offset = self._next
        array, found, bin_, length = _OPEN.unpack(self._exactly(_OPEN.size))
        if array != _ARRAY or bin_ != _BIN:
            self.fail('no record begins here')
        if found != kind:
            self.fail(f'a record of kind {found} stands where one of kind {kind} belongs')
        self._next = self._offset + _FRAME + length
        self._sum = _sum(self._number, kind, length)
        return length

    def _close(self) -> None:
        tag, crc = _CLOSE.unpack(self._exactly(_CLOSE.size))
        if tag != _UINT or crc != self._sum.value():
            self.fail('its checksum is wrong')

    def _whole(self, kind: int, limit: int) -> bytes:
        length = self._open(kind)
        if length > limit:
            self.fail(f'it has {length} bytes, and can have {limit} at most')
        payload = self._exactly(length)
        self._sum.add(payload)
        self._close()
        return payload

    def header(self, limit: int) -> bytes:
        """Return the payload of the first record."""
        return self._whole(HEADER, limit)

    def expect(self, data: int) -> None:
        """Set how many bytes of data follow."""
        self._left = data

    def read_into(self, view: memoryview, done: Callable[[int], Any] = int) -> None:
        """Fill a buffer with the next of the data; a full chunk is checked before this returns."""
        while len(view):
            if not self._room:
                self._room = min(CHUNK, self._left)
                self._left -= self._room
                length = self._open(DATA)
                if length != self._room:
                    self.fail(f'it has {length} bytes, {self._room} belong here')
            piece = view[: min(PIECE, self._room)]
            got = self._file.readinto(piece)  # type: ignore[attr-defined]  # typeshed does not know it
            if not got:
                self.fail('the file ends within it')
            self._sum.add(piece[:got])
            view = view[got:]
            self._room -= got
            done(got)
            if not self._room:
                self._close()

    def end(self) -> None:
        """Check the last record, and that nothing follows."""
        count = msgpack.packb(self._number + 2)
        if self._whole(END, len(count)) != count:
            self.fail(f'it tells another number of records than {self._number + 1}')
        if self._file.read(1):
            self._number, self._offset = self._number + 1, self._next
            self.fail('something follows the end')
