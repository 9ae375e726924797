"""What a chain of optax is told of the loss, where it sees something else than users hold."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from brainstate import ParamState

import braintools_optim as bo

START = (-1.0, 2.0)


def valley(x):
    """A loss that a step in the wrong direction never lessens."""
    return (1 - x[0]) ** 2 + 10 * (x[1] - x[0] ** 2) ** 2


class Backtracking(bo.OptaxOptimizer):
    def __init__(self, lr=0.5, maximize=False):
        super().__init__(lr=lr, maximize=maximize)

    def transform(self, h):
        search = optax.scale_by_backtracking_linesearch(20)
        return optax.chain(optax.sgd(h.lr), search)


def plateau():
    return optax.chain(optax.sgd(0.01), optax.contrib.reduce_on_plateau(factor=0.5, patience=1))


SEARCHES = {
    'tx': lambda **options: bo.OptaxOptimizer(tx=optax.lbfgs(), **options),
    'transform': Backtracking,
    'Lookahead': lambda **options: bo.Lookahead(
        bo.OptaxOptimizer(tx=optax.lbfgs(), **options), alpha=1.0
    ),
}


def trained(opt, loss, start=START, steps=4, of=jnp.asarray, **options):
    """Return the losses of steps that `train_step` takes, and the parameter after each."""
    w = ParamState(of(start))
    opt.register_trainable_weights({'w': w})
    step = bo.train_step({'w': w}, opt, lambda: loss(w.value), **options)
    return [(float(step()), w.value) for _ in range(steps)]


@pytest.mark.parametrize('make', SEARCHES.values(), ids=SEARCHES)
def test_a_search_climbs_as_it_descends(make):
    down = trained(make(), valley, value_fn=True)
    up = trained(make(maximize=True), lambda x: -valley(x), value_fn=True)
    for (loss, w), (gain, v) in zip(down, up, strict=True):
        assert gain == -loss
        np.testing.assert_array_equal(v, w)
    assert valley(down[-1][1]) < 0.5 * valley(START)


@pytest.mark.parametrize(
    'outer', [lambda opt: opt, lambda opt: bo.Lookahead(opt, alpha=1.0)], ids=['alone', 'Lookahead']
)
def test_a_plateau_of_what_is_maximized_is_where_it_no_longer_grows(outer):
    w = ParamState(jnp.zeros(2))
    opt = outer(bo.OptaxOptimizer(tx=plateau(), maximize=True)).register_trainable_weights(w)
    step = bo.train_step(w, opt, lambda: -jnp.sum((w.value - 3) ** 2))
    for _ in range(8):
        step()
    assert optax.tree.get(opt.opt_state.value, 'scale') == 1.0
    shrinking = bo.OptaxOptimizer(tx=plateau(), maximize=True).register_trainable_weights(w)
    for t in range(8):
        shrinking.step(jnp.zeros(2), value=-float(t))
    assert optax.tree.get(shrinking.opt_state.value, 'scale') < 0.1


def test_each_group_is_told_its_own_side_of_the_loss():
    a, b = ParamState(jnp.zeros(2)), ParamState(jnp.zeros(2))
    opt = bo.OptaxOptimizer(tx=plateau()).register_trainable_weights({'a': a})
    opt.add_param_group({'b': b}, maximize=True)
    for t in range(8):
        opt.step({'a': jnp.zeros(2), 'b': jnp.zeros(2)}, value=float(t))
    chains = [opt.opt_state, *opt.param_groups_opt_states]
    falling, rising = (optax.tree.get(s.value, 'scale') for s in chains)
    assert falling < 0.1 and rising == 1.0


def test_a_search_sees_no_units():
    plain = trained(SEARCHES['tx'](), valley, value_fn=True)
    held = trained(
        SEARCHES['tx'](),
        lambda x: valley(x / u.mV),
        of=lambda x: jnp.asarray(x) * u.mV,
        value_fn=True,
    )
    for (loss, w), (same, v) in zip(plain, held, strict=True):
        assert same == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(v / u.mV, w, rtol=1e-5)


def test_a_search_sees_complex_numbers_as_pairs():
    pairs = trained(SEARCHES['tx'](), valley, value_fn=True)
    held = trained(
        SEARCHES['tx'](),
        lambda z: valley((z.real, z.imag)),
        of=lambda x: jnp.asarray(complex(*x)),
        value_fn=True,
    )
    for (loss, w), (same, z) in zip(pairs, held, strict=True):
        assert same == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose([z.real, z.imag], w, rtol=1e-5)


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
def test_a_function_by_hand_is_given_what_it_takes(jit):
    """By optax's protocol: the extra arguments that it has names for."""

    def gain(params, target):
        return -valley(params['w'] - target)

    ends = []
    for sign in (1.0, -1.0):
        w, target = ParamState(jnp.array(START)), jnp.array([0.5, 0.0])
        opt = SEARCHES['tx'](maximize=sign > 0).register_trainable_weights({'w': w})

        def fn(params, target, sign=sign):
            return sign * gain(params, target)

        def step(fn=fn, opt=opt, w=w, target=target):
            value, grad = jax.value_and_grad(fn)({'w': w.value}, target)
            opt.step(grad, value=value, grad=grad, value_fn=fn, target=target)

        step = brainstate.transform.jit(step) if jit else step
        for _ in range(3):
            step()
        ends.append(np.asarray(w.value))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)
    assert valley(ends[0] - target) < 0.9 * valley(np.array(START) - target)


def test_tx_turns_the_loss_as_a_step_does():
    """Used as a transformation of optax, it minimizes minus what is to be maximized."""
    params, alone = {'w': jnp.array(START)}, {'w': jnp.array(START)}
    opt = SEARCHES['tx'](maximize=True).register_trainable_weights({'w': ParamState(params['w'])})
    tx, state = opt.tx, opt.tx.init(params)
    search = optax.lbfgs()
    other = search.init(alone)

    def gain(p, scale):
        return -scale * valley(p['w'])

    def loss(p, scale):
        return scale * valley(p['w'])

    for _ in range(3):
        value, grad = jax.value_and_grad(gain)(params, 2.0)
        updates, state = tx.update(
            grad, state, params, value=value, grad=grad, value_fn=gain, scale=2.0
        )
        params = optax.apply_updates(params, updates)
        value, grad = jax.value_and_grad(loss)(alone, 2.0)
        updates, other = search.update(
            grad, other, alone, value=value, grad=grad, value_fn=loss, scale=2.0
        )
        alone = optax.apply_updates(alone, updates)
    np.testing.assert_array_equal(params['w'], alone['w'])
    assert valley(params['w']) < 0.5 * valley(START)
