"""Every row gives the same numbers eagerly, in jit, in loops and under vmap."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import for_loop, jit, scan, vmap
from cases import (
    CASE,
    build,
    gradients,
    grads_tree,
    make_params,
    over_classes,
    pull,
    reference_for,
    stacked_grads,
    start,
)
from contract_runs import assert_usable, start_run
from looking import (
    assert_close,
    digest,
    named,
    values_of,
)

import braintools_optim as bo


@over_classes('contexts')
def test_all_ways_to_run_agree(case, x64):
    steps = np.arange(12)
    results = {}
    for how in ('eager', 'jit', 'for_loop', 'scan'):
        params = make_params()
        opt = build(case, params, groups=2)
        traces = 0

        def one(t, opt=opt, params=params):
            nonlocal traces
            traces += 1
            opt.step(pull(values_of(params), t))

        if how == 'eager':
            for t in steps:
                opt.step(jax.jit(pull)(values_of(params), t))
        elif how == 'jit':
            jitted = jit(one)
            for t in steps:
                jitted(t)
        elif how == 'for_loop':
            for_loop(one, steps)
        else:
            scan(lambda carry, t, one=one: (carry + t, one(t)), 0, steps)
        assert traces == (how != 'eager')
        assert int(opt.step_count.value) == len(steps)
        results[how] = named(params), [np.asarray(x) for x in jax.tree.leaves(opt._core.value)]
    for how, (values, state) in results.items():
        assert_close(values, results['eager'][0], rtol=1e-12, what=how)
        for got, want in zip(state, results['eager'][1], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15, err_msg=how)


def train(case, lr, scale):
    """Construct everything and take 20 steps, as a function of arrays."""
    params = make_params({k: scale * v for k, v in start().items()})
    opt = build(case, params, groups=2, lr=lr)
    for_loop(opt.step, stacked_grads(20))
    return values_of(params)


LRS, SCALES = np.linspace(0.01, 0.2, 8), np.linspace(0.5, 2.0, 8)


@over_classes('vmap')
def test_construction_and_training_are_vmappable(case, x64):
    mapped = jax.jit(jax.vmap(lambda lr, scale: train(case, lr, scale)))(LRS, SCALES)
    for i in range(8):
        ref, step = reference_for(case, {k: SCALES[i] * v for k, v in start().items()})
        for t in range(20):
            step(gradients(t), lambda name, i=i: {'lr': LRS[i]})
        assert_close(jax.tree.map(lambda x, i=i: x[i], mapped), ref.params)


@pytest.mark.parametrize('name', ['adamw', 'lbfgs'])
def test_all_maps_are_separate_runs(name, x64):
    def run(lr, scale):
        return train(CASE[name], lr, scale)

    mapped = jax.jit(jax.vmap(run))(LRS, SCALES)
    by_brainstate = jit(vmap(run))(LRS, SCALES)
    single = jax.jit(run)
    for i in range(8):
        one, other = (jax.tree.map(lambda x, i=i: x[i], m) for m in (mapped, by_brainstate))
        assert_close(one, other, rtol=1e-12)
        assert_close(one, single(LRS[i], SCALES[i]), rtol=1e-12)


@pytest.mark.parametrize('mapping', [vmap, jax.vmap])
def test_vmap_of_eager_steps_and_setters(mapping):
    def run(lr):
        params = make_params()
        opt = build(CASE['sgd-momentum'], params, lr=lr)
        opt.step(grads_tree(0))
        opt.param_groups[0]['lr'] = lr / 2
        opt.momentum = 4 * lr
        opt.step(grads_tree(1))
        return values_of(params)

    lrs = np.linspace(0.01, 0.2, 8).astype(np.float32)
    mapped = mapping(run)(lrs)
    for i in (0, 7):
        ref, step = reference_for(CASE['sgd-momentum'])
        step(gradients(0), lambda name, i=i: {'lr': lrs[i]})
        step(gradients(1), lambda name, i=i: {'lr': lrs[i] / 2, 'momentum': 4 * lrs[i]})
        one = jax.tree.map(lambda x, i=i: x[i], mapped)
        np.testing.assert_allclose(one['a'], ref.params['a'], rtol=1e-5, atol=1e-6)


@over_classes('outer_trace')
def test_an_outer_optimizer_in_a_plain_jax_transform(case):
    (opt, params), twin = (start_run(case, 1) for _ in range(2))
    with pytest.raises(brainstate.TraceContextError):
        jax.jit(opt.step)(grads_tree(1))
    assert digest(opt, params) == digest(*twin)
    assert_usable(opt, params)


@pytest.mark.parametrize(
    'wrong',
    [
        lambda opt, two: jax.vmap(opt.step)(two),
        lambda opt, two: jax.lax.scan(lambda carry, x: (carry, opt.step(x)), 0, two),
        lambda opt, two: jax.grad(lambda x: opt.step(jax.tree.map(lambda g: x * g[0], two)))(1.0),
    ],
    ids=['vmap', 'scan', 'grad'],
)
def test_an_outer_optimizer_in_other_jax_transforms(wrong):
    (opt, params), twin = (start_run(CASE['adamw'], 1) for _ in range(2))
    with pytest.raises(brainstate.TraceContextError):
        wrong(opt, jax.tree.map(lambda g: jnp.stack([g, g]), grads_tree(1)))
    assert digest(opt, params) == digest(*twin)
    assert_usable(opt, params)


@pytest.mark.parametrize(
    'change',
    [
        lambda opt: opt.lr.step(),
        lambda opt: setattr(opt, 'current_lr', 0.5),
        lambda opt: setattr(opt, 'eps', 0.5),
        lambda opt: opt.param_groups[0].update(eps=0.5),
    ],
    ids=['scheduler', 'rate', 'all groups', 'one group'],
)
@pytest.mark.parametrize('transform', [jax.jit, jax.vmap], ids=['jit', 'vmap'])
def test_numbers_are_not_assigned_once_while_a_plain_jax_program_is_traced(change, transform):
    opt = bo.Adam(bo.StepLR(0.1, step_size=1)).register_trainable_weights(
        {'w': brainstate.ParamState(1.0)}
    )
    before = opt.current_lr, opt.eps, opt.lr.last_epoch.value
    x = jnp.ones(2 if transform is jax.vmap else ())
    with pytest.raises(brainstate.TraceContextError, match='brainstate.transform.jit'):
        transform(lambda x: (change(opt), x)[1])(x)
    assert (opt.current_lr, opt.eps, opt.lr.last_epoch.value) == before

    def inside(lr):
        own = bo.Adam(bo.StepLR(lr, step_size=1)).register_trainable_weights(
            {'w': brainstate.ParamState(lr)}
        )
        change(own)
        own.lr.step()
        return own.current_lr

    transform(inside)(x)


@over_classes('outer_trace')
def test_numbers_may_be_read_in_a_plain_jax_transform(case):
    opt, params = start_run(case, 1)
    seen = [jax.jit(lambda x: x * opt.current_lr)(1.0) for _ in range(2)]
    np.testing.assert_allclose(seen, case.kwargs['lr'], rtol=1e-6)
    assert_usable(opt, params)
