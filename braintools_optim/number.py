"""Live numbers: the value as it was when read, with ``.value`` for the present one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['live_number', 'plain_number']

_WAYS = ('_read', '_write')  # where a number comes from, and how it is changed


class _Live:
    """What makes a number live: ``.value`` is the present one."""

    __slots__ = ()

    @property
    def value(self) -> Any:
        """The present number; assign to change it."""
        return self._read()  # type: ignore[attr-defined]  # its subclasses have it

    @value.setter
    def value(self, new: Any) -> None:
        self._write(new)  # type: ignore[attr-defined]  # its subclasses have it


class _Python(_Live):
    """What makes a number of Python live."""

    __slots__ = ()

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **options: Any) -> Any:
        # NumPy widens a float32 array by what is not quite a float.
        return getattr(ufunc, method)(*map(plain_number, args), **options)


class LiveFloat(_Python, float):
    """A float with ``.value``."""

    __slots__ = _WAYS

    def __reduce__(self) -> Any:
        return float, (float(self),)


class LiveInt(_Python, int):
    """An integer with ``.value``."""

    def __reduce__(self) -> Any:
        return int, (int(self),)


class LiveTracer(_Live):
    """A number that is known when a traced program runs, with ``.value`` and arithmetic.

    Functions that JAX transforms take it as the array that it was, and return that.
    """

    __slots__ = ('_was', *_WAYS)
    __array_priority__ = 1000  # a tracer's: NumPy's arrays leave the arithmetic to it

    def __init__(self, was: Any):
        self._was = was

    def __jax_array__(self) -> Any:
        return jnp.asarray(self._was)

    def __repr__(self) -> str:
        return repr(self._was)

    def __format__(self, spec: str) -> str:
        return format(self._was, spec)


def _delegate(name: str) -> Callable:
    def method(self: LiveTracer, *args: Any) -> Any:
        return getattr(self._was, name)(*map(plain_number, args))

    method.__name__ = name
    return method


for _name in (
    *('add', 'radd', 'sub', 'rsub', 'mul', 'rmul', 'truediv', 'rtruediv', 'pow', 'rpow'),
    *('floordiv', 'rfloordiv', 'mod', 'rmod', 'divmod', 'rdivmod', 'neg', 'pos', 'abs', 'round'),
    *('eq', 'ne', 'lt', 'le', 'gt', 'ge', 'float', 'bool', 'array', 'index', 'int', 'hash'),
):
    setattr(LiveTracer, f'__{_name}__', _delegate(f'__{_name}__'))

jax.tree_util.register_pytree_node(LiveTracer, lambda x: ((x._was,), None), lambda _, was: was[0])


def live_number(read: Callable[[], Any], write: Callable[[Any], None]) -> Any:
    """Return the number that ``read`` gives, as it is now, with a ``.value`` that stays live.

    It is a float or an integer, or stands for a tracer.
    """
    now = read()
    kinds: dict[type, Any] = {float: LiveFloat, int: LiveInt}
    number = kinds.get(type(now), LiveTracer)(now)
    number._read, number._write = read, write
    return number


def plain_number(number: Any) -> Any:
    """Return a number as it was when it was read, without the way back."""
    if isinstance(number, LiveTracer):
        return number._was
    if isinstance(number, LiveFloat):
        return float(number)
    return int(number) if isinstance(number, LiveInt) else number
