"""MARS: Adam, Lion or an orthogonalized step on gradients of reduced variance."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import moments
from .absent import flat_like, is_absent
from .count import one_minus_power
from .infinite import decayed_weights
from .mesh import in_auto_axes
from .orthogonal import NS_COEFFICIENTS, NS_EPS, NS_STEPS, newton_schulz
from .refuse import refuse_complex
from .wide import root, widened

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

    rule = _Mars(
        b1=b1,
        b2=b2,
        gamma=gamma,
        eps=eps,
        eps_root=eps_root,
        max_grad_norm=max_grad_norm,
        mu_dtype=mu_dtype,
        variant=variant,
        clip=clip,
        amsgrad=amsgrad,
        exact=exact,
        first_step_correction=first_step_correction,
        betas_1d=betas_1d,
        higher_rank=higher_rank,
        ns_dtype=ns_dtype,
        leaf_counts=leaf_counts,
    )
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


class _Kept(NamedTuple):
    """What the state has for one leaf, None where it has nothing."""

    mu: Any
    nu: Any
    top: Any
    mog: Any


class _Decays(NamedTuple):
    """The decays of a leaf's averages, and how Adam makes its direction of these."""

    b1: Any
    b2: Any
    scale: Any
    root: Callable[[Any], Any]


@dataclass(frozen=True)
class _Mars:
    """What :func:`scale_by_mars` was told, and what it does."""

    b1: Any
    b2: Any
    gamma: Any
    eps: Any
    eps_root: Any
    max_grad_norm: Any
    mu_dtype: Any
    variant: str
    clip: str | None
    amsgrad: bool
    exact: bool
    first_step_correction: bool
    betas_1d: tuple[Any, Any] | None
    higher_rank: bool
    ns_dtype: Any
    leaf_counts: bool

    def is_matrix(self, p: jax.Array) -> bool:
        """Whether an array is a matrix."""
        return is_matrix(p, self.higher_rank)

    def corrects(self, p: jax.Array) -> bool:
        """Whether the gradient of an array is corrected, and not taken as it is."""
        return self.betas_1d is None or self.is_matrix(p)

    def divides(self, p: jax.Array) -> bool:
        """Whether the direction of an array is Adam's."""
        if self.variant == 'adamw':
            return True
        return not (self.corrects(p) if self.variant == 'lion' else self.is_matrix(p))

    def init(self, params: optax.Params) -> ScaleByMarsState:
        """Return the state that it begins with."""
        if self.variant == 'shampoo':
            refuse_complex(params)
        no_squares = self.variant == 'lion' and self.betas_1d is None
        nu, top = (
            None if no_squares else _only(self.divides, moments.real_zeros, params)
            for _ in range(2)
        )
        zeros = partial(moments.zeros_in, dtype=self.mu_dtype)
        return ScaleByMarsState(
            moments.first_count(params, self.leaf_counts),
            zeros(params),
            MarsSquares(nu, top) if self.amsgrad and not no_squares else nu,
            None if self.exact else _only(self.corrects, zeros, params),
        )

    def update(
        self,
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        previous_point_grads: Any = None,
        **extra: Any,
    ) -> tuple[Any, Any]:
        """Return the directions, and the state that follows."""
        del params
        if stray := next((name for name in extra if name.startswith('prev')), None):
            raise TypeError(  # or these gradients were left out without a word
                f'Mars has no {stray!r}: the gradients of this batch at the parameters before the '
                f'last step are previous_point_grads.'
            )
        leaves, treedef = flat_like(updates, state.mu)
        size = len(leaves)

        def each(tree: Any) -> list[Any]:
            return [None] * size if tree is None else treedef.flatten_up_to(tree)

        squares = state.nu if isinstance(state.nu, MarsSquares) else MarsSquares(state.nu, None)
        trees = _Kept(state.mu, squares.now, squares.top, state.mog)
        kept = [_Kept(*own) for own in zip(*map(each, trees), strict=True)]
        lasts = each(state.mog if previous_point_grads is None else previous_point_grads)
        count = moments.next_count(state.count, leaves)
        decays = self._decays(leaves, count)
        changes = _bounded(
            self._corrected(leaves, lasts, state.count), self.clip, self.max_grad_norm
        )
        for i, g in enumerate(leaves):
            if not is_absent(g):
                c = widened(g) if changes[i] is None else changes[i]
                leaves[i], kept[i] = self._stepped(g, c, decays[i], kept[i])
        mu, nu, top, mog = (
            None if tree is None else treedef.unflatten([own[i] for own in kept])
            for i, tree in enumerate(trees)
        )
        return treedef.unflatten(leaves), ScaleByMarsState(
            count, mu, nu if top is None else MarsSquares(nu, top), mog
        )

    def _decays(self, leaves: list[Any], count: Any) -> list[_Decays]:
        """Return what the averages of each leaf decay by."""
        size = len(leaves)

        def rule(b1: Any, b2: Any) -> list[_Decays]:
            scales = moments.by_leaf(lambda t: 1.0 / one_minus_power(b1, t), count, size)
            roots = moments.root_by_leaf(b2, self.eps, self.eps_root, count, size)
            return [_Decays(b1, b2, *own) for own in zip(scales, roots, strict=True)]

        mine = rule(self.b1, self.b2)
        if self.betas_1d is None:
            return mine
        plain = rule(*self.betas_1d)
        return [
            mine[i] if is_absent(g) or self.corrects(g) else plain[i] for i, g in enumerate(leaves)
        ]

    def _corrected(self, leaves: list[Any], lasts: list[Any], count: Any) -> list[Any]:
        """Return the gradients that are corrected, None for all others."""
        size = len(leaves)
        gammas = [self.gamma] * size
        if callable(self.gamma):
            gammas = moments.by_leaf(self.gamma, count, size)
        new = [False] * size
        if not self.first_step_correction:
            new = moments.by_leaf(lambda t: t == 0, count, size)

        def corrected(g: Any, last: Any, rate: Any, first: Any) -> Any:
            if is_absent(g) or not self.corrects(g):
                return None
            wide = widened(g)
            last = jnp.zeros_like(wide) if is_absent(last) else last.astype(wide.dtype)
            last = jnp.where(first, wide, last) if first is not False else last
            factor = moments.real_like(rate * self.b1 / (1.0 - self.b1), wide)
            return wide + factor * (wide - last)

        return list(map(corrected, leaves, lasts, gammas, new))

    def _stepped(self, g: Any, c: Any, own: _Decays, kept: _Kept) -> tuple[Any, _Kept]:
        """Return the direction of a leaf, and what is kept then, given its gradient ``c``."""
        mu = moments.averaged(kept.mu, c, own.b1)
        if self.divides(g):
            direction, kept = self._divided(mu, c, own, kept)
        elif self.variant == 'lion':
            direction = jnp.sign(mu)
        else:
            matrix = mu / (1.0 - own.b1)
            direction = in_auto_axes(partial(_orthogonalized, self.ns_dtype), matrix, matrix)
        if not self.exact and self.corrects(g):
            # A copy: who gave the gradient may overwrite or donate it.
            kept = kept._replace(mog=jnp.array(g, kept.mog.dtype, copy=True))
        direction = direction.astype(jnp.promote_types(g.dtype, kept.mu.dtype))
        return direction, kept._replace(mu=mu.astype(kept.mu.dtype))

    def _divided(self, mu: Any, c: Any, own: _Decays, kept: _Kept) -> tuple[Any, _Kept]:
        """Return Adam's direction, and what is kept of the squares."""
        nu = moments.averaged(kept.nu, (c * c.conj()).real, own.b2)
        kept = kept._replace(nu=nu.astype(kept.nu.dtype))
        if self.amsgrad:
            nu = jnp.maximum(kept.top.astype(nu.dtype), nu)
            kept = kept._replace(top=nu.astype(kept.top.dtype))
        return mu * moments.real_like(own.scale, mu) / own.root(nu), kept


