"""Adam for gradients that name the rows they are about."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental.sparse import BCOO

from .count import advanced, one_minus_power, spread, zero_counts
from .refuse import refuse_complex
from .wide import root

__all__ = ['ScaleBySparseAdamState', 'coalesced', 'scale_by_sparse_adam']


class ScaleBySparseAdamState(NamedTuple):
    """Each leaf's count of updates, and both moments of all its rows."""

    leaf_counts: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def coalesced(g: BCOO) -> BCOO:
    """Return the same array with every index once, the entries of equal ones added up.

    It has as many entries as before: the surplus, and what was out of bounds, are zeros beyond the
    end. A row of zeros that is there stays there.
    """
    end = jnp.array(g.shape[: g.n_sparse], g.indices.dtype)
    inside = ((g.indices >= 0) & (g.indices < end[None])).all(1)
    indices = jnp.where(inside[:, None], g.indices, end)
    data = jnp.where(inside.reshape(-1, *[1] * g.n_dense), g.data, 0)
    g = BCOO((data, indices), shape=g.shape, unique_indices=g.unique_indices)
    return g if g.unique_indices else g.sum_duplicates(nse=g.nse, remove_zeros=False)


def scale_by_sparse_adam(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8
) -> optax.GradientTransformation:
    r"""Adam's direction for the rows that a gradient has; all else rests, moments too.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} +
              (1-\beta_2) g_t^2, \quad u_t = \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}
              \frac{m_t}{\sqrt{v_t} + \epsilon}

    where :math:`t` counts the gradients of the whole parameter, not of the row. Gradients are
    :class:`jax.experimental.sparse.BCOO`; a dense one has all rows. Updates are dense.
    """

    def init(params: optax.Params) -> ScaleBySparseAdamState:
        refuse_complex(params)
        zeros = optax.tree.zeros_like
        return ScaleBySparseAdamState(zero_counts(params), zeros(params), zeros(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        # The moments come first below: in a tree of gradients a BCOO is no leaf to JAX.
        counts = advanced(state.leaf_counts, state.mu)
        scales = jnp.sqrt(one_minus_power(b2, counts)) / one_minus_power(b1, counts)
        found = jax.tree.map(lambda _, g: _entries(g), state.mu, updates)

        def average(moment: jax.Array, entries: Any, decay: Any, power: int) -> jax.Array:
            index, g = entries
            mixed = decay * _read(moment, index) + (1.0 - decay) * g**power
            return moment.at[index].set(mixed, mode='drop')

        mu = jax.tree.map(lambda m, e: average(m, e, b1, 1), state.mu, found)
        nu = jax.tree.map(lambda v, e: average(v, e, b2, 2), state.nu, found)

        def direction(m: jax.Array, v: jax.Array, entries: Any, scale: jax.Array) -> jax.Array:
            index, _ = entries
            u = _read(m, index) * scale.astype(m.dtype) / (root(_read(v, index)) + eps)
            return jnp.zeros_like(m).at[index].set(u, mode='drop')

        moved = jax.tree.map(direction, mu, nu, found, spread(scales, mu))
        return moved, ScaleBySparseAdamState(counts, mu, nu)

    return optax.GradientTransformation(init, update)


def _entries(g: Any) -> tuple[Any, jax.Array]:
    """Return where the entries of a gradient stand, each once, and what they are."""
    if not isinstance(g, BCOO):
        return ..., g
    g = coalesced(g)
    return tuple(g.indices.T), g.data


def _read(array: jax.Array, index: Any) -> jax.Array:
    return array.at[index].get(mode='fill', fill_value=0)
