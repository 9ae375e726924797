"""Leaving out what a step computes of gradients that are not finite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .leaf import entries_of

__all__ = ['all_finite', 'where_true']


def all_finite(gradients: list) -> Any:
    """Return whether all entries of gradients are finite, None where there is no gradient."""
    given = [jnp.isfinite(entries_of(g)).all() for g in gradients if g is not None]
    return jnp.stack(given).all() if given else None


def where_true(condition: Any, new: Any, old: Any) -> Any:
    """Return the new values where a condition holds (None: everywhere), else the old ones."""
    if condition is None or condition is True:
        return new
    return jax.tree.map(lambda n, o: n if n is o else jax.lax.select(condition, n, o), new, old)
