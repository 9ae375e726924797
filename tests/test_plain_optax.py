"""Transformations and schedules without an optimizer, as users of optax take them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from looking import assert_same
from test_schedules import IDS, VARIANTS, make

import braintools_optim as bo
from braintools_optim import transforms as T

COMPLEX = {'w': jnp.array([1 + 2j, 3 - 1j])}
# The function of a user is given the step as it is.
FORMULAS = [
    pytest.param(*row, id=i) for row, i in zip(VARIANTS, IDS, strict=True) if row[0] != 'lambda_'
]
ONES = {k: jnp.ones(2) for k in 'abc'}


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        (T.scale_by_adagrad(), optax.scale_by_rss(0.0, 1e-10)),
        (T.scale_by_centered_rms(), optax.scale_by_stddev(0.99, 1e-8)),
    ],
    ids=['adagrad', 'centered_rms'],
)
def test_complex_gradients_keep_their_phase(ours, theirs):
    def taken(tx):
        state, found = tx.init(COMPLEX), []
        for factor in (1.0, 2j, -0.5):
            updates, state = tx.update({'w': factor * jnp.array([0.3 + 0.4j, -0.1])}, state)
            found.append(updates['w'])
        return found

    np.testing.assert_allclose(np.stack(taken(ours)), np.stack(taken(theirs)), rtol=1e-4)


@pytest.mark.parametrize('tx', [T.step_by_lbfgs(), T.step_by_rprop()], ids=['lbfgs', 'rprop'])
def test_what_is_for_real_numbers_says_so(tx):
    with pytest.raises(TypeError, match="parameter 'w' is complex64"):
        tx.init(COMPLEX)


@pytest.mark.parametrize(
    'tx',
    [
        T.scale_by_mars(leaf_counts=True),
        T.scale_by_ademamix(0.9, 0.999, 0.9999, 5.0, leaf_counts=True),
    ],
    ids=['mars', 'ademamix'],
)
@pytest.mark.parametrize('absent', [None, optax.MaskedNode()], ids=str)
def test_a_leaf_without_gradient_rests(tx, absent):
    params = {**ONES, 'none': None}
    first, state = tx.update({**params, 'a': absent}, tx.init(params))
    assert type(first['a']) is type(absent) and first['none'] is None
    assert state.count.leaf_counts.tolist() == [0, 1, 1]
    second, _ = tx.update(params, state)
    assert_same(second['a'], tx.update(params, tx.init(params))[0]['a'])


def test_a_search_gives_the_objective_what_it_takes():
    def loss(p, target, weight=1.0):
        return jnp.sum((p - target) ** 2 * jnp.array([1.0, 10.0])) * weight

    params, target = jnp.zeros(2), jnp.array([1.0, 2.0])
    value, grad = jax.value_and_grad(loss)(params, target, 3.0)
    found = []
    for fn, extra in (
        (loss, {'target': target, 'weight': 3.0, 'other': 1}),
        (partial(loss, target=target, weight=3.0), {}),
    ):
        tx = T.step_by_lbfgs(linesearch=T.scale_by_strong_wolfe())
        updates, _ = tx.update(
            grad, tx.init(params), params, value=value, grad=grad, value_fn=fn, **extra
        )
        found.append(updates)
    assert_same(*found)
    assert loss(found[0], target) < loss(params, target)


@pytest.mark.parametrize(
    'tx', [T.step_by_lbfgs(), T.lookahead(optax.sgd(0.1), 2)], ids=['lbfgs', 'lookahead']
)
def test_a_first_state_may_be_donated(tx):
    params = {'w': jnp.ones(3)}
    step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))
    updates, _ = step(params, tx.init(params))
    assert updates['w'].shape == (3,)


@pytest.mark.parametrize(
    ('name', 'tx'),
    [
        ('scale_by_novograd', T.scale_by_novograd()),
        ('scale_by_layer_ratio', T.scale_by_layer_ratio()),
        ('scale_by_lars_ratio', T.scale_by_lars_ratio()),
        ('scale_by_adafactor', T.scale_by_adafactor()),
        ('bound_norm', T.bound_norm(1.0)),
        ('lookahead', T.lookahead(optax.sgd(0.1))),
    ],
)
def test_an_update_without_the_parameters_it_needs(name, tx):
    with pytest.raises(ValueError, match=f'{name} needs the parameters: call update'):
        tx.update(ONES, tx.init(ONES))


@pytest.mark.parametrize('kind', ['uint8', 'int8', 'uint16', 'uint32', 'uint64'])
@pytest.mark.parametrize(('name', 'hyper'), FORMULAS)
def test_steps_of_any_integer_type(name, hyper, kind, x64):
    schedule = make(name, hyper)
    steps = np.array([0, 3, 7, 100], kind)
    wanted = [schedule(int(t)) for t in steps]
    np.testing.assert_allclose(schedule(steps), wanted, rtol=1e-12)
    np.testing.assert_allclose(schedule(jnp.asarray(steps)), wanted, rtol=1e-12)
    last = min(int(np.iinfo(kind).max), 2**32 - 1)
    np.testing.assert_allclose(schedule(jnp.asarray(last, kind)), schedule(last), rtol=1e-9)


def infinite_stays(tx, steps=10, entry=-jnp.inf):
    """Return parameters, of which one entry is infinite, after steps without a gradient."""
    params = {'w': jnp.array([entry, 1.0])}
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update({'w': jnp.zeros(2)}, state, params)
        params = optax.apply_updates(params, updates)
    assert params['w'][0] == entry
    return params, state


def test_infinite_parameters_do_not_decay():
    """Nothing of them comes into a momentum or a norm, nor into what stands there later."""
    decay, momentum = T.decayed_weights(0.2), T.scale_by_momentum(0.9)
    params, state = infinite_stays(optax.chain(decay, momentum, optax.scale(-0.1)))
    assert 0.0 < params['w'][1] < 1.0
    assert state[1].trace['w'][0] == 0.0
    bounded = optax.chain(decay, optax.clip_by_global_norm(0.1), optax.scale(-1.0))
    params, _ = infinite_stays(bounded)
    assert params['w'][1] < 0.5
    infinite_stays(decay, entry=complex(jnp.inf, 1.0))
    novograd = T.scale_by_novograd(0.99, weight_decay=0.2)
    infinite_stays(optax.chain(novograd, optax.scale(-0.1)), 30)
    _, state = infinite_stays(T.step_by_asgd(0.1, 0.0, t0=0.0))
    assert state.ax['w'][0] == -jnp.inf


def test_a_decay_does_not_look_at_what_its_mask_leaves_out():
    params, grads = {'w': jnp.ones(2), 'act': jax.nn.relu}, {'w': jnp.ones(2), 'act': None}
    tx = T.decayed_weights(0.5, {'w': True, 'act': False})
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates['act'] is None and updates['w'].tolist() == [1.5, 1.5]


def test_a_decay_widens_nothing():
    tx = T.decayed_weights(0.5)
    weak, short = {'w': jnp.asarray(1.0)}, {'w': jnp.ones((), jnp.bfloat16)}
    updates, _ = tx.update(short, tx.init(weak), weak)
    assert updates['w'].dtype == jnp.bfloat16


def test_lookahead_shows_a_step_that_overflows():
    tx, params = T.lookahead(optax.sgd(1.0), 1), {'w': jnp.ones(1)}
    updates, state = tx.update({'w': jnp.full(1, -jnp.inf)}, tx.init(params), params)
    assert jnp.isinf(updates['w']).all() and jnp.isinf(state.slow['w']).all()


def test_sm3_shows_a_gradient_that_is_nan():
    tx, params = T.scale_by_sm3(), {'w': jnp.ones((2, 2))}
    updates, _ = tx.update({'w': jnp.array([[jnp.nan, 1.0], [0.0, 1.0]])}, tx.init(params))
    np.testing.assert_array_equal(updates['w'], [[np.nan, 1.0], [0.0, 1.0]])


NORMED = {
    'layer_ratio': T.scale_by_layer_ratio,
    'lars_ratio': T.scale_by_lars_ratio,
    'adafactor': T.scale_by_adafactor,
    'bound_norm': lambda: T.bound_norm(2.0),
    'mars': lambda: T.scale_by_mars(max_grad_norm=1.0, eps_root=1e-8),
    'skew': T.scale_by_skew,
    'skew by power': lambda: T.scale_by_skew(norm_estimator='power'),
}


@pytest.mark.parametrize('name', NORMED)
def test_norms_have_derivatives_at_zero(name):
    """As of biases, for who learns through a step."""
    tx = NORMED[name]()

    def moved(params):
        grads = jax.tree.map(lambda p: p * (p + 1.0), params)
        updates, _ = tx.update(grads, tx.init(params), params)
        return sum(jnp.sum(x * x + x) for x in jax.tree.leaves(updates))

    slope = jax.jit(jax.grad(moved))
    zeros = {'b': jnp.zeros(2), 'w': jnp.zeros((2, 3))}
    ones = {'b': jnp.zeros(2), 'w': jnp.eye(2, 3) + 0.1}
    for params in (zeros, ones):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope(params)))


ROOTS = {
    'adam': (T.scale_by_adam, {}),
    'amsgrad': (T.scale_by_adam, {'amsgrad': True}),
    'nadam': (T.scale_by_nadam, {}),
    'radam': (T.scale_by_radam, {}),
    'rms': (T.scale_by_rms, {}),
    'centered rms': (T.scale_by_centered_rms, {}),
    'adagrad': (T.scale_by_adagrad, {}),
    'novograd': (T.scale_by_novograd, {}),
    'ademamix': (T.scale_by_ademamix, {'b1': 0.9, 'b2': 0.99, 'b3': 0.9, 'alpha': 1.0}),
    'mars': (T.scale_by_mars, {}),
}


@pytest.mark.parametrize('name', ROOTS)
def test_steps_have_derivatives_where_a_gradient_is_zero(name):
    """As of an unseen row of an embedding, or behind a dead relu."""
    make, options = ROOTS[name]
    start = {'w': jnp.array([1.0, -1.0])}

    def loss(lr, w):
        tx = optax.chain(make(**options), optax.scale(-lr))
        params, state = {'w': w}, tx.init(start)
        for _ in range(7):  # so many before radam divides
            grads = jax.grad(lambda p: jnp.sum(jax.nn.relu(p['w']) ** 2))(params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params['w'] ** 2)

    slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))(0.01, start['w'])
    assert all(np.isfinite(x).all() for x in slopes) and slopes[0] != 0.0
    low, high = (float(jax.jit(loss)(lr, start['w'])) for lr in (0.0095, 0.0105))
    np.testing.assert_allclose(slopes[0], (high - low) / 1e-3, rtol=2e-2)


DECAYS = {
    'adam': lambda b: T.scale_by_adam(b, b),
    'amsgrad': lambda b: T.scale_by_adam(b, b, amsgrad=True),
    'adamax': lambda b: T.scale_by_adamax(b, b),
    'nadam': lambda b: T.scale_by_nadam(b, b),
    'radam': lambda b: T.scale_by_radam(b, b),
    'belief': lambda b: T.scale_by_belief(b, b),
    'yogi': lambda b: T.scale_by_yogi(b, b, initial_accumulator_value=0.0),
    'sparse adam': lambda b: T.scale_by_sparse_adam(b, b),
    'adafactor': lambda b: T.scale_by_adafactor(beta2_decay=-b),
    'mars': lambda b: T.scale_by_mars(b, b, leaf_counts=True),
    'ademamix': lambda b: T.scale_by_ademamix(b, b, b, 1.0, leaf_counts=True),
}


@pytest.mark.parametrize('name', DECAYS)
def test_derivatives_by_a_decay_ignore_what_has_no_gradient(name, x64):
    """One parameter is absent, and one entry's gradient has been zero all the time."""

    def loss(decay):
        tx = optax.masked(DECAYS[name](decay), {'w': True, 'absent': False})
        params = {'w': jnp.array([1.0, 0.0]), 'absent': jnp.ones(2)}
        state = tx.init(params)
        for _ in range(7):  # so many before radam divides
            grads = {'w': params['w'] ** 2 * jnp.array([1.0, 0.0]), 'absent': jnp.ones(2)}
            updates, state = tx.update(grads, state, params)
            params = jax.tree.map(lambda p, u: p - 0.05 * u, params, updates)
        return jnp.sum(params['w'])

    value = jax.jit(loss)
    low, slope, high = value(0.6 - 1e-5), jax.jit(jax.grad(loss))(0.6), value(0.6 + 1e-5)
    np.testing.assert_allclose(slope, (high - low) / 2e-5, rtol=1e-4, atol=1e-9)
    assert slope != 0.0


