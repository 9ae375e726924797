"""What a scheduler shows of its numbers: what is assigned there reaches the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..check import is_tracer
from ..fixed_list import FixedList
from ..number import live_number

if TYPE_CHECKING:
    from .rate import LRScheduler

__all__ = ['CurrentRates', 'Entries', 'Parts', 'live_count']


class Entries(FixedList):
    """Numbers of a scheduler as a list; an entry that is assigned reaches the scheduler."""

    def __init__(self, values: Sequence, write: Callable[[list], None]):
        super().__init__(values)
        self._write = write

    def __setitem__(self, index: Any, value: Any) -> None:  # type: ignore[override]  # one for the two of list
        new = list(self)
        new[index] = value
        self._write(new)
        list.__setitem__(self, index, value)

    def how_to(self) -> str:
        """Return what to do instead."""
        return (
            f"the entries of a scheduler's {list(self)} can be assigned, and nothing added, "
            f'removed or moved.'
        )


class Parts(FixedList):
    """What a scheduler was built of: schedulers, or functions."""

    def how_to(self) -> str:
        """Return what to do instead."""
        return 'what a scheduler is made of is fixed at construction; build a new scheduler.'


def live_count(read: Callable[[], Any], write: Callable[[Any], None] | None = None) -> Any:
    """Return what a scheduler counts, or has seen, as a number with ``.value``.

    Without ``write`` it follows from the epoch, and takes no other number than it has.
    """

    def refuse_another(value: Any) -> None:
        present = read()
        if is_tracer(value) or is_tracer(present) or value != present:
            raise AttributeError(
                f'this follows from the epoch and is {present}, got {value!r}: step(epoch) goes '
                f'there.'
            )

    return live_number(read, write or refuse_another)


class CurrentRates:
    """The learning rates of a scheduler's groups as an object with ``.value``."""

    def __init__(self, scheduler: LRScheduler):
        self._scheduler = scheduler

    @property
    def value(self) -> list:
        """The learning rates; assign to change them."""
        return Entries(self._scheduler._lrs(), self._scheduler._set_lrs)

    @value.setter
    def value(self, lrs: Sequence) -> None:
        self._scheduler._set_lrs(lrs)

    def __repr__(self) -> str:
        return repr(self.value)
