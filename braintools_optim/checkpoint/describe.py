"""Summaries of the arrays in a file, computed in the memory of one piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .dtype import PIECE, foreign_bytes, to_native
from .header import Header
from .progress_bar import progress_bar
from .record import Reader
from .tree import BYTES, INT, Entry, shown

__all__ = ['ArrayInfo', 'Description', 'described']


@dataclass(frozen=True)
class ArrayInfo:
    """One array of a file; least, largest and NaN are None where they mean nothing."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    minimum: bool | int | float | None
    maximum: bool | int | float | None
    nans: int | None


@dataclass(frozen=True)
class Description:
    """What a file is and holds."""

    path: str
    size: int
    format: tuple[int, int]
    versions: dict[str, Any]
    kind: str
    meta: dict[str, Any]
    arrays: list[ArrayInfo]


def described(path: str, file: BinaryIO, size: int) -> Description:
    """Read and check a whole file."""
    reader = Reader(file)
    header = Header.of(reader, size)
    buffer = np.empty(PIECE, np.uint8)
    with progress_bar('reading', header.nbytes) as done:
        arrays = [_array(entry, reader, buffer, done) for entry in header.entries]
        reader.end()
    return Description(path, size, header.format, header.versions, header.kind, header.meta, arrays)


def _array(entry: Entry, reader: Reader, buffer: np.ndarray, done: Any) -> ArrayInfo:
    summary = _Summary(entry)
    for start in range(0, entry.nbytes, PIECE):
        piece = buffer[: min(PIECE, entry.nbytes - start)]
        reader.read_into(piece.data, done)
        values = piece.view(entry.numpy)
        problem = foreign_bytes(values)
        if problem is not None:
            reader.fail(f'in the array {shown(entry.path)}, {problem}')
        to_native(values)
        summary.add(values)
    dtype = entry.dtype if entry.key is None else f'key<{entry.key}>'
    shape = entry.shape if entry.key is None else entry.shape[:-1]
    return ArrayInfo(
        shown(entry.path), dtype, shape, entry.nbytes, summary.least, summary.most, summary.nans
    )


class _Summary:
    """The least and largest number so far, and how many were none."""

    def __init__(self, entry: Entry):
        kind = entry.dtype
        self.silent = kind in (BYTES, INT) or entry.key is not None
        self.ordered = not self.silent and not kind.startswith('complex')
        self.inexact = not self.silent and not kind.startswith(('bool', 'int', 'uint'))
        self.wide = np.dtype(np.float32 if self.inexact else np.int8)  # of what numpy can't compare
        self.least: Any = None
        self.most: Any = None
        self.nans: int | None = 0 if self.inexact else None

    def add(self, values: np.ndarray) -> None:
        if self.silent:
            return
        if values.dtype.kind == 'V' or values.dtype.itemsize == 1 and self.inexact:
            wide = np.uint8 if values.dtype.name == 'uint4' else self.wide
            values = values.astype(wide)
        if self.inexact:
            nan = np.isnan(values)
            missing = int(nan.sum())
            self.nans = (self.nans or 0) + missing
            if missing:
                values = values[~nan]
        if self.ordered and values.size:
            low, high = values.min().item(), values.max().item()
            self.least = low if self.least is None else min(self.least, low)
            self.most = high if self.most is None else max(self.most, high)
