"""The dtypes that a checkpoint may hold, by name, and their bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = ['DTYPES', 'KEYS', 'PIECE', 'bytes_of', 'foreign_bytes', 'is_dtype', 'to_native']

# what is copied, checked and written at once: small enough to stay in a core's cache between
PIECE = 1 << 18

_FLOAT8 = ('e3m4', 'e4m3', 'e4m3b11fnuz', 'e4m3fn', 'e4m3fnuz', 'e5m2', 'e5m2fnuz', 'e8m0fnu')
_NUMPY = (
    *('bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64'),
    *('float16', 'float32', 'float64', 'complex64', 'complex128'),
)
_JAX = ('int4', 'uint4', 'bfloat16', *(f'float8_{kind}' for kind in _FLOAT8))

DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in _NUMPY},
    **{name: np.dtype(getattr(jnp, name)) for name in _JAX},
}

# implementations of PRNG keys, and the words that one key of them takes
KEYS = {'threefry2x32': 2, 'rbg': 4, 'unsafe_rbg': 4}

# the largest byte of a dtype that doesn't use all of it
_LARGEST = {'bool': 0x01, 'int4': 0x0F, 'uint4': 0x0F}


def is_dtype(dtype: Any) -> bool:
    """Whether a file may hold arrays of this dtype (in either byte order)."""
    return dtype.name in DTYPES and DTYPES[dtype.name] == dtype.newbyteorder('=')


def bytes_of(array: np.ndarray) -> Iterator[memoryview]:
    """Yield an array's bytes in the file's order, in pieces; a view where memory is as the file."""
    name = array.dtype.name
    native = array.dtype.isnative and sys.byteorder == 'little'
    if array.flags.c_contiguous and native and name not in _LARGEST:
        yield array.reshape(-1).view(np.uint8).data
        return
    step = max(1, PIECE // array.dtype.itemsize)
    for start in range(0, array.size, step):
        piece = array.flat[start : start + step]  # a copy
        if name in _LARGEST:
            piece = _canonical(piece, name)
        elif _big_endian(piece.dtype):
            piece = piece.byteswap()
        yield piece.view(np.uint8).data


def _canonical(piece: np.ndarray, name: str) -> np.ndarray:
    if name == 'bool':
        return (piece.view(np.uint8) != 0).view(np.uint8)
    return piece.view(np.uint8) & np.uint8(_LARGEST[name])


def _big_endian(dtype: np.dtype) -> bool:
    return dtype.itemsize > 1 and dtype.isnative == (sys.byteorder == 'big')


def foreign_bytes(array: np.ndarray) -> str | None:
    """Tell which bytes, just read, stand for no value of the dtype."""
    largest = _LARGEST.get(array.dtype.name)
    if largest is None:
        return None
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, PIECE):
        found = int(np.max(flat[start : start + PIECE]))
        if found > largest:
            return f'a {array.dtype.name} is the byte {found:#x}, and can be at most {largest:#x}'
    return None


def to_native(array: np.ndarray) -> None:
    """Turn what was read into this machine's byte order, in place."""
    if sys.byteorder == 'big' and array.dtype.itemsize > 1:
        array.byteswap(inplace=True)
