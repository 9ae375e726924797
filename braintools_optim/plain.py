"""Plain data: what is written of flags, and how other encoders give data back.

After msgpack tuples are lists; ``braintools.file`` makes dicts of lists, with the keys '0', '1'
...; orbax gives numbers back as arrays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

__all__ = ['alike', 'plain_flag', 'plainly', 'shaped_like']


def plain_flag(flag: Any) -> Any:
    """Return what is written of a flag; of a function its name, which outlives the process."""
    if isinstance(flag, bool | str | int | float | None):
        return flag
    if isinstance(flag, tuple | list):  # a chain is its functions
        return [plain_flag(x) for x in flag]
    if isinstance(flag, partial):
        inner = [
            flag.func,
            *flag.args,
            *(x for item in sorted(flag.keywords.items()) for x in item),
        ]
        return plain_flag(inner)
    name = getattr(flag, '__qualname__', None)
    return (
        re.sub(' at 0x[0-9a-f]+', '', repr(flag)) if name is None else f'{flag.__module__}.{name}'
    )


def plainly(value: Any) -> Any:
    """Return nested data with lists for tuples, and arrays as numbers or nested lists of them."""
    if isinstance(value, Mapping):
        return {k: plainly(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plainly(v) for v in value]
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    return value


def shaped_like(value: Any, template: Any) -> Any:
    """Return nested data with lists where the template has lists, if it came as dicts of these."""
    if isinstance(template, Mapping) and isinstance(value, Mapping):
        return {k: shaped_like(v, template.get(k)) for k, v in value.items()}
    if isinstance(template, list | tuple):
        if isinstance(value, Mapping) and set(value) == {str(i) for i in range(len(value))}:
            value = [value[str(i)] for i in range(len(value))]
        if isinstance(value, list | tuple):
            first = template[0] if template else None
            return [
                shaped_like(v, template[i] if i < len(template) else first)
                for i, v in enumerate(value)
            ]
    return value


def alike(one: Any, other: Any) -> bool:
    """Whether two nested data hold the same, where nan is nan."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return type(one) is type(other) and (one == other or one != one and other != other)
