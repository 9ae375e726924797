"""Momentum as torch.optim.SGD has it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .count import advanced, spread, zero_counts

__all__ = ['ScaleByMomentumState', 'scale_by_momentum', 'unless_zero']


class ScaleByMomentumState(NamedTuple):
    """Each leaf's count of updates, and the momentum buffer."""

    leaf_counts: jax.Array
    trace: optax.Updates


def scale_by_momentum(
    momentum: Any = 0.9, dampening: Any = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    r"""Accumulate gradients; the first one enters whole, the later ones dampened.

    .. math:: b_1 = g_1, \quad b_t = \mu b_{t-1} + (1 - \tau) g_t, \quad
              u_t = g_t + \mu b_t \text{ (nesterov)} \text{ or } b_t

    Unlike :func:`optax.trace` it has torch's dampening.
    """

    def init(params: optax.Params) -> ScaleByMomentumState:
        return ScaleByMomentumState(zero_counts(params), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        counts = advanced(state.leaf_counts, updates)
        share = spread(jnp.where(counts == 1, 1.0, 1.0 - dampening), updates)
        trace = jax.tree.map(
            lambda b, g, s: momentum * b + s.astype(g.dtype) * g, state.trace, updates, share
        )
        if nesterov:
            updates = jax.tree.map(lambda g, b: g + momentum * b, updates, trace)
        else:
            updates = trace
        return updates, ScaleByMomentumState(counts, trace)

    return optax.GradientTransformation(init, update)


def unless_zero(momentum: Any, chain: optax.GradientTransformation) -> optax.GradientTransformation:
    """Run a chain where ``momentum`` is not 0, as torch does; else pass by, and keep its state."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves = jnp.not_equal(momentum, 0.0)
        new = chain.update(updates, state, params)
        old = jax.tree.map(lambda x, y: y.astype(x.dtype), new, (updates, state))
        return jax.tree.map(lambda x, y: jax.lax.select(moves, x, y), new, old)

    return optax.GradientTransformation(chain.init, update)
