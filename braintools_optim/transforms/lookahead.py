"""Lookahead over any transformation."""

from __future__ import annotations

from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .count import advanced, spread, zero_counts
from .infinite import difference
from .refuse import check_params

__all__ = ['LookaheadState', 'lookahead']


class LookaheadState(NamedTuple):
    """Each leaf's updates since it was synchronized, the slow weights, the fast steps' state."""

    leaf_counts: jax.Array
    slow: optax.Params
    fast: optax.OptState


def lookahead(
    fast: optax.GradientTransformation, sync_period: int = 5, alpha: Any = 0.5
) -> optax.GradientTransformation:
    r"""Take steps, and every so often go only part of the way from where they began.

    .. math:: \theta \leftarrow \phi \leftarrow \phi + \alpha (\theta + u_t - \phi)
              \text{ at every } k \text{th update, else } \theta \leftarrow \theta + u_t

    with the updates :math:`u` of ``fast``. It differs from :func:`optax.lookahead` in keeping the
    slow weights :math:`\phi` in its state, and in counting every leaf's updates on its own. They
    are what the parameters are when a period begins. It comes last in a chain.
    """
    if not isinstance(sync_period, int | np.integer) or sync_period < 1:
        raise ValueError(f'lookahead needs an integer >= 1 for sync_period, got {sync_period!r}.')
    inner = optax.with_extra_args_support(fast)

    def init(params: optax.Params) -> LookaheadState:
        # Copies, so that both may be donated.
        slow = jax.tree.map(jnp.copy, params)
        return LookaheadState(zero_counts(params), slow, inner.init(params))

    @wraps(inner.update)  # whose arguments it takes
    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        check_params('lookahead', params)
        updates, fast_state = inner.update(updates, state.fast, params, **extra)
        counts = advanced(state.leaf_counts, updates)
        due = counts >= sync_period
        at, begins = spread(due, updates), spread(state.leaf_counts == 0, updates)

        def pulled(s: Any, p: Any, u: Any, first: Any, now: Any) -> Any:
            s = jnp.where(first, p, s)  # parameters may have been replaced since init
            return jnp.where(now, s + alpha * difference(p + u, s), s).astype(s.dtype)

        slow = jax.tree.map(pulled, state.slow, params, updates, begins, at)
        updates = jax.tree.map(
            lambda u, s, p, now: jnp.where(now, difference(s, p), u), updates, slow, params, at
        )
        return updates, LookaheadState(jnp.where(due, 0, counts), slow, fast_state)

    if isinstance(fast, optax.GradientTransformationExtraArgs):
        return optax.GradientTransformationExtraArgs(init, update)
    return optax.GradientTransformation(init, update)
