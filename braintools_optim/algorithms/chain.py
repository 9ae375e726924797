"""What the chains of several algorithms have in common."""

from __future__ import annotations

from typing import Any

import optax

from ..hyper import Hyper

__all__ = ['descent']


def descent(
    h: Hyper,
    direction: optax.GradientTransformation,
    decoupled: bool = False,
    mask: Any = None,
) -> optax.GradientTransformation:
    """Return a chain that goes down a direction by the learning rate, with weight decay.

    The decay is added to the gradient before the direction is computed (L2) or, decoupled, to the
    direction; where a mask says so, as that of :func:`optax.add_decayed_weights`.
    """
    decay = optax.add_decayed_weights(h.weight_decay, mask)
    order = (direction, decay) if decoupled else (decay, direction)
    return optax.chain(*order, optax.scale_by_learning_rate(h.lr))
