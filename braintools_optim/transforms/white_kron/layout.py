"""How a leaf is seen as a batch of matrices, and how these are cut into blocks.

Everything here follows from a shape and the options: no state holds any of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..absent import is_absent

__all__ = [
    'DENSE_PATH',
    'LARGE_PATH',
    'LEFT',
    'ONE_D_PATH',
    'RIGHT',
    'BlockClass',
    'Cut',
    'Layout',
    'Side',
    'broadcast_flags',
    'layout_of',
]

DENSE_PATH = 0
"""A matrix both of whose factors are dense, block by block."""
LARGE_PATH = 1
"""A matrix with a dimension, or two, too large for a dense factor: that one's is diagonal."""
ONE_D_PATH = 2
"""A vector or scalar, with one diagonal factor."""


class Side(NamedTuple):
    """The names of one side of all blocks in the state: factors, those of edges, norm bounds."""

    full: str
    edge: str
    bound: str

    def factors(self, last: bool) -> str:
        """Return the name of the factors of full blocks, or of the shorter last ones."""
        return self.edge if last else self.full


LEFT, RIGHT = Side('Ql', 'Ql_edge', 'Ll'), Side('Qr', 'Qr_edge', 'Lr')


@dataclass(frozen=True)
class Cut:
    """How one dimension is cut: ``full`` parts of ``size``, and a shorter ``last`` one, or 0."""

    size: int
    full: int
    last: int
    diagonal: bool

    @classmethod
    def of(cls, dimension: int, block_size: int, diagonal: bool) -> Cut:
        """Cut a dimension into parts of the block size; one with a diagonal factor stays whole."""
        size = dimension if diagonal else min(block_size, dimension)
        return cls(size, dimension // size, dimension % size, diagonal)

    @property
    def sizes(self) -> list[int]:
        """The size of every part."""
        return [self.size] * self.full + [self.last] * (self.last > 0)


@dataclass(frozen=True)
class BlockClass:
    """The blocks of one leaf that have one shape: ``count`` of ``rows`` x ``cols``."""

    rows: int
    cols: int
    count: int
    last_row: bool  # cut from the shorter last rows, so that their left factor is short, too
    last_col: bool


@dataclass(frozen=True)
class Layout:
    """A leaf as ``layers`` independent matrices of shape ``merged``, and the cuts of these.

    ``shards`` is the number of devices over which blocks are distributed: every class of them is
    filled up to a multiple of it, with blocks that rest.
    """

    kind: int
    scanned: bool
    layers: int
    shape: tuple[int, ...]
    merged: tuple[int, int]
    rows: Cut
    cols: Cut
    shards: int

    @property
    def classes(self) -> list[BlockClass]:
        """The kinds of blocks that there are, at most four."""
        made = []
        for last_row in (False, True):
            for last_col in (False, True):
                rows = (self.rows.last, 1) if last_row else (self.rows.size, self.rows.full)
                cols = (self.cols.last, 1) if last_col else (self.cols.size, self.cols.full)
                count = self.layers * rows[1] * cols[1]
                if rows[0] and cols[0] and count:
                    made.append(BlockClass(rows[0], cols[0], count, last_row, last_col))
        return made

    def width(self, part: BlockClass) -> int:
        """Return how many blocks of a class each shard has."""
        return -(-part.count // self.shards)

    def stacked(self, last_row: bool | None = None, last_col: bool | None = None) -> int:
        """Return how many blocks there are, filling included, of the classes asked for."""
        return self.shards * sum(
            self.width(c)
            for c in self.classes
            if last_row in (None, c.last_row) and last_col in (None, c.last_col)
        )

    def cut(self, x: jax.Array, any_of_dense: bool = False) -> list[jax.Array]:
        """Return the blocks of each class, as (shards, width, rows, cols).

        With ``any_of_dense``, for booleans, a side that has a dense factor is reduced by any.
        """
        x = x.reshape(self.layers, *self.merged)
        stacks = []
        for part in self.classes:
            at_row = self.rows.size * self.rows.full if part.last_row else 0
            at_col = self.cols.size * self.cols.full if part.last_col else 0
            n_row = 1 if part.last_row else self.rows.full
            n_col = 1 if part.last_col else self.cols.full
            piece = x[:, at_row : at_row + n_row * part.rows, at_col : at_col + n_col * part.cols]
            piece = piece.reshape(self.layers, n_row, part.rows, n_col, part.cols)
            if any_of_dense:
                sides = ((2, self.rows), (4, self.cols))
                axes = tuple(axis for axis, cut in sides if not cut.diagonal)
                piece = jnp.any(piece, axis=axes, keepdims=True)
            piece = piece.swapaxes(2, 3)
            stack = piece.reshape(part.count, *piece.shape[-2:])
            missing = self.shards * self.width(part) - part.count
            if missing:
                stack = jnp.pad(stack, ((0, missing), (0, 0), (0, 0)))
            stacks.append(stack.reshape(self.shards, -1, *stack.shape[1:]))
        return stacks

    def join(self, stacks: Sequence[jax.Array]) -> jax.Array:
        """Return the (layers, rows, cols) of which these are the blocks of each class."""
        bands: dict[bool, list[jax.Array]] = {}
        for part, stack in zip(self.classes, stacks, strict=True):
            n_row = 1 if part.last_row else self.rows.full
            n_col = 1 if part.last_col else self.cols.full
            flat = stack.reshape(-1, part.rows, part.cols)[: part.count]
            piece = flat.reshape(self.layers, n_row, n_col, part.rows, part.cols)
            piece = piece.swapaxes(2, 3).reshape(self.layers, n_row * part.rows, n_col * part.cols)
            bands.setdefault(part.last_row, []).append(piece)
        joined = [jnp.concatenate(b, 2) if len(b) > 1 else b[0] for b in bands.values()]
        return jnp.concatenate(joined, 1) if len(joined) > 1 else joined[0]

    def order(self) -> list[np.ndarray]:
        """Return for each class the numbers of its blocks, counted by layer, row and column."""
        n_row, n_col = len(self.rows.sizes), len(self.cols.sizes)
        numbers = np.arange(self.layers * n_row * n_col).reshape(self.layers, n_row, n_col)
        return [
            numbers[
                :,
                self.rows.full if c.last_row else slice(0, self.rows.full),
                self.cols.full if c.last_col else slice(0, self.cols.full),
            ].reshape(-1)
            for c in self.classes
        ]


def layout_of(
    shape: tuple[int, ...],
    scanned: bool,
    max_size_dense: int,
    block_size: int,
    shards: int,
) -> Layout:
    """Return how a leaf of this shape is seen; scalars have no axis of layers to be scanned."""
    scanned = bool(scanned) and len(shape) > 0
    layers, shape = (shape[0], shape[1:]) if scanned else (1, tuple(shape))
    merged = _merged(shape)
    if merged is None or 0 in (layers, *merged):
        size = math.prod(shape)
        rows, one = Cut(size, 1, 0, True), Cut(1, 1, 0, True)
        return Layout(ONE_D_PATH, scanned, layers, shape, (size, 1), rows, one, 1)
    rows, cols = (Cut.of(n, block_size, n > max_size_dense) for n in merged)
    kind = LARGE_PATH if rows.diagonal or cols.diagonal else DENSE_PATH
    return Layout(kind, scanned, layers, shape, merged, rows, cols, shards)


def _merged(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the most nearly square matrix that an array is in order of memory, None if none."""
    if len(shape) < 2 or math.prod(shape) == max(shape):
        return None
    if len(shape) == 2:
        return shape[0], shape[1]
    splits = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
    # The first of equals, as in the original.
    return min(splits, key=lambda s: max(s) / max(min(s), 1))


def broadcast_flags(scanned: Any, like: Any) -> Any:
    """Return a tree of flags like another tree, given one or a prefix of it; None is False."""
    scanned = jax.tree.map(lambda x: False if is_absent(x) else x, scanned, is_leaf=is_absent)
    try:
        flags = jax.tree.broadcast(scanned, like)
    except ValueError as error:
        raise ValueError(
            f'scanned_layers must be a bool, or a tree of them that the parameters begin with, '
            f'got {scanned!r}: {error}'
        ) from None
    for flag in jax.tree.leaves(flags):
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f'scanned_layers needs True or False for each leaf, got {flag!r}.')
    return flags
