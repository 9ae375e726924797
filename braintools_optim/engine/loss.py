"""What a function that computes a loss may return."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from .leaf import without_unit

__all__ = ['check_loss', 'shown_kind']


def check_loss(owner: str, loss: Any, hint: str = '') -> None:
    """Raise if what a function returned is not a real scalar. ``owner`` says whose it is."""
    number = without_unit(loss)
    real = hasattr(number, 'dtype') and jnp.issubdtype(number.dtype, jnp.floating)
    if not isinstance(number, float) and not (real and number.shape == ()):
        raise TypeError(
            f'{owner} must return the loss, a real scalar, got {shown_kind(loss)}{hint}.'
        )


def shown_kind(x: Any) -> str:
    """Return the dtype and shape of an array, or the type of anything else."""
    number = without_unit(x)
    if hasattr(number, 'dtype') and hasattr(number, 'shape'):
        return f'{number.dtype}{list(number.shape)}'
    return type(x).__name__
