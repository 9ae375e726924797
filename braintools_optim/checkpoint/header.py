"""What a header says: the format, what describes the file, and where its arrays belong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import IncompatibleCheckpoint
from . import codec, record
from .codec import Malformed
from .tree import Entry, place

__all__ = ['FORMAT', 'Header']

FORMAT = (1, 0)
FEATURES: frozenset[str] = frozenset()  # what a file may ask of its reader beyond the format


@dataclass
class Header:
    """What describes a file."""

    format: tuple[int, int]
    versions: dict[str, Any]
    kind: str
    meta: dict[str, Any]
    entries: list[Entry]
    plain: dict[str, Any]  # the whole map

    @property
    def nbytes(self) -> int:
        """How many bytes the arrays have in the file."""
        return sum(entry.nbytes for entry in self.entries)

    @classmethod
    def of(cls, reader: record.Reader, size: int) -> Header:
        """Read the header's record, and check everything that can be without the arrays."""
        payload = reader.header(codec.SIZE)
        try:
            with codec.uncollected():
                return cls._of(payload, reader, size)
        except Malformed as problem:
            reader.fail(str(problem))

    @classmethod
    def _of(cls, payload: bytes, reader: record.Reader, size: int) -> Header:
        found = codec.decode(payload)
        version = _version(found)
        wanted = {'versions': dict, 'kind': str, 'meta': dict, 'arrays': list}
        for key, type_ in wanted.items():
            if not isinstance(found.get(key), type_):
                raise Malformed(f'{key!r} must be a {type_.__name__}, got {found.get(key)!r:.60}')
        if 'tree' not in found:
            raise Malformed("'tree' is missing")
        entries = [Entry.of(row) for row in found['arrays']]
        total = sum(entry.nbytes for entry in entries)
        expected = record.length_of(len(payload), total)
        if size != expected:
            reader.fail(f'the file has {size} bytes, its header describes {expected}')
        for entry in entries:
            place(found, entry.path, entry)  # so that no two belong to one place
        reader.expect(total)
        return cls(version, found['versions'], found['kind'], found['meta'], entries, found)


def _version(found: dict[str, Any]) -> tuple[int, int]:
    """Check that this program understands a header."""
    version, features = found.get('format'), found.get('features', [])
    if (
        not isinstance(version, list)
        or len(version) != 2
        or not all(type(n) is int and n >= 0 for n in version)
        or version[0] < 1
    ):
        raise Malformed(f"'format' must be [major, minor], got {version!r:.60}")
    if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
        raise Malformed(f"'features' must be a list of str, got {features!r:.60}")
    wrong = []
    if version[0] > FORMAT[0]:
        wrong.append(
            f'it is of the newer format {version[0]}.{version[1]}, this version reads up to '
            f'{FORMAT[0]}; install a newer braintools_optim'
        )
    wrong += [
        f'it uses the unknown feature {feature!r:.60}; install a newer braintools_optim'
        for feature in features
        if feature not in FEATURES
    ]
    if wrong:
        raise IncompatibleCheckpoint(wrong)
    return version[0], version[1]
