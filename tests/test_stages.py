"""The base's stages around a chain: steps that are skipped, decay that is for some parameters."""

from typing import Any, NamedTuple

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from brainstate import ParamState
from brainstate.transform import for_loop, jit
from cases import (
    CASES,
    build,
    grads_tree,
    make_params,
)
from looking import (
    assert_same,
    named,
    values_of,
)

import braintools_optim as bo
from braintools_optim.engine import chunks

BAD = [jnp.nan, jnp.inf, -jnp.inf]


def linear():
    return {'kernel': jnp.arange(6.0).reshape(2, 3), 'bias': jnp.ones(3)}


def model():
    return {'layer': ParamState(linear()), 'scale': ParamState(jnp.ones(2))}


def ones(params):
    return jax.tree.map(jnp.ones_like, values_of(params))


def matrices(tree):
    return jax.tree.map(lambda x: x.ndim > 1, tree)


# ---- steps that are skipped --------------------------------------------------------------


def spoiled(grads, bad):
    """Return gradients with one entry of one leaf that is not finite."""
    flat, tree = jax.tree.flatten(grads)
    return tree.unflatten([*flat[:-1], jnp.asarray(flat[-1]).at[(0,) * flat[-1].ndim].set(bad)])


def kept(opt, params):
    """Return all that a step changes besides its count."""
    return list(map(jnp.copy, jax.tree.leaves((values_of(params), opt._core.peek()[0]))))


@pytest.mark.parametrize('case', {c.cls: c for c in CASES}.values(), ids=lambda c: c.id)
def test_a_step_on_a_gradient_that_is_not_finite_changes_nothing(case):
    pair = []
    for path in ([0, 'bad', 1], [0, 1]):
        params = make_params()
        opt = build(case, params, groups=1 if 'closure' in case.traits else 2, skip_nonfinite=True)
        for t in path:
            before = kept(opt, params)
            if t == 'bad':
                opt.step(spoiled(grads_tree(1), BAD[0]))
                assert_same(kept(opt, params), before)
            else:
                opt.step(grads_tree(t))
        assert opt.step_count.value == len(path)
        pair.append(kept(opt, params))
    assert_same(*pair)


@pytest.mark.parametrize('bad', BAD)
def test_a_skipped_step_in_jit_and_loops(bad):
    params = {'w': ParamState(jnp.arange(4.0)), 'v': ParamState(jnp.ones(3))}
    opt = bo.Adam(0.1, skip_nonfinite=True, grad_clip_norm=1.0, maximize=True)
    opt.register_trainable_weights({'w': params['w']})
    opt.add_param_group({'v': params['v']}, lr=0.5)
    step = jit(opt.step)
    step(ones(params))
    before = kept(opt, params)
    step(spoiled(ones(params), bad))
    assert_same(kept(opt, params), before)
    stack = jax.tree.map(lambda x: jnp.stack([x] * 3), ones(params))
    stack['w'] = stack['w'].at[1, 2].set(bad)
    for_loop(opt.step, stack)
    assert optax.tree.get(opt.opt_state.value, 'leaf_counts').tolist() == [3]
    assert opt.step_count.value == 5 and np.isfinite(params['w'].value).all()


def test_a_step_over_many_leaves_is_skipped_whole(monkeypatch):
    monkeypatch.setattr(chunks, '_MANY', 2)
    params = {f'k{i}': ParamState(jnp.ones(3)) for i in range(12)}
    opt = bo.AdamW(0.1, skip_nonfinite=True).register_trainable_weights(params)
    for _ in range(3):
        opt.step(ones(params))
    before = kept(opt, params)
    opt.step(spoiled(ones(params), jnp.nan))
    assert_same(kept(opt, params), before)


def test_without_any_gradient_there_is_nothing_to_skip():
    params = model()
    opt = bo.Adam(0.1, skip_nonfinite=True).register_trainable_weights(params)
    before = kept(opt, params)
    opt.step(jax.tree.map(lambda x: None, values_of(params)))
    assert_same(kept(opt, params), before)


def test_without_it_a_bad_gradient_is_taken():
    params = model()
    opt = bo.Adam(0.1).register_trainable_weights(params)
    assert opt.skip_nonfinite is False
    opt.step(spoiled(ones(params), jnp.nan))
    assert np.isnan(params['scale'].value[0])
    with pytest.raises(AttributeError, match='skip_nonfinite of Adam is fixed at construction'):
        opt.skip_nonfinite = True
    with pytest.raises(TypeError, match="True or False for skip_nonfinite, got 'yes'"):
        bo.Adam(0.1, skip_nonfinite='yes')


def test_a_closure_whose_gradient_is_not_finite_is_skipped():
    x, factor = ParamState(jnp.array([2.0, -1.0])), brainstate.ShortTermState(jnp.ones(()))
    opt = bo.LBFGS(lr=0.5, max_iter=2, skip_nonfinite=True).register_trainable_weights({'x': x})

    def closure():
        return jnp.sum(x.value**2) * factor.value

    opt.step(closure)
    before = kept(opt, {'x': x})
    factor.value = jnp.array(jnp.nan)
    assert np.isnan(opt.step(closure))
    assert_same(kept(opt, {'x': x}), before)
    factor.value = jnp.ones(())
    opt.step(closure)
    assert np.abs(x.value).max() < np.abs(before[0]).max()


