"""The spectral norm of each matrix in a stack, exactly or from below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['ESTIMATORS', 'ROWS', 'Matmul', 'exact_norm', 'iterated_norm']

Matmul = Callable[[jax.Array, jax.Array], jax.Array]

ESTIMATORS = ('random', 'power', 'exact')
"""Four rows with random starts, one row from the largest, or all singular values."""

_STEPS = {'random': 5, 'power': 10}
ROWS = 4


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
    start = jnp.take_along_axis(matrices, most, axis=-2) / scale
    # Of the size of the draws: a mean square of one.
    start = start / _safe(jnp.sqrt(jnp.mean(jnp.square(start), axis=-1, keepdims=True)))
    if draws is not None:
        start = matmul(start + draws, matrices)

    def turn(_: Any, rows: jax.Array) -> jax.Array:
        rows = rows / _safe(jnp.max(jnp.abs(rows), axis=(-2, -1), keepdims=True))
        return matmul(rows, matrices)

    rows = jax.lax.fori_loop(0, _STEPS[estimator], turn, start)
    rows = rows / _safe(jnp.max(jnp.abs(rows), axis=(-2, -1), keepdims=True))
    rows = rows / _safe(jnp.linalg.norm(rows, axis=-1, keepdims=True))
    ends = matmul(rows, matrices) / scale
    return jnp.max(jnp.linalg.norm(ends, axis=-1), axis=-1) * scale[..., 0, 0]


def _safe(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 1.0)
