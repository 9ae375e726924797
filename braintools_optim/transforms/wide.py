"""At least single precision: dtypes and casts of trees, and sums over all their leaves."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    'cast_like',
    'inner',
    'largest',
    'moved',
    'root',
    'single_or_wider',
    'square_norm',
    'wide_dtype',
    'widened',
]


def wide_dtype(tree: Any) -> Any:
    """Return the dtype in which numbers of the whole tree are kept."""
    return jnp.result_type(jnp.float32, *(x.dtype for x in jax.tree.leaves(tree)))


def single_or_wider(x: Any) -> Any:
    """Return the dtype of real numbers of at least single precision for an array or number."""
    return jnp.promote_types(jnp.finfo(jnp.result_type(x)).dtype, jnp.float32)


def widened(x: jax.Array) -> jax.Array:
    """Return an array in at least single precision."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def square_norm(x: jax.Array) -> jax.Array:
    """Return the sum of squared magnitudes, where squares overflow float16 and blur in bfloat16."""
    wide = widened(x)
    return jnp.sum((wide * wide.conj()).real)


@jax.custom_jvp
def _root(square: jax.Array) -> jax.Array:
    return jnp.sqrt(square)


@partial(jax.jit, inline=True)  # else it would be traced anew for every leaf
def root(square: jax.Array) -> jax.Array:
    """Return the square root, whose derivative at zero counts as zero."""
    return _root(square)


@_root.defjvp
def _slope_of_root(values: tuple, directions: tuple) -> tuple[jax.Array, jax.Array]:
    (square,), (direction,) = values, directions
    found = _root(square)
    return found, jnp.where(found == 0, 0.0, direction / jnp.where(found == 0, 1.0, 2.0 * found))


def inner(one: Any, other: Any) -> jax.Array:
    """Return the inner product of two trees of real arrays."""
    products = jax.tree.map(lambda a, b: jnp.sum(widened(a) * widened(b)), one, other)
    return sum(jax.tree.leaves(products), start=jnp.zeros((), wide_dtype(one)))


def largest(tree: Any) -> jax.Array:
    """Return the largest absolute value; nan if there is one."""
    kind = wide_dtype(tree)
    tops = [jnp.max(jnp.abs(x), initial=0.0).astype(kind) for x in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack([jnp.zeros((), kind), *tops]))


def moved(tree: Any, t: Any, direction: Any) -> Any:
    """Return the tree moved by ``t`` times a direction, in its own dtypes."""
    return jax.tree.map(lambda x, d: (x + t * d).astype(x.dtype), tree, direction)


def cast_like(new: Any, old: Any) -> Any:
    """Return a tree with the dtypes of another one, strongly typed."""
    return jax.tree.map(lambda n, o: jax.lax.convert_element_type(n, jnp.result_type(o)), new, old)
