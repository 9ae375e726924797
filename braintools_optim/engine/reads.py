"""Whether a chain reads the learning rate that others set."""

from __future__ import annotations

import warnings
from functools import wraps
from typing import TYPE_CHECKING, Any

import optax

from ..check import any_traced

if TYPE_CHECKING:
    from ..hyper import Hyper
    from ..optimizer import OptaxOptimizer

__all__ = ['HOW_TO_READ', 'noting_reads', 'warn_of_unread']

HOW_TO_READ = 'end transform(h) in optax.scale_by_learning_rate(h.lr)'
"""What makes a chain read the learning rate."""


def noting_reads(optimizer: OptaxOptimizer, chain: Any, h: Hyper) -> optax.GradientTransformation:
    """Return a chain that notes, where it is traced, whether it reads the learning rate.

    ``h`` are the values that it was built from.
    """

    @wraps(chain.update)
    def update(*args: Any, **extra: Any) -> Any:
        running = optimizer._running
        before, running.rate_is_read = running.rate_is_read, None
        try:
            result = chain.update(*args, **extra)
        except BaseException:  # nothing was learnt
            running.rate_is_read = before
            raise
        running.rate_is_read = bool(running.rate_is_read or h.rate_is_read or before)
        if not running.rate_is_read and _is_driven(optimizer):
            warn_of_unread(optimizer)
        return result

    return chain._replace(update=update)


def _is_driven(optimizer: OptaxOptimizer) -> bool:
    """Whether somebody changes the learning rate, or wants another one for a group."""
    first = optimizer._numbers['lr']
    lrs = [optimizer._table.read(group.index, 'lr') for group in optimizer._groups]
    return not optimizer._lr_is_free or any(not any_traced(lr) and lr != first for lr in lrs)


def warn_of_unread(optimizer: OptaxOptimizer) -> None:
    """Warn that a learning rate which is driven has no effect."""
    if optimizer._groups[0].fixed_chain is None:
        instead = HOW_TO_READ
    else:
        instead = (
            'end the chain in optax.scale_by_schedule(scheduler), of the scheduler that is given '
            'as lr=, or override transform(h)'
        )
    warnings.warn(
        f'the chain of this {type(optimizer).__name__} does not read its learning rate, so '
        f'schedulers and numbers assigned to it have no effect: {instead}.',
        UserWarning,
        stacklevel=2,
    )