def test_a_gradient_of_none_is_refused_where_updates_are_counted():
    params = {'a': jnp.ones(2), 'b': jnp.ones(2)}
    for tx in (T.scale_by_adamax(), T.scale_by_adam()):
        with pytest.raises(ValueError, match='1 gradients, and counts of 2 .* optax.MaskedNode'):
            tx.update({'a': None, 'b': params['b']}, tx.init(params))


@pytest.mark.parametrize('make', [T.scale_by_belief, lambda: T.ademamix(0.1)])
def test_parameters_may_be_numbers_of_python(make):
    params = {'scale': 1.0, 'w': jnp.ones(2)}
    tx = make()
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == {'scale': (), 'w': (2,)}


@pytest.mark.parametrize('wrong', [{'adjust_lr_fn': 'match_rms_adam'}, {'reshape': 'Last'}])
def test_muon_refuses_an_unknown_choice(wrong):
    with pytest.raises(ValueError, match=f'needs one of .* for {next(iter(wrong))}, got'):
        T.scale_by_muon(**wrong)


def test_rprop_keeps_dtypes_at_a_rate_that_is_an_array():
    params = {'w': jnp.ones(2, jnp.bfloat16)}

    def train(lr):
        tx = T.step_by_rprop(lr)

        def step(carry, _):
            updates, state = tx.update(carry[0], carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=2)[0][0]['w']

    both = jax.vmap(train)(jnp.array([0.125, 0.25]))
    np.testing.assert_array_equal(np.float32(both[0]), np.float32(train(0.125)))


def test_a_bound_has_a_derivative_where_all_gradients_are_zero():
    tx = (
        bo.SGD(0.1, grad_clip_norm=1.0)
        .register_trainable_weights({'w': ParamState(jnp.ones(2))})
        .tx
    )

    def moved(w):
        updates, _ = tx.update({'w': w * w}, tx.init({'w': w}), {'w': w})
        return jnp.sum(updates['w'])

    np.testing.assert_array_equal(jax.grad(moved)(jnp.zeros(2)), [0.0, 0.0])
