"""Attributes of people's own classes, which compiled functions have read."""

from __future__ import annotations

import dis
from collections.abc import Sequence
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from ..other_libraries import is_defined_here
from .meaning import CONSTRUCTORS, names_read

__all__ = ['read_attributes', 'refuse_unseen']

_PLAIN = (bool, int, float, str, type(None))


def read_attributes(owner: Any, methods: Sequence[str]) -> dict[str, Any]:
    """Return the numbers, strings and Nones among an object's attributes that its methods read.

    Those that the methods of its class assign, as they do counters, are not among them.
    """
    kind = type(owner)
    read = names_read(kind, methods, lambda cls: not is_defined_here(cls))
    for cls in kind.__mro__:
        for name, method in vars(cls).items():
            if isinstance(method, FunctionType) and name not in CONSTRUCTORS:
                read -= _assigned(method.__code__)
    return {k: v for k, v in vars(owner).items() if k in read and type(v) in _PLAIN}


def refuse_unseen(owner: Any, name: str, value: Any, methods: Sequence[str], instead: str) -> None:
    """Raise for another value of an attribute that methods of the user's have read in a trace."""
    if type(vars(owner).get(name, owner)) not in _PLAIN:
        return
    read = read_attributes(owner, methods)
    if name in read and not _same(value, read[name]):
        raise AttributeError(
            f'{name} of {type(owner).__name__} was read when a step was compiled, which does not '
            f'see it change: {instead}.'
        )


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or (one != one and other != other))


@cache
def _assigned(code: CodeType) -> frozenset[str]:
    """Return the attributes that code assigns."""
    inner = (_assigned(x) for x in code.co_consts if isinstance(x, CodeType))
    here = (i.argval for i in dis.get_instructions(code) if i.opname == 'STORE_ATTR')
    return frozenset(here).union(*inner)
