"""Gradients that add up over several calls: the last one is a step on their mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from added_up import drawn, pair, state_of
from brainstate import ParamState
from brainstate.transform import for_loop, jit
from cases import (
    CASE,
    SHAPES,
    build,
    grads_tree,
    make_params,
    over_classes,
)
from looking import (
    assert_close,
    assert_same,
    chains_of,
    compilations,
    named,
    values_of,
)

import braintools_optim as bo
from braintools_optim.engine import chunks

ALL = [*SHAPES]

SOME = ['a', 'block.c.bias']
CALLS = [  # which gradients come in the two calls of each window; all of ALL came at least once
    (ALL, ALL),
    (SOME, ALL),
    (ALL, SOME),
]


def mean(t, names):
    """Return the mean of the gradients of two calls, of which some are absent."""
    both = [named(grads_tree(t + i, names=present)) for i, present in enumerate(names)]
    total = {k: sum(g[k] for g in both if k in g) / 2 for k in ALL}
    return {
        'a': total['a'],
        'block': {'c': {k: total[f'block.c.{k}'] for k in ('bias', 'weight')}},
        's': total['s'],
    }


# ---- what it computes ---------------------------------------------------------------------------


@over_classes('accumulation')
def test_the_last_call_steps_on_the_mean(case, x64):
    params, others = make_params(), make_params()
    opt = build(case, params, groups=2, accumulate_steps=2)
    twin = build(case, others, groups=2)
    for t, names in enumerate(CALLS):
        for i, present in enumerate(names):
            before = named(params)
            opt.step(grads_tree(2 * t + i, names=present))
            if i == 0:
                assert_same(named(params), before)
        twin.step(mean(2 * t, names))
        assert_close(named(params), named(others), rtol=1e-12, what=f'update {t}')
    assert opt.step_count.value == 6
    inner = [chain for chain, _ in chains_of(opt)]
    for got, want in zip(*map(jax.tree.leaves, (inner, list(chains_of(twin)))), strict=True):
        np.testing.assert_allclose(np.float64(got), np.float64(want), rtol=1e-9, atol=1e-12)


KINDS = ['sgd', 'adamw', 'nadam', 'rprop', 'asgd', 'adafactor', 'sm3', 'muon', 'quad', 'mars']
"""One row for each kind of state: none, vectors of counts, products and rates, rows and columns."""


@pytest.mark.parametrize('name', [*KINDS, 'lookahead-adamw'])
def test_what_has_no_gradient_in_any_call_stays(name, x64):
    case, params, others = CASE[name], make_params(), make_params()
    opt = build(case, params, groups=2, accumulate_steps=2)
    twin = build(case, others, groups=2)
    opt.step(grads_tree(0)), opt.step(grads_tree(0))
    twin.step(grads_tree(0))
    before = named(params)
    some = ['a', 'block.c.weight']
    opt.step(grads_tree(1, names=['a'])), opt.step(grads_tree(1, names=['block.c.weight']))
    for name in ('s', 'block.c.bias'):
        assert_same(named(params)[name], before[name])
    if not case.traits & {'late', 'rests'}:
        assert all((named(params)[k] != before[k]).any() for k in some)
    # Its moments and counts stayed, too: the next update is what it would be without these calls.
    halved = jax.tree.map(lambda g: g / 2, grads_tree(1, names=some))
    twin.step(halved)
    opt.step(grads_tree(2)), opt.step(grads_tree(2))
    twin.step(grads_tree(2))
    assert_close(named(params), named(others), rtol=1e-12)


@pytest.mark.parametrize('name', ['adamw', 'muon', 'quad', 'mars', 'lookahead-adamw'])
def test_compiled_with_the_model_it_is_the_same(name, x64):
    runs = []
    for how in (lambda f: f, jit):
        params = make_params()
        opt = build(CASE[name], params, groups=2, accumulate_steps=2)
        step = how(opt.step)
        for t, names in enumerate(CALLS):
            for i, present in enumerate(names):
                step(grads_tree(2 * t + i, names=present))
        assert opt.step_count.value == 6
        runs.append(named(params))
    assert_close(*runs, rtol=1e-12)


@pytest.mark.parametrize('steps', [1, 3])
def test_every_road_gives_the_same(steps):
    grads = drawn(7)
    runs = {}
    for road in ('eager', 'jit', 'loop', 'observed', 'keeping'):
        params, opt = pair(accumulate_steps=steps, grad_clip_norm=0.5, maximize=True)
        if road == 'loop':
            for_loop(opt.step, jax.tree.map(lambda *x: jnp.stack(x), *grads))
        elif road == 'observed':
            with params['w'].temporary_hook('write_after', lambda context: None):
                for g in grads:
                    opt.step(g)
        elif road == 'keeping':
            with jax.debug_nans(True):
                for g in grads:
                    opt.step(g)
        else:
            step = jit(opt.step) if road == 'jit' else opt.step
            for g in grads:
                step(g)
        assert opt.step_count.value == 7
        runs[road] = state_of(opt, params)
    for road, got in runs.items():
        for x, want in zip(got, runs['eager'], strict=True):
            np.testing.assert_allclose(x, want, rtol=1e-6, atol=1e-9, err_msg=road)


def test_two_programs_however_many_calls():
    params, opt = pair(accumulate_steps=3)
    grads = drawn(12)
    with compilations() as heard:
        for i, g in enumerate(grads):
            opt.current_lr = 0.1 / (i + 1)
            opt.step(g)
    assert len([name for name in heard if '_flat' in name]) == 2
    traces = []

    @jit
    def step(g):
        traces.append(1)
        opt.step(g)

    for g in grads:
        step(g)
    assert len(traces) == 1


def test_bounds_are_for_the_mean():
    w = ParamState(jnp.zeros(2))
    opt = bo.SGD(1.0, grad_clip_norm=1.0, accumulate_steps=2).register_trainable_weights({'w': w})
    opt.step({'w': jnp.array([30.0, 0.0])})
    opt.step({'w': jnp.array([-28.0, 0.0])})  # the mean is of norm one
    np.testing.assert_array_equal(w.value, [-1.0, 0.0])


def test_numbers_are_those_of_the_last_call():
    w = ParamState(jnp.zeros(2))
    opt = bo.SGD(1.0, accumulate_steps=2).register_trainable_weights({'w': w})
    opt.step({'w': jnp.ones(2)})
    opt.current_lr = 0.25
    opt.step({'w': jnp.ones(2)})
    np.testing.assert_array_equal(w.value, np.full(2, -0.25))


@pytest.mark.parametrize('compile_', [lambda f: f, jit], ids=['eager', 'jit'])
def test_one_bad_gradient_leaves_the_update_out(compile_):
    params, opt = pair(accumulate_steps=2, skip_nonfinite=True)
    step = compile_(opt.step)
    grads = drawn(6)
    bad = {'w': grads[0]['w'].at[1].set(jnp.nan), 'v': grads[0]['v']}
    for g in (grads[0], grads[1]):
        step(g)
    before = state_of(opt, params)[:-1]
    step(bad), step(grads[2])
    assert_same(state_of(opt, params)[:-1], before)
    step(grads[3]), step(grads[4])
    assert all(np.isfinite(x).all() for x in state_of(opt, params))
    assert (np.array(params['v'].value) != before[0]).any()  # in the order of names


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('options', [{}, {'master_dtype': jnp.float32}])
def test_small_gradients_add_up(dtype, options):
    """In bfloat16 a sum would stop at 256."""
    w = ParamState(jnp.zeros(2, dtype))
    opt = bo.SGD(1.0, accumulate_steps=512, **options).register_trainable_weights({'w': w})
    for_loop(lambda _: opt.step({'w': jnp.ones(2, dtype)}), jnp.arange(512))
    assert w.value.dtype == dtype
    np.testing.assert_array_equal(np.float32(w.value), [-1.0, -1.0])


@pytest.mark.parametrize(
    ('options', 'want'),
    [({}, jnp.bfloat16), ({'state_dtype': jnp.float32}, jnp.float32)],
)
def test_chains_see_the_dtype_that_they_see_without_it(options, want):
    seen = []

    class Watching(bo.SGD):
        def transform(self, h):
            def update(updates, state, params=None):
                seen.append(updates['w'].dtype)
                return updates, state

            watch = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
            return optax.chain(watch, super().transform(h))

    w = ParamState(jnp.ones(2, jnp.bfloat16))
    opt = Watching(0.1, accumulate_steps=2, **options).register_trainable_weights({'w': w})
    opt.step({'w': jnp.ones(2)}), opt.step({'w': jnp.ones(2)})
    assert set(seen) == {jnp.dtype(want)}


@pytest.mark.parametrize('compile_', [lambda f: f, jit], ids=['eager', 'jit'])
def test_a_group_without_gradients_remembers_what_it_did(compile_):
    params = {'w': ParamState(jnp.ones(2)), 'v': ParamState(jnp.ones(3))}
    opt = bo.Lion(0.1, accumulate_steps=2).register_trainable_weights({'w': params['w']})
    opt.add_param_group({'v': params['v']})
    step = compile_(opt.step)
    grads = jax.tree.map(jnp.ones_like, values_of(params))
    step(grads), step(grads)
    before = list(map(np.array, jax.tree.leaves(chains_of(opt)[1])))
    step({'w': grads['w']}), step({'w': grads['w']})
    assert_same(jax.tree.leaves(chains_of(opt)[1]), before)
    step({'v': grads['v']}), step({'w': grads['w']})
    counts = [int(optax.tree.get(chain, 'count')) for chain in chains_of(opt)]
    assert counts == [3, 2]


def test_units_complex_numbers_and_weak_types():
    params = {
        'volt': ParamState(jnp.ones(2) * u.mV),
        'complex': ParamState(jnp.array([1.0 + 2.0j, 3.0])),
        'weak': ParamState(jnp.asarray(0.5)),
        'tree': ParamState({'kernel': jnp.ones((2, 3)), 'bias': jnp.zeros(3)}),
    }
    others = {k: ParamState(p.value) for k, p in params.items()}
    opt = bo.Adam(0.1, accumulate_steps=2).register_trainable_weights(params)
    twin = bo.Adam(0.1).register_trainable_weights(others)
    avals = jax.tree.map(jax.typeof, values_of(params))
    step = jit(opt.step)
    for _ in range(2):
        grads = jax.tree.map(lambda x: 0.5 * x, values_of(params))
        opt.step(grads), opt.step(grads)
        step(grads), step(grads)
        twin.step(grads), twin.step(grads)
    assert jax.tree.map(jax.typeof, values_of(params)) == avals
    for got, want in zip(*(map(jax.tree.leaves, map(values_of, (params, others)))), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_vmap_over_the_learning_rate():
    grads = drawn(4)

    def train(lr):
        w = ParamState(jnp.arange(4.0))
        opt = bo.Adam(lr, accumulate_steps=2).register_trainable_weights({'w': w})
        for g in grads:
            opt.step({'w': g['w']})
        return w.value

    rates = jnp.array([0.01, 0.1, 0.5])
    for got, lr in zip(jax.vmap(train)(rates), rates, strict=True):
        np.testing.assert_allclose(got, train(float(lr)), rtol=1e-5)


def test_over_many_leaves(monkeypatch):
    monkeypatch.setattr(chunks, '_MANY', 2)
    ends = []
    for options in ({'accumulate_steps': 2}, {}):
        params = {f'k{i}': ParamState(jnp.full(3, 1.0 + i)) for i in range(12)}
        opt = bo.AdamW(0.1, **options).register_trainable_weights(params)
        for _ in range(3):
            for _ in range(options.get('accumulate_steps', 1)):
                opt.step({k: jnp.full(3, 0.1) for k in params})
        ends.append(values_of(params))
    for got, want in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_lookahead_and_given_chains():
    for make in (
        lambda **k: bo.Lookahead(bo.SGD(0.1, momentum=0.9, **k), sync_period=2),
        lambda **k: bo.Lookahead(optax.sgd(0.1), sync_period=2, **k),
        lambda **k: bo.OptaxOptimizer(tx=optax.adam(0.1), **k),
    ):
        ends = []
        for steps in (1, 2):
            w = ParamState(jnp.arange(3.0))
            opt = make(accumulate_steps=steps).register_trainable_weights({'w': w})
            assert opt.accumulate_steps == steps
            for t in range(3):
                for _ in range(steps):
                    opt.step({'w': jnp.full(3, 0.1 + t)})
            ends.append(w.value)
        np.testing.assert_allclose(*ends, rtol=1e-6)


# ---- groups, schedules, training steps ----------------------------------------------------------


def test_groups_and_parameters_join_between_two_updates():
    params, opt = pair(accumulate_steps=2)
    grads = drawn(2)
    opt.step(grads[0])
    late, later = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    opt.add_param_group({'late': late})
    opt.register_trainable_weights({'later': later})
    assert opt.opt_state.value[1].leaf_added.tolist() == [0, 1]  # in the order of the tree
    here = {'late': jnp.ones(2), 'later': jnp.ones(2)}
    opt.step(grads[1] | here)
    others, twin = pair()
    twin.step(jax.tree.map(lambda x, y: (x + y) / 2, *grads))
    assert_close(values_of(params), values_of(others), rtol=1e-6)
    assert (late.value != 1.0).all() and (later.value != 1.0).all()


@pytest.mark.parametrize('kind', ['step', 'plateau'])
def test_train_step_schedules_after_updates(kind):
    def run(steps):
        w = ParamState(jnp.arange(1.0, 4.0))
        scheduler = (
            bo.StepLR(0.1, step_size=1, gamma=0.5)
            if kind == 'step'
            else bo.ReduceLROnPlateau(0.1, patience=0, factor=0.5, threshold=1e3)
        )
        opt = bo.SGD(scheduler, accumulate_steps=steps).register_trainable_weights({'w': w})
        take = bo.train_step({'w': w}, opt, lambda x: (w.value * x).sum(), scheduler)
        rates = []
        for _ in range(3 * steps):
            take(jnp.ones(3))
            rates.append(opt.current_lr)
        return rates[steps - 1 :: steps], w.value, scheduler, take, opt

    want, value, *_ = run(1)
    got, w, scheduler, take, opt = run(2)
    assert got == pytest.approx(want) and int(scheduler.last_epoch.value) == 3
    np.testing.assert_allclose(w, value, rtol=1e-6)
    take.scan((jnp.ones((5, 3)),))
    assert opt.step_count.value == 11 and int(scheduler.last_epoch.value) == 5


def test_train_step_takes_over_memory():
    w = ParamState(jnp.ones((64, 64)))
    opt = bo.AdamW(0.1, accumulate_steps=2).register_trainable_weights({'w': w})
    take = bo.train_step({'w': w}, opt, lambda x: (w.value * x).sum())
    memory = take.compiled(jnp.ones(64)).memory_analysis()
    assert memory.alias_size_in_bytes >= 4 * 4 * 64 * 64  # the parameter, two moments, the sum
