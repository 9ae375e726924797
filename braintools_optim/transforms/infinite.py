"""Arithmetic that leaves infinite parameters infinite, such as those that mask logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ['decayed_weights', 'difference', 'zero_for_infinite']


def decayed_weights(weight_decay: Any, mask: Any = None) -> optax.GradientTransformation:
    """Add the parameters times the weight decay, as :func:`optax.add_decayed_weights`.

    Infinite ones do not decay: optax makes them nan where the weight decay is 0, which may be a
    traced number.
    """
    decay = optax.add_decayed_weights(weight_decay)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return decay.update(updates, state, jax.tree.map(zero_for_infinite, params))

    finite = optax.GradientTransformation(decay.init, update)
    return finite if mask is None else optax.masked(finite, mask)


def zero_for_infinite(x: jax.Array) -> jax.Array:
    """Return an array with zeros in place of infinite numbers, and of nan."""
    if jnp.issubdtype(jnp.result_type(x), jnp.integer):
        return x
    finite = jnp.isfinite(x) if jnp.iscomplexobj(x) else jax.lax.is_finite(x)
    return jax.lax.select(finite, x, jax.lax.full_like(x, 0.0))


def difference(one: jax.Array, other: jax.Array) -> jax.Array:
    """Return a difference, zero of equal infinities."""
    return jnp.where(one == other, 0.0, one - other)
