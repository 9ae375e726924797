"""An optimizer of two groups after a step, and a module that has one."""

import brainstate
import jax.numpy as jnp
from brainstate import ParamState

import braintools_optim as bo


def trained(make=bo.Adam, **options):
    """Return an optimizer of two groups after a step."""
    opt = make(**{'lr': 0.1, **options})
    opt.register_trainable_weights({'w': ParamState(jnp.ones(2)), 'b': ParamState(jnp.ones(3))})
    opt.add_param_group({'head': {'w': ParamState(jnp.ones((20, 60)))}}, lr=0.01)
    opt.step(opt.param_states.to_pytree_value())
    return opt


class Trainer(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = brainstate.nn.Linear(2, 2)
        self.opt = bo.Adam(0.1).register_trainable_weights(self.model.states(ParamState))
