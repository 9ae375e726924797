"""What a training step gives to line searches, and to chains that want the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from brainstate import ParamState
from training import BATCHES, Net, by_hand, digest, registered, square

import braintools_optim as bo


def test_a_line_search_evaluates_the_loss():
    runs = []
    for whole in (True, False):
        model = Net()
        opt = registered(bo.LBFGS(0.5, linesearch='backtracking'), model.params())
        model.mean.value = jnp.array([0.3, -0.2, 0.1, 0.5])

        def at(values, x, y, model=model):
            h = jnp.tanh(x @ values['body']['w'] + values['body']['b'])
            h = h - (0.9 * model.mean.value + 0.1 * h.mean(0))
            return jnp.mean((h @ values['head'] - y) ** 2)

        def search(value, x, y, at=at):
            return {'value': value, 'value_fn': lambda values: at(values, x, y)}

        def frozen(x, y, model=model):  # writes nothing, so that both searches see one function
            h = jnp.tanh(x @ model.body.value['w'] + model.body.value['b'])
            h = h - (0.9 * model.mean.value + 0.1 * h.mean(0))
            return jnp.mean((h @ model.head.value - y) ** 2)

        step = bo.train_step(model, opt, frozen) if whole else by_hand([opt], frozen, (), search)
        losses = [float(step(*BATCHES[0])) for _ in range(4)]
        runs.append((losses, digest(model, [opt])))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]


def test_a_line_search_sees_the_random_numbers_and_states_of_its_step():
    model, seen = Net(noisy=True), []
    opt = registered(bo.LBFGS(0.5, linesearch='strong_wolfe'), model.params())
    step = bo.train_step(model, opt, square(model))
    for _ in range(5):
        key = model.random.value
        seen.append(float(step(*BATCHES[0])))
        assert jnp.any(jax.random.key_data(key) != jax.random.key_data(model.random.value))
    # with other noise in each evaluation no search would find a decrease in every step
    assert seen[-1] < 0.8 * seen[0]


SEARCHED = {
    'maximize': {'maximize': True},
    'bounded norm': {'grad_clip_norm': 1.0},
}


@pytest.mark.parametrize('search', ['strong_wolfe', 'zoom', 'backtracking'])
@pytest.mark.parametrize('kind', SEARCHED)
def test_a_search_is_given_the_gradient_that_the_chain_is(kind, search):
    sign = -1.0 if kind == 'maximize' else 1.0

    def curve(values):
        return sign * jnp.sum(jnp.cosh(values['w']) + 0.3 * jnp.sin(3 * values['w']))

    found = []
    for whole in (True, False):
        w = ParamState(jnp.array([2.0, -1.5, 1.0]))
        opt = bo.LBFGS(1.0, linesearch=search, **SEARCHED[kind]).register_trainable_weights(
            {'w': w}
        )
        step = bo.train_step(w, opt, lambda w=w: curve({'w': w.value}))
        for _ in range(3):
            if whole:
                step()
            else:
                grads = jax.grad(curve)({'w': w.value})
                opt.step(grads, value=curve({'w': w.value}), value_fn=curve)
        found.append(w.value)
    np.testing.assert_allclose(*found, atol=1e-4)
    assert sign * curve({'w': found[0]}) < 5.0  # from 7.9


@pytest.mark.parametrize('search', ['strong_wolfe', 'zoom', 'backtracking'])
@pytest.mark.parametrize('start', [jnp.ones(3) * u.ms, jnp.ones(3) + 1j], ids=['unit', 'complex'])
def test_a_search_over_units_and_complex_numbers(start, search):
    w = ParamState(start)
    opt = bo.LBFGS(1.0, linesearch=search).register_trainable_weights({'w': w})
    step = bo.train_step(w, opt, lambda: jnp.sum(jnp.abs(u.get_mantissa(w.value)) ** 2))
    losses = [float(step()) for _ in range(4)]
    assert losses[-1] < 0.1 * losses[0]


def test_value_fn_for_a_given_chain():
    start, calls = jnp.array([3.0, -2.0]), []
    results = []
    for value_fn in (
        True,
        lambda values, scale: calls.append(1) or scale * (values['w'] ** 2).sum(),
    ):
        w = ParamState(start + 0)
        opt = registered(bo.OptaxOptimizer(tx=optax.lbfgs()), {'w': w})
        step = bo.train_step(w, opt, lambda s, w=w: s * (w.value**2).sum(), value_fn=value_fn)
        for _ in range(3):
            step(2.0)
        results.append(np.asarray(w.value))
    np.testing.assert_array_equal(*results)
    assert calls and np.abs(results[0]).max() < 1e-3


@pytest.mark.parametrize(
    'tx', [optax.polyak_sgd(), optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())]
)
def test_a_given_chain_is_told_the_loss(tx):
    ends = []
    for value_fn in (None, True):
        w = ParamState(jnp.array([1.0, -2.0]))
        opt = bo.OptaxOptimizer(tx=tx).register_trainable_weights({'w': w})
        step = bo.train_step(w, opt, lambda w=w: (w.value**2).sum(), value_fn=value_fn)
        step()
        step.scan(length=3)
        ends.append(w.value)
    np.testing.assert_array_equal(ends[0], ends[1])
    params, state = jnp.array([1.0, -2.0]), tx.init(jnp.array([1.0, -2.0]))
    for _ in range(4):
        value, grads = jax.value_and_grad(lambda p: (p**2).sum())(params)
        updates, state = tx.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(ends[0], params, rtol=1e-5)


class Plateau(bo.OptaxOptimizer):
    """A chain that wants the loss, written in transform."""

    def __init__(self, lr=0.1):
        super().__init__(lr=lr)

    def transform(self, h):
        return optax.chain(optax.sgd(h.lr), optax.contrib.reduce_on_plateau())


class Plain(bo.OptaxOptimizer):
    """A step that takes gradients alone."""

    def step(self, grads):
        super().step(grads)


def pair_of_functions(lr):
    """A chain that takes gradients alone."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda g: -lr * g, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class OfFunctions(bo.OptaxOptimizer):
    def __init__(self, lr=0.1):
        super().__init__(lr=lr)

    def transform(self, h):
        return pair_of_functions(h.lr)


