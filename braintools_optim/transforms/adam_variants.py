"""Adam's nearest variants as torch computes them: Adamax, NAdam, RAdam."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .absent import present
from .count import advanced, one_minus_power, spread, zero_counts
from .moments import at_least_single, averaged_square
from .wide import root

__all__ = [
    'ScaleByNadamState',
    'ScaleByTwoMomentsState',
    'rectified',
    'scale_by_adamax',
    'scale_by_nadam',
    'scale_by_radam',
]


class ScaleByTwoMomentsState(NamedTuple):
    """Each leaf's count of updates, and both moments."""

    leaf_counts: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def _init_two_moments(params: optax.Params) -> ScaleByTwoMomentsState:
    zeros = optax.tree.zeros_like
    return ScaleByTwoMomentsState(zero_counts(params), zeros(params), zeros(params))


def scale_by_adamax(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8
) -> optax.GradientTransformation:
    r"""Divide the averaged gradient by a fading maximum of gradients.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
              v_t = \max(\beta_2 v_{t-1}, |g_t| + \epsilon), \quad
              u_t = \frac{m_t}{(1-\beta_1^t) v_t}

    It differs from :func:`optax.scale_by_adamax` in a bias correction that does not cancel for
    decays close to one, and in counting every leaf's updates on its own.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        counts = advanced(state.leaf_counts, updates)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_infinity_moment(updates, state.nu, b2, eps)
        scale = spread(1.0 / one_minus_power(b1, counts), updates)
        updates = jax.tree.map(
            lambda m, v, s: (m * at_least_single(s, m) / v).astype(m.dtype), mu, nu, scale
        )
        return updates, ScaleByTwoMomentsState(counts, mu, nu)

    return optax.GradientTransformation(_init_two_moments, update)


class ScaleByNadamState(NamedTuple):
    """Each leaf's count of updates and product of momenta so far, and both moments."""

    leaf_counts: jax.Array
    leaf_products: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_nadam(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, momentum_decay: Any = 4e-3
) -> optax.GradientTransformation:
    r"""Give Adam's direction Nesterov's look ahead, with a momentum that grows.

    .. math:: \mu_t = \beta_1 (1 - 0.96^{t \psi} / 2), \quad
              u_t = \frac{(1-\mu_t) g_t / (1-\prod_{i \le t} \mu_i)
              + \mu_{t+1} m_t / (1-\prod_{i \le t+1} \mu_i)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    with the averages :math:`m, v` of Adam. It differs from ``optax.scale_by_adam(nesterov=True)``
    in the growing momentum.
    """

    def init(params: optax.Params) -> ScaleByNadamState:
        counts = zero_counts(params)
        zeros = optax.tree.zeros_like
        return ScaleByNadamState(
            counts, jnp.ones(counts.shape, float), zeros(params), zeros(params)
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        counts = advanced(state.leaf_counts, updates)
        now, later = (
            b1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay)) for t in (counts, counts + 1.0)
        )
        products = jnp.where(present(updates), state.leaf_products * now, state.leaf_products)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = jax.tree.map(lambda v, g: averaged_square(v, g, b2), state.nu, updates)
        begun = jnp.where(counts > 0, products, 0.0)  # nobody uses it before
        of_g = spread((1.0 - now) / (1.0 - begun), updates)
        of_m = spread(later / (1.0 - products * later), updates)
        of_v = spread(jax.lax.rsqrt(one_minus_power(b2, counts)), updates)

        def direction(g: Any, m: Any, v: Any, sg: Any, sm: Any, sv: Any) -> Any:
            under = root(v) * sv.astype(v.dtype) + eps
            ahead = g * at_least_single(sg, g) + m * at_least_single(sm, m)
            return (ahead / under).astype(g.dtype)

        updates = jax.tree.map(direction, updates, mu, nu, of_g, of_m, of_v)
        return updates, ScaleByNadamState(counts, products, mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_radam(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> optax.GradientTransformation:
    r"""Divide by the root of the averaged square only as far as its variance is tractable.

    .. math:: u_t = \hat m_t r_t \frac{\sqrt{1-\beta_2^t}}{\sqrt{v_t} + \epsilon}
              \text{ if } \rho_t > 5, \text{ else } \hat m_t, \quad r_t = \sqrt{\frac{(\rho_t-4)
              (\rho_t-2) \rho_\infty}{(\rho_\infty-4)(\rho_\infty-2) \rho_t}}

    with Adam's averages :math:`m, v`, corrected :math:`\hat m_t = m_t / (1-\beta_1^t)`, and the
    length of the average :math:`\rho_t = \rho_\infty - 2 t \beta_2^t / (1-\beta_2^t)`,
    :math:`\rho_\infty = 2 / (1-\beta_2) - 1`. It differs from :func:`optax.scale_by_radam` in
    adding :math:`\epsilon` before the correction, in having no cancellation for decays close to
    one, and in counting every leaf's updates on its own.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        counts = advanced(state.leaf_counts, updates)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = jax.tree.map(lambda v, g: averaged_square(v, g, b2), state.nu, updates)
        updates = rectified(mu, nu, counts, b1, b2, eps)
        return updates, ScaleByTwoMomentsState(counts, mu, nu)

    return optax.GradientTransformation(_init_two_moments, update)


def rectified(mu: Any, nu: Any, counts: jax.Array, b1: Any, b2: Any, eps: Any) -> Any:
    """Return the first moment by the root of the second where it can be trusted, as RAdam."""
    length = _average_length(b2, counts)
    final = jnp.maximum(2.0 / (1.0 - b2) - 1.0, 5.0)  # it is more where anything is trusted
    # The length is less than the count: rounding must not rectify too early.
    trusted = (counts > 5) & (length > 5.0)
    square = (length - 4.0) * (length - 2.0) * final / ((final - 4.0) * (final - 2.0) * length)
    factor = jnp.sqrt(jnp.where(trusted, square * one_minus_power(b2, counts), 1.0))
    scale = spread(factor / one_minus_power(b1, counts), mu)

    def direction(m: Any, v: Any, s: Any, divide: Any) -> Any:
        under = jnp.where(divide, root(v) + eps, 1.0)
        return (m * at_least_single(s, m) / under).astype(m.dtype)

    return jax.tree.map(direction, mu, nu, scale, spread(trusted, mu))


def _average_length(b2: Any, counts: jax.Array) -> jax.Array:
    r"""Return :math:`\rho_t`, the difference of two numbers of the size of 1 / (1 - b2).

    With :math:`a = -\log(\beta_2) / 2` it is :math:`\coth(a) - t \coth(ta) + t`. The poles
    :math:`1 / x` of the coth cancel exactly; the rest is computed without them.
    """
    half, t = -0.5 * jnp.log1p(b2 - 1.0), jnp.maximum(counts, 1)
    return 1.0 - _rest(half) + t * _rest(t * half)


def _rest(x: jax.Array) -> jax.Array:
    """Return ``1 + 1 / x - coth(x)``, by its series where the difference would cancel."""
    y = x * x
    series = 1 / 45 - y * (2 / 945 - y * (1 / 4725 - y * 2 / 93555))
    return jnp.where(x < 0.1, 1.0 - x * (1 / 3 - y * series), 1.0 / x - 2.0 / jnp.expm1(2.0 * x))
