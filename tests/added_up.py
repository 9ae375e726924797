"""Optimizers that add up gradients, and what they hold."""

import jax
import jax.numpy as jnp
import numpy as np
from brainstate import ParamState
from looking import (
    values_of,
)

import braintools_optim as bo


def pair(**options):
    """Return two parameters, and an optimizer with a group for each."""
    params = {'w': ParamState(jnp.arange(4.0)), 'v': ParamState(jnp.ones(3))}
    opt = bo.AdamW(0.1, **options).register_trainable_weights({'w': params['w']})
    opt.add_param_group({'v': params['v']}, lr=0.5)
    return params, opt


def drawn(calls, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {'w': jnp.asarray(rng.normal(size=4), float), 'v': jnp.asarray(rng.normal(size=3), float)}
        for _ in range(calls)
    ]


def state_of(opt, params):
    return list(map(np.array, jax.tree.leaves((values_of(params), opt._core.value))))
