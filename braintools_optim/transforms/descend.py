"""Several iterations of L-BFGS on a known objective, as torch makes them in a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .wide import cast_like, largest, moved, wide_dtype

__all__ = ['descend']


class Iterate(NamedTuple):
    """Where the iterations are, and how many evaluations they have taken."""

    params: Any
    state: optax.OptState
    value: jax.Array
    grad: Any
    iterations: jax.Array
    evaluations: jax.Array
    going: jax.Array


def descend(
    tx: optax.GradientTransformationExtraArgs,
    value_fn: Callable[[Any], Any],
    params: Any,
    state: optax.OptState,
    value: Any,
    grad: Any,
    *,
    max_iter: int = 20,
    max_eval: int = 25,
    tolerance_grad: Any = 1e-7,
    tolerance_change: Any = 1e-9,
) -> tuple[Any, optax.OptState]:
    """Iterate :func:`step_by_lbfgs`, or what wraps it, until ``torch.optim.LBFGS.step`` would end.

    Parameters
    ----------
    tx : optax.GradientTransformationExtraArgs
        What makes an iteration.
    value_fn : callable
        The objective, a function of the parameters.
    params, state : pytree
        Where it begins: the parameters, and the state of ``tx``.
    value, grad : float, pytree
        The objective there and its gradient, which count as the first evaluation.
    max_iter, max_eval : int
        It is over after so many iterations or evaluations ...
    tolerance_grad : float
        ... or when no entry of the gradient is above this ...
    tolerance_change : float
        ... or when an iteration changed every parameter, or the value, by less than this.

    Returns
    -------
    The new parameters and state. They are not returned as an update: in a sum with the old
    parameters small numbers would be lost.
    """
    kind = wide_dtype(params)
    evaluate = jax.value_and_grad(value_fn)

    def turn(now: Iterate) -> Iterate:
        step, new_state = tx.update(
            now.grad,
            now.state,
            now.params,
            value=now.value,
            value_fn=value_fn,
            max_linesearch_steps=max_eval - now.evaluations,
        )
        new = moved(now.params, 1.0, step)
        iterations = now.iterations + 1
        last = iterations >= max_iter
        value, grad, used = _at(new, optax.tree.get(new_state, 'search'), now, last)
        evaluations = now.evaluations + used.astype(jnp.int32)
        return Iterate(
            params=new,
            state=cast_like(new_state, now.state),
            value=value,
            grad=grad,
            iterations=iterations,
            evaluations=evaluations,
            going=~(
                last
                | (evaluations >= max_eval)
                | (largest(grad) <= tolerance_grad)
                | (largest(step) <= tolerance_change)
                | (jnp.abs(value - now.value) < tolerance_change)
            ),
        )

    def _at(new: Any, search: Any, now: Iterate, last: jax.Array) -> tuple[Any, Any, Any]:
        """Return the objective at a new point: what a line search found there, if it tells."""
        found, its_grad = getattr(search, 'value', None), getattr(search, 'grad', None)
        told = optax.tree.get(getattr(search, 'info', search), 'num_linesearch_steps', 0)
        steps = jnp.asarray(told)
        if found is not None and its_grad is not None:
            return found.astype(kind), cast_like(its_grad, now.grad), steps
        # Nobody uses what would be evaluated after the last iteration.
        value, grad = jax.lax.cond(
            last, lambda x: (now.value, now.grad), lambda x: strongly(*evaluate(x)), new
        )
        return value, grad, steps + ~last

    def strongly(value: Any, grad: Any) -> tuple[Any, Any]:
        return jnp.asarray(value).astype(kind), cast_like(grad, params)

    value, grad = strongly(value, grad)
    begin = Iterate(
        params=params,
        state=state,
        value=value,
        grad=grad,
        iterations=jnp.zeros((), jnp.int32),
        evaluations=jnp.ones((), jnp.int32),
        going=~(largest(grad) <= tolerance_grad),
    )
    end = jax.lax.while_loop(lambda now: now.going, turn, begin)
    return end.params, end.state
