"""Schedulers that rise to the base from a learning rate of their own."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..check import is_tracer
from ..ranges import NON_NEGATIVE
from .rate import OPTIMIZER_RATE, BaseRateArgument, LRScheduler
from .row import Row, either, is_concrete

__all__ = ['Rising']


class Rising(LRScheduler):
    """What schedulers share whose warm-up begins at ``warmup_start_lr``.

    Of the two ends of its line only one moves with the base. So that a learning rate which is
    reduced meanwhile does not sink below zero with what the other end adds, a change by hand scales
    both: ``warmup_scale`` is what it has made of the beginning, 1 at first.
    """

    ranges = {'warmup_scale': NON_NEGATIVE}
    later_numbers = {'warmup_scale': 1.0}

    warmup_length = 'warmup_steps'
    """The name of the argument with the length of the warm-up."""

    def __init__(
        self, base_lr: BaseRateArgument = OPTIMIZER_RATE, last_epoch: int = 0, **hyper: Any
    ):
        super().__init__(base_lr, last_epoch, numbers={'warmup_scale': 1.0}, **hyper)

    def _rises(self, epoch: Any) -> Any:
        return epoch < self._fixed[self.warmup_length]

    def _scaled_by(self, row: Row, factor: Any) -> tuple:
        return (*row.numbers[:-1], factor)  # its own number is the last

    def _pair(self, epoch: Any, row: Row) -> tuple[Any, Any]:
        a, b = super()._pair(epoch, row)
        return either(self._rises(epoch), a * row.numbers[-1], a), b

    def _changed(self, epoch: Any, group: int, row: Row, lr: Any) -> Row:
        """Return a row whose learning rate was changed by hand, the line scaled while it rises."""
        if self.optimizer is None:  # its rate is what the formula says
            a, b = self._affine(epoch, group, row)
            row = row._replace(written=a + b * row.start)
        known = is_concrete(epoch, row) and not is_tracer(lr)
        if known and (lr == row.written or not self._rises(epoch) or row.written == 0.0):
            return row
        scales = self._rises(epoch) & (row.written != 0.0) & (lr != row.written)
        factor = lr / (row.written if known else jnp.where(scales, row.written, 1.0))
        numbers = self._scaled_by(row, row.numbers[-1] * factor)
        return either(scales, Row(row.base, row.start * factor, lr, numbers), row)

    def _begun_anew(self, row: Row) -> Row:
        return row._replace(numbers=self._scaled_by(row, 1.0))

    def _moved(
        self, group: int, row: Row, lr: Any, now: Any, then: Any, carries: bool
    ) -> tuple[Row, Any]:
        if not carries:  # it begins anew from the base
            return super()._moved(group, self._begun_anew(row), lr, now, then, carries)
        row = self._changed(now, group, row, lr)
        on_line = self._set_out(then, group, row, row.start)
        if (stays := lr == row.written) is True:
            return on_line
        # Where b was 0 it goes on from its present start, not from the base as torch's schedules.
        resting = row._replace(base=row.start)
        moved, new = super()._moved(group, resting, lr, now, then, carries)
        return either(stays, on_line, (moved._replace(base=row.base), new))

    def _going_on(self, group: int, row: Row, numbers: tuple) -> Row:
        """Return a row with other numbers: the line is another one, its end stays where it was."""
        other = super()._going_on(group, row, numbers)
        return either(self._rises(self._epoch()), row._replace(numbers=numbers), other)
