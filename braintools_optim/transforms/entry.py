"""The entries of an array one by one, from kernels that XLA compiles once.

XLA compiles equal kernels once. With its own place written into it, the kernel of each entry would
be another one, and a step of a hundred leaves take more than twice as long to compile. So each
reads its place from memory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ['entry', 'places']


def places(count: int, unforeseen: jax.Array) -> list[jax.Array]:
    """Return 0, 1, ... as arrays that XLA reads from memory.

    ``unforeseen`` is any vector whose values XLA cannot know.
    """
    if not count:
        return []
    x = unforeseen[0].astype(jnp.float32)
    zero = ((x != x) & (x == x)).astype(jnp.uint32)  # which XLA does not know to be one
    return [_place(i, zero) for i in range(count)]


def _place(i: int, zero: jax.Array) -> jax.Array:
    # XLA writes numbers into kernels, tables of equal ones, and progressions: this is neither. The
    # first is read. It is unsigned, or JAX would look whether it counts from the end.
    table = np.array([i, i + 1, i + 1], np.uint32)
    return jax.lax.dynamic_index_in_dim(table, zero, keepdims=False)


def entry(stack: jax.Array, place: jax.Array, axis: int = 0) -> jax.Array:
    """Return the entry at a place along an axis."""
    return jax.lax.dynamic_index_in_dim(stack, place, axis, keepdims=False)
