"""The state in the terms of the original: leaf by leaf, and all dense blocks together."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .layout import DENSE_PATH, ONE_D_PATH, Layout, broadcast_flags
from .options import Options
from .update import FACTORS, ScaleByWhiteKronState

__all__ = ['DenseState', 'LeafState', 'dense_state', 'leaf_states']


class LeafState(NamedTuple):
    """One leaf: what its shape makes of it, and its blocks by layer, row and column.

    Dense factors of shorter blocks are filled up with zeros; their own sizes are in
    ``valid_rows`` and ``valid_cols``.
    """

    kind: int
    scanned: bool
    B: int
    shape: tuple[int, ...]
    merged: tuple[int, int] | None
    nr: int | None
    nc: int | None
    block_size: int | None
    diag_left: bool | None
    diag_right: bool | None
    stack: int | None
    Ql: jax.Array
    Qr: jax.Array | None
    Ll: jax.Array
    Lr: jax.Array | None
    valid_rows: np.ndarray | None
    valid_cols: np.ndarray | None


class DenseState(NamedTuple):
    """The blocks of all leaves that have two dense factors, filled up to the block size."""

    Ql: jax.Array
    Qr: jax.Array
    Ll: jax.Array
    Lr: jax.Array
    valid_rows: np.ndarray
    valid_cols: np.ndarray
    valid_count: int
    block_size: int


def leaf_states(state: ScaleByWhiteKronState, params: Any, **options: Any) -> Any:
    """Return a tree like the parameters with a :class:`LeafState` for each of them.

    ``options`` are those given to :func:`scale_by_quad` or :func:`scale_by_skew`.
    """
    o = Options(**options)
    flags = broadcast_flags(o.scanned_layers, params)

    def view(p: Any, flag: bool, *fields: jax.Array) -> LeafState:
        return _view(o.layout(p.shape, flag), o.block_size, *fields)

    return jax.tree.map(view, params, flags, *(getattr(state, name) for name in FACTORS))


def dense_state(state: ScaleByWhiteKronState, params: Any, **options: Any) -> DenseState | None:
    """Return all dense blocks in the order of the leaves, None if there are none."""
    views = jax.tree.leaves(
        leaf_states(state, params, **options), is_leaf=lambda x: isinstance(x, LeafState)
    )
    dense = [view for view in views if view.kind == DENSE_PATH]
    if not dense:
        return None
    size = Options(**options).block_size
    columns = {
        name: [getattr(view, name) for view in dense]
        for name in ('Ql', 'Qr', 'Ll', 'Lr', 'valid_rows', 'valid_cols')
    }
    return DenseState(
        Ql=jnp.concatenate([_filled(q, size) for q in columns['Ql']]),
        Qr=jnp.concatenate([_filled(q, size) for q in columns['Qr']]),
        Ll=jnp.concatenate(columns['Ll']),
        Lr=jnp.concatenate(columns['Lr']),
        valid_rows=np.concatenate(columns['valid_rows']),
        valid_cols=np.concatenate(columns['valid_cols']),
        valid_count=sum(view.stack for view in dense),
        block_size=size,
    )


def _view(
    layout: Layout, block_size: int, ql: Any, qr: Any, ql_edge: Any, qr_edge: Any, ll: Any, lr: Any
) -> LeafState:
    values: dict[str, Any] = dict.fromkeys(LeafState._fields)
    values |= {'kind': layout.kind, 'scanned': layout.scanned}
    values |= {'B': layout.layers, 'shape': layout.shape}
    if layout.kind == ONE_D_PATH:
        return LeafState(**values | {'Ql': ql.reshape(layout.layers, -1), 'Ll': ll})
    rows, cols = layout.rows, layout.cols
    valid_rows = np.tile(np.repeat(rows.sizes, len(cols.sizes)), layout.layers)
    valid_cols = np.tile(cols.sizes, layout.layers * len(rows.sizes))

    def ordered(full: Any, edge: Any, lasts: list[bool]) -> jax.Array:
        """Put the blocks of all classes in the order of their numbers."""
        used = {False: 0, True: 0}
        pieces = []
        for part, last in zip(layout.classes, lasts, strict=True):
            field, width = edge if last else full, layout.width(part)
            field = field.reshape(layout.shards, -1, *field.shape[1:])
            piece = field[:, used[last] : used[last] + width]
            used[last] += width
            pieces.append(
                _filled(piece.reshape(-1, *field.shape[2:])[: part.count], full.shape[-1])
            )
        numbers = np.concatenate(layout.order())
        return jnp.concatenate(pieces)[np.argsort(numbers)]

    every = [False] * len(layout.classes)
    return LeafState(
        **values
        | {
            'merged': layout.merged,
            'nr': len(rows.sizes),
            'nc': len(cols.sizes),
            'block_size': block_size,
            'diag_left': rows.diagonal,
            'diag_right': cols.diagonal,
            'stack': len(valid_rows),
            'Ql': ordered(ql, ql_edge, [c.last_row for c in layout.classes]),
            'Qr': ordered(qr, qr_edge, [c.last_col for c in layout.classes]),
            'Ll': ordered(ll, None, every),
            'Lr': ordered(lr, None, every),
            'valid_rows': valid_rows,
            'valid_cols': valid_cols,
        }
    )


def _filled(factors: jax.Array, size: int) -> jax.Array:
    """Return factors of any size as those of a larger one, filled with zeros."""
    if factors.ndim == 1:
        return factors
    return jnp.pad(factors, [(0, 0)] + [(0, size - n) for n in factors.shape[1:]])
