"""Averaged gradient descent as torch computes it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .count import advanced, spread, zero_counts
from .infinite import difference, zero_for_infinite
from .refuse import check_params

__all__ = ['StepByAsgdState', 'step_by_asgd']


class StepByAsgdState(NamedTuple):
    """Each leaf's count of updates, and the average of the parameters."""

    leaf_counts: jax.Array
    ax: optax.Params


def step_by_asgd(
    lr: Any = 1e-2, lambd: Any = 1e-4, alpha: Any = 0.75, t0: Any = 1e6
) -> optax.GradientTransformation:
    r"""Step downhill with a fading rate, and average the parameters that come of it.

    .. math:: \eta_t = \frac{\eta}{(1 + \lambda \eta (t-1))^\alpha}, \quad
              u_t = -\eta_t (g_t + \lambda \theta_{t-1}), \quad
              \bar\theta_t = \bar\theta_{t-1}
              + \frac{\theta_{t-1} + u_t - \bar\theta_{t-1}}{\max(1, t - 1 - t_0)}

    It must come last in a chain, because it averages the parameters as it leaves them.
    """

    def init(params: optax.Params) -> StepByAsgdState:
        return StepByAsgdState(zero_counts(params), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        check_params('step_by_asgd', params)
        counts = advanced(state.leaf_counts, updates)
        past = jnp.maximum(counts - 1.0, 0.0)
        rate = spread(lr / (1.0 + lambd * lr * past) ** alpha, updates)
        share = spread(1.0 / jnp.maximum(1.0, past - t0), updates)
        updates = jax.tree.map(
            lambda g, p, r: -r.astype(g.dtype) * (g + lambd * zero_for_infinite(p)),
            updates,
            params,
            rate,
        )

        def averaged(ax: Any, p: Any, u: Any, w: Any) -> Any:
            new = jnp.where(w == 1.0, p + u, ax + w.astype(p.dtype) * difference(p + u, ax))
            return new.astype(ax.dtype)

        ax = jax.tree.map(averaged, state.ax, params, updates, share)
        return updates, StepByAsgdState(counts, ax)

    return optax.GradientTransformation(init, update)
