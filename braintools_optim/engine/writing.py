"""Writing States: as cheaply as can be, and several of them all or not at all.

brainstate notes in ``_been_writen``, which it spells so, that a State was written.
"""

from __future__ import annotations

from typing import Any

from brainstate import State

from ..check import is_tracer
from .observe import unobserved

__all__ = ['put_value', 'undone_on_error', 'write_all']


def put_value(state: State, value: Any) -> None:
    """Write a State, past its public property where nobody observes it."""
    if not is_tracer(value) and unobserved(state):  # a tenth of the cost
        state.__dict__.update(_value=value, _been_writen=True)
    else:
        state.value = value


def write_all(changes: list[tuple[State, Any]]) -> None:
    """Write several States through their public property: all of them, or none."""
    before = [(state, state._value, state._been_writen) for state, _ in changes]
    try:
        for state, value in changes:
            state.value = value
    except BaseException:
        for state, value, written in before:
            state.__dict__.update(_value=value, _been_writen=written)
        raise


class undone_on_error:  # noqa: N801  (a context manager; as a generator it would cost thrice)
    """Give objects (States, too) their attributes back if anything goes wrong in between."""

    __slots__ = ('_before',)

    def __init__(self, *objects: Any):
        self._before = [(x.__dict__, dict(x.__dict__)) for x in objects]

    def __enter__(self) -> None:
        pass

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        if error is not None:
            for present, before in self._before:
                present.clear()
                present.update(before)
