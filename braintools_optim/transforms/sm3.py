"""SM3-II: Adagrad whose accumulators are one vector for each axis of a parameter."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .mesh import in_auto_axes
from .refuse import refuse_complex

__all__ = ['ScaleBySm3State', 'scale_by_sm3']


class ScaleBySm3State(NamedTuple):
    """Of each leaf one vector: the accumulators of its axes, one after the other."""

    accumulators: optax.Updates


def _split(accumulator: jax.Array, shape: tuple[int, ...]) -> list[jax.Array]:
    """Return the accumulator of each axis, in a shape that broadcasts to the parameter's."""
    if not shape:
        return [accumulator.reshape(())]
    parts = jnp.split(accumulator, np.cumsum(shape)[:-1])
    return [jnp.expand_dims(x, _others(i, len(shape))) for i, x in enumerate(parts)]


def _others(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(i for i in range(rank) if i != axis)


def scale_by_sm3(eps: Any = 1e-8) -> optax.GradientTransformation:
    r"""Divide by the root of the summed squares, bounded by those of every axis.

    .. math:: \nu_t = \min_i a_{t-1}^{(i)} + g_t^2, \quad u_t = \frac{g_t}{\sqrt{\nu_t + \epsilon}},
              \quad a_t^{(i)} = \max_{\text{all axes but } i} \nu_t

    It differs from :func:`optax.scale_by_sm3` in having no momentum, in taking scalars and empty
    arrays, and in keeping one array for each parameter.
    """

    def init(params: optax.Params) -> ScaleBySm3State:
        refuse_complex(params)

        def zeros(p: jax.Array) -> jax.Array:
            # Vectors are small; the squares of short numbers need more than they have.
            wide = jnp.promote_types(p.dtype, jnp.float32)
            return jnp.zeros(sum(p.shape) if p.ndim else 1, wide)

        return ScaleBySm3State(jax.tree.map(zeros, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        before = updates, state.accumulators
        scaled, after = in_auto_axes(compute, before, *before, eps)
        return scaled, ScaleBySm3State(after)

    def compute(updates: Any, accumulators: Any, eps: Any) -> tuple[Any, Any]:
        def summed(g: Any, a: Any) -> Any:
            return functools.reduce(jnp.minimum, _split(a, g.shape)) + g.astype(a.dtype) ** 2

        def accumulated(nu: Any) -> Any:
            largest = [nu.max(_others(i, nu.ndim), initial=0.0) for i in range(nu.ndim)]
            return jnp.concatenate(largest) if largest else nu.reshape(1)

        def divided(g: Any, nu: Any) -> Any:
            return jnp.where(nu == 0, 0.0, g * jax.lax.rsqrt(nu + eps)).astype(g.dtype)

        nu = jax.tree.map(summed, updates, accumulators)
        return jax.tree.map(divided, updates, nu), jax.tree.map(accumulated, nu)

    return optax.GradientTransformation(init, update)
