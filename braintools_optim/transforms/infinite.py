"""Arithmetic that leaves infinite parameters infinite, such as those that mask logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ['decayed_weights', 'difference', 'largest_for_infinite']


def decayed_weights(weight_decay: Any, mask: Any = None) -> optax.GradientTransformation:
    """Add the parameters times the weight decay, as :func:`optax.add_decayed_weights`.

    With a weight decay of 0, which may be a traced number, optax makes an infinite one nan.
    """
    decay = optax.add_decayed_weights(weight_decay, mask)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return decay.update(updates, state, jax.tree.map(largest_for_infinite, params))

    return optax.GradientTransformation(decay.init, update)


def difference(one: jax.Array, other: jax.Array) -> jax.Array:
    """Return a difference, zero of equal infinities."""
    return largest_for_infinite(one) - largest_for_infinite(other)


def largest_for_infinite(x: jax.Array) -> jax.Array:
    """Return an array with the largest numbers of its dtype in place of infinite ones.

    A clamp, since XLA contracts a product behind it as it does without, which it does not always
    behind a selection: then one program and several would round apart.
    """
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return x
    top = jnp.finfo(jnp.result_type(x)).max
    return jax.lax.clamp(-top, x, top)
