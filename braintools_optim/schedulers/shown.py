"""What a scheduler shows of its numbers: what is assigned there reaches the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import jax

from ..number import live_number

if TYPE_CHECKING:
    from .rate import LRScheduler

__all__ = ['CurrentRates', 'Entries', 'live_count']


class Entries(list):
    """Numbers of a scheduler as a list; an entry that is assigned reaches the scheduler."""

    def __init__(self, values: Sequence, write: Callable[[list], None]):
        super().__init__(values)
        self._write = write

    def __setitem__(self, index: Any, value: Any) -> None:
        new = list(self)
        new[index] = value
        self._write(new)
        super().__setitem__(index, value)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"the entries of a scheduler's {list(self)} can be assigned, and nothing added, "
            f'removed or moved.'
        )

    append = extend = insert = pop = remove = clear = sort = reverse = _refuse
    __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (list(self),)


def _plain_list(_: None, entries: Iterable) -> Any:
    return list(entries)


jax.tree_util.register_pytree_node(Entries, lambda x: (list(x), None), _plain_list)


def live_count(read: Callable[[], Any], write: Callable[[Any], None] | None = None) -> Any:
    """Return what a scheduler counts, or has seen, as a number with ``.value``."""

    def refuse(value: Any) -> NoReturn:
        raise AttributeError('this follows from the epoch: step(epoch) goes there.')

    return live_number(read, write or refuse)


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
