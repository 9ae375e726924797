"""Registering and loading are all or nothing; a subclass keeps the arguments it inherits."""

import copy

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from interrupts import interrupted, nth

import braintools_optim as bo


def param(*shape):
    return brainstate.ParamState(jnp.ones(shape))


def untrained():
    return bo.SGD(0.1, momentum=0.9).register_trainable_weights({'a': param(2)})


def trained():
    opt = untrained()
    opt.step({'a': jnp.ones(2)})
    return opt


def everything(opt):
    arrays = jax.tree.leaves(opt._core._value) + [opt._table.state.on_host()]
    schedule = opt.lr.state_dict()
    return (
        [np.asarray(x).tolist() for x in arrays],
        schedule,
        opt.param_states.names,
        len(opt._groups),
        opt._defaults(),
    )


def check_every_line(change, stride, make=trained):
    """Interrupt a change at every ``stride``-th line: all must be as before, or as after it."""
    whole = make()
    change(whole)
    after, line = everything(whole), 1
    while True:
        opt = make()
        before = everything(opt)
        when = nth(line, lambda frame: 'undone' not in frame.f_code.co_name)
        reached = interrupted(lambda opt=opt: change(opt), when)
        assert everything(opt) in ((before, after) if reached else (after,)), reached
        opt.step({'a': jnp.ones(2)})
        if not reached:
            return line
        line += stride


def test_loading_is_all_or_nothing():
    other = trained()
    other.step({'a': jnp.ones(2)})
    other.current_lr = 0.7
    snapshot = other.state_dict()
    assert check_every_line(lambda opt: opt.load_state_dict(snapshot), stride=17) > 100


def test_adding_a_group_is_all_or_nothing():
    assert (
        check_every_line(lambda opt: opt.add_param_group({'b': param(3)}, lr=0.5), stride=23) > 200
    )


def test_assigning_for_all_groups_is_all_or_nothing():
    def assign(opt):
        opt.momentum = 0.5

    assert check_every_line(assign, stride=1, make=untrained) > 20


@pytest.mark.parametrize('state', ['_core', '_number_state'])
def test_a_vetoed_write_undoes_loading(state):
    opt = trained()
    snapshot = {**opt.state_dict(), 'step_count': 70}
    snapshot['param_groups']['0']['lr'] = 0.7
    before = everything(opt)

    def veto(context):
        raise RuntimeError('no')

    handle = getattr(opt, state).register_hook('write_before', veto)
    with pytest.raises(Exception, match='execution failed'):
        opt.load_state_dict(snapshot)
    handle.remove()
    assert everything(opt) == before


class Plain(bo.OptaxOptimizer):
    def transform(self, h):
        return optax.chain(
            optax.add_decayed_weights(h.weight_decay), optax.scale_by_learning_rate(h.lr)
        )


def test_a_subclass_without_constructor_keeps_weight_decay():
    w = param(2)
    opt = Plain(lr=0.1, weight_decay=0.2).register_trainable_weights({'w': w})
    copy.deepcopy(opt)
    opt.step({'w': jnp.zeros(2)})
    np.testing.assert_allclose(w.value, 1 - 0.1 * 0.2, rtol=1e-6)
