"""The functions that users give to schedulers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ..state import OptimState

__all__ = ['call_or_each', 'called', 'check_rate_function', 'returned']


def called(owner: str, function: Callable, epoch: Any) -> Any:
    """Return a user's function of an epoch; say what to do if it cannot be traced."""
    try:
        return function(epoch)
    except jax.errors.ConcretizationTypeError as error:
        error.add_note(
            f'In a compiled program the epoch that the function of {owner} is given has no value '
            f'yet: choose by jnp.where(epoch < 3, 1.0, 0.1), or step {owner} outside.'
        )
        raise
    except TypeError as error:
        if OptimState.__name__ in str(error):
            error.add_note(f'last_epoch of {owner} is a State; its number is last_epoch.value.')
        raise


def returned(owner: str, value: Any, epoch: Any) -> Any:
    """Return what a user's function returned for an epoch; raise for nothing."""
    if value is None:
        raise TypeError(
            f'the function of {owner} must return a number, got None at epoch {epoch}; does it '
            f'lack a return?'
        )
    return value


def check_rate_function(method: str, given: Any) -> None:
    """Raise for what is no function of a learning rate."""
    if not callable(given):
        raise TypeError(
            f'{method} needs a function of the learning rate, got {given!r}; to set it, assign '
            f'current_lr of the optimizer.'
        )


def call_or_each(owner: str, name: str, given: Any) -> list[Callable]:
    """Return callables given as one or as a list with one for each group."""
    each = list(given) if isinstance(given, list | tuple) else [given]
    if not each or not all(map(callable, each)):
        raise TypeError(
            f'{owner} needs a function of the epoch for {name}, or a list of one for each group, '
            f'got {given!r}; it comes after the learning rate or the optimizer.'
        )
    return each
