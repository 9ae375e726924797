"""Which parameters the weight decay is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from saiunit import Quantity

from .leafwise import is_leafwise

if TYPE_CHECKING:
    from .optimizer import OptaxOptimizer
    from .paths import Keys

__all__ = ['check_decay_mask', 'decays']


def check_decay_mask(optimizer: OptaxOptimizer) -> None:
    """Raise where the base's mask says nothing: the class has its own, or no decay of each."""
    name = type(optimizer).__name__
    if own := {'mask', 'weight_decay_mask'} & set(optimizer._flags):
        raise TypeError(f'{name} has no argument decay_mask; it is {own.pop()} here.')
    if 'weight_decay' not in optimizer._numbers:
        raise TypeError(f'{name} has no weight_decay, so decay_mask would have no effect.')
    if not is_leafwise(optimizer.transform) or optimizer._groups[0].fixed_chain is not None:
        raise TypeError(
            f'the chain of {name} may not update each parameter by itself, so decay_mask cannot '
            f'take the decay from some of them: put these into a group with weight_decay=0, or '
            f'mark its transform as leafwise if it does.'
        )


def decays(mask: Any, path: Keys, name: str) -> bool:
    """Return what a mask, a tree of bools like that of the parameters or its top, says of one.

    Its keys may be nested where a path has tuples.
    """
    said, keys = mask, list(path)
    while keys:
        key = keys.pop(0)
        if isinstance(said, Mapping) and key in said:
            said = said[key]
        elif isinstance(said, list | tuple) and isinstance(key, int) and key < len(said):
            said = said[key]
        elif isinstance(key, str) and hasattr(said, key):
            said = getattr(said, key)
        elif isinstance(key, tuple):
            keys[:0] = key
        else:
            break
    said = said.mantissa if isinstance(said, Quantity) else said
    if not isinstance(said, bool | np.bool):
        raise TypeError(
            f'decay_mask must say True or False for parameter {name!r}, or for what it is in, got '
            f'{said!r}; it is a tree under the keys of opt.param_states.to_pytree(), or a function '
            f'that returns one for the tree of the values.'
        )
    return bool(said)
