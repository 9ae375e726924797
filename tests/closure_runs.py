"""Optimizers over the recorded problems, and closures that count."""

import closure_problems
import jax
import jax.numpy as jnp
import numpy as np
from brainstate import ParamState
from looking import (
    values_of,
)

import braintools_optim as bo

SEARCHES = ('strong_wolfe', 'zoom', 'backtracking')


def put(x):
    """Convert to the present precision: JAX may remember an array as it was under x64."""
    return jnp.asarray(x, complex if np.iscomplexobj(x) else float)


def problem(name, dtype=None):
    """The States of a problem's parameters, and its loss as a function of their values."""
    loss = closure_problems.LOSSES[name]
    params = {
        k: ParamState(jnp.asarray(v, dtype)) for k, v in closure_problems.STARTS[loss].items()
    }
    return params, lambda values: loss(values, put)


def rosenbrock(**kwargs):
    """An optimizer of Rosenbrock's function, its parameters and closure."""
    params, loss = problem('rosenbrock')
    opt = bo.LBFGS(**kwargs).register_trainable_weights(params)
    return opt, params, lambda: loss(values_of(params))


class Counter:
    """Counts how often a closure is traced, and how often it is evaluated."""

    def __init__(self, closure):
        self.closure, self.traces, self.evaluations = closure, 0, 0

    def __call__(self):
        self.traces += 1
        jax.debug.callback(self.evaluated)
        return self.closure()

    def evaluated(self):
        self.evaluations += 1
