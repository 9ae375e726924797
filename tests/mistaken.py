"""Optimizers that are ready to step, for what one may do wrong with them."""

import brainstate
import jax.numpy as jnp
from brainstate import ParamState

import braintools_optim as bo

MODEL = brainstate.nn.Linear(3, 2)

GRADS = {'w': jnp.ones((2, 3)), 'b': jnp.ones(3)}


def ready(cls=bo.Adam, lr=0.1, **options):
    """Return an optimizer that is ready to step."""
    params = {'w': ParamState(jnp.ones((2, 3))), 'b': ParamState(jnp.ones(3))}
    return cls(lr=lr, **options).register_trainable_weights(params)


def of_model():
    return bo.Adam(0.1).register_trainable_weights(MODEL.states(ParamState))


def assign(name, value, cls=bo.Adam):
    return lambda: setattr(ready(cls), name, value)
