"""The promises of groups, over every row of the registry; compiled as fully as users have it."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import jit
from cases import (
    CASE,
    SHAPES,
    build,
    gradients,
    grads_tree,
    group_of,
    make_params,
    over_cases,
    over_classes,
    reference_for,
    split,
)
from contract_runs import kept, moments
from looking import assert_close, chains_of, digest, named, ulps

import braintools_optim as bo


@pytest.mark.exact
@over_cases('groups')
def test_equal_groups_are_one_group(case):
    # Measured: bit for bit for all rows but those that XLA computes in another way.
    opts, params = [], []
    for groups in (1, 3):
        params.append(make_params())
        opts.append(build(case, params[-1], groups=groups))
        assert len(opts[-1].param_groups) == groups
    for t in range(8):
        for opt in opts:
            opt.step(grads_tree(t))
        one, three = map(named, params)
        distance = {name: ulps(one[name], three[name]) for name in SHAPES}
        rounded = case.traits & {'contracted', 'pooled'}
        assert max(distance.values()) <= (2 if rounded else 0), (t, distance)
        if rounded:
            hand_over(opts[0], opts[1])  # or a step would carry on what the last one rounded


def hand_over(source, target):
    """Give an optimizer of several groups the parameters and state of one group of the same."""
    for one, other in zip(
        source.param_states.unique_states, target.param_states.unique_states, strict=True
    ):
        other.value = one.value
    (whole,), count = chains_of(source), source._core.count
    leaves = dict(jax.tree_util.tree_flatten_with_path(whole)[0])

    def own(path, x):
        return jnp.copy(leaves[path]) if leaves[path].shape == x.shape else x  # fewer counts

    chains = [jax.tree_util.tree_map_with_path(own, chain) for chain in chains_of(target)]
    target._core.replace(tuple(chains), count)


@over_classes('clipping')
def test_clipping_is_over_all_groups_and_live(case, x64):
    params = make_params()
    opt = build(case, params, groups=2, grad_clip_norm=0.7, grad_clip_value=0.4)
    ref, ref_step = reference_for(case)
    bounds = {'grad_clip_norm': 0.7, 'grad_clip_value': 0.4}
    traces = 0

    @jit
    def step(grads):
        nonlocal traces
        traces += 1
        opt.step(grads)

    for t in range(8):
        if t > 1:
            bounds = {'grad_clip_norm': (0.3, 1.5, np.inf)[t % 3], 'grad_clip_value': 0.1 + 0.1 * t}
            opt.grad_clip_norm, opt.grad_clip_value = bounds.values()
        step(grads_tree(t))
        ref_step(gradients(t), **bounds)
        assert_close(params, ref.params, what=f'after step {t}')
    assert traces == 1


@over_classes('growth')
@pytest.mark.parametrize('way', ['add_param_group', 'register again'])
def test_growing_in_mid_training_keeps_what_is_there(case, way, x64):
    params = make_params()
    opt = case.make().register_trainable_weights({k: params[k] for k in ('a', 's')})
    of = group_of if way == 'add_param_group' else lambda name: 0
    ref, ref_step = reference_for(case, group_of=of)
    for t in range(3):
        opt.step(grads_tree(t, names=('a', 's')))
        ref_step(gradients(t, names=('a', 's')))
    before, values = moments(opt), named(params)
    if way == 'add_param_group':
        opt.add_param_group({'block': params['block']})
    else:
        assert opt.register_trainable_weights(params) is opt
        assert opt.register_trainable_weights(params) is opt
        assert len(opt.param_groups) == 1
    after, new_values = moments(opt), named(params)
    assert set(before) <= set(after) and kept(before, after, SHAPES)
    assert all(new_values[k].tobytes() == values[k].tobytes() for k in SHAPES)
    assert int(opt.step_count.value) == 3
    for t in range(3, 6):
        opt.step(grads_tree(t))
        ref_step(gradients(t))
    if 'no_absent_count' not in case.skip or way == 'add_param_group':
        assert_close(params, ref.params)


def test_flags_may_differ_between_groups(x64):
    params = make_params()
    opt = bo.Adam(0.05).register_trainable_weights(split(params, 2)[0])
    opt.add_param_group(split(params, 2)[1], amsgrad=True, maximize=True, betas=(0.5, 0.6))
    ref, step = reference_for(CASE['adam'])
    for t in range(6):
        opt.step(grads_tree(t))
        signed = {k: -g if group_of(k) else g for k, g in gradients(t).items()}
        step(signed, lambda k: {'amsgrad': True, 'betas': (0.5, 0.6)} if group_of(k) else {})
    assert_close(params, ref.params)


@over_classes('groups')
def test_a_refused_group_changes_nothing(case):
    params, twin_params = make_params(), make_params()
    opt, twin = build(case, params), build(case, twin_params)
    whole = {'whole': brainstate.ParamState({'x': jnp.ones(2), 'n': jnp.arange(3)})}
    other = {'new': brainstate.ParamState(jnp.ones(2))}
    opt.step(grads_tree(0))
    for bad, options, error, says in (
        (whole, {}, TypeError, r'whole\.n.*int32'),
        ({'again': params['a']}, {}, ValueError, "'again'.*group 0.*'a'"),
        (other, {'learning_rate': 0.1}, TypeError, "'learning_rate'.*'lr'"),
        (other, {'lr': float('nan')}, ValueError, r'lr in \[0, inf\), got lr=nan'),
        ({}, {}, ValueError, 'without parameters'),
    ):
        before = digest(opt, params)
        with pytest.raises(error, match=says):
            opt.add_param_group(bad, **options)
        assert digest(opt, params) == before and len(opt.param_groups) == 1
    # It goes on as an optimizer that was never asked.
    twin.step(grads_tree(0))
    for o in (opt, twin):
        o.current_lr = 0.125
        o.step(grads_tree(1))
        o.add_param_group({'new': brainstate.ParamState(jnp.ones(2))}, lr=0.5)
    assert digest(opt, params) == digest(twin, twin_params)
