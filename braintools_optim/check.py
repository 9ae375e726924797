"""Checks of what users give: each returns it as it is used here, or raises a typed error.

The error names the owner, the argument, what came and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .number import plain_number
from .ranges import Range, range_of

__all__ = [
    *('any_traced', 'check_choice', 'check_count', 'check_flag', 'check_mask', 'check_metric'),
    *('check_number', 'check_range', 'is_count', 'is_live', 'is_plain_number', 'is_real'),
    *('is_tracer', 'is_zero', 'noted_if_traced'),
]


_PYTHON = frozenset([float, int, bool, type(None)])


def is_tracer(x: Any) -> bool:
    """Whether a value is known only when a traced program runs."""
    # Asking a float for its class costs a tenth of asking JAX.
    return type(x) not in _PYTHON and isinstance(x, jax.core.Tracer)


@contextmanager
def noted_if_traced(note: str) -> Iterator[None]:
    """Add a note to what JAX raises where a value is needed that is only known when it runs."""
    try:
        yield
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        error.add_note(note)
        raise


def is_live(value: Any) -> bool:
    """Whether a constructor argument is a live number (or tuple of them) rather than a flag."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(is_live, value))
    if isinstance(value, bool | str | None) or callable(value):
        return False
    return isinstance(value, int | float | np.number | np.ndarray | jax.Array)


def check_number(
    owner: str, name: str, value: Any, like: Any = 0.0, allowed: Range | None = None
) -> Any:
    """Return ``value`` as a float, a tracer, or a tuple of these; raise where it is not allowed.

    ``like`` is the present value: it says whether a number or a tuple of how many is expected.
    ``allowed`` is the range, by default that of the name in `RANGES`.
    """
    allowed = allowed or range_of(name)
    if type(value) is float and type(like) is float and value in allowed:
        return value  # by far the most frequent
    value = plain_number(value)
    if isinstance(like, tuple):
        if getattr(value, 'ndim', 0) == 1:
            value = tuple(value)
        if not isinstance(value, tuple | list) or len(value) != len(like):
            raise TypeError(f'{owner} needs {len(like)} numbers for {name}, got {value!r}.')
        return tuple(
            check_number(owner, f'{name}[{i}]', v, allowed=allowed) for i, v in enumerate(value)
        )
    if is_tracer(value):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(f'{owner} needs a real scalar for {name}, got {value}.')
        return value  # its range is known when it runs, not now
    try:
        dtype = getattr(value, 'dtype', None)
        if isinstance(value, bool | str | bytes) or not (dtype is None or is_real(dtype)):
            raise TypeError
        number = float(value)
    except (TypeError, OverflowError):
        got = f'{value!r:.80} of type {type(value).__name__}'
        if isinstance(value, type):
            got = f'the class {value.__name__}: call it, {value.__name__}(...)'
        raise TypeError(f'{owner} needs a number in {allowed} for {name}, got {got}.') from None
    check_range(owner, name, number, allowed)
    return number


def check_range(owner: str, name: str, number: Any, allowed: Range) -> None:
    """Raise ValueError if a number is known and not allowed."""
    if not any_traced(number) and number not in allowed:  # nan is in no range
        raise ValueError(f'{owner} needs {name} in {allowed}, got {name}={number!r}.')


def is_real(dtype: Any) -> bool:
    """Whether a dtype is one of real numbers."""
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def check_metric(owner: str, name: str, value: Any) -> float:
    """Return a number that was measured, which may be nan or infinite, or raise."""
    found = np.asarray(value)
    if found.shape != () or not is_real(found.dtype):
        raise TypeError(f'{owner} needs a number for {name}, got {value!r:.80}.')
    return float(found)


def is_plain_number(x: Any) -> bool:
    """Whether a value is one of Python's real numbers that a float can be; no True or False."""
    if isinstance(x, int) and not isinstance(x, bool):
        return abs(x) < 2**1023
    return isinstance(x, float)


def is_count(x: Any) -> bool:
    """Whether a value is a count that fits in 32 bits."""
    whole = isinstance(x, int | np.integer) and not isinstance(x, bool)
    return whole and 0 <= int(x) < 2**31


def check_choice(owner: str, name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Return a value that is one of those allowed, or raise."""
    if value not in allowed:
        choice = ' or '.join(map(repr, allowed))
        raise ValueError(f'{owner} needs {choice} for {name}, got {value!r}.')
    return value


def check_count(owner: str, name: str, value: Any, least: int = 0, bits: int = 31) -> int:
    """Return an integer that is large enough and has so many bits at most, or raise."""
    message = f'{owner} needs an integer >= {least} for {name}, got {value!r}.'
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(message)
    if value < least:
        raise ValueError(message)
    if value >= 2**bits:
        raise ValueError(f'{owner} needs an integer below 2**{bits} for {name}, got {value!r}.')
    return int(value)


def check_flag(owner: str, name: str, value: Any, like: Any) -> Any:
    """Return a static option; raise TypeError where a bool is expected and something else came."""
    if isinstance(like, bool) and not isinstance(value, bool | np.bool):
        raise TypeError(f'{owner} needs True or False for {name}, got {value!r}.')
    return bool(value) if isinstance(like, bool) else value


def check_mask(owner: str, name: str, mask: Any) -> None:
    """Raise for what is no mask of `optax.add_decayed_weights`."""
    if not (callable(mask) or all(isinstance(x, bool | np.bool) for x in jax.tree.leaves(mask))):
        raise ValueError(
            f'{owner} needs None, a tree of bools, or a function that gives one for {name}, got '
            f'{mask!r}.'
        )


def any_traced(value: Any) -> bool:
    """Whether a number, or one of a tuple, is a tracer."""
    if type(value) is float:  # by far the most frequent
        return False
    entries = value if isinstance(value, tuple | list) else (value,)
    return any(map(is_tracer, entries))


def is_zero(value: Any) -> bool:
    """Whether a number is known to be zero."""
    return not any_traced(value) and value == 0.0
