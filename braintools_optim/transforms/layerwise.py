"""Updates that are scaled by norms of whole parameters: Lamb, Lars, Novograd, Fromage.

A layer is one array of the tree. Its norm is computed in at least float32: squares overflow
float16, and sums of them blur in bfloat16. So do quotients of norms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .infinite import zero_for_infinite
from .refuse import check_params
from .wide import root, single_or_wider, square_norm, widened

__all__ = [
    'BoundNormState',
    'ScaleByNovogradState',
    'bound_norm',
    'scale_by_lars_ratio',
    'scale_by_layer_ratio',
    'scale_by_novograd',
]


def _norm(x: jax.Array) -> jax.Array:
    return root(square_norm(x))


def _unless_zero(of_p: jax.Array, of_g: jax.Array, over: Any, under: Any) -> jax.Array:
    """Return the quotient, or one where the norm of a parameter or its gradient is zero."""
    usable = (of_p > 0) & (of_g > 0)
    return jnp.where(usable, over / jnp.where(usable, under, 1.0), 1.0)


def scale_by_layer_ratio() -> optax.GradientTransformation:
    r"""Give every layer's update the norm of its parameter.

    .. math:: u_t = \frac{\|\theta\|}{\|g_t\|} g_t

    or :math:`g_t` where a norm is zero. It differs from :func:`optax.scale_by_trust_ratio` in the
    precision of the norms of float16 and bfloat16.
    """

    def scaled(g: Any, p: Any) -> Any:
        of_p, of_g = _norm(p), _norm(g)
        return (_unless_zero(of_p, of_g, of_p, of_g) * widened(g)).astype(g.dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        check_params('scale_by_layer_ratio', params)
        return jax.tree.map(scaled, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_lars_ratio(
    weight_decay: Any = 0.0, trust_coefficient: Any = 1e-3, eps: Any = 0.0
) -> optax.GradientTransformation:
    r"""Add the weight decay, and scale every layer by its local learning rate.

    .. math:: u_t = \frac{c \|\theta\|}{\|g_t\| + \lambda \|\theta\| + \epsilon}
              (g_t + \lambda \theta)

    with the ``trust_coefficient`` c. The local learning rate, which is the quotient, is one where
    the norm of the parameter or of the gradient is zero. It
    differs from :func:`optax.scale_by_trust_ratio` after the decay in taking the two norms apart.
    """

    def scaled(g: Any, p: Any) -> Any:
        of_p, of_g = _norm(p), _norm(g)
        under = of_g + weight_decay * of_p + eps
        ratio = _unless_zero(of_p, of_g, trust_coefficient * of_p, under)
        return (ratio * (widened(g) + weight_decay * widened(p))).astype(g.dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        check_params('scale_by_lars_ratio', params)
        return jax.tree.map(scaled, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class ScaleByNovogradState(NamedTuple):
    """The first moments; of each layer the second, and its maximum (amsgrad) or None."""

    mu: optax.Updates
    nu: optax.Updates
    nu_max: optax.Updates | None


def scale_by_novograd(
    b1: Any = 0.95,
    b2: Any = 0.98,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    grad_averaging: bool = False,
    amsgrad: bool = False,
) -> optax.GradientTransformation:
    r"""Accumulate gradients divided by the root of their layer's averaged square norm.

    .. math:: v_t = \beta_2 v_{t-1} + (1-\beta_2) \|g_t\|^2, \quad u_t = \beta_1 u_{t-1} +
              \Big(\frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda \theta\Big)

    with :math:`v = \|g\|^2` at first. ``grad_averaging`` multiplies what is added by
    :math:`1-\beta_1`, ``amsgrad`` divides by the largest :math:`v` so far. It differs from
    :func:`optax.scale_by_novograd` in these two, and in starting every layer on its own.
    """

    def init(params: optax.Params) -> ScaleByNovogradState:
        def zeros() -> Any:
            return jax.tree.map(lambda p: jnp.zeros((), single_or_wider(p)), params)

        mu = optax.tree.zeros_like(params)
        return ScaleByNovogradState(mu, zeros(), zeros() if amsgrad else None)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        check_params('scale_by_novograd', params)

        def averaged(v: Any, g: Any) -> Any:
            square = square_norm(g)
            return jnp.where(v == 0, square, b2 * v + (1.0 - b2) * square)

        nu = jax.tree.map(averaged, state.nu, updates)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else None
        share = 1.0 - b1 if grad_averaging else 1.0

        def accumulated(m: Any, g: Any, p: Any, v: Any) -> Any:
            under = root(v) + eps  # zero where eps is and there has been no gradient
            quotient = (g / jnp.where(under > 0, under, 1.0)).astype(g.dtype)
            return b1 * m + share * (quotient + weight_decay * zero_for_infinite(p))

        mu = jax.tree.map(accumulated, state.mu, updates, params, nu_max if amsgrad else nu)
        return mu, ScaleByNovogradState(mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


class BoundNormState(NamedTuple):
    """The norm that each layer had at first."""

    initial: optax.Updates


def bound_norm(bound: Any) -> optax.GradientTransformation:
    r"""Shrink layers that have outgrown a multiple of their initial norm back to it.

    .. math:: u_t = \min\Big(1, \frac{c \|\theta_0\|}{\|\theta + g_t\|}\Big)(\theta + g_t) - \theta

    It comes last in a chain.

    Parameters
    ----------
    bound : float
        The multiple :math:`c`.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        check_params('bound_norm', params)

        def bounded(u: Any, p: Any, start: Any) -> Any:
            norm = _norm(p + u)
            inside = norm <= bound * start
            factor = bound * start / jnp.where(inside, 1.0, norm)
            return jnp.where(inside, u, (p + u) * factor.astype(u.dtype) - p)

        return jax.tree.map(bounded, updates, params, state.initial), state

    return optax.GradientTransformation(
        lambda params: BoundNormState(jax.tree.map(_norm, params)), update
    )
