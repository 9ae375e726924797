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

__all__ = ['advanced', 'one_minus_power', 'present', 'spread', 'zero_counts']

_MANY = 32  # leaves from which on it pays to share their kernels


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def zero_counts(params: optax.Params) -> jax.Array:
    """Return a count of zero for every leaf; masked ones keep their place."""
    return jnp.zeros(len(jax.tree.leaves(params, is_leaf=_is_masked)), jnp.int32)


def present(updates: optax.Updates) -> np.ndarray:
    """Return for each leaf whether it is there, not masked."""
    leaves = jax.tree.leaves(updates, is_leaf=_is_masked)
    return np.array([not _is_masked(x) for x in leaves], bool)


def advanced(counts: jax.Array, updates: optax.Updates) -> jax.Array:
    """Add one for each leaf that is not masked in ``updates``; stop at the largest integer."""
    one = present(updates).astype(np.int32)
    top = np.iinfo(np.int32).max
    return jnp.where(counts < top, counts + one, top)


def spread(per_leaf: jax.Array, updates: optax.Updates) -> Any:
    """Return a tree like ``updates`` with the entry of ``per_leaf`` for each of its leaves."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_is_masked)
    many = len(leaves) >= _MANY
    zero = _unforeseen_zero(per_leaf) if many else None
    entries = [
        x if _is_masked(x) else _entry(per_leaf, i, zero) if many else per_leaf[i]
        for i, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, entries)


def _entry(vector: jax.Array, i: int, zero: Any) -> jax.Array:
    """Return ``vector[i]``, with ``i`` read from a constant in memory.

    XLA compiles equal kernels once. With its own place written into it, each leaf's kernel would
    be another one, and a step of a hundred leaves take more than twice as long to compile. XLA
    writes numbers into kernels, and tables of equal ones: hence two, the first of which is read.
    """
    place = jax.lax.dynamic_index_in_dim(np.array([i, -1], np.int32), zero, keepdims=False)
    return jax.lax.dynamic_index_in_dim(vector, place, keepdims=False)


def _unforeseen_zero(vector: jax.Array) -> jax.Array:
    """Return a zero that XLA does not know to be one, or it would read constants itself."""
    x = vector[0].astype(jnp.float32)
    return ((x != x) & (x == x)).astype(jnp.int32)


def one_minus_power(decay: Any, count: jax.Array) -> jax.Array:
    """Return ``1 - decay**count`` without the cancellation of decays close to one."""
    return -jnp.expm1(count * jnp.log1p(decay - 1.0))
