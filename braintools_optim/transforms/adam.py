"""Adam's direction as torch computes it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .count import advanced, one_minus_power, spread, zero_counts
from .moments import at_least_single, averaged_square
from .wide import root

__all__ = ['ScaleByAdamState', 'bias_corrected', 'scale_by_adam']


class ScaleByAdamState(NamedTuple):
    """Each leaf's count of updates, both moments, the maximum of the second (amsgrad) or None."""

    leaf_counts: jax.Array
    mu: optax.Updates
    nu: optax.Updates
    nu_max: optax.Updates | None


def scale_by_adam(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, amsgrad: bool = False
) -> optax.GradientTransformation:
    r"""Divide the averaged gradient by the root of its averaged square.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} +
              (1-\beta_2) g_t^2, \quad u_t = \frac{m_t / (1-\beta_1^t)}
              {\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    It differs from :func:`optax.scale_by_adam` in its bias correction, which does not cancel for
    decays close to one; in counting every leaf's updates on its own; and from
    :func:`optax.scale_by_amsgrad` in taking the maximum before the correction.
    """

    def init(params: optax.Params) -> ScaleByAdamState:
        zeros = optax.tree.zeros_like
        return ScaleByAdamState(
            zero_counts(params), zeros(params), zeros(params), zeros(params) if amsgrad else None
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        counts = advanced(state.leaf_counts, updates)
        mu = jax.tree.map(lambda m, g: b1 * m + (1.0 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: averaged_square(v, g, b2), state.nu, updates)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else None
        updates = bias_corrected(mu, nu_max if amsgrad else nu, counts, b1, b2, eps)
        return updates, ScaleByAdamState(counts, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def bias_corrected(mu: Any, nu: Any, counts: jax.Array, b1: Any, b2: Any, eps: Any) -> Any:
    """Return the first moment by the root of the second, each corrected by its leaf's count."""
    # Reciprocals: XLA reads them out of their vector, but divides in a kernel for each leaf.
    scale1 = spread(1.0 / one_minus_power(b1, counts), mu)
    scale2 = spread(jax.lax.rsqrt(one_minus_power(b2, counts)), mu)

    def quotient(m: Any, v: Any, s1: Any, s2: Any) -> Any:
        under = root(v) * s2.astype(v.dtype) + eps
        return (m * at_least_single(s1, m) / under).astype(m.dtype)

    return jax.tree.map(quotient, mu, nu, scale1, scale2)