SAM = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1))


def every_other(tx):
    return optax.MultiSteps(tx, 2).gradient_transformation()


@pytest.mark.parametrize(
    ('make', 'end'),
    [
        (lambda: bo.OptaxOptimizer(tx=optax.sgd(0.1), accumulate_steps=2), 0.8),
        (lambda: bo.OptaxOptimizer(tx=pair_of_functions(0.1)), 0.64),
        (lambda: bo.OptaxOptimizer(tx=every_other(optax.sgd(0.1))), 0.8),
        (lambda: bo.OptaxOptimizer(tx=SAM), None),
        (lambda: bo.OptaxOptimizer(tx=SAM, master_dtype=jnp.float32), None),
        (lambda: bo.Lookahead(bo.OptaxOptimizer(tx=SAM)), None),
        (OfFunctions, 0.64),
        (lambda: bo.Lookahead(OfFunctions(), sync_period=3), 0.64),
        (lambda: Plain(tx=optax.sgd(0.1)), 0.64),
        (lambda: bo.LBFGS(0.1), None),
        (Plateau, 0.64),
        (lambda: bo.Lookahead(Plateau(), sync_period=3), 0.64),
        (
            lambda: bo.Lookahead(
                optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), sync_period=3
            ),
            0.64,
        ),
    ],
)
def test_only_chains_that_may_want_it_are_told_the_loss(make, end):
    w = ParamState(jnp.ones(2))
    opt = make().register_trainable_weights({'w': w})
    step = bo.train_step(w, opt, lambda: (w.value**2).sum())
    step()
    step()
    if end is None:
        assert jnp.all((w.value > 0) & (w.value < 1))
    else:
        np.testing.assert_allclose(w.value, end, rtol=1e-6)


def test_what_is_given_by_hand_is_no_offer():
    w = ParamState(jnp.ones(2))
    opt = OfFunctions().register_trainable_weights({'w': w})
    with pytest.raises(TypeError, match='got value, but its chain takes no extra arguments'):
        opt.step({'w': jnp.ones(2)}, value=1.0)
    bo.train_step(w, opt, lambda: (w.value**2).sum())()
    with pytest.raises(TypeError, match='got value, but its chain takes no extra arguments'):
        opt.step({'w': jnp.ones(2)}, value=1.0)  # what was on offer then is not now
    step = bo.train_step(w, opt, lambda: (w.value**2).sum(), value_fn=True)
    with pytest.raises(TypeError, match='got value, value_fn, grad, but its chain takes no extra'):
        step()


def test_a_chain_that_hides_what_it_takes_is_told_how_to_get_nothing():
    w = ParamState(jnp.ones(2))
    opt = bo.OptaxOptimizer(tx=optax.chain(SAM)).register_trainable_weights({'w': w})
    with pytest.raises(TypeError, match='unexpected keyword') as e:
        bo.train_step(w, opt, lambda: (w.value**2).sum())()
    assert 'value_fn=False' in e.value.__notes__[0]
    bo.train_step(w, opt, lambda: (w.value**2).sum(), value_fn=False)()


def test_a_chain_that_misses_what_it_needs_says_how_to_give_it():
    """The loss, to one that takes it; and a function of all parameters, to that of one group."""
    by_loss = optax.chain(optax.contrib.reduce_on_plateau(), optax.sgd(0.1))
    a, b = ParamState(jnp.ones(2)), ParamState(jnp.ones(3))
    grads = {'a': jnp.ones(2), 'b': jnp.ones(3)}
    opt = bo.OptaxOptimizer(tx=by_loss).register_trainable_weights({'a': a, 'b': b})
    with pytest.raises(TypeError) as e:
        opt.step(grads)
    assert 'opt.step(grads, value=...)' in e.value.__notes__[0]
    opt.step(grads, value=1.0)
    np.testing.assert_allclose(a.value, 0.9)

    loss = {'value': 1.0, 'grad': grads, 'value_fn': lambda p: jnp.sum(p['a']) + jnp.sum(p['b'])}
    for maximize, found in ((False, ValueError), (True, KeyError)):
        opt = bo.OptaxOptimizer(tx=optax.lbfgs(), maximize=maximize)
        opt.register_trainable_weights({'a': a}).add_param_group({'b': b})
        with pytest.raises(found) as e:
            opt.step(grads, **loss)
        assert '2 groups' in e.value.__notes__[0] and 'one group' in e.value.__notes__[0]
