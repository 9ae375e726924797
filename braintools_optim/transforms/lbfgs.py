"""L-BFGS: steps along gradients that are scaled by the curvature of the last steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .absent import present
from .count import zero_counts
from .refuse import refuse_complex
from .strong_wolfe import StrongWolfeState
from .wide import inner, largest, wide_dtype, widened

__all__ = ['StepByLbfgsState', 'step_by_lbfgs']

LEAST_CURVATURE = 1e-10  # torch's


class StepByLbfgsState(NamedTuple):
    """The last steps with the changes of the gradient over them, a ring of them, and more.

    ``iterations`` counts all, ``leaf_seen`` is the one in which each leaf took part last. Of the
    ring, which has one more axis in front, ``pairs`` are in use, and the next goes to ``slot``.
    """

    iterations: jax.Array
    leaf_seen: jax.Array
    pairs: jax.Array
    slot: jax.Array
    scale: jax.Array
    inverse_curvatures: jax.Array
    last_grad: optax.Updates
    last_step: optax.Updates
    changes: optax.Updates
    steps: optax.Updates
    search: optax.OptState


def step_by_lbfgs(
    learning_rate: Any = 1.0,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: optax.GradientTransformation | None = None,
    tolerance_grad: Any = 1e-7,
    tolerance_change: Any = 1e-9,
) -> optax.GradientTransformationExtraArgs:
    r"""Step along :math:`-H_t g_t`, with the numbers of ``torch.optim.LBFGS``.

    .. math:: H_t = V_t^\top H_{t-1} V_t + \rho_t s_t s_t^\top, \quad
              V_t = I - \rho_t y_t s_t^\top, \quad \rho_t = 1 / y_t^\top s_t, \quad
              H_0 = \frac{y_t^\top s_t}{y_t^\top y_t} I

    over the last pairs of a step :math:`s` and the change :math:`y` of the gradient over it, except
    those with :math:`y^\top s \le 10^{-10}`.

    Parameters
    ----------
    learning_rate : float
        What the direction is multiplied by; in the first step :math:`\min(1, 1 / \|g\|_1)` is
        another factor.
    memory_size : int
        How many pairs are remembered.
    scale_init_precond : bool
        With False :math:`H_0 = I`, and the first step is not shortened.
    linesearch : optax.GradientTransformation, optional
        What changes the length of a step, such as :func:`scale_by_strong_wolfe`; its arguments
        (``value``, ``value_fn``) are given to ``update``.
    tolerance_grad : float
        Where no entry of the gradient is above it, nothing changes.
    tolerance_change : float
        A step that lowers the loss by less, to first order, is not taken.

    It differs from :func:`optax.lbfgs` in :math:`H_0`, the first step, in what it skips, and in
    starting anew when other leaves have gradients than in the update before. It comes last in a
    chain.
    """
    search = optax.with_extra_args_support(linesearch or optax.identity())

    def init(params: optax.Params) -> StepByLbfgsState:
        refuse_complex(params)
        kind = wide_dtype(params)

        def zero() -> jax.Array:  # each in a buffer of its own, to be donated
            return jnp.zeros((), jnp.int32)

        def zeros(*axes: int) -> Any:
            return jax.tree.map(lambda p: jnp.zeros((*axes, *p.shape), p.dtype), params)

        return StepByLbfgsState(
            iterations=zero(),
            leaf_seen=zero_counts(params),
            pairs=zero(),
            slot=zero(),
            scale=jnp.ones((), kind),
            inverse_curvatures=jnp.zeros(memory_size, kind),
            last_grad=zeros(),
            last_step=zeros(),
            changes=zeros(memory_size),
            steps=zeros(memory_size),
            search=search.init(params),
        )

    def update(
        updates: Any,
        state: StepByLbfgsState,
        params: Any = None,
        *,
        max_linesearch_steps: Any = None,
        **extra: Any,
    ) -> tuple[Any, StepByLbfgsState]:
        here = present(updates)
        first = (state.iterations == 0) | ((state.leaf_seen == state.iterations) != here).any()
        resting = largest(updates) <= tolerance_grad
        known = _remembered(state, updates, first, resting, scale_init_precond)
        direction = _scaled(known, updates)
        slope = inner(updates, direction)
        length = jnp.asarray(learning_rate, slope.dtype)
        if scale_init_precond:
            sizes = [jnp.sum(jnp.abs(widened(g))) for g in jax.tree.leaves(updates)]
            total = sum(sizes, start=jnp.zeros((), slope.dtype))
            # Of nan nothing is known, and one such entry does not spread to the others.
            length = jnp.where(first & (total > 1.0), length / jnp.maximum(total, 1.0), length)
        length = jnp.where(resting | (slope > -tolerance_change), 0.0, length)
        # A direction of nan must not make a step of length zero another one.
        step = jax.tree.map(
            lambda d, g: jnp.where(length == 0, 0.0, length * d).astype(g.dtype), direction, updates
        )
        if linesearch is not None:
            if isinstance(state.search, StrongWolfeState) and max_linesearch_steps is not None:
                extra['max_linesearch_steps'] = max_linesearch_steps
            extra.setdefault('grad', updates)
            step, searched = search.update(step, state.search, params, **extra)
            known = known._replace(search=searched)
        now = optax.safe_increment(state.iterations)
        return step, known._replace(
            iterations=jnp.where(resting, state.iterations, now),
            leaf_seen=jnp.where(here & ~resting, now, state.leaf_seen),
            last_grad=_unless(resting, updates, state.last_grad),
            last_step=_unless(resting, step, state.last_step),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _unless(resting: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(resting, o, n).astype(o.dtype), new, old)


def _remembered(
    state: StepByLbfgsState, grads: Any, first: jax.Array, resting: jax.Array, scaled: bool
) -> StepByLbfgsState:
    """Return the state with the last step and the change of the gradient over it."""
    change = jax.tree.map(lambda g, last: g - last, grads, state.last_grad)
    curvature = inner(change, state.last_step)
    new = (curvature > LEAST_CURVATURE) & ~first & ~resting
    memory_size = state.inverse_curvatures.shape[0]

    def put(ring: jax.Array, x: jax.Array) -> jax.Array:
        return ring.at[state.slot].set(jnp.where(new, x, ring[state.slot]))

    pairs = jnp.where(first & ~resting, 0, state.pairs)
    scale = jnp.where(first & ~resting, 1.0, state.scale)
    if scaled:
        size = jnp.where(new, inner(change, change), 1.0)
        scale = jnp.where(new, curvature / size, scale)
    return state._replace(
        pairs=jnp.minimum(pairs + new, memory_size),
        slot=jnp.where(new, (state.slot + 1) % memory_size, state.slot),
        scale=scale,
        inverse_curvatures=put(state.inverse_curvatures, 1.0 / jnp.where(new, curvature, 1.0)),
        changes=jax.tree.map(put, state.changes, change),
        steps=jax.tree.map(put, state.steps, state.last_step),
    )


def _scaled(state: StepByLbfgsState, grads: Any) -> Any:
    """Return the direction :math:`-H g`, by the two-loop recursion over the pairs."""
    memory_size = state.inverse_curvatures.shape[0]

    def pair(age: Any) -> tuple[Any, Any, Any, Any]:
        i = (state.slot - 1 - age) % memory_size
        s, y = jax.tree.map(lambda x: widened(x[i]), (state.steps, state.changes))
        return i, s, y, state.inverse_curvatures[i]

    def newest_first(age: Any, carry: Any) -> Any:
        q, shares = carry
        i, s, y, rho = pair(age)
        share = inner(s, q) * rho
        return _plus(q, -share, y), shares.at[i].set(share)

    def oldest_first(k: Any, r: Any) -> Any:
        i, s, y, rho = pair(state.pairs - 1 - k)
        return _plus(r, shares[i] - inner(y, r) * rho, s)

    q = jax.tree.map(lambda g: -widened(g), grads)
    nothing = jnp.zeros_like(state.inverse_curvatures)
    q, shares = jax.lax.fori_loop(0, state.pairs, newest_first, (q, nothing))
    r = jax.tree.map(lambda x: (state.scale * x).astype(x.dtype), q)
    return jax.lax.fori_loop(0, state.pairs, oldest_first, r)


def _plus(x: Any, t: jax.Array, y: Any) -> Any:
    return jax.tree.map(lambda a, b: (a + t * b).astype(a.dtype), x, y)
