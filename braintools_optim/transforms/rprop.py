"""Resilient propagation as torch computes it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .absent import present
from .count import spread, zero_counts
from .refuse import refuse_complex

__all__ = ['StepByRpropState', 'step_by_rprop']


class StepByRpropState(NamedTuple):
    """Each leaf's first learning rate (0 before), the signs that count, and the step sizes."""

    leaf_lrs: jax.Array
    sign: optax.Updates
    size: optax.Updates


def step_by_rprop(
    lr: Any = 1e-2, etas: Any = (0.5, 1.2), step_sizes: Any = (1e-6, 50.0)
) -> optax.GradientTransformation:
    r"""Step by the sign of the gradient, longer while it stays and shorter when it flips.

    .. math:: \Delta_t = \mathrm{clip}(\eta_{\pm} \Delta_{t-1}), \quad
              u_t = -\frac{\eta_t}{\eta_1} \Delta_t \operatorname{sign}(g_t), \quad
              \Delta_0 = \eta_1

    Where the sign flips, :math:`g_t` counts as zero in this update and the next; where it is nan,
    it counts as zero in this one. It differs from
    :func:`optax.scale_by_rprop` in a first step that moves, and in following ``lr``
    (:math:`\eta_t`): each leaf's step sizes are those at its first positive rate :math:`\eta_1`.
    """

    def init(params: optax.Params) -> StepByRpropState:
        refuse_complex(params)
        zeros = optax.tree.zeros_like
        lrs = jnp.zeros(zero_counts(params).shape, float)
        return StepByRpropState(lrs, zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        fresh = state.leaf_lrs == 0.0
        lrs = jnp.where(fresh & present(updates), lr, state.leaf_lrs)
        ratio = lr / jnp.where(lrs == 0.0, 1.0, lrs)
        # torch's sign of nan is 0.
        signs = jax.tree.map(lambda g: jnp.where(jnp.isnan(g), 0.0, jnp.sign(g)), updates)
        agree = jax.tree.map(lambda g, s: g * s, signs, state.sign)
        sign = jax.tree.map(lambda g, a: jnp.where(a < 0, 0.0, g), signs, agree)

        def adapted(size: Any, a: Any, first: Any) -> Any:
            factor = jnp.where(a > 0, etas[1], jnp.where(a < 0, etas[0], 1.0))
            return jnp.clip(jnp.where(first, lr, size) * factor, *step_sizes).astype(size.dtype)

        size = jax.tree.map(adapted, state.size, agree, spread(fresh, updates))
        updates = jax.tree.map(
            lambda s, d, r: -s * d * r.astype(d.dtype), sign, size, spread(ratio, updates)
        )
        return updates, StepByRpropState(lrs, sign, size)

    return optax.GradientTransformation(init, update)