def _only(where: Callable, zeros: Callable, params: optax.Params) -> Any:
    """Return zeros for the leaves that are asked for, and empty arrays for the others."""
    return jax.tree.map(lambda p: zeros(p if where(p) else jnp.zeros(0, p.dtype)), params)


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
    return optax.chain(direction, decayed_weights(weight_decay, mask), step)


def _written_out(function: Callable, of: Callable) -> inspect.Signature:
    """Return the signature of a function with the arguments of another for its ``**kwargs``."""
    *own, rest = inspect.signature(function).parameters.values()
    assert rest.kind is rest.VAR_KEYWORD
    others = inspect.signature(of).parameters.values()
    return inspect.Signature([*own, *(p.replace(kind=p.KEYWORD_ONLY) for p in others)])


# Not for people alone: optax.inject_hyperparams reads it.
mars.__signature__ = _written_out(mars, scale_by_mars)  # type: ignore[attr-defined]  # inspect reads it


def is_matrix(p: jax.Array, higher_rank: bool) -> bool:
    """Whether an array is a matrix to MARS."""
    return p.ndim == 2 or (higher_rank and p.ndim > 2)


def _bounded(gradients: list[Any], clip: str | None, bound: Any) -> list[Any]:
    """Return gradients of a bounded norm; a bound of zero is none."""
    if clip is None or moments.is_known_zero(bound):
        return gradients
    squares = [None if c is None else jnp.sum((c * c.conj()).real) for c in gradients]
    if clip == 'global':
        norm = root(sum((s for s in squares if s is not None), start=jnp.zeros(())))
        factors = [jnp.minimum(1.0, bound / (norm + 1e-6))] * len(gradients)
    else:
        norms = [jnp.zeros(()) if s is None else root(s) for s in squares]
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
