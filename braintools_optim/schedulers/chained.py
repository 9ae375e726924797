"""Stepping several schedulers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .composite import Composite
from .rate import LRScheduler
from .row import same
from .scheduler import Progress, following

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['ChainedScheduler']


class ChainedScheduler(Composite):
    """Step several schedulers together: each acts on the learning rate that the one before gives.

    An optimizer may come first, ``ChainedScheduler(opt, [...])``.

    Parameters
    ----------
    schedulers : list of LRScheduler
        In the order in which they act. The base learning rate is given in one of them (or the
        same in all).
    """

    def __init__(self, schedulers: Sequence[LRScheduler]):
        super().__init__(schedulers)

    def _check_given(self, given: list[list]) -> None:
        if any(same(other, given[0]) is False for other in given[1:]):
            raise ValueError(
                f'the schedulers of {type(self).__name__} start from different base_lr, {given}: '
                f'leave it out in all but one, or give the same.'
            )

    def _check_step(self, epoch: Any) -> None:
        for child in self._children:
            child._check_step(epoch)

    def _take_over(self, optimizer: OptaxOptimizer) -> list:
        return optimizer.get_last_lr()

    def _adopt(self, bases: list, lrs: list) -> list:
        for child in self._children:
            lrs = child._adopt(bases, lrs)
        return lrs

    def _started(self, lrs: list) -> list:
        for child in self._children:
            lrs = child._started(lrs)
        return lrs

    def _join(self, group: ParamGroup, base: Any, lr: Any) -> Any:
        for child in self._children:
            lr = child._join(group, base, lr)
        return lr

    def _advanced(
        self, progress: Progress, lrs: list, epoch: Any = None, metric: Any = None
    ) -> tuple[Progress, list]:
        parts: list[Progress] = []
        for child, part in zip(self._children, progress.memory, strict=True):
            if epoch is None or not parts:
                part, lrs = child._advanced(part, lrs, epoch, metric)
            else:  # where it jumps to an epoch, what follows goes from what the first gives there
                part, lrs = child._entered(part, lrs, epoch, metric)
            parts.append(part)
        return Progress(following(progress.epoch, epoch), parts), lrs

    def _entered(
        self, progress: Progress, lrs: list, epoch: Any, metric: Any = None
    ) -> tuple[Progress, list]:
        parts = []
        for child, part in zip(self._children, progress.memory, strict=True):
            part, lrs = child._entered(part, lrs, epoch, metric)
            parts.append(part)
        return Progress(epoch, parts), lrs

    def _written(self, progress: Progress) -> list:
        return self._children[-1]._written(progress.memory[-1])

    def _saved_written(self, saved: Mapping[str, Any]) -> list:
        return self._children[-1]._saved_written(saved['schedulers'][-1])
