"""Directions that are divided by the size of the gradients so far."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .count import advanced, spread, zero_counts
from .moments import at_least_single, averaged_square
from .wide import root

__all__ = [
    'ScaleByAdagradState',
    'ScaleByCenteredRmsState',
    'scale_by_adadelta',
    'scale_by_adagrad',
    'scale_by_centered_rms',
    'scale_by_rms',
]


class ScaleByAdagradState(NamedTuple):
    """Each leaf's count of updates, and the sum of the squared gradients."""

    leaf_counts: jax.Array
    sum: optax.Updates


def scale_by_adagrad(
    lr_decay: Any = 0.0, initial_accumulator_value: Any = 0.0, eps: Any = 1e-10
) -> optax.GradientTransformation:
    r"""Divide by the root of the sum of squared gradients, in steps that shrink with time.

    .. math:: s_t = s_{t-1} + g_t^2, \quad
              u_t = \frac{g_t}{(1 + (t-1) \zeta) (\sqrt{s_t} + \epsilon)}

    It differs from :func:`optax.scale_by_rss` in adding :math:`\epsilon` to the root, and in the
    decay :math:`\zeta`, ``lr_decay``, which counts every leaf's updates on its own.
    """

    def init(params: optax.Params) -> ScaleByAdagradState:
        full = optax.tree.full_like(params, initial_accumulator_value)
        return ScaleByAdagradState(zero_counts(params), full)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        counts = advanced(state.leaf_counts, updates)
        sums = jax.tree.map(lambda s, g: s + (g * g.conj()).real, state.sum, updates)
        scale = spread(1.0 / (1.0 + (counts - 1) * lr_decay), updates)
        updates = jax.tree.map(
            lambda g, s, r: (g * at_least_single(r, g) / (root(s) + eps)).astype(g.dtype),
            updates,
            sums,
            scale,
        )
        return updates, ScaleByAdagradState(counts, sums)

    return optax.GradientTransformation(init, update)


def scale_by_rms(decay: Any = 0.99, eps: Any = 1e-8) -> optax.GradientTransformation:
    r"""Divide by the root of the averaged square.

    .. math:: v_t = \alpha v_{t-1} + (1-\alpha) g_t^2, \quad u_t = \frac{g_t}{\sqrt{v_t} + \epsilon}

    It differs from :func:`optax.scale_by_rms` where only the share of a square does not overflow.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        nu = jax.tree.map(lambda v, g: averaged_square(v, g, decay), state.nu, updates)
        updates = jax.tree.map(lambda g, v: g / (root(v) + eps), updates, nu)
        return updates, optax.ScaleByRmsState(nu)

    return optax.GradientTransformation(optax.scale_by_rms().init, update)


def scale_by_adadelta(rho: Any = 0.9, eps: Any = 1e-6) -> optax.GradientTransformation:
    r"""Divide by the root of the averaged square, multiply by that of the averaged square step.

    .. math:: v_t = \rho v_{t-1} + (1-\rho) g_t^2, \quad
              u_t = \frac{\sqrt{d_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}} g_t, \quad
              d_t = \rho d_{t-1} + (1-\rho) u_t^2

    It differs from :func:`optax.scale_by_adadelta` where only the share of a square does not
    overflow.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        squares = jax.tree.map(lambda v, g: averaged_square(v, g, rho), state.e_g, updates)
        updates = jax.tree.map(
            lambda g, v, d: jnp.sqrt(d + eps) / jnp.sqrt(v + eps) * g, updates, squares, state.e_x
        )
        steps = jax.tree.map(lambda d, u: averaged_square(d, u, rho), state.e_x, updates)
        return updates, optax.ScaleByAdaDeltaState(squares, steps)

    return optax.GradientTransformation(optax.scale_by_adadelta().init, update)


class ScaleByCenteredRmsState(NamedTuple):
    """The averaged gradient, and its variance."""

    mu: optax.Updates
    variance: optax.Updates


def scale_by_centered_rms(decay: Any = 0.99, eps: Any = 1e-8) -> optax.GradientTransformation:
    r"""Divide by the standard deviation of the gradients.

    .. math:: m_t = \alpha m_{t-1} + (1-\alpha) g_t, \quad
              s_t = \alpha (s_{t-1} + (1-\alpha) (g_t - m_{t-1})^2), \quad
              u_t = \frac{g_t}{\sqrt{s_t} + \epsilon}

    :math:`s_t` is the averaged square less the squared average, :math:`v_t - m_t^2`, of which
    :func:`optax.scale_by_stddev` takes the root: kept as it is here, it does not cancel and is
    never negative.
    """

    def init(params: optax.Params) -> ScaleByCenteredRmsState:
        zeros = optax.tree.zeros_like
        return ScaleByCenteredRmsState(zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        variance = jax.tree.map(
            lambda s, g, m: decay * (s + ((1.0 - decay) * (g - m) * (g - m).conj()).real),
            state.variance,
            updates,
            state.mu,
        )
        mu = optax.tree.update_moment(updates, state.mu, decay, 1)
        updates = jax.tree.map(lambda g, s: g / (root(s) + eps), updates, variance)
        return updates, ScaleByCenteredRmsState(mu, variance)

    return optax.GradientTransformation(init, update)
