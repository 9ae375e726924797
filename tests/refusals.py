"""Optimizers that are given what they refuse, and that nothing has changed then."""

from contextlib import contextmanager

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState

import braintools_optim as bo


def param(*shape, dtype=jnp.float32):
    return ParamState(jnp.ones(shape, dtype))


def digest(opt):
    """Return everything that a refused call must leave alone, as comparable bytes."""
    arrays = jax.tree.leaves((opt.param_states.to_pytree_value(), opt._core.value))
    arrays.append(np.asarray(opt._table.state.value, np.float32))
    return (
        [(np.asarray(x).tobytes(), np.shape(x), str(x.dtype)) for x in arrays],
        opt.param_states.names,
        [{k: repr(v) for k, v in g.items() if k != 'params'} for g in opt.param_groups],
        [list(g['params']) for g in opt.param_groups],
        (opt.grad_clip_norm, opt.grad_clip_value),
        (opt.get_last_lr(), opt.lr.base_lrs, opt.lr.get_lr(), opt.lr.last_epoch.value),
        len(opt.schedulers),
    )


BUILT = {
    'SGD': lambda: bo.SGD(0.1, momentum=0.9, dampening=0.1),
    'plain SGD': lambda: bo.SGD(0.1),
    'nesterov': lambda: bo.SGD(0.1, momentum=0.9, nesterov=True),
    'Momentum': lambda: bo.Momentum(0.1),
    'MomentumNesterov': lambda: bo.MomentumNesterov(0.1),
    'Adam': lambda: bo.Adam(0.1),
    'AdamW': lambda: bo.AdamW(0.1),
    'OptaxOptimizer': lambda: bo.OptaxOptimizer(lr=0.1),
    'clipped': lambda: bo.Adam(0.1, grad_clip_norm=1.0, grad_clip_value=1.0),
    'scale': lambda: bo.OptaxOptimizer(tx=optax.scale(-0.1)),
    'RMSprop': lambda: bo.RMSprop(0.1, momentum=0.9),
    'Adagrad': lambda: bo.Adagrad(0.1),
    'Adadelta': lambda: bo.Adadelta(0.1),
    'Adamax': lambda: bo.Adamax(0.1),
    'Nadam': lambda: bo.Nadam(0.1),
    'RAdam': lambda: bo.RAdam(0.1),
    'Rprop': lambda: bo.Rprop(0.1),
    'ASGD': lambda: bo.ASGD(0.1),
    'Adafactor': lambda: bo.Adafactor(0.1, beta1=0.9),
    'Muon': lambda: bo.Muon(0.1, reshape='last'),
    'AdEMAMix': lambda: bo.AdEMAMix(0.1),
    'Mars': lambda: bo.Mars(0.1),
}

GRADS = {'x': jnp.ones(2), 'y': jnp.ones((3, 2)), 'z': jnp.ones(4)}

_idle: dict = {}  # built optimizers; a row that changed its own does not give it back


@contextmanager
def unchanged(kind='Adam'):
    """Give a trained optimizer with two groups; check that it is the same afterwards."""
    opt = _idle.pop(kind, None)
    if opt is None:
        opt = BUILT[kind]().register_trainable_weights({'x': param(2), 'y': param(3, 2)})
        opt.add_param_group({'z': param(4)}, **({} if kind == 'scale' else {'lr': 0.5}))
        opt.step(GRADS)
    before = digest(opt)
    yield opt
    assert digest(opt) == before
    _idle[kind] = opt


@contextmanager
def refused(error, *words):
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value).__name__ != 'XlaRuntimeError'
    assert [w for w in words if w not in message] == [], message
    assert len(message) < 1000, message


MODEL = brainstate.nn.Linear(2, 2)
