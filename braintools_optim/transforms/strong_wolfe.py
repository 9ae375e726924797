"""The line search of torch's L-BFGS."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .wide import cast_like, inner, largest, moved, wide_dtype

__all__ = ['StrongWolfeState', 'scale_by_strong_wolfe']

DECREASE, CURVATURE = 1e-4, 0.9  # torch's c1 and c2


class StrongWolfeState(NamedTuple):
    """Value and gradient at the point that was found, and after how many evaluations."""

    value: jax.Array
    grad: optax.Updates
    num_linesearch_steps: jax.Array


class Point(NamedTuple):
    """A trial on the line: where, and the objective there with its gradient and slope."""

    t: jax.Array
    value: jax.Array
    slope: jax.Array
    grad: Any


class Search(NamedTuple):
    """What is known between two evaluations.

    Until there is a bracket ``low`` is the trial before, then the better one of its ends. ``tried``
    counts the trials after the first, ``timid`` tells whether the last was too near to an end.
    """

    t: jax.Array
    tried: jax.Array
    low: Point
    high: Point
    timid: jax.Array
    bracketed: jax.Array
    done: jax.Array


def scale_by_strong_wolfe(
    max_linesearch_steps: int = 25, tolerance_change: Any = 1e-9
) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates to where the objective fulfils the strong Wolfe conditions, as torch does.

    .. math:: f(\theta + t u) \le f(\theta) + c_1 t\, u^\top g, \quad
              |u^\top \nabla f(\theta + t u)| \le c_2 |u^\top g|

    with :math:`c_1 = 10^{-4}, c_2 = 0.9`, by cubic interpolation from :math:`t = 1`, at most
    ``max_linesearch_steps`` evaluations after the first, and until the bracket moves no parameter
    by ``tolerance_change``. Unlike torch it counts a trial where the objective is not finite as too
    far. ``update`` needs ``value``, ``grad`` and ``value_fn``, as :func:`optax.lbfgs` does, and
    gives this function what else it takes by name, such as a ``batch``.
    """

    def init(params: optax.Params) -> StrongWolfeState:
        value = jnp.full((), jnp.inf, wide_dtype(params))
        return StrongWolfeState(
            value, jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32)
        )

    limit = max_linesearch_steps

    def update(
        updates: Any,
        state: StrongWolfeState,
        params: Any,
        *,
        value: Any,
        grad: Any,
        value_fn: Callable[[Any], Any],
        max_linesearch_steps: Any = limit,
        **extra: Any,
    ) -> tuple[Any, StrongWolfeState]:
        kind = wide_dtype(params)
        known = inspect.signature(value_fn).parameters
        given = {name: x for name, x in extra.items() if name in known}
        evaluate = jax.value_and_grad(partial(value_fn, **given))

        def trial(t: jax.Array) -> Point:
            f, g = evaluate(moved(params, t, updates))
            return Point(t, jnp.asarray(f, kind), inner(g, updates), g)

        zero = jnp.zeros((), kind)
        start = Point(
            t=zero,
            value=jnp.asarray(value).astype(kind),
            slope=inner(grad, updates),
            grad=cast_like(grad, params),
        )
        no, count = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        size = largest(updates)
        resting = size == 0
        before = Search(jnp.ones((), kind), count, start, start, no, no, resting)
        most = max_linesearch_steps

        def turn(search: Search) -> Search:
            return _turn(search, trial(search.t), start, size, most, tolerance_change)

        found = jax.lax.while_loop(lambda search: ~search.done, turn, before)
        best = found.low
        updates = jax.tree.map(lambda u: (best.t * u).astype(u.dtype), updates)
        return updates, StrongWolfeState(best.value, best.grad, found.tried + ~resting)

    return optax.GradientTransformationExtraArgs(init, update)


