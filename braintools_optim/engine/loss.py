"""What a function that computes a loss may do, and return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ..check import noted_if_traced
from .leaf import without_unit

__all__ = ['check_loss', 'noted', 'shown_kind']


def noted(owner: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose errors of tracing say what to do. ``owner`` says whose it is."""

    def computed(*args: Any, **kwargs: Any) -> Any:
        with noted_if_traced(
            f'{owner} is compiled, and no array in it has a value yet: return the loss as an '
            f'array, without float() or .item(), and choose by jnp.where.'
        ):
            return function(*args, **kwargs)

    return computed


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
