"""Nested data as plain values for the header, and arrays for the data; and back.

The plain part is the nested data with None at the place of every array. The table of arrays holds
where each belongs (its keys and indices from the top), its dtype and its shape, in file order. The
table also holds what msgpack has no safe place for: bytes, and integers of more than 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..check import is_tracer
from .codec import DEPTH, TOO_DEEP, Malformed
from .dtype import DTYPES, KEYS, is_dtype

__all__ = [
    *('BYTES', 'INT', 'Entry', 'ArrayToSave', 'copied', 'flatten', 'place', 'plain', 'plain_text'),
    'shown',
]

BYTES, INT = 'bytes', 'int'  # dtypes beside numpy's; an int is two's complement
_AXES = 64  # numpy's limit
_LARGEST = 2**63 - 1  # numpy's limit of bytes
_SAVABLE = (
    'dicts of str keys, lists, tuples (they come back as lists), None, bool, int, float, str, '
    'bytes, numpy and jax arrays can be saved'
)

Path = tuple[str | int, ...]


def shown(path: Path) -> str:
    """Return a path for people."""
    return '/'.join(map(str, path)) or 'the whole'


@dataclass(frozen=True, slots=True)
class Entry:
    """An array in the table: where it belongs and what its bytes mean."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    key: str | None = None  # the implementation, if these are the words of PRNG keys

    @property
    def numpy(self) -> np.dtype:
        """What its bytes are read as."""
        return DTYPES.get(self.dtype, DTYPES['uint8'])

    @property
    def nbytes(self) -> int:
        """How many bytes it has in the file."""
        return math.prod(self.shape) * self.numpy.itemsize

    def as_plain(self) -> dict[str, Any]:
        """Return its row of the header's table."""
        row = {'path': list(self.path), 'dtype': self.dtype, 'shape': list(self.shape)}
        return row if self.key is None else {**row, 'key': self.key}

    @classmethod
    def of(cls, row: Any) -> Entry:
        """Check a row of the header's table."""
        if not isinstance(row, dict):
            raise Malformed(f'a row of the table of arrays is {row!r:.60}')
        values: list[Any] = [row.get(k) for k in ('path', 'dtype', 'shape', 'key')]
        path, dtype, shape, key = values
        if not isinstance(path, list) or not all(type(k) in (str, int) for k in path):
            raise Malformed(f'an array has the path {path!r:.60}')
        problem = _problem(dtype, shape) or (
            key is not None and _problem_of_keys(key, dtype, shape)
        )
        if problem:
            raise Malformed(f'the array {shown(tuple(path)):.200} {problem}')
        return cls(tuple(path), dtype, tuple(shape), key)

    def value(self, array: np.ndarray) -> Any:
        """Return what was saved, from what was read."""
        if self.dtype == BYTES:
            return array.tobytes()
        if self.dtype == INT:
            return int.from_bytes(array.tobytes(), 'little', signed=True)
        if self.key is not None:
            return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=self.key)
        return array


def _problem(dtype: Any, shape: Any) -> str | None:
    """Tell what is wrong with an array of these."""
    if not isinstance(dtype, str) or (dtype not in DTYPES and dtype not in (BYTES, INT)):
        return f'has the unknown dtype {dtype!r:.60}'
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        return f'has the shape {shape!r:.60}'
    if len(shape) > _AXES or (dtype in (BYTES, INT) and len(shape) != 1):
        return f'has {len(shape)} axes'
    itemsize = DTYPES[dtype].itemsize if dtype in DTYPES else 1
    if math.prod(n or 1 for n in shape) * itemsize > _LARGEST:  # numpy's rule: 0 counts as 1
        return f'has the shape {shape!r:.60}, more than a machine addresses'
    return None


def _problem_of_keys(key: Any, dtype: str, shape: list[int]) -> str | None:
    if not isinstance(key, str) or key not in KEYS:
        return f'holds PRNG keys of the unknown kind {key!r:.60}'
    if dtype != 'uint32' or not shape or shape[-1] != KEYS[key]:
        return f'holds {key} keys as {dtype}{shape!r:.60}'
    return None


class ArrayToSave:
    """An array that is to be saved, and its entry; brought to the host when it is needed."""

    __slots__ = ('_value', 'entry')

    def __init__(self, path: Path, value: Any):
        if isinstance(value, bytes):
            value = np.frombuffer(value, np.uint8)
            self.entry = Entry(path, BYTES, value.shape)
        elif isinstance(value, int):
            size = value.bit_length() // 8 + 1
            value = np.frombuffer(value.to_bytes(size, 'little', signed=True), np.uint8)
            self.entry = Entry(path, INT, value.shape)
        else:
            key = None
            if isinstance(value, jax.Array):
                _check_jax(path, value)
                if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
                    key = _key_kind(path, value)
                    value = jax.random.key_data(value)
            if not is_dtype(value.dtype):
                raise TypeError(
                    f'{shown(path)} is an array of {value.dtype}, which cannot be saved; '
                    f'allowed are {", ".join(DTYPES)} and PRNG keys'
                )
            self.entry = Entry(path, value.dtype.name, tuple(value.shape), key)
        self._value = value

    def host(self) -> np.ndarray:
        """Return the array on the host, where it can be without a copy."""
        return on_host(self._value)