def _turn(
    search: Search, new: Point, start: Point, size: jax.Array, limit: Any, tolerance_change: Any
) -> Search:
    """Take in an evaluation; say where to evaluate next, or that the search is over."""
    too_high = ~(new.value <= start.value + DECREASE * new.t * start.slope)  # nan is
    flat = jnp.abs(new.slope) <= -CURVATURE * start.slope
    looking, ended = _bracketing(search, new, start, too_high, flat, limit)
    closer = _closing(search, new, too_high, flat)
    after = _where(search.bracketed, closer, looking)
    over = after.done | (after.bracketed & (after.tried >= limit)) | (~search.bracketed & ended)
    over = over | (
        after.bracketed & (jnp.abs(after.low.t - after.high.t) * size < tolerance_change)
    )
    inside, timid = _inside(after)
    return after._replace(
        t=jnp.where(after.bracketed, inside, after.t),
        timid=jnp.where(after.bracketed, timid, after.timid),
        done=over,
    )


def _bracketing(
    search: Search, new: Point, start: Point, too_high: jax.Array, flat: jax.Array, limit: Any
) -> tuple[Search, jax.Array]:
    """Go on from the trial before to ever longer steps; tell whether that is not to be."""
    before = search.low
    exhausted = search.tried >= limit
    too_high = too_high | ((search.tried > 1) & (new.value >= before.value))
    bracketed = ~exhausted & (too_high | (~flat & (new.slope >= 0)))
    done = ~exhausted & ~too_high & flat
    further = ~(exhausted | bracketed | done)
    far = _cubic(before, new, new.t + 0.01 * (new.t - before.t), new.t * 10.0)
    # With no trials left torch takes the better one of the start and the last.
    one = _where(exhausted, start, before)
    new_is_low = new.value < one.value
    low = _where(done | further | new_is_low, new, one)
    high = _where(new_is_low, one, new)
    looking = search._replace(
        t=jnp.where(further, far, search.t),
        tried=search.tried + further,
        low=low,
        high=high,
        bracketed=bracketed,
        done=done,
    )
    return looking, exhausted


def _closing(search: Search, new: Point, too_high: jax.Array, flat: jax.Array) -> Search:
    """Put a trial inside of the bracket in the place of one of its ends."""
    low, high = search.low, search.high
    worse = too_high | (new.value >= low.value)
    # One that is too high goes to the high end, and the ends change places if it is lower still.
    done = ~worse & flat
    flips = ~worse & ~flat & (new.slope * (high.t - low.t) >= 0)
    swaps = worse & (new.value < low.value)
    return search._replace(
        tried=search.tried + 1,
        low=_where(worse & ~swaps, low, new),
        high=_where(flips | swaps, low, _where(worse, new, high)),
        done=done,
    )


def _inside(search: Search) -> tuple[jax.Array, jax.Array]:
    """Return the next trial in a bracket, and whether it is too near to an end."""
    low, high = search.low, search.high
    left, right = jnp.minimum(low.t, high.t), jnp.maximum(low.t, high.t)
    t = _cubic(low, high, left, right)
    margin = 0.1 * (right - left)
    near = jnp.minimum(right - t, t - left) < margin
    away = near & (search.timid | (t >= right) | (t <= left))
    farther_in = jnp.where(jnp.abs(t - right) < jnp.abs(t - left), right - margin, left + margin)
    return jnp.where(away, farther_in, t), near & ~away


def _cubic(one: Point, two: Point, low: jax.Array, high: jax.Array) -> jax.Array:
    """Return the minimum in bounds of the cubic through two points, their middle without one."""
    swap = one.t > two.t
    a, b = _where(swap, two[:3], one[:3]), _where(swap, one[:3], two[:3])
    (x1, f1, g1), (x2, f2, g2) = a, b
    d1 = g1 + g2 - 3.0 * (f1 - f2) / (x1 - x2)
    square = d1 * d1 - g1 * g2
    d2 = jnp.sqrt(jnp.maximum(square, 0.0))
    best = x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2.0 * d2))
    usable = (square >= 0) & jnp.isfinite(best)
    return jnp.where(usable, jnp.clip(best, low, high), (low + high) / 2.0)


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
