"""Putting arrays where the live ones are: on their devices, with their weak types and units."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from saiunit import Quantity

from ..engine.leaf import weakly_typed, without_unit
from .judge import Judge

__all__ = ['placed', 'placed_parameter']


def placed(value: np.ndarray | jax.Array, like: Any) -> jax.Array:
    """Return an array of its own, on the devices of the live one."""
    chosen = like.sharding if isinstance(like, jax.Array) and like.committed else None
    with jax.transfer_guard('allow'):  # who restores asks for it
        return jax.device_put(value.copy(), chosen)  # JAX uses the memory of what it is given


def placed_parameter(value: Any, old: Any, name: str, judge: Judge) -> Any:
    """Return a parameter's value of the same kind as the old one, which it stays if none fits."""
    like = without_unit(old)
    array = judge.array(value, like, f'the parameter {name}')
    if array is None:
        return old
    new: Any = placed(array, like)
    if isinstance(like, np.ndarray):
        new = np.array(array)
    elif isinstance(like, np.generic):
        new = np.array(array)[()]
    elif getattr(like, 'weak_type', isinstance(like, float | complex)):
        new = weakly_typed(new)
    return Quantity(new, unit=old.unit) if isinstance(old, Quantity) else new
