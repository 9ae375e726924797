"""Quad and Skew: momentum whitened by Kronecker-factored preconditioners."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..absent import is_absent, is_masked
from ..count import zero_counts
from ..infinite import decayed_weights
from ..moments import is_known_zero
from ..refuse import refuse_complex
from .layout import ONE_D_PATH, Layout, broadcast_flags
from .options import Options, given_options
from .place import Placement, on_mesh
from .step import Step

__all__ = ['FACTORS', 'ScaleByWhiteKronState', 'quad', 'scale_by_quad', 'scale_by_skew', 'skew']


class ScaleByWhiteKronState(NamedTuple):
    """Per leaf: its count of updates, momentum (or None), factors and averaged norm bounds.

    ``Ql`` and ``Qr`` are the factors of a leaf's full blocks, ``Ql_edge`` and ``Qr_edge`` those of
    the shorter ones in its last rows and columns; what a leaf does not have is empty. A vector's
    only factor has its own shape. :func:`leaf_states` shows all of it in the original's terms.
    """

    leaf_counts: jax.Array
    mu: optax.Updates | None
    Ql: optax.Updates
    Qr: optax.Updates
    Ql_edge: optax.Updates
    Qr_edge: optax.Updates
    Ll: optax.Updates
    Lr: optax.Updates


FACTORS = ('Ql', 'Qr', 'Ql_edge', 'Qr_edge', 'Ll', 'Lr')


@given_options
def scale_by_quad(options: Options) -> optax.GradientTransformation:
    r"""Whiten the averaged gradient from both sides; each factor moves by a quadratic form.

    .. math:: A = P_l \hat m P_r, \quad P = Q^T Q, \quad T = A A^T, \quad
              Q \leftarrow (I - z (T - n I))\, Q\, (I - z (T - n I)), \quad z = \rho / 2L

    with the bias-corrected average :math:`\hat m` of the gradient. This is the rule for
    :math:`Q_l`, where :math:`n` is the number of columns of a block; for :math:`Q_r`
    :math:`T = A^T A`, and :math:`n` counts rows. :math:`L` bounds the norm of :math:`T` plus
    :math:`n`, and :math:`\rho` is ``preconditioner_lr``. The update is :math:`P_l \hat m P_r` with
    the new factors, its root mean square at most 1.1.

    Parameters
    ----------
    lr_style : {'adam', None}
        'adam' divides the update by 5, so that learning rates are Adam's.
    b1 : float
        Decay of the average; a plain 0 keeps none.
    normalize_grads : bool
        Divide each leaf's average by its norm.
    max_size_dense : int
        Larger dimensions have a diagonal factor.
    preconditioner_lr, preconditioner_lr_min : float
        :math:`\rho`, which falls with the number of steps, and its least value.
    preconditioner_init_scale : float
        The factors start as this multiple of one.
    dtype : dtype, optional
        What average and factors are kept in; None is each parameter's own, of at least float32.
    scanned_layers : bool or tree of bool, optional
        Leaves whose first axis counts independent layers; a tree may end early (a prefix).
    block_size : int
        Largest edge of the blocks into which matrices are cut, each with factors of its own.
    pipeline_axis_name, pipeline_axis_size : str and int
        Mesh axis over which blocks are distributed, and its size.
    params_partition_specs : tree of PartitionSpec, optional
        Where the average and updates are placed.
    noise_scale : float
        Normal noise on the gradients from which factors learn; a plain 0 draws none.
    norm_estimator : {'random', 'power', 'exact'}
        How norms of :math:`T` are found: power iterations from random rows, from the largest row,
        or singular values.
    update_every : int
        Factors learn once in so many steps, in the first of them.
    seed : int
        Seed of all draws, which depend on a leaf's path and its own count besides.
    per_layer : bool
        Normalize and bound each scanned layer on its own, instead of a whole leaf.
    precision
        Of matrix products, as in :func:`jax.numpy.matmul`: 'highest' unless ``dtype`` is bfloat16.

    Factors rest block by block where the gradient is zero. A leaf whose gradient is not finite
    rests, all of it.
    """
    return _scale_by_white_kron('quad', options)


@given_options
def scale_by_skew(options: Options) -> optax.GradientTransformation:
    r"""Whiten the averaged gradient from both sides; each factor is steered to symmetry.

    .. math:: Q \leftarrow \operatorname{turn}\big(Q - z (T - n I)\, Q\big), \quad z = \rho / L

    where the turn is a rotation towards the nearest symmetric matrix; see :func:`scale_by_quad`
    for all else.
    """
    return _scale_by_white_kron('skew', options)


@given_options
def quad(
    options: Options,
    learning_rate: Any = 0.001,
    weight_decay: Any = 0.1,
    weight_decay_mask: Any = None,
) -> optax.GradientTransformation:
    """Chain :func:`scale_by_quad` with decoupled weight decay and the learning rate.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a schedule of the step.
    weight_decay : float
        Decay of the parameters; a plain 0 adds none.
    weight_decay_mask : tree of bool or callable, optional
        Which parameters decay, as :func:`optax.add_decayed_weights` takes it.

    All others are those of :func:`scale_by_quad`.
    """
    return _chained('quad', options, learning_rate, weight_decay, weight_decay_mask)


@given_options
def skew(
    options: Options,
    learning_rate: Any = 0.001,
    weight_decay: Any = 0.1,
    weight_decay_mask: Any = None,
) -> optax.GradientTransformation:
    """Chain :func:`scale_by_skew` with decoupled weight decay and the learning rate.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a schedule of the step.
    weight_decay : float
        Decay of the parameters; a plain 0 adds none.
    weight_decay_mask : tree of bool or callable, optional
        Which parameters decay, as :func:`optax.add_decayed_weights` takes it.

    All others are those of :func:`scale_by_quad`.
    """
    return _chained('skew', options, learning_rate, weight_decay, weight_decay_mask)


def _chained(
    style: str, options: Options, learning_rate: Any, weight_decay: Any, mask: Any
) -> optax.GradientTransformation:
    decay = [] if is_known_zero(weight_decay) else [decayed_weights(weight_decay, mask)]
    return optax.chain(
        _scale_by_white_kron(style, options),
        *decay,
        optax.scale_by_learning_rate(learning_rate),
    )


def _scale_by_white_kron(style: str, options: Options) -> optax.GradientTransformation:
    place = Placement(options.pipeline_axis_name, options.params_partition_specs)

    def init(params: optax.Params) -> ScaleByWhiteKronState:
        refuse_complex(params)
        leaves, treedef = jax.tree.flatten(params, is_leaf=is_masked)
        shapes = [None if is_absent(p) else p.shape for p in leaves]
        layouts = _layouts(options, treedef, shapes)
        columns: dict[str, list] = {name: [] for name in ('mu', *FACTORS)}
        specs = place.leaf_specs(treedef)
        for p, layout, spec in zip(leaves, layouts, specs, strict=True):
            made = (
                dict.fromkeys(columns, p)
                if layout is None
                else _initial(p, layout, options, place, spec)
            )
            for name, column in columns.items():
                column.append(made[name])
        trees = {name: jax.tree.unflatten(treedef, column) for name, column in columns.items()}
        if is_known_zero(options.b1):
            trees['mu'] = None
        state = ScaleByWhiteKronState(zero_counts(params), **trees)
        return place.everywhere(state, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        numbers = {
            name: getattr(options, name)
            for name in ('b1', 'preconditioner_lr', 'preconditioner_lr_min', 'noise_scale')
        }

        return on_mesh(partial(_updated, style, options, place), place, numbers, updates, state)

    return optax.GradientTransformation(init, update)


def _layouts(options: Options, treedef: Any, shapes: Sequence[Any]) -> list[Layout | None]:
    """Return how each leaf is seen, None where its shape is None."""
    like = jax.tree.unflatten(treedef, range(len(shapes)))
    flags = treedef.flatten_up_to(broadcast_flags(options.scanned_layers, like))
    return [
        None if shape is None else options.layout(shape, flag)
        for shape, flag in zip(shapes, flags, strict=True)
    ]


def _updated(
    style: str,
    options: Options,
    place: Placement,
    numbers: dict[str, Any],
    updates: Any,
    state: Any,
) -> tuple[Any, Any]:
    """Return the updates made of gradients, and the new state."""
    with_paths, structure = jax.tree_util.tree_flatten_with_path(state.Ql, is_leaf=is_masked)
    treedef: Any = structure
    paths = [jax.tree_util.keystr(path) for path, _ in with_paths]
    grads = treedef.flatten_up_to(updates)
    columns = {
        name: treedef.flatten_up_to(getattr(state, name))
        for name in ('mu', *FACTORS)
        if getattr(state, name) is not None
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    shapes = [
        None if is_absent(g) or is_absent(row['Ql']) else g.shape
        for g, row in zip(grads, rows, strict=True)
    ]
    layouts, specs = _layouts(options, treedef, shapes), place.leaf_specs(treedef)
    step = Step(style, options, numbers, place, layouts, paths, specs)
    made, counts = step.run(grads, state.leaf_counts, rows)
    new = {name: jax.tree.unflatten(treedef, [row[name] for row in rows]) for name in columns}
    return jax.tree.unflatten(treedef, made), state._replace(leaf_counts=counts, **new)


# ---- state -------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=('count', 'size', 'diagonal'))  # else 8 programs for each shape
def _first_factors(scale: jax.Array, count: int, size: int, diagonal: bool) -> jax.Array:
    one = jnp.ones(size, scale.dtype) if diagonal else jnp.eye(size, dtype=scale.dtype)
    return jnp.broadcast_to(scale * one, (count, *one.shape))


def _initial(
    p: Any, layout: Layout, options: Options, place: Placement, spec: Any
) -> dict[str, jax.Array]:
    """Return a leaf's state before its first step."""
    storage = options.storage(p.dtype)
    wide = jnp.promote_types(storage, jnp.float32)
    made = {name: jnp.zeros(0, storage) for name in FACTORS} | {
        'Lr': jnp.zeros(0, wide),
        'mu': place.like_param(jnp.zeros(p.shape, storage), p, spec),
    }
    scale = jnp.asarray(options.preconditioner_init_scale, storage)
    if layout.kind == ONE_D_PATH:
        made['Ql'] = place.like_param(jnp.broadcast_to(scale, p.shape), p, spec)
        made['Ll'] = jnp.zeros(layout.layers, wide)
        return made

    def factors(cut: Any, count: int, size: int) -> jax.Array:
        if not count:
            return jnp.zeros(0, storage)
        return place.blocks(_first_factors(scale, count, size, cut.diagonal), p)

    rows, cols = layout.rows, layout.cols
    return made | {
        'Ql': factors(rows, layout.stacked(last_row=False), rows.size),
        'Ql_edge': factors(rows, layout.stacked(last_row=True), rows.last),
        'Qr': factors(cols, layout.stacked(last_col=False), cols.size),
        'Qr_edge': factors(cols, layout.stacked(last_col=True), cols.last),
        'Ll': place.blocks(jnp.zeros(layout.stacked(), wide), p),
        'Lr': place.blocks(jnp.zeros(layout.stacked(), wide), p),
    }
