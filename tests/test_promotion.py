"""All that the library computes it computes under `jax_numpy_dtype_promotion='strict'`, too."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from cases import over_classes
from looking import assert_same, values_of
from scheduler_cases import EVERY, attached

import braintools_optim as bo
from braintools_optim.engine import chunks


@pytest.fixture
def strict():
    """Let JAX refuse that numbers of several types meet."""
    with jax.numpy_dtype_promotion('strict'):
        with pytest.raises(ValueError, match='promotion'):
            jnp.ones(2, jnp.bfloat16) * jnp.ones(2)
        yield


def short_and_long():
    """Return parameters of several types."""
    return {
        'f32': ParamState(jnp.full(3, 0.5)),
        'bf16': ParamState({'w': jnp.full((2, 2), 0.5, jnp.bfloat16)}),
        'weak': ParamState(jnp.asarray(0.5)),
    }


def quarters(params):
    return jax.tree.map(lambda p: jnp.full(p.shape, 0.25), values_of(params))


def stepped(opt):
    """Return parameters after a step with all gradients, and one without one of them."""
    params = short_and_long()
    opt.register_trainable_weights(params)
    opt.step(quarters(params))
    opt.step({**quarters(params), 'weak': None})
    return values_of(params)


@over_classes('shapes')
def test_every_optimizer_steps_to_the_same_bits(case, strict):
    found = stepped(case.make())
    with jax.numpy_dtype_promotion('standard'):
        assert_same(found, stepped(case.make()))


@pytest.mark.parametrize(
    'options',
    [
        {'master_dtype': 'float32', 'skip_nonfinite': True, 'grad_clip_norm': 0.1},
        {'state_dtype': 'float32', 'accumulate_steps': 2, 'grad_clip_value': 0.1},
        {'constrain': lambda p: jnp.clip(p, 0.0, 0.45)},
    ],
    ids=['masters', 'accumulated', 'constrained'],
)
def test_so_do_the_common_options(options, strict):
    found = stepped(bo.Adam(0.01, **options))
    with jax.numpy_dtype_promotion('standard'):
        assert_same(found, stepped(bo.Adam(0.01, **options)))


def test_so_does_a_step_that_is_cut_into_calls(strict, monkeypatch):
    monkeypatch.setattr(chunks, '_MANY', 2)
    params = {f'k{i}': ParamState(jnp.ones(3, jnp.bfloat16)) for i in range(12)}
    opt = bo.Adam(0.25, eps=0.0).register_trainable_weights(params)
    opt.step(quarters(params))
    assert opt._stepper.donating.chunks
    assert_same(values_of(params), dict.fromkeys(params, jnp.full(3, 0.75, jnp.bfloat16)))


def test_so_do_chains_of_optax_which_alone_do_not(strict):
    with pytest.raises(ValueError, match='promotion'):
        tx, params = optax.adam(0.01), {'w': jnp.ones(2)}
        tx.update(params, tx.init(params))
    found = stepped(bo.OptaxOptimizer(tx=optax.adam(0.01)))
    with jax.numpy_dtype_promotion('standard'):
        assert_same(found, stepped(bo.OptaxOptimizer(tx=optax.adam(0.01))))


@EVERY
def test_every_scheduler_steps_in_jit(case, strict):
    eager, in_jit = attached(case), attached(case)

    @brainstate.transform.jit
    def step(t):
        case.step(in_jit[2], t)
        return in_jit[2].preview(2)

    for t in range(4):
        case.step(eager[2], t)
        shown = step(jnp.asarray(float(t)))
        if not case.metric:  # which a preview takes for as good as ever
            np.testing.assert_allclose(shown, eager[2].preview(2), rtol=1e-5)
        np.testing.assert_allclose(in_jit[0].get_last_lr(), eager[0].get_last_lr(), rtol=1e-5)


def test_schedules_are_functions_of_a_traced_step(strict):
    tx = optax.sgd(bo.schedules.warmup_cosine(0.1, warmup_steps=2, total_steps=9))
    params, state = jnp.ones(2), tx.init(jnp.ones(2))
    for _ in range(3):
        updates, state = jax.jit(tx.update)(params, state)
    np.testing.assert_allclose(updates, -0.1)


@pytest.mark.parametrize('search', [None, 'zoom', 'strong_wolfe'])
def test_closures_over_short_parameters(search, strict):
    def trained():
        params = short_and_long()
        opt = bo.LBFGS(0.1, linesearch=search).register_trainable_weights(params)

        def loss():
            squares = [jnp.sum(jnp.square(x - 1)) for x in jax.tree.leaves(values_of(params))]
            return sum(x.astype(jnp.float32) for x in squares)

        losses = [opt.step(loss) for _ in range(3)]
        assert losses[2] < losses[0]
        return values_of(params)

    found = trained()
    with jax.numpy_dtype_promotion('standard'):
        assert_same(found, trained())


@pytest.mark.parametrize('decay', [None, 0.9])
@pytest.mark.parametrize('run', [lambda f: f, brainstate.transform.jit], ids=['eager', 'jit'])
def test_averages(decay, run, strict):
    class Model(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = ParamState(jnp.ones(3, jnp.bfloat16))

    def averaged():
        model = Model()
        average = bo.AveragedModel(model, decay=decay)
        update = run(lambda: average.update_parameters(model))
        for value in (1.0, 2.0, 4.0):
            model.w.value = jnp.full(3, value, jnp.bfloat16)
            update()
        assert 1.0 < average.module.w.value[0] < 4.0
        return average.module.w.value

    found = averaged()
    with jax.numpy_dtype_promotion('standard'):
        assert_same(found, averaged())


def test_a_whole_training_step(strict):
    def trained():
        params = short_and_long()
        opt = bo.AdamW(bo.CosineAnnealingLR(0.1, T_max=9), master_dtype='float32')
        opt.register_trainable_weights(params)

        def loss(target):
            squares = [jnp.sum(jnp.square(x - 1)) for x in jax.tree.leaves(values_of(params))]
            return target * sum(x.astype(jnp.float32) for x in squares)

        train = bo.train_step(params, opt, loss, scheduler=opt.lr)
        for _ in range(3):
            train(jnp.ones(()))
        return values_of(params)

    found = trained()
    with jax.numpy_dtype_promotion('standard'):
        assert_same(found, trained())


def test_the_code_of_users_is_not_let_off(strict):
    """But for what is evaluated within a step, as a closure is."""
    params = short_and_long()
    opt = bo.SGD(0.1).register_trainable_weights(params)
    train = bo.train_step(params, opt, lambda: jnp.sum(params['bf16'].value['w'] * jnp.ones(2)))
    with pytest.raises(ValueError, match='promotion'):
        train()
    with pytest.raises(ValueError, match='promotion'):
        opt.lr_apply(lambda lr: lr * (jnp.ones(1, jnp.bfloat16) * jnp.ones(1))[0])
