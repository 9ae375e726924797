"""A step donates its own state, and nothing that somebody else holds."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    build,
    grads_tree,
    make_params,
    over_classes,
)
from looking import (
    digest,
    values_of,
)

import braintools_optim as bo
from braintools_optim.engine import chunks


@over_classes('donation')
def test_no_array_of_the_caller_is_consumed(case):
    params = make_params()
    opt = build(case, params, groups=2)
    given = [values_of(params), grads_tree(0)]
    for _ in range(4):
        opt.step(given[1])
        given.append([state.value for state in (opt.opt_state, *opt.param_groups_opt_states)])
    assert not any(x.is_deleted() for x in jax.tree.leaves(given))


@pytest.mark.parametrize('steps', [0, 1, 3])
def test_the_state_that_was_looked_at_can_be_put_back(steps):
    params = make_params()
    opt = bo.Adam(0.1).register_trainable_weights(params)
    for t in range(steps):
        opt.step(grads_tree(t))
    states = [*opt.param_states.unique_states, opt.opt_state, opt.step_count]
    saved = [state.value for state in states]
    opt.step(grads_tree(5))
    after = digest(opt, params)
    for state, value in zip(states, saved, strict=True):
        state.value = value
    opt.step(grads_tree(5))
    assert digest(opt, params) == after


def test_a_moment_may_stand_in_two_places_and_be_a_gradient_and_a_parameter():
    params = {'w': brainstate.ParamState(jnp.arange(4.0))}
    opt = bo.Adam(0.1).register_trainable_weights(params)
    for _ in range(3):
        opt.step({'w': jnp.ones(4)})
    mu = optax.tree.get(opt.opt_state.value, 'mu')
    opt.opt_state.value = optax.tree.set(opt.opt_state.value, nu=mu)
    params['w'].value = mu['w']
    opt.step(mu)
    opt.step({'w': jnp.ones(4)})
    np.testing.assert_allclose(mu['w'], 1 - 0.9**3, rtol=1e-6)
    assert int(opt.step_count.value) == 5


def test_looking_at_the_count_copies_no_state():
    opt = bo.Adam(0.1).register_trainable_weights({'w': brainstate.ParamState(jnp.arange(4.0))})
    for t in range(3):
        opt.step({'w': jnp.ones(4)})
        old = opt._core.parts()[0]
        assert opt.step_count.value == t + 1
        repr(opt), opt.state_dict()
    opt.step({'w': jnp.ones(4)})
    assert all(x.is_deleted() for x in old if x.size > 1)


@pytest.mark.parametrize('many', [False, True])
def test_arrays_that_are_gone_are_named(many, monkeypatch):
    if many:
        monkeypatch.setattr(chunks, '_MANY', 2)
    params = {k: brainstate.ParamState(jnp.arange(4.0)) for k in 'tuvw'}
    grads = {k: jnp.ones(4) for k in params}
    opt = bo.Adam(0.1).register_trainable_weights(params)
    for _ in range(3):
        opt.step(grads)
    before = params['w'].value
    params['v'].value = gone = jnp.full(4, 2.0)
    gone.delete()
    with pytest.raises(ValueError, match="parameter 'v' holds an array that an earlier step"):
        opt.step(grads)
    assert params['w'].value is before and opt.step_count.value == 3
    params['v'].value = jnp.full(4, 2.0)
    with pytest.raises(ValueError, match='tree of gradients holds an array'):
        opt.step({**grads, 'v': gone})
    opt.opt_state.value = jax.tree.map(lambda x: gone if x.size > 1 else x, opt.opt_state.value)
    with pytest.raises(ValueError, match='state of Adam holds an array'):
        opt.step(grads)


def remember():
    """A transformation whose state is the last gradients, parameters and extra argument."""

    def update(updates, state, params=None, *, extra):
        return updates, (updates, params, extra)

    return optax.GradientTransformationExtraArgs(lambda p: (p, p, jnp.zeros(2)), update)


@pytest.mark.parametrize('hooked', [False, True])
def test_a_chain_that_keeps_what_it_was_given_does_not_consume_it(hooked):
    params = make_params()
    tx = optax.chain(remember(), optax.scale(-0.1))
    opt = bo.OptaxOptimizer(tx=tx).register_trainable_weights(params)
    if hooked:
        opt._core.register_hook('write_after', lambda context: None)
    given = [values_of(params), grads_tree(0), jnp.arange(2.0)]
    for _ in range(4):
        opt.step(given[1], extra=given[2])
        given.append(values_of(params))
    assert not any(x.is_deleted() for x in jax.tree.leaves(given))
    kept_grads, kept_params, kept_extra = opt.opt_state.value[0]
    np.testing.assert_array_equal(kept_extra, given[2])
    for got, want in ((kept_grads, given[1]), (kept_params, given[-2])):
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(x, y)


def test_what_python_code_may_lose_is_donated_as_a_copy():
    """JAX takes arguments of a new kind through Python, where an interrupt may lose results."""
    opt = bo.Adam(0.1).register_trainable_weights({'w': brainstate.ParamState(jnp.ones(64))})
    for _ in range(3):
        opt.step({'w': jnp.ones(64)})
    states = []
    for _ in range(2):
        states.append(opt._core.parts()[0])
        opt.step({'w': np.ones(64, np.float32)})
    deleted = [[x.is_deleted() for x in state if isinstance(x, jax.Array)] for state in states]
    assert not any(deleted[0]) and any(deleted[1])
