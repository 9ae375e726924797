"""Adam with another second moment: AdaBelief and Yogi, as their authors compute them.

The second moment is kept in at least float32: what changes it is far below the precision of
shorter numbers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from .adam import ScaleByAdamState, bias_corrected
from .adam_variants import rectified
from .count import advanced, one_minus_power, spread, zero_counts
from .moments import at_least_single
from .wide import root, single_or_wider

__all__ = ['scale_by_belief', 'scale_by_yogi']


def _second_moment(params: optax.Params, value: Any) -> Any:
    def full(p: jax.Array) -> jax.Array:
        return jnp.full(jnp.shape(p), value, single_or_wider(p))

    return jax.tree.map(full, params)


def _square(x: jax.Array, like: jax.Array) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, like.dtype))
    return (wide * wide.conj()).real


def scale_by_belief(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    amsgrad: bool = False,
    rectify: bool = False,
) -> optax.GradientTransformation:
    r"""Divide the averaged gradient by how far gradients are from it.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad s_t = \beta_2 s_{t-1} +
              (1-\beta_2) (g_t - m_t)^2 + \epsilon, \quad u_t = \frac{m_t / (1-\beta_1^t)}
              {\sqrt{s_t / (1-\beta_2^t)} + \epsilon}

    ``amsgrad`` divides by the largest :math:`s` so far, ``rectify`` as
    :func:`scale_by_radam`. It differs from :func:`optax.scale_by_belief` in these, in having one
    :math:`\epsilon` in both places, as the authors, in a bias correction that does not cancel, and
    in counting every leaf's updates on its own.
    """

    def init(params: optax.Params) -> ScaleByAdamState:
        zeros = _second_moment(params, 0.0)
        most = _second_moment(params, 0.0) if amsgrad else None
        return ScaleByAdamState(zero_counts(params), optax.tree.zeros_like(params), zeros, most)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        counts = advanced(state.leaf_counts, updates)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)

        def spread_of(v: Any, g: Any, m: Any) -> Any:
            return b2 * v + (1.0 - b2) * _square(g - m, v) + eps

        nu = jax.tree.map(spread_of, state.nu, updates, mu)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else None
        corrected = rectified if rectify else bias_corrected
        updates = corrected(mu, nu_max if amsgrad else nu, counts, b1, b2, eps)
        return updates, ScaleByAdamState(counts, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def scale_by_yogi(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-3, initial_accumulator_value: Any = 1e-6
) -> optax.GradientTransformation:
    r"""Divide the averaged gradient by a second moment that moves by steps of its own size.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = v_{t-1} +
              (1-\beta_2) \operatorname{sign}(g_t^2 - v_{t-1}) g_t^2, \quad
              u_t = \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon}

    It differs from :func:`optax.scale_by_yogi` in starting the first moment at zero and adding
    :math:`\epsilon` before the bias correction, as the authors, and in counting every leaf's
    updates on its own.
    """

    def init(params: optax.Params) -> ScaleByAdamState:
        nu = _second_moment(params, initial_accumulator_value)
        return ScaleByAdamState(zero_counts(params), optax.tree.zeros_like(params), nu, None)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        counts = advanced(state.leaf_counts, updates)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)

        def stepped(v: Any, g: Any) -> Any:
            square = _square(g, v)
            moved = v + (1.0 - b2) * jnp.sign(square - v) * square
            return jnp.where(square == v, v, moved)  # also where both have overflowed

        nu = jax.tree.map(stepped, state.nu, updates)
        correction = jnp.sqrt(one_minus_power(b2, counts)) / one_minus_power(b1, counts)

        def quotient(m: Any, v: Any, s: Any) -> Any:
            return (m * at_least_single(s, m) / (root(v) + eps)).astype(m.dtype)

        updates = jax.tree.map(quotient, mu, nu, spread(correction, updates))
        return updates, ScaleByAdamState(counts, mu, nu, None)

    return optax.GradientTransformation(init, update)
