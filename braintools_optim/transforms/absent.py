"""Leaves that are absent from a tree: None, or optax's MaskedNode."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

__all__ = ['flat', 'flat_like', 'is_absent', 'is_masked', 'present']


def is_masked(x: Any) -> bool:
    """Whether ``x`` stands for an absent leaf, for the ``is_leaf`` of tree functions."""
    return isinstance(x, optax.MaskedNode)


def is_absent(x: Any) -> bool:
    """Whether ``x`` stands where a leaf has no gradient, for the ``is_leaf`` of tree functions."""
    return x is None or isinstance(x, optax.MaskedNode)


def flat(updates: optax.Updates) -> tuple[list[Any], Any]:
    """Return the leaves of a tree, what stands for absent ones among them, and its structure."""
    return jax.tree.flatten(updates, is_leaf=is_absent)


def flat_like(updates: optax.Updates, kept: Any) -> tuple[list[Any], Any]:
    """Return the leaves of a tree, and the structure, that a state's tree was built with.

    What stands for absent leaves of the one is among them: None, which no leaf is in the other.
    """
    treedef: Any = jax.tree.structure(kept, is_leaf=is_masked)
    return treedef.flatten_up_to(updates), treedef


def present(updates: optax.Updates) -> np.ndarray:
    """Return for each leaf whether it is there, not masked."""
    leaves = jax.tree.leaves(updates, is_leaf=is_masked)
    return np.array([not is_masked(x) for x in leaves], bool)
