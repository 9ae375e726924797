"""Giving a scheduler another base while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..check import check_number
from ..writing import undone_on_error

if TYPE_CHECKING:
    from .rate import LRScheduler

__all__ = ['assign_bases']


def assign_bases(scheduler: LRScheduler, values: Sequence) -> None:
    """Go on as if these had been the bases, and nothing had been changed by hand."""
    owner, count = type(scheduler).__name__, len(scheduler.base_lrs)
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(
            f'{owner} needs {count} numbers for base_lrs, one for each group, got {values!r}.'
        )
    bases = [check_number(owner, 'base_lr', x) for x in values]
    optimizer = scheduler.optimizer
    if optimizer is None:
        with undone_on_error(*scheduler._parts()):
            scheduler._rebase(bases)
            scheduler._adopt(bases, bases)
        return
    if [s for s in optimizer._all_schedulers() if hasattr(s, 'base_lrs')] != [scheduler]:
        raise ValueError(
            f'{owner} is one of several schedulers of the learning rate, which share their base: '
            f'assign base_lrs of the ChainedScheduler or SequentialLR that they are in, or build '
            f'them anew.'
        )
    bases_now = bases[: len(optimizer._groups)]  # the others are for groups still to come
    with optimizer._undone_on_error():
        scheduler._rebase(bases)
        lrs = scheduler._adopt(bases_now, bases_now)
        scheduler._drive(scheduler._progress(), lrs, by_hand=True)
