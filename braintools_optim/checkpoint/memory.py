"""Memory for the arrays of a file.

A system hands memory out page by page at its first touch, which takes longer than to read the
bytes from its cache. NumPy asks for huge pages, which are far fewer, where an array is large
enough; so smaller arrays are put together, where there are many bytes of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ['empty_arrays']

_LARGE = 1 << 22  # from so many bytes on NumPy asks for huge pages
_BLOCK = 1 << 24  # who keeps one small array keeps no more memory than this
_ALIGNED = 64  # where JAX's arrays on the CPU begin


def empty_arrays(kinds: Sequence[tuple[tuple[int, ...], np.dtype]]) -> Iterator[np.ndarray]:
    """Yield an array of each shape and dtype, not yet filled."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in kinds]
    padded = [-(-size // _ALIGNED) * _ALIGNED if size < _LARGE else 0 for size in sizes]
    left = sum(padded)
    if left < _LARGE:
        padded = [0] * len(kinds)
    block = np.empty(0, np.uint8)
    for (shape, dtype), size, room in zip(kinds, sizes, padded, strict=True):
        if not room:
            yield np.empty(shape, dtype)
            continue
        if room > block.size:
            block = _aligned(max(room, min(left, _BLOCK)))
        yield block[:size].view(dtype).reshape(shape)
        block, left = block[room:], left - room


def _aligned(size: int) -> np.ndarray:
    block = np.empty(size + _ALIGNED, np.uint8)
    start = -block.ctypes.data % _ALIGNED
    return block[start : start + size]
