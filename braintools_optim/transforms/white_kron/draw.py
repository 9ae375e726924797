"""Numbers that look random, at the cost of a few integer operations each.

Draws are noise far below the gradients, and rows from which norms are iterated: nothing hangs on
their quality. A generator for cryptographers takes a tenth of a step, and most of its compilation.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ['draws_like', 'seeds_of']

_ODD = np.uint32(0x9E3779B9)  # spreads consecutive numbers over all words
# The sum of four bytes is normal enough.
_MEAN = 2 * 255.0
_DEVIATION = (4 * (256**2 - 1) / 12) ** 0.5


def seeds_of(*words: Any) -> jax.Array:
    """Return one word that depends on all of several."""
    mixed = jnp.asarray(0, jnp.uint32)
    for word in words:
        if isinstance(word, int):  # of any size
            word = np.uint32(word % 2**32)
        mixed = _mixed(mixed + _ODD + jnp.asarray(word).astype(jnp.uint32))
    return mixed


def draws_like(
    seeds: jax.Array, purpose: int, shape: tuple[int, ...], dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Return draws of mean zero and variance one, of a shape for each seed."""
    number = jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(shape)
    seeds = seeds_of(seeds, np.uint32(purpose))
    word = _mixed(
        jnp.expand_dims(number * _ODD, tuple(range(seeds.ndim)))
        ^ jnp.expand_dims(seeds, tuple(range(seeds.ndim, seeds.ndim + len(shape))))
    )
    quarters = [(word >> np.uint32(shift)) & np.uint32(255) for shift in (0, 8, 16, 24)]
    total = sum(quarters, start=np.uint32(0))
    return (jnp.asarray(total, jnp.int32).astype(dtype) - _MEAN) / _DEVIATION


def _mixed(x: jax.Array) -> jax.Array:
    """Return words of which every bit depends on all bits of the given ones (murmur3's end)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
