"""What formulas call as ``xp`` besides jax.numpy: functions of Python numbers, and of arrays.

Both take sine and power from the C library, so that a preview over an array of steps shows bit for
bit what single steps give: NumPy's own power has other last bits on processors with AVX-512.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ['array', 'scalar']


def _where(condition: Any, x: Any, y: Any) -> Any:
    return x if condition else y


def _maximum(x: Any, y: Any) -> Any:
    return y if y > x else x


def _minimum(x: Any, y: Any) -> Any:
    return y if y < x else x


def _clip(x: Any, low: Any, high: Any) -> Any:
    return low if x < low else high if x > high else x


def _square(x: float) -> float:
    return x * x


def _power(x: Any, k: Any) -> float:
    try:
        return math.pow(x, k)
    except (OverflowError, ValueError):  # where C, and NumPy, have inf or nan
        with np.errstate(all='ignore'):
            return float(np.power(float(x), float(k)))


def _each(function: Any, inputs: int) -> Any:
    """Return a function of arrays from one of Python numbers."""
    objects = np.frompyfunc(function, inputs, 1)

    def arrays(*x: Any) -> Any:
        with np.errstate(all='ignore'):  # an overflow is no news here: single steps don't warn
            return np.asarray(objects(*x), float)

    return arrays


scalar = SimpleNamespace(
    where=_where,
    maximum=_maximum,
    minimum=_minimum,
    clip=_clip,
    sqrt=math.sqrt,
    square=_square,
    sin=math.sin,
    power=_power,
)
array = SimpleNamespace(
    where=np.where,
    maximum=np.maximum,
    minimum=np.minimum,
    clip=np.clip,
    sqrt=np.sqrt,
    square=np.square,
    sin=_each(math.sin, 1),
    power=_each(_power, 2),
)
