"""Adafactor's step as torch computes it, and as its authors do."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .count import advanced, spread, zero_counts
from .refuse import check_params, refuse_complex
from .wide import root, widened

__all__ = ['ScaleByAdafactorState', 'scale_by_adafactor']


class ScaleByAdafactorState(NamedTuple):
    """Each leaf's count of updates; its averaged square, or that of its rows and columns.

    What a leaf does not need is an empty array.
    """

    leaf_counts: jax.Array
    nu: optax.Updates
    row: optax.Updates
    col: optax.Updates


def scale_by_adafactor(
    step_size: Any = 1e-2,
    beta2_decay: Any = -0.8,
    eps: tuple[Any, Any] = (0.0, 1e-3),
    d: Any = 1.0,
    factored: bool = True,
    original: bool = False,
) -> optax.GradientTransformation:
    r"""Divide by a factored average of the square, clip, and scale with the parameter.

    .. math:: R_t = R_{t-1} + t^{\tau} (\overline{g_t^2}^{\,row} - R_{t-1}), \quad
              C_t = C_{t-1} + t^{\tau} (\overline{g_t^2}^{\,col} - C_{t-1}), \quad
              V_t = \frac{R_t C_t}{\max(\bar R_t, \epsilon_1)}
    .. math:: u_t = \frac{g_t}{\sqrt{\max(V_t, \epsilon_1^2)}}, \quad
              \alpha_t = \max(\epsilon_2, rms(\theta)) \min(\eta, 1/\sqrt t), \quad
              \text{update } \frac{\alpha_t u_t}{\max(1, rms(u_t) / d)}

    Leaves with less than two dimensions, or all with ``factored=False``, have :math:`V_t` in full:
    the average of :math:`g_t^2` itself. With ``original`` :math:`\epsilon_1` is added to every
    :math:`g_t^2` instead. An :math:`\epsilon_1` of zero stands for the precision of the leaf
    (torch), or 1e-30 (original). The update has the sign of the gradient.
    """
    eps1, eps2 = eps

    def split(x: jax.Array) -> bool:
        return factored and x.ndim > 1

    def init(params: optax.Params) -> ScaleByAdafactorState:
        refuse_complex(params)

        def zeros(shape: Any, params: Any = params) -> Any:
            return jax.tree.map(lambda p: jnp.zeros(shape(p), p.dtype), params)

        return ScaleByAdafactorState(
            zero_counts(params),
            zeros(lambda p: (0,) if split(p) else p.shape),
            zeros(lambda p: (*p.shape[:-1], 1) if split(p) else (0,)),
            zeros(lambda p: (*p.shape[:-2], 1, p.shape[-1]) if split(p) else (0,)),
        )

    def first_eps(dtype: Any) -> Any:
        return jnp.where(eps1 > 0, eps1, 1e-30 if original else float(jnp.finfo(dtype).eps))

    def square(g: jax.Array) -> jax.Array:
        return widened(g) ** 2 + first_eps(g.dtype) if original else widened(g) ** 2

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        check_params('scale_by_adafactor', params)
        counts = advanced(state.leaf_counts, updates)
        t = 1.0 * jnp.maximum(counts, 1)
        share = spread(jnp.power(t, beta2_decay), updates)
        size = spread(jnp.minimum(step_size, jax.lax.rsqrt(t)), updates)
        squares = jax.tree.map(square, updates)

        def average(old: Any, new: Any, s: jax.Array) -> Any:
            s = s.astype(new.dtype)  # as a sum of shares nothing cancels, however small the new is
            return ((1.0 - s) * widened(old) + s * new).astype(old.dtype)

        nu = jax.tree.map(
            lambda v, q, s: v if split(q) else average(v, q, s), state.nu, squares, share
        )
        row, col = (
            jax.tree.map(
                lambda r, q, s, axis=axis: average(r, _mean(q, axis), s) if split(q) else r,
                old,
                squares,
                share,
            )
            for old, axis in ((state.row, -1), (state.col, -2))
        )

        def direction(g: Any, p: Any, v: Any, r: Any, c: Any, s: jax.Array) -> Any:
            first, wide = first_eps(g.dtype), widened(g)
            # A square may vanish in the precision it is kept in: what stands for it is the least
            # number there that is not flushed to zero.
            kept = jnp.finfo(g.dtype)
            tiny = float(kept.smallest_subnormal if g.dtype == jnp.float16 else kept.tiny)
            least = (tiny, tiny) if original else (jnp.maximum(first, tiny), first * first)
            if split(g):
                v = widened(r) / jnp.maximum(_mean(widened(r), -2), least[0]) * widened(c)
            u = wide * jax.lax.rsqrt(jnp.maximum(widened(v), jnp.maximum(least[1], tiny)))
            u = u / _at_least(1.0, _rms(u) / d)
            return (s.astype(u.dtype) * _at_least(eps2, _rms(widened(p))) * u).astype(g.dtype)

        updates = jax.tree.map(direction, updates, params, nu, row, col, size)
        return updates, ScaleByAdafactorState(counts, nu, row, col)

    return optax.GradientTransformation(init, update)


def _at_least(least: Any, x: jax.Array) -> jax.Array:
    """Return the larger one; the least for nan, so that one such entry does not spread."""
    return jnp.where(x > least, x, least)


def _mean(x: jax.Array, axis: int) -> jax.Array:
    return jnp.sum(x, axis, keepdims=True) / max(x.shape[axis], 1)  # of nothing: zero


def _rms(x: jax.Array) -> jax.Array:
    return root(jnp.sum(x * x) / max(x.size, 1))