def test_a_train_step_skips_and_lookahead_takes_the_option_over():
    w = brainstate.nn.Linear(3, 1)
    base = bo.Adam(0.1, skip_nonfinite=True)
    opt = bo.Lookahead(base).register_trainable_weights(w.states(ParamState))
    assert opt.skip_nonfinite
    step = bo.train_step(w, opt, lambda x: jnp.sum(w(x) ** 2))
    step(jnp.ones((2, 3)))
    before = jax.tree.map(jnp.copy, [s.value for s in opt.param_states])
    step(jnp.full((2, 3), jnp.nan))
    assert_same(jax.tree.leaves([s.value for s in opt.param_states]), jax.tree.leaves(before))


# ---- decay that is for some parameters ---------------------------------------------------

DECAYING = {
    c.cls: c
    for c in CASES
    if c.make()._is_leafwise()
    and 'weight_decay' in c.live
    and not {'mask', 'weight_decay_mask'} & set(c.make()._flags)
}


@pytest.mark.parametrize('case', DECAYING.values(), ids=lambda c: c.id)
def test_a_mask_of_the_decay_is_a_group_without_it(case):
    """Parameters that are masked out go as those of a group with weight_decay = 0 do."""
    mask = {'a': False, 'block': {'c': True}, 's': True}
    decay = {'weight_decay': case.live['weight_decay'][1]}
    ends = []
    for form in (mask, lambda values: mask, None):
        params = make_params()
        if form is None:
            rest = {k: params[k] for k in ('block', 's')}
            opt = case.make(**decay).register_trainable_weights(rest)
            opt.add_param_group({'a': params['a']}, weight_decay=0.0)
        else:
            opt = case.make(**decay, decay_mask=form).register_trainable_weights(params)
        for t in range(3):
            opt.step(grads_tree(t))
        ends.append(values_of(params))
    for name, want in named(ends[2]).items():
        for end in ends[:2]:
            # XLA may contract multiplications and additions otherwise.
            np.testing.assert_allclose(named(end)[name], want, rtol=1e-6, err_msg=name)


def test_a_mask_of_the_decay_everywhere():
    """Eager, cut into calls, in jit, with absent gradients, and for groups that join later."""
    params = {**model(), 'late': ParamState(jnp.ones((2, 2)))}
    first = {k: params[k] for k in ('layer', 'scale')}
    opt = bo.AdamW(0.1, weight_decay=0.5, decay_mask=matrices).register_trainable_weights(first)
    opt.add_param_group({'late': params['late']}, lr=0.2)
    zeros = jax.tree.map(jnp.zeros_like, values_of(params))
    for step in (opt.step, jit(opt.step)):
        before = values_of(params)
        step(zeros)
        after = values_of(params)
        np.testing.assert_allclose(after['layer']['kernel'], 0.95 * before['layer']['kernel'])
        np.testing.assert_array_equal(after['layer']['bias'], before['layer']['bias'])
        np.testing.assert_array_equal(after['scale'], before['scale'])
        np.testing.assert_allclose(after['late'], 0.9 * before['late'])
    opt.weight_decay = 1.0
    opt.step({'layer': zeros['layer']})
    np.testing.assert_allclose(
        params['layer'].value['kernel'], 0.9 * after['layer']['kernel'], rtol=1e-6
    )
    np.testing.assert_array_equal(params['scale'].value, after['scale'])
    opt.step({'scale': zeros['scale']})  # none that decays has a gradient
    assert optax.tree.get(opt.opt_state.value, 'leaf_counts').tolist() == [3, 3, 3]
    assert opt.decay_mask is matrices and 'with a decay_mask' in repr(opt)


class Pair(NamedTuple):
    """A node of a tree whose entries have names."""

    kernel: Any
    bias: Any


@pytest.mark.parametrize('masked', ['function', 'tree'])
@pytest.mark.parametrize(
    ('value', 'says'),
    [
        ([jnp.ones((2, 2)), jnp.ones(2)], [True, False]),
        ((jnp.ones(2), (jnp.ones((2, 2)), jnp.ones(3))), [False, True, False]),
        (Pair(jnp.ones((2, 2)), jnp.ones(2)), [True, False]),
        ({'x': [jnp.ones(2) * u.mV, jnp.ones((2, 2)) * u.mV]}, [False, True]),
        (jnp.ones((2, 2)) * u.mV, [True]),
    ],
    ids=['list', 'nested tuples', 'named tuple', 'quantities', 'one quantity'],
)
def test_a_mask_goes_into_any_tree(value, says, masked):
    mask = matrices if masked == 'function' else matrices({'w': value})
    w = ParamState(value)
    opt = bo.AdamW(0.1, weight_decay=0.5, decay_mask=mask).register_trainable_weights({'w': w})
    opt.step({'w': jax.tree.map(jnp.zeros_like, value)})
    got = [np.asarray(x) for x in jax.tree.leaves(w.value)]
    before = [np.asarray(x) for x in jax.tree.leaves(value)]
    for new, old, decays in zip(got, before, says, strict=True):
        np.testing.assert_allclose(new, 0.95 * old if decays else old, rtol=1e-6)


