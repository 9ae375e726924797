"""Transformations and schedules without an optimizer, as users of optax take them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from looking import assert_same
from test_schedules import IDS, VARIANTS, make

from braintools_optim import transforms as T

pytestmark = pytest.mark.usefixtures('quick_compiles')

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
