"""Directions that are divided by the size of the gradients so far."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .count import advanced, spread, zero_counts

__all__ = [
    'ScaleByAdagradState',
    'ScaleByCenteredRmsState',
    'scale_by_adagrad',
    'scale_by_centered_rms',
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
        sums = jax.tree.map(lambda s, g: s + g * g, state.sum, updates)
        scale = spread(1.0 / (1.0 + (counts - 1) * lr_decay), updates)
        updates = jax.tree.map(
            lambda g, s, r: g * r.astype(g.dtype) / (jnp.sqrt(s) + eps), updates, sums, scale
        )
        return updates, ScaleByAdagradState(counts, sums)

    return optax.GradientTransformation(init, update)


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
            lambda s, g, m: decay * (s + (1.0 - decay) * (g - m) ** 2),
            state.variance,
            updates,
            state.mu,
        )
        mu = optax.tree.update_moment(updates, state.mu, decay, 1)
        updates = jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), updates, variance)
        return updates, ScaleByCenteredRmsState(mu, variance)

    return optax.GradientTransformation(init, update)
