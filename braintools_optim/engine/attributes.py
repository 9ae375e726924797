"""Attributes of people's own classes, which compiled functions have read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..other_libraries import is_defined_here
from .meaning import names_read

__all__ = ['own_attributes', 'refuse_unseen']

_PLAIN = (bool, int, float, str, type(None))


def own_attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object that are numbers, strings or None, and not private."""
    return {k: v for k, v in vars(owner).items() if type(v) in _PLAIN and not k.startswith('_')}


def refuse_unseen(owner: Any, name: str, value: Any, methods: Sequence[str], instead: str) -> None:
    """Raise for another value of an attribute that methods of the user's have read in a trace."""
    own = own_attributes(owner)
    if name not in own or (type(value) is type(own[name]) and value == own[name]):
        return
    if name in names_read(type(owner), methods, lambda cls: not is_defined_here(cls)):
        raise AttributeError(
            f'{name} of {type(owner).__name__} was read when a step was compiled, which does not '
            f'see it change: {instead}.'
        )
