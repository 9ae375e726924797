"""Arrays whose memory a program takes over: gone afterwards, and never used for two things."""

from __future__ import annotations

from collections.abc import Iterable
from sys import getrefcount
from typing import Any

import jax
import jax.numpy as jnp

from ..paths import path_name

__all__ = [
    *('held_leaves', 'held_trees', 'is_deleted', 'placed_whole', 'refuse_deleted'),
    'without_shared_buffers',
]


def is_deleted(x: Any) -> bool:
    """Whether ``x`` is an array whose memory a program has taken over."""
    return isinstance(x, jax.Array) and x.is_deleted()


def refuse_deleted(held: Iterable[tuple[str, Any]]) -> None:
    """Raise if an array is gone in one of the trees, each given after the name of its holder."""
    for holder, tree in held:
        if any(map(is_deleted, jax.tree.leaves(tree))):
            flat, _ = jax.tree_util.tree_flatten_with_path(tree)
            path, gone = next((path, x) for path, x in flat if is_deleted(x))
            place = f' under {path_name(path)!r}' if path else ''
            raise ValueError(
                f'{holder} holds an array that an earlier step took over, '
                f'{jax.typeof(gone).str_short()}{place}: a part of a tree in a State was taken out '
                f'before a train_step. Keep jnp.copy of it, or build the step with donate=False.'
            )


def without_shared_buffers(leaves: list, split: int) -> list:
    """Return leaves with copies of those to be donated, the first ones, that are there twice."""
    used = {buffer for leaf in leaves[split:] for buffer in _buffers(leaf)}
    new = []
    for leaf in leaves[:split]:
        buffers = _buffers(leaf)
        new.append(jnp.copy(leaf) if used & buffers else leaf)
        used |= buffers
    return [*new, *leaves[split:]]


def held_leaves(leaves: list, count: int) -> set[int]:
    """Return which of the first leaves somebody holds besides their State and this list."""
    counts = list(map(getrefcount, leaves[:count]))
    if max(counts, default=0) <= _OF_LEAF:  # nearly always
        return set()
    return {i for i, found in enumerate(counts) if found > _OF_LEAF}


def held_trees(cells: list[dict]) -> list[bool]:
    """Return whose value, a tree, somebody holds besides the State that has this ``__dict__``."""
    return [getrefcount(cell['_value']) > _OF_TREE for cell in cells]


def placed_whole(leaves: list) -> set[int]:
    """Return which leaves may share memory with the array that they were placed from.

    JAX copies nothing that lies there already.
    """
    return {
        i
        for i, x in enumerate(leaves)
        if isinstance(x, jax.Array) and x.committed and x.is_fully_replicated
    }


def _lowest_counts() -> tuple[int, int]:
    """Return the counts of references that those functions find where nobody else has any."""
    cell = {'_value': object()}
    of_tree = getrefcount(cell['_value'])
    leaves = [cell['_value']]
    return max(map(getrefcount, leaves[:1])), of_tree


_OF_LEAF, _OF_TREE = _lowest_counts()


def _buffers(x: Any) -> set:
    """Return what tells whether two arrays are one in memory, on any device."""
    if isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.extended):
        if x.size and not x.is_deleted():
            return {(s.device, s.data.unsafe_buffer_pointer()) for s in x.addressable_shards}
    return {('is', id(x))}
