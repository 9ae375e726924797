"""The header's bytes: a msgpack map of plain data, decoded as if an enemy had written it.

msgpack's own decoder makes a list as long as the bytes claim, at every depth, and takes the last
of two equal keys. Here every container's length is compared with the bytes that are left, and
counted, before anything is made for it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack

__all__ = ['DEPTH', 'NODES', 'SIZE', 'TOO_DEEP', 'Malformed', 'decode', 'encode', 'uncollected']

SIZE = 1 << 24
DEPTH = 32
TOO_DEEP = (
    f'... is nested too deep or holds itself; {DEPTH} levels are allowed, with those of the file'
)
NODES = 1 << 19  # values of any kind; keeps the worst header under a second and 100 MB


class Malformed(Exception):
    """Bytes that are no header."""


def encode(header: dict[str, Any]) -> bytes:
    """Return the bytes of a header whose values are plain (`tree.plain` has made them so)."""
    nodes = _count(header)
    if nodes > NODES:
        raise ValueError(
            f'{nodes} numbers, strings and containers are to be saved, {NODES} are allowed: '
            'turn long lists into arrays, and many small arrays into fewer'
        )
    try:
        payload = msgpack.packb(header)
    except UnicodeEncodeError as error:
        raise ValueError(
            f'{error.object!r:.60} cannot be saved: it is no valid Unicode text'
        ) from None
    if len(payload) > SIZE:
        raise ValueError(
            f'what is to be saved beside the arrays takes {len(payload)} bytes, {SIZE} are '
            'allowed: turn long lists and strings into arrays or bytes'
        )
    return payload


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(_count, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_count, value))
    return 1


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage while many small things are made: jax's objects make that slow."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def decode(payload: bytes) -> dict[str, Any]:
    """Return the map; raise `Malformed` when it is none, or more than it may be."""
    decoder = _Decoder(payload)
    try:
        header = decoder.container(1)
    except (msgpack.OutOfData, IndexError):
        raise Malformed('the header ends within a value') from None
    except (msgpack.UnpackValueError, UnicodeDecodeError) as error:
        where = decoder.unpacker.tell()
        raise Malformed(f'the header cannot be decoded at its byte {where}: {error}') from None
    if decoder.unpacker.tell() != len(payload):
        raise Malformed('something follows the map in the header')
    if not isinstance(header, dict):
        raise Malformed(f'the header must be a map, got {type(header).__name__}')
    return header


_MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}
_LISTS = {*range(0x90, 0xA0), 0xDC, 0xDD}
_STRINGS = {*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB}
_NUMBERS = {*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3, 0xCB, *range(0xCC, 0xD4)}
_SCALARS = _STRINGS | _NUMBERS


class _Decoder:
    def __init__(self, payload: bytes):
        self.payload = payload
        self.unpacker = msgpack.Unpacker(max_buffer_size=SIZE)
        self.unpacker.feed(payload)
        self.nodes = 0

    def container(self, depth: int) -> dict[str, Any] | list[Any]:
        """Return the map or list that comes next."""
        payload, unpacker = self.payload, self.unpacker
        tell, scalar = unpacker.tell, unpacker.unpack
        position = tell()
        tag = payload[position] if payload else -1
        if tag in _LISTS:
            values: list[Any] = []
            for _ in range(self.claim(unpacker.read_array_header(), 1, depth)):
                plain = payload[tell()] in _SCALARS
                values.append(scalar() if plain else self.container(depth + 1))
            return values
        if tag not in _MAPS:
            raise Malformed(f'the header has a value of the type {tag:#x} at its byte {position}')
        result: dict[str, Any] = {}
        for _ in range(self.claim(unpacker.read_map_header(), 2, depth)):
            if payload[tell()] not in _STRINGS:
                raise Malformed(f'the header has a key that is no string at its byte {tell()}')
            key = scalar()
            if key in result:
                raise Malformed(f'the header has the key {key!r:.60} twice in one map')
            plain = payload[tell()] in _SCALARS
            result[key] = scalar() if plain else self.container(depth + 1)
        return result

    def claim(self, length: int, each: int, depth: int) -> int:
        """Raise if a container claims more than there are bytes left, or is nested too deep."""
        if depth > DEPTH:
            raise Malformed(f'the header is nested deeper than {DEPTH} levels')
        left = len(self.payload) - self.unpacker.tell()
        if length * each > left:
            raise Malformed(f'the header has {left} bytes left for a container of {length} items')
        self.nodes += length * each
        if self.nodes > NODES:
            raise Malformed(f'the header has more than {NODES} values')
        return length