@pytest.mark.parametrize(
    'mask',
    [
        {('layer', 'dense'): {'weight': True, 'bias': False}, ('scale',): False},
        {'layer': {'dense': {'weight': True, 'bias': False}}, 'scale': False},
        {'layer.dense.bias': False, 'layer.dense': True, 'scale': False},
    ],
    ids=['tuples', 'nested', 'with dots'],
)
def test_the_keys_of_a_mask_may_be_nested(mask):
    held = {'weight': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
    weights = {('layer', 'dense'): ParamState(held), ('scale',): ParamState(jnp.ones(2))}
    opt = bo.AdamW(0.1, weight_decay=0.5, decay_mask=mask).register_trainable_weights(weights)
    opt.step(jax.tree.map(jnp.zeros_like, values_of(weights)))
    layer, scale = (state.value for state in weights.values())
    np.testing.assert_allclose(layer['weight'], np.full((2, 2), 0.95))
    np.testing.assert_array_equal(layer['bias'], [1.0, 1.0])
    np.testing.assert_array_equal(scale, [1.0, 1.0])


def test_what_all_parameters_share_is_counted_once():
    params = model()
    opt = bo.Lion(0.1, weight_decay=0.5, decay_mask=matrices).register_trainable_weights(params)
    plain = bo.Lion(0.1, weight_decay=0.5).register_trainable_weights(model())
    for each in (opt, plain):
        each.step(ones(params))
    got, want = (optax.tree.get(o.opt_state.value, 'count') for o in (opt, plain))
    assert got == want


def test_a_mask_of_the_decay_over_many_leaves(monkeypatch):
    ends = []
    for most in (2, 1000):
        monkeypatch.setattr(chunks, '_MANY', most)
        params = {f'k{i}': ParamState(jnp.full((3,), 1.0 + i)) for i in range(12)}
        mask = {k: i % 3 != 0 for i, k in enumerate(params)}
        opt = bo.AdamW(0.1, weight_decay=0.5, decay_mask=mask).register_trainable_weights(params)
        for _ in range(3):
            opt.step(ones(params))
        assert bool(opt._stepper.donating.chunks) == (most == 2)
        ends.append(values_of(params))
    assert_same(*ends)


def test_masks_that_say_nothing_are_refused():
    params = model()
    with pytest.raises(TypeError, match="True or False for parameter 'scale'.*'x'"):
        mask = {'layer': True, 'scale': 'x'}
        bo.AdamW(0.1, decay_mask=mask).register_trainable_weights(params)
    opt = bo.AdamW(0.1, decay_mask={'layer': {'kernel': True}})
    with pytest.raises(TypeError, match="for parameter 'layer.bias'"):
        opt.register_trainable_weights(params)
    assert len(opt.param_states) == 0
    for wrong in (5, [True], lambda values: None):
        with pytest.raises(TypeError, match='decay_mask must say True or False'):
            bo.AdamW(0.1, decay_mask=wrong).register_trainable_weights(model())
    with pytest.raises(TypeError, match="no argument 'mask'.*Did you mean 'decay_mask'"):
        bo.AdamW(0.1, mask=matrices)
    for make, words in (
        (lambda: bo.AdEMAMix(0.1, decay_mask=matrices), 'it is mask here'),
        (lambda: bo.Quad(0.1, decay_mask=matrices), 'it is weight_decay_mask here'),
        (lambda: bo.Fromage(0.1, decay_mask=matrices), 'has no weight_decay'),
        (lambda: bo.Lookahead(optax.sgd(0.1), decay_mask=True), 'a group with weight_decay=0'),
        (lambda: bo.OptaxOptimizer(optax.sgd(0.1), decay_mask=True), 'a group with weight_dec'),
    ):
        with pytest.raises(TypeError, match=words):
            make()


# ---- bounds -------------------------------------------------------------------------------------


def test_a_norm_that_is_nan_bounds_everything():
    """As torch and optax: all updates are nan then, unless nothing is bounded."""
    grads = {'a': jnp.array([1.0, jnp.nan, 1.0]), 'b': jnp.full(2, 1e6)}
    for bound, end in ((1.0, jnp.nan), (jnp.inf, -1e6)):
        params = {name: ParamState(jnp.zeros_like(g)) for name, g in grads.items()}
        bo.SGD(1.0, grad_clip_norm=bound).register_trainable_weights(params).step(grads)
        np.testing.assert_allclose(params['b'].value, end, rtol=1e-5)