def _check_jax(path: Path, value: jax.Array) -> None:
    if is_tracer(value):
        raise TypeError(f'{shown(path)} is being traced; save outside of jit')
    if value.is_deleted():
        raise ValueError(f'{shown(path)} was deleted or donated; save what replaced it')
    if not (value.is_fully_addressable or value.is_fully_replicated):
        raise ValueError(
            f'{shown(path)} lies partly in other processes; gather it first, with '
            'jax.experimental.multihost_utils.process_allgather(value, tiled=True)'
        )


def _key_kind(path: Path, value: jax.Array) -> str:
    kind = jax.random.key_impl(value)
    if kind not in KEYS:
        raise TypeError(
            f'{shown(path)} holds PRNG keys of {kind}, allowed are {", ".join(KEYS)}; '
            'save jax.random.key_data(keys)'
        )
    return str(kind)


def on_host(value: Any) -> np.ndarray:
    """Return the numpy array of a numpy or jax array."""
    if isinstance(value, jax.Array) and not _is_near(value):
        # jax keeps its host copy with the array that was asked; so ask one that we drop
        parts = [shard.data for shard in value.addressable_shards]
        value = jax.make_array_from_single_device_arrays(value.shape, value.sharding, parts)
    return np.asarray(value)


def _is_near(value: jax.Array) -> bool:
    """Whether numpy sees the array's own memory."""
    devices = value.devices()
    return len(devices) == 1 and next(iter(devices)).platform == 'cpu'


def flatten(tree: Any, depth: int) -> tuple[Any, list[ArrayToSave]]:
    """Split nested data; ``depth`` is that of its top in the header."""
    leaves: list[ArrayToSave] = []
    return _split(tree, (), depth, leaves), leaves


def plain(value: Any, what: str, depth: int) -> Any:
    """Return nested data that holds no array and no bytes."""
    result, leaves = flatten(value, depth)
    if leaves:
        where = shown(leaves[0].entry.path)
        raise TypeError(
            f'{what} must be plain (dicts, lists, None, bool, int of 64 bits, float, str), '
            f'{where} is not: put it into the tree'
        )
    return result


def _split(value: Any, path: Path, depth: int, leaves: list[ArrayToSave]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if isinstance(value, str):  # of a subclass, of which only the value is kept
        return plain_text(value)
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        if isinstance(value, np.ndarray) and kind not in (np.ndarray, np.memmap):
            raise TypeError(f'{shown(path)} is a {_name(kind)}; save a plain numpy array')
        leaves.append(ArrayToSave(path, value))
        return None
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return int(value)
        leaves.append(ArrayToSave(path, int(value)))
        return None
    if kind is bytes:
        leaves.append(ArrayToSave(path, value))
        return None
    if isinstance(value, Mapping) or kind in (list, tuple):
        if depth > DEPTH:
            raise ValueError(f'{shown(path[:4])}/{TOO_DEEP}')
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(
                        f'{shown(path)} has the key {key!r} of {_name(type(key))}; keys must be str'
                    )
            return {
                (name := plain_text(k)): _split(v, (*path, name), depth + 1, leaves)
                for k, v in value.items()
            }
        return [_split(v, (*path, i), depth + 1, leaves) for i, v in enumerate(value)]
    if isinstance(value, float):
        return float(value)
    raise TypeError(f'{shown(path)} is of {_name(kind)}, which cannot be saved; {_SAVABLE}')


def plain_text(text: str) -> str:
    """Return the text that a value of a subclass is, such as a member of an Enum."""
    return str.__str__(text)


def _name(kind: type) -> str:
    return f'{kind.__module__}.{kind.__qualname__}'


def place(header: dict[str, Any], path: Path, value: Any, was: Any = None) -> None:
    """Put a value where the plain part has None (or what was put there before)."""
    holder: Any = header
    step: str | int = 'tree'
    for key in path:
        holder = _inside(holder, step, path)
        step = key
    if _inside(holder, step, path) is not was:
        raise Malformed(f'two values belong at {shown(path):.200}')
    holder[step] = value


def _inside(holder: Any, step: str | int, path: Path) -> Any:
    if type(step) is str and type(holder) is dict and step in holder:
        return holder[step]
    if type(step) is int and type(holder) is list and 0 <= step < len(holder):
        return holder[step]
    raise Malformed(f'the tree has no place for the array {shown(path):.200}')


def copied(value: Any) -> Any:
    """Return nested data whose arrays share no memory with anybody's."""
    if isinstance(value, Mapping):
        return {key: copied(v) for key, v in value.items()}
    if type(value) in (list, tuple):
        return [copied(v) for v in value]
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        words = jax.numpy.array(jax.random.key_data(value))  # a copy
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(value))
    if isinstance(value, jax.Array | np.ndarray):
        return np.array(on_host(value))
    return value
