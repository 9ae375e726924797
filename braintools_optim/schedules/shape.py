"""What formulas share; a branch that isn't selected must have a finite gradient, too."""

from __future__ import annotations

import math
from typing import Any

from .backend import array, scalar
from .formula import Pair, is_jax

__all__ = ['between', 'fraction_done', 'fraction_left', 'half_cosine', 'raised']


def fraction_done(xp: Any, t: Any, total: Any) -> Any:
    """The fraction of ``total`` steps that is done, from 0 to 1; 1 if there are none."""
    return xp.where(t >= total, 1.0, xp.clip(t, 0, total) * 1.0 / xp.maximum(total, 1))


def fraction_left(xp: Any, t: Any, total: Any) -> Any:
    """The fraction that is left, from 1 to 0, subtracted in integers; 0 after no steps."""
    return xp.where(t <= 0, 1.0, (total - xp.clip(t, 0, total)) * 1.0 / xp.maximum(total, 1))


def half_cosine(xp: Any, x: Any) -> Any:
    """(1 - cos(pi x)) / 2: from 0 at 0 to 1 at 1, exactly 0 at 0 and without cancellation there."""
    return xp.square(xp.sin(x * (math.pi / 2)))


def raised(xp: Any, x: Any, k: Any) -> Any:
    """x ** k for x >= 0: float32 can't hold 0.9999999, but it can hold its float64 logarithm."""
    if xp is scalar or xp is array or is_jax(x):
        return xp.power(x, k * 1.0)
    return xp.exp(k * math.log(x)) if x > 0 else xp.where(k == 0, 1.0, 0.0)


def between(start: Any, up: Any, down: Any = 1.0, end: Any = 0.0) -> Pair:
    """From ``start`` up to the base, then down to ``end``: ``up`` is 1 before ``down`` leaves 1."""
    return start * (1.0 - up) + end * (1.0 - down), up * down
