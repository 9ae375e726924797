"""How many updates each parameter has had.

torch counts the steps of every parameter on its own: one whose gradient was absent, or that came
later, is bias-corrected by its own count. Here all counts of a state are one integer vector in a
field named ``leaf_counts``, with an entry for each leaf in the order of the parameter tree. Other
numbers that an algorithm keeps for each parameter stand in vectors named ``leaf_...`` likewise.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .absent import is_masked, present
from .entry import entry, places

__all__ = ['advanced', 'advanced_where', 'one_minus_power', 'spread', 'zero_counts']

_MANY = 32  # leaves from which on it pays to share their kernels


def zero_counts(params: optax.Params) -> jax.Array:
    """Return a count of zero for every leaf; masked ones keep their place."""
    return jnp.zeros(len(jax.tree.leaves(params, is_leaf=is_masked)), jnp.int32)


def advanced(counts: jax.Array, updates: optax.Updates) -> jax.Array:
    """Add one for each leaf that is not masked in ``updates``; stop at the largest integer."""
    return advanced_where(present(updates), counts)


def advanced_where(here: np.ndarray, counts: jax.Array) -> jax.Array:
    """Add one for each leaf that is here; stop at the largest integer."""
    if here.shape != counts.shape:
        raise ValueError(
            f'there are {len(here)} gradients, and counts of {len(counts)} parameters: leave out '
            f'what has none by optax.MaskedNode(), as optax.masked does, not by None.'
        )
    one = here.astype(np.int32)
    top = np.iinfo(np.int32).max
    return jnp.where(counts < top, counts + one, top)


def spread(per_leaf: jax.Array, updates: optax.Updates) -> Any:
    """Return a tree like ``updates`` with the entry of ``per_leaf`` for each of its leaves."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_masked)
    if len(leaves) < _MANY:
        own = [x if is_masked(x) else per_leaf[i] for i, x in enumerate(leaves)]
    else:
        at = places(len(leaves), per_leaf)
        own = [x if is_masked(x) else entry(per_leaf, i) for x, i in zip(leaves, at, strict=True)]
    return jax.tree.unflatten(treedef, own)


def one_minus_power(decay: Any, count: jax.Array) -> jax.Array:
    """Return ``1 - decay**count`` without the cancellation of decays close to one.

    What was not updated yet counts as updated once: nobody uses its number, and a division by zero
    would make the derivatives of all others by the decay nan.
    """
    return -jnp.expm1(jnp.maximum(count, 1) * jnp.log1p(decay - 1.0))
