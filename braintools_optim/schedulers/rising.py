"""Schedulers that rise to the base from a learning rate of their own."""

from __future__ import annotations

from typing import Any

from .rate import LRScheduler
from .row import Row, either

__all__ = ['Rising']


class Rising(LRScheduler):
    """What schedulers share whose warm-up begins at ``warmup_start_lr``.

    Of the two ends of the line only one moves with the base. So that a learning rate which is
    reduced meanwhile does not sink below zero with the other end's share, a change by hand scales
    the whole line.
    """

    warmup_length = 'warmup_steps'
    """The name of the argument with the length of the warm-up."""

    def _rises(self, epoch: Any, row: Row) -> Any:
        return (epoch < self._fixed[self.warmup_length]) & (row.base != 0.0)

    def _pair(self, epoch: Any, group: int, row: Row) -> tuple[Any, Any]:
        a, b = super()._pair(epoch, group, row)
        rises = self._rises(epoch, row)
        return either(rises, (0.0, b + a / either(rises, row.base, 1.0)), (a, b))

    def _going_on(self, group: int, row: Row, numbers: tuple) -> Row:
        """Return a row with other numbers: the line is another one, its end stays where it was."""
        other = super()._going_on(group, row, numbers)
        return either(self._rises(self._epoch(), row), row._replace(numbers=numbers), other)
