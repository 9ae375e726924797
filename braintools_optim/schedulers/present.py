"""Schedulers that act on the present learning rate."""

from __future__ import annotations

from typing import Any

from .rate import LRScheduler
from .row import Row
from .scheduler import Progress

__all__ = ['PresentRate']


class PresentRate(LRScheduler):
    """What schedulers share that act on the present learning rate, whatever it is."""

    carries_changes = True

    def affine(self, epoch: Any, group: int) -> tuple[Any, Any]:
        """Return ``(0, 1)``."""
        return 0.0, 1.0

    def _present(self) -> list:
        if self.optimizer is not None:
            return self.optimizer.get_last_lr()
        return self._written(self._progress())

    def _rate_now(self, group: int, row: Row) -> Any:
        return row.written

    def _entered(
        self, progress: Progress, lrs: list, epoch: Any, metric: Any = None
    ) -> tuple[Progress, list]:
        return self._advanced(progress, lrs, epoch, metric)

    def _defines_get_lr(self) -> bool:
        return False  # the present rate is what there is, whatever a subclass shows
