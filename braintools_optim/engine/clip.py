"""What a step does to gradients before any chain sees them: their sign, and bounds."""

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

import jax
import jax.numpy as jnp

from ..transforms.wide import root, square_norm
from .leaf import entries_of, over_entries

__all__ = ['clipped', 'signed_and_bounded']


def signed_and_bounded(gradients: list, climbing: Container[int], numbers: dict[str, Any]) -> list:
    """Return gradients with the sign turned where that is to climb, and bounded."""
    signed = (
        over_entries(operator.neg, g) if i in climbing else g for i, g in enumerate(gradients)
    )
    return clipped(list(signed), numbers)


def clipped(gradients: list, numbers: dict[str, Any]) -> list:
    """Bound the gradients of all groups: their global norm, then each entry, if so wished."""
    if 'grad_clip_norm' in numbers:
        squares = [square_norm(entries_of(g)) for g in gradients if g is not None]
        norm = root(sum(squares, start=jnp.zeros(())))
        bound = numbers['grad_clip_norm']
        within = (norm <= bound) | jnp.isinf(bound)  # a norm that is nan is not
        factor = jnp.where(within, 1.0, bound / norm)
        gradients = [over_entries(lambda x: (x * factor).astype(x.dtype), g) for g in gradients]
    if 'grad_clip_value' in numbers:
        bound = numbers['grad_clip_value']
        gradients = [over_entries(lambda x: _clip(x, bound), g) for g in gradients]
    return gradients


def _clip(g: jax.Array, bound: Any) -> jax.Array:
    if jnp.iscomplexobj(g):
        return jax.lax.complex(_clip(g.real, bound), _clip(g.imag, bound))
    return jnp.clip(g, -bound, bound).astype(g.dtype)
