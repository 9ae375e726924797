"""The spectral norm of each matrix in a stack, exactly or from below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..wide import root

__all__ = ['ESTIMATORS', 'ROWS', 'Matmul', 'exact_norm', 'iterated_norm']

Matmul = Callable[[jax.Array, jax.Array], jax.Array]

ESTIMATORS = ('random', 'power', 'exact')
"""Four rows with random starts, one row from the largest, or all singular values."""

_TURNS = {'random': 7, 'power': 11}  # products: eformer's seven, and more for a single row
ROWS = 4  # as eformer has them


def exact_norm(matrices: jax.Array) -> jax.Array:
    """Return the largest singular value of each."""
    return jnp.linalg.svd(matrices, compute_uv=False)[..., 0]


def iterated_norm(
    matrices: jax.Array, draws: jax.Array | None, estimator: str, matmul: Matmul
) -> jax.Array:
    """Return a lower bound of each norm, by power iterations on a few rows at once.

    They start at the row of most energy, to which 'random' adds normal draws, :data:`ROWS` of them.
    All zeros have the norm zero.
    """
    # The matrices themselves are not divided by their size: a copy costs as much as all the rest.
    scale = _safe(jnp.max(jnp.abs(matrices), axis=(-2, -1), keepdims=True))
    energy = jnp.sum(jnp.square(matrices / scale), axis=-1)
    most = jnp.argmax(energy, axis=-1)[..., None, None]
    rows = jnp.take_along_axis(matrices, most, axis=-2) / scale
    # Of the size of the draws: a mean square of one.
    mean = jnp.max(energy, axis=-1)[..., None, None] / matrices.shape[-1]
    rows = rows / _safe(root(mean))
    if draws is not None:
        rows = rows + draws

    def turn(_: Any, rows: jax.Array) -> jax.Array:
        return matmul(rows / _safe(_lengths(rows)) / scale, matrices)

    rows = jax.lax.fori_loop(0, _TURNS[estimator], turn, rows)
    return jnp.max(_lengths(rows), axis=(-2, -1)) * scale[..., 0, 0]


def _lengths(rows: jax.Array) -> jax.Array:
    return root(jnp.sum(jnp.square(rows), axis=-1, keepdims=True))


def _safe(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 1.0)
