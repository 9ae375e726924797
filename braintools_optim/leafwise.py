"""Algorithms that update each leaf by itself, and so may take them in parts."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ['is_leafwise', 'leafwise']


def leafwise(transform: Callable) -> Callable:
    """Mark a ``transform`` whose chain updates each leaf by its own numbers, state and shape alone.

    A step of such a chain may be cut into several programs. State that the chain keeps for all
    leaves together must not depend on them. A method that overrides a marked one is not marked.
    """
    if not callable(transform):
        raise TypeError(f'leafwise marks a function, transform of a class, got {transform!r}.')
    transform.leafwise = True  # type: ignore[attr-defined]  # functions have attributes
    return transform


def is_leafwise(transform: Callable | None) -> bool:
    """Whether a ``transform`` is marked so."""
    return getattr(transform, 'leafwise', False)
