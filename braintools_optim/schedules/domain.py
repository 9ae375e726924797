"""The values that a hyper-parameter may have, written in its annotation."""

from __future__ import annotations

import math
import numbers
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jax
import numpy as np

__all__ = [
    'Count',
    'Flag',
    'Fraction',
    'Milestones',
    'NonNegative',
    'Positive',
    'PositiveCount',
    'Real',
    'Scalar',
    'admit',
    'is_number',
]


@dataclass(frozen=True)
class Domain:
    """The numbers a hyper-parameter may be; if ``many``, a sequence of them in ascending order."""

    allowed: str
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    many: bool = False

    def __call__(self, x: Any) -> Any:
        """Return Python numbers for any but arrays, or raise without a message."""
        if self.many:
            each = list(map(replace(self, many=False), x))
            if each != sorted(each):
                raise ValueError
            return each
        if isinstance(x, jax.core.Tracer):
            return x
        if isinstance(x, numbers.Real) and not isinstance(x, bool):
            x = int(float(x)) if self.whole and float(x).is_integer() else float(x)
        elif not isinstance(x, jax.Array | np.ndarray) or getattr(x.dtype, 'kind', 'O') in 'bcO':
            raise TypeError
        v = np.asarray(x, float)
        inside = np.isfinite(v) & (v >= self.low) & (v <= self.high)
        if not np.all(inside) or (self.whole and np.any(v % 1)):
            raise ValueError
        return x


Scalar = float | jax.Array
Real = Annotated[Scalar, Domain('a finite number')]
NonNegative = Annotated[Scalar, Domain('a finite number >= 0', 0)]
Positive = Annotated[Scalar, Domain('a finite number > 0', math.ulp(0.0))]
Fraction = Annotated[Scalar, Domain('a number from 0 to 1', 0, 1)]
Count = Annotated[int, Domain('an integer >= 0', 0, whole=True)]
PositiveCount = Annotated[int, Domain('an integer >= 1', 1, whole=True)]
_ASCENDING = Domain('integers >= 0 in ascending order', 0, whole=True, many=True)
Milestones = Annotated[Sequence[int], _ASCENDING]
Flag = Literal[True, False]


def is_number(hint: Any) -> bool:
    """Whether an annotation is one of the ranges of a float, or None: it may be traced."""
    args = typing.get_args(hint)
    if type(None) in args:
        return is_number(args[0])
    return typing.get_origin(hint) is Annotated and args[0] == Scalar


def admit(owner: str, name: str, hint: Any, value: Any) -> Any:
    """Return a hyper-parameter in normal form, or raise."""
    args, kind, allowed = typing.get_args(hint), typing.get_origin(hint), 'a function'
    if type(None) in args:
        return admit(owner, name, args[0], value)
    try:
        if kind is Annotated:
            allowed = args[1].allowed
            return args[1](value)
        if kind is Literal:
            allowed = 'one of ' + ', '.join(map(repr, args))
            return args[args.index(value)]
        if kind is Callable and not callable(value):
            raise TypeError
        return value
    except (TypeError, ValueError, OverflowError) as e:
        error = TypeError if isinstance(e, TypeError) else ValueError
        raise error(f'{owner} needs {allowed} for {name}, got {value!r}.') from None
