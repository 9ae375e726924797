"""What several constructors do with their arguments."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..hyper import Hyper
from ..signature import argument_defaults

__all__ = ['FLOATS', 'check_nesterov', 'dtype_name', 'one_of_two']

FLOATS = (None, 'bfloat16', 'float16', 'float32', 'float64')
"""What a dtype to compute in may be, by name; None is the parameter's own."""


def one_of_two(cls: type, name: str, value: Any, other_name: str, other: Any) -> Any:
    """Return what was given under the first of two names, which mean the same, or the other.

    The first one has a default in the constructor of ``cls``; the other is None if not given.
    """
    # For NumPy what is traced is equal to nothing.
    if other is None or np.array_equal(value, other):
        return value
    if not np.array_equal(value, argument_defaults(cls)[name]):
        raise ValueError(
            f'{cls.__name__} has two names for one argument, {name} and {other_name}: got '
            f'{value!r} and {other!r}; give one of them.'
        )
    return other


def dtype_name(dtype: Any) -> Any:
    """Return the name of a dtype, as checkpoints compare it; what is none is refused later."""
    try:
        return None if dtype is None else jnp.dtype(dtype).name
    except (TypeError, ValueError):
        return dtype


def check_nesterov(owner: str, h: Hyper) -> None:
    """Raise where nesterov has no momentum to look along."""
    if h.nesterov and not h.uses('momentum'):
        raise ValueError(f'{owner} needs momentum > 0 with nesterov=True, got 0.')
