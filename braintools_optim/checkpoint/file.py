"""A checkpoint file: nested data and what describes it, written at once and read whole.

    write(path, tree, kind='tree', meta={...})
    meta, tree = read(path)

The file is a header (a msgpack map), the arrays' bytes in chunks, and an end; see `record` for the
framing, `codec` for the limits, `header` for what is checked before the arrays, `tree` for what can
be saved and `atomic` for how it is replaced.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, BinaryIO

import numpy as np

from . import codec, record
from .atomic import replacing
from .describe import Description, described
from .dtype import bytes_of, foreign_bytes, to_native
from .header import FORMAT, Header
from .memory import empty_arrays
from .progress_bar import progress_bar
from .tree import flatten, place, plain, shown

__all__ = [
    'Description',
    'Header',
    'decode',
    'describe',
    'read',
    'write',
]


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in ('braintools_optim', 'jax', 'brainstate'):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = 'unknown'
    return found


def write(
    path: str | os.PathLike, tree: Any, *, kind: str = 'tree', meta: dict[str, Any] | None = None
) -> None:
    """Replace a file at once; at every instant the old or the new one is there, whole.

    Parameters
    ----------
    path : path
        The file. Symbolic links are followed, and an old file's mode is kept.
    tree : nested data
        Dicts of str keys, lists, None, bool, int, float, str, bytes, numpy or jax arrays.
    kind : str
        What the file is; stands in the header.
    meta : dict, optional
        Plain data that is readable without the arrays.
    """
    rest, leaves = flatten(tree, depth=2)
    entries = [leaf.entry for leaf in leaves]
    payload = codec.encode(
        {
            'format': list(FORMAT),
            'features': [],
            'versions': _versions(),
            'kind': kind,
            'meta': plain({} if meta is None else meta, 'meta', depth=2),
            'tree': rest,
            'arrays': [entry.as_plain() for entry in entries],
        }
    )
    total = sum(entry.nbytes for entry in entries)
    with progress_bar('saving', total) as done, replacing(path, total) as put:
        writer = record.Writer(put, payload, total)
        for leaf in leaves:
            for piece in bytes_of(leaf.host()):
                writer.write(piece, done)
        writer.end()


def read(path: str | os.PathLike) -> tuple[dict[str, Any], Any]:
    """Return ``meta`` and the tree of a file, all of which was checked; arrays are numpy's."""
    with _opened(path) as (file, size):
        return decode(file, size)


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[BinaryIO, int]]:
    with open(path, 'rb', buffering=1 << 16) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f'{os.fspath(path)} is no regular file, a checkpoint is one')
        yield file, status.st_size


def decode(file: BinaryIO, size: int) -> tuple[dict[str, Any], Any]:
    """Return ``meta`` and the tree of an opened file of so many bytes."""
    reader = record.Reader(file)
    header = Header.of(reader, size)
    arrays: list[np.ndarray] = []
    with progress_bar('loading', header.nbytes) as done:
        for array in empty_arrays([(entry.shape, entry.numpy) for entry in header.entries]):
            reader.read_into(array.reshape(-1).view(np.uint8).data, done)
            arrays.append(array)
        reader.end()
    for entry, array in zip(header.entries, arrays, strict=True):
        problem = foreign_bytes(array)
        if problem is not None:
            reader.fail(f'in the array {shown(entry.path)}, {problem}')
        to_native(array)
        place(header.plain, entry.path, entry.value(array), was=entry)
    return header.meta, header.plain['tree']


def describe(path: str | os.PathLike) -> Description:
    """Return what is in a file, all of which is read and checked, a piece at a time."""
    with _opened(path) as (file, size):
        return described(os.fspath(path), file, size)
