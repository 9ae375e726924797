"""Steps, and what is read and restored, under settings of JAX that forbid something."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from jax.experimental.sparse import BCOO
from looking import assert_same, values_of
from mistaken import MODEL

import braintools_optim as bo


def trained(steps_of):
    """Return the parameters after some steps whose learning rates change in every way."""
    params = {'w': ParamState(jnp.arange(6.0).reshape(2, 3)), 'b': ParamState(jnp.ones(3))}
    opt = bo.AdamW(bo.StepLR(0.1, step_size=2)).register_trainable_weights(params)
    x = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)
    train = bo.train_step(
        params, opt, lambda x: jnp.square(x @ params['w'].value + params['b'].value).sum()
    )
    grads = {'w': jnp.ones((2, 3)), 'b': jnp.ones(3)}
    steps_of(opt, lambda: opt.step(grads), lambda: train(x))
    return values_of(params)


@pytest.mark.parametrize('compile_', [lambda f: f, brainstate.transform.jit], ids=['eager', 'jit'])
def test_a_look_before_x64_is_on_leaves_numbers_as_precise(compile_, x64):
    jax.config.update('jax_enable_x64', False)
    opt = bo.SGD(0.1)
    opt.state_dict()
    jax.config.update('jax_enable_x64', True)
    w = ParamState(jnp.zeros(2))
    opt.register_trainable_weights({'w': w})
    compile_(opt.step)({'w': jnp.ones(2)})
    assert w.value[0] == -0.1
    with jax.enable_x64(False):
        opt.current_lr = 0.3
        assert opt._number_state.value.dtype == np.float32
    opt.step({'w': jnp.ones(2)})
    assert w.value[0] == -0.1 - 0.3


def test_nothing_moves_to_the_device_unasked():
    def steps_of(opt, step, train):
        for act in (step, train):
            act()
            opt.lr.step()
            act()
            opt.param_groups[0]['weight_decay'] = 0.2
            act()
            act()
        kept = opt.state_dict()
        assert 'AdamW' in repr(opt)
        step()
        opt.load_state_dict(kept)
        train()
        average = bo.AveragedModel(MODEL, decay=0.9)
        for _ in range(2):
            average.update_parameters(MODEL)
        average.decay = 0.5
        average.update_parameters(MODEL)

    def guarded(opt, step, train):
        with jax.transfer_guard('disallow'):
            with pytest.raises(Exception, match='Disallowed host-to-device'):
                jnp.ones(3) + np.ones(3)
            steps_of(opt, step, train)

    assert_same(jax.tree.leaves(trained(steps_of)), jax.tree.leaves(trained(guarded)))


@pytest.mark.parametrize('cls', [bo.Quad, bo.Skew, bo.SparseAdam], ids=lambda cls: cls.__name__)
def test_nothing_is_broadcast_to_more_axes(cls):
    """As of arrays of other ranks these three did."""

    def stepped():
        table = jnp.arange(40.0).reshape(8, 5)
        params = {'w': ParamState(table), 'v': ParamState(table)}
        opt = cls(0.1).register_trainable_weights(params)
        grads = {k: jnp.sin(table) for k in params}
        if cls is bo.SparseAdam:
            grads = {k: BCOO.fromdense(g, n_dense=1) for k, g in grads.items()}
        opt.step(grads)
        return jax.tree.leaves(values_of(params))

    free = stepped()
    with jax.numpy_rank_promotion('raise'):
        with pytest.raises(ValueError, match='rank_promotion'):
            jnp.ones((2, 2)) + jnp.ones(2)
        assert_same(stepped(), free)
