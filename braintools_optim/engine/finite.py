"""Leaving out what a step computes of gradients that are not finite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .leaf import entries_of

__all__ = ['all_finite', 'where_finite']


def all_finite(gradients: list) -> Any:
    """Return whether all entries of gradients are finite, None where there is no gradient."""
    given = [jnp.isfinite(entries_of(g)).all() for g in gradients if g is not None]
    return jnp.stack(given).all() if given else None


def where_finite(finite: Any, new: Any, old: Any) -> Any:
    """Return the new values where that holds, else the old ones; the new if it is None."""
    if finite is None:
        return new
    return jax.tree.map(lambda n, o: n if n is o else jax.lax.select(finite, n, o), new, old)
