"""Schedules that hold the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..schedules import constant
from .base import LRScheduler

__all__ = ['ConstantLR']


class ConstantLR(LRScheduler):
    r"""Multiply the learning rate by a factor for the first epochs.

    .. math:: \eta_t = \eta_0 \cdot (\text{factor if } t < T \text{ else } 1)

    Parameters
    ----------
    base_lr : float or list of float
        The learning rate, or one for each group.
    factor : float
        What it is multiplied by during the first ``total_iters`` epochs.
    total_iters : int
        The number of epochs with the factor.
    last_epoch : int
        The epoch to start from.
    """

    __module__ = 'braintools_optim'

    def __init__(
        self,
        base_lr: float | Sequence[float] = 1e-3,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch)
        self._hyper = constant.check('ConstantLR', factor=factor, total_iters=total_iters)

    def affine(self, epoch: Any, group: int) -> tuple[Any, Any]:
        """Return ``(0, factor or 1)``."""
        return constant.pair(epoch, **self._hyper)
