"""Registering and loading are all or nothing; a subclass keeps the arguments it inherits."""

import copy

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate.transform import for_loop, jit
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
    assert check_every_line(lambda opt: opt.load_state_dict(snapshot), stride=31) > 100


def test_adding_a_group_is_all_or_nothing():
    assert (
        check_every_line(lambda opt: opt.add_param_group({'b': param(3)}, lr=0.5), stride=41) > 200
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
    with pytest.raises(Exception, match='execution failed|error #1: no'):
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


@pytest.mark.parametrize('road', [jit, jax.jit, lambda f: lambda: for_loop(f, jnp.arange(2))])
def test_an_optimizer_from_outside_does_not_grow_in_a_trace(road):
    """What brainstate puts back at its end, or after an error, would not fit the rest."""
    opt, before = trained(), everything(trained())
    late = param(3)

    def add(*_):
        opt.add_param_group({'b': late})

    def register(*_):
        opt.register_trainable_weights({'b': late})

    for grow in (add, register):
        with pytest.raises(ValueError, match='in a function that is being traced.*call it before'):
            road(grow)()
        assert everything(opt) == before
        opt.state_dict()
    add()
    opt.step({'a': jnp.ones(2), 'b': jnp.ones(3)})
    assert len(opt.param_groups) == 2


def test_an_optimizer_of_the_trace_grows_there():
    @jit
    def train():
        a, b = param(2), param(3)
        opt = bo.SGD(0.5).register_trainable_weights({'a': a})
        opt.add_param_group({'b': b}, lr=0.25)
        opt.step({'a': jnp.ones(2), 'b': jnp.ones(3)})
        return a.value, b.value

    a, b = train()
    np.testing.assert_array_equal(a, param(2).value - 0.5)
    np.testing.assert_array_equal(b, param(3).value - 0.25)
