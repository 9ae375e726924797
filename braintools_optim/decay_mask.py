"""Which parameters the weight decay is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from saiunit import Quantity

if TYPE_CHECKING:
    from .optimizer import OptaxOptimizer

__all__ = ['check_decay_mask', 'decays']


def check_decay_mask(optimizer: OptaxOptimizer) -> None:
    """Raise where the base's mask says nothing: the class has its own, or no decay of each."""
    name = type(optimizer).__name__
    if own := {'mask', 'weight_decay_mask'} & set(optimizer._flags):
        raise TypeError(f'{name} has no argument decay_mask; it is {own.pop()} here.')
    if not set(optimizer.weight_decays) & set(optimizer._numbers):
        missing = ' or '.join(optimizer.weight_decays)
        raise TypeError(f'{name} has no {missing}, so decay_mask would have no effect.')
    if not optimizer._is_leafwise():
        raise TypeError(
            f'the chain of {name} may not update each parameter by itself, so decay_mask cannot '
            f'take the decay from some of them: put these into a group with weight_decay=0, or '
            f'mark its transform as leafwise if it does.'
        )


def decays(said: Any, name: str) -> bool:
    """Return what a mask says of a parameter, checked."""
    said = said.mantissa if isinstance(said, Quantity) else said
    if not isinstance(said, bool | np.bool):
        raise TypeError(
            f'decay_mask must say True or False for parameter {name!r}, or for what it is in, got '
            f'{said!r}; it is a tree under the keys of opt.param_states.to_pytree(), or a function '
            f'that returns one for the tree of the values.'
        )
    return bool(said)
