"""Weight decay that does nothing where it is zero.

An infinite parameter, such as a logit that is masked out, would become nan there: ``0 * inf``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from .momentum import unless_zero

__all__ = ['add_decayed_weights', 'decayed']


def add_decayed_weights(weight_decay: Any, mask: Any = None) -> optax.GradientTransformation:
    """Do what :func:`optax.add_decayed_weights` does, but nothing where the decay is zero."""
    decay = optax.add_decayed_weights(weight_decay, mask)
    return decay if callable(weight_decay) else unless_zero(weight_decay, decay)


def decayed(g: jax.Array, weight_decay: Any, p: jax.Array) -> jax.Array:
    """Return ``g + weight_decay * p`` of a leaf, and ``g`` itself where the decay is zero."""
    return jnp.where(jnp.not_equal(weight_decay, 0.0), g + weight_decay * p, g)
