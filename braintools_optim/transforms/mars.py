"""MARS: Adam, Lion or an orthogonalized step on gradients of reduced variance."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import moments
from .absent import flat, is_absent
from .count import one_minus_power
from .mesh import in_auto_axes
from .orthogonal import NS_COEFFICIENTS, NS_EPS, NS_STEPS, newton_schulz
from .refuse import refuse_complex
from .wide import widened

__all__ = [
    'CLIPS',
    'VARIANTS',
    'MarsSquares',
    'ScaleByMarsState',
    'is_matrix',
    'mars',
    'scale_by_mars',
]

VARIANTS = ('adamw', 'lion', 'shampoo')
CLIPS = ('global', 'per_tensor', None)


class ScaleByMarsState(NamedTuple):
    """The count of updates, both moments, and the last gradient as it came.

    What a variant does not need is None, or for single leaves an empty array. With ``leaf_counts``
    the count is a `LeafCounts`; with ``amsgrad`` the second moment is a `MarsSquares`.
    """

    count: Any
    mu: optax.Updates
    nu: Any
    mog: optax.Updates | None


class MarsSquares(NamedTuple):
    """The averaged square, and its maximum so far."""

    now: optax.Updates
    top: optax.Updates


def scale_by_mars(
    b1: Any = 0.9,
    b2: Any = 0.999,
    gamma: Any = 0.05,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    max_grad_norm: Any = 0.0,
    mu_dtype: Any = None,
    *,
    variant: str = 'adamw',
    clip: str | None = 'global',
    amsgrad: bool = False,
    exact: bool = False,
    first_step_correction: bool = True,
    betas_1d: tuple[Any, Any] | None = None,
    higher_rank: bool = False,
    ns_dtype: Any = None,
    leaf_counts: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Correct each gradient by its difference to the last, and take a direction from the result.

    .. math:: c_t = g_t + \gamma \frac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \quad
              m_t = \beta_1 m_{t-1} + (1-\beta_1) c_t, \quad
              v_t = \beta_2 v_{t-1} + (1-\beta_2) |c_t|^2

    The direction is Adam's ('adamw'), the sign of :math:`m_t` ('lion'), or for matrices
    :math:`\sqrt{\max(1, rows/columns)}\, NS(m_t)` and Adam's for all else ('shampoo').

    Parameters
    ----------
    gamma : float or callable
        A number, or a schedule: a function of the number of updates before this one.
    max_grad_norm, clip
        Bound of the norm of :math:`c_t` of the whole tree ('global') or of every leaf
        ('per_tensor'); zero or None is no bound.
    mu_dtype : dtype, optional
        What :math:`m` and the last gradient are kept in; each parameter's dtype by default.
    amsgrad : bool
        Divide by the largest :math:`v` so far.
    exact : bool
        Keep no gradient: ``update(..., previous_point_grads=...)`` is given :math:`g_{t-1}`, those
        of this step's batch at the last step's parameters; without them, they are zero.
    first_step_correction : bool
        Take :math:`g_0 = 0`; else the first step has :math:`c_1 = g_1`.
    betas_1d : tuple of float, optional
        Given, all but matrices have Adam's direction with these decays, of the plain gradient.
    higher_rank : bool
        Arrays of more than two axes are matrices, too, of their first axis by all others.
    leaf_counts : bool
        Count the updates of every leaf.

    Everything is computed in at least float32, :math:`v` is kept in that, and all state in the
    dtypes it began with. A leaf without gradient (None, `optax.MaskedNode`) rests.
    """
    if variant not in VARIANTS:
        raise ValueError(f'scale_by_mars needs one of {VARIANTS} for variant, got {variant!r}.')
    if clip not in CLIPS:
        raise ValueError(f'scale_by_mars needs one of {CLIPS} for clip, got {clip!r}.')

    def matrix(p: jax.Array) -> bool:
        return is_matrix(p, higher_rank)

    def corrects(p: jax.Array) -> bool:
        return betas_1d is None or matrix(p)

    def divides(p: jax.Array) -> bool:
        return variant == 'adamw' or not (corrects(p) if variant == 'lion' else matrix(p))

    def only(where: Callable, zeros: Callable, params: optax.Params) -> Any:
        return jax.tree.map(lambda p: zeros(p if where(p) else jnp.zeros(0, p.dtype)), params)

    def init(params: optax.Params) -> ScaleByMarsState:
        if variant == 'shampoo':
            refuse_complex(params)
        no_squares = variant == 'lion' and betas_1d is None
        nu, top = (
            None if no_squares else only(divides, moments.real_zeros, params) for _ in range(2)
        )
        return ScaleByMarsState(
            moments.first_count(params, leaf_counts),
            moments.zeros_in(params, mu_dtype),
            MarsSquares(nu, top) if amsgrad and not no_squares else nu,
            None if exact else only(corrects, lambda p: moments.zeros_in(p, mu_dtype), params),
        )

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        previous_point_grads: Any = None,
        **extra: Any,
    ) -> tuple[Any, Any]:
        del params, extra
        leaves, treedef = flat(updates)
        size = len(leaves)

        def each(tree: Any) -> list[Any]:
            return [None] * size if tree is None else treedef.flatten_up_to(tree)

        count = moments.next_count(state.count, updates)
        gammas = moments.by_leaf(gamma, state.count, size) if callable(gamma) else [gamma] * size
        new = [False] * size
        if not first_step_correction:
            new = moments.by_leaf(lambda t: t == 0, state.count, size)

        def rule(b1: Any, b2: Any) -> list[tuple]:
            scales = moments.by_leaf(lambda t: 1.0 / one_minus_power(b1, t), count, size)
            roots = moments.root_by_leaf(b2, eps, eps_root, count, size)
            return list(zip([b1] * size, [b2] * size, scales, roots, strict=True))

        rules, others = rule(b1, b2), None if betas_1d is None else rule(*betas_1d)
        mus, mogs = each(state.mu), each(state.mog)
        squares = state.nu if isinstance(state.nu, MarsSquares) else MarsSquares(state.nu, None)
        nus, tops = each(squares.now), each(squares.top)
        lasts = mogs if previous_point_grads is None else each(previous_point_grads)

        def corrected(g: Any, last: Any, rate: Any, first: Any) -> Any:
            if is_absent(g) or not corrects(g):
                return None
            wide = widened(g)
            last = jnp.zeros_like(wide) if is_absent(last) else last.astype(wide.dtype)
            last = jnp.where(first, wide, last) if first is not False else last
            return wide + moments.real_like(rate * b1 / (1.0 - b1), wide) * (wide - last)

        changes = list(map(corrected, leaves, lasts, gammas, new))
        changes = _bounded(changes, clip, max_grad_norm)
        for i, g in enumerate(leaves):
            if is_absent(g):
                continue
            own_b1, own_b2, scale, root = rules[i] if others is None or corrects(g) else others[i]
            c = widened(g) if changes[i] is None else changes[i]
            mu = moments.averaged(mus[i], c, own_b1)
            if divides(g):
                nu = moments.averaged(nus[i], (c * c.conj()).real, own_b2)
                nus[i] = nu.astype(nus[i].dtype)
                if amsgrad:
                    nu = jnp.maximum(tops[i].astype(nu.dtype), nu)
                    tops[i] = nu.astype(tops[i].dtype)
                direction = mu * moments.real_like(scale, mu) / root(nu)
            elif variant == 'lion':
                direction = jnp.sign(mu)
            else:
                matrix = mu / (1.0 - own_b1)
                direction = in_auto_axes(partial(_orthogonalized, ns_dtype), matrix, matrix)
            leaves[i] = direction.astype(jnp.promote_types(g.dtype, mus[i].dtype))
            mus[i] = mu.astype(mus[i].dtype)
            if not exact and corrects(g):
                # A copy: who gave the gradient may overwrite or donate it.
                mogs[i] = jnp.array(g, mogs[i].dtype, copy=True)

        def tree(old: Any, entries: list[Any]) -> Any:
            return None if old is None else treedef.unflatten(entries)

        nu, top = tree(squares.now, nus), tree(squares.top, tops)
        return treedef.unflatten(leaves), ScaleByMarsState(
            count,
            treedef.unflatten(mus),
            nu if top is None else MarsSquares(nu, top),
            tree(state.mog, mogs),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def mars(
    learning_rate: float | Callable[[Any], Any],
    *,
    weight_decay: Any = 0.0,
    mask: Any = None,
    **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
    """Descend by `scale_by_mars`, which takes the other arguments, with decoupled weight decay.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a schedule of the step.
    weight_decay : float
        Decay of the parameters; a plain 0 adds none.
    mask : tree of bool or callable, optional
        Which parameters decay, as :func:`optax.add_decayed_weights` takes it.
    **kwargs
        The arguments of :func:`scale_by_mars`.
    """
    direction = scale_by_mars(**kwargs)
    step = optax.scale_by_learning_rate(learning_rate)
    if moments.is_known_zero(weight_decay):
        return optax.chain(direction, step)
    return optax.chain(direction, optax.add_decayed_weights(weight_decay, mask), step)


def _written_out(function: Callable, of: Callable) -> inspect.Signature:
    """Return the signature of a function with the arguments of another for its ``**kwargs``."""
    *own, rest = inspect.signature(function).parameters.values()
    assert rest.kind is rest.VAR_KEYWORD
    others = inspect.signature(of).parameters.values()
    return inspect.Signature([*own, *(p.replace(kind=p.KEYWORD_ONLY) for p in others)])


# Not for people alone: optax.inject_hyperparams reads it.
mars.__signature__ = _written_out(mars, scale_by_mars)  # type: ignore[attr-defined]


def is_matrix(p: jax.Array, higher_rank: bool) -> bool:
    """Whether an array is a matrix to MARS."""
    return p.ndim == 2 or (higher_rank and p.ndim > 2)


def _bounded(gradients: list[Any], clip: str | None, bound: Any) -> list[Any]:
    """Return gradients of a bounded norm; a bound of zero is none."""
    if clip is None or moments.is_known_zero(bound):
        return gradients
    squares = [None if c is None else jnp.sum((c * c.conj()).real) for c in gradients]
    if clip == 'global':
        norm = jnp.sqrt(sum((s for s in squares if s is not None), start=jnp.zeros(())))
        factors = [jnp.minimum(1.0, bound / (norm + 1e-6))] * len(gradients)
    else:
        norms = [jnp.zeros(()) if s is None else jnp.sqrt(s) for s in squares]
        factors = [jnp.where(norm > bound, bound / norm, 1.0) for norm in norms]
    return [
        None if c is None else c * moments.real_like(jnp.where(bound > 0, f, 1.0), c)
        for c, f in zip(gradients, factors, strict=True)
    ]


def _orthogonalized(ns_dtype: Any, matrix: jax.Array) -> jax.Array:
    """Return the matrix with singular values near one, longer if it has more rows than columns."""
    rows, cols = matrix.shape[0], math.prod(matrix.shape[1:])
    matrix_2d = matrix.reshape(rows, cols)
    made = newton_schulz(matrix_2d, NS_COEFFICIENTS, NS_STEPS, NS_EPS, ns_dtype, add_eps=True)
    return math.sqrt(max(1.0, rows / max(cols, 1))) * made.reshape(matrix.shape)
