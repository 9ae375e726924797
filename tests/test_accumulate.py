"""Gradients that add up over several calls: the last one is a step on their mean."""

import copy

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
    SHAPES,
    assert_close,
    build,
    compilations,
    grads_tree,
    make_params,
    named,
    over_classes,
    stacked_grads,
    values_of,
)

import braintools_optim as bo
from braintools_optim.engine import chunks

ALL = [*SHAPES]
CALLS = [  # which gradients come in the two calls of each window; all of ALL came at least once
    (ALL, ALL),
    (['a', 's', 'block.c.weight'], ALL),
    (ALL, ['a', 'block.c.bias']),
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


def pair(**options):
    """Return two parameters, and an optimizer with a group for each."""
    params = {'w': ParamState(jnp.arange(4.0)), 'v': ParamState(jnp.ones(3))}
    opt = bo.AdamW(0.1, **options).register_trainable_weights({'w': params['w']})
    opt.add_param_group({'v': params['v']}, lr=0.5)
    return params, opt


def drawn(calls, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {'w': jnp.asarray(rng.normal(size=4), float), 'v': jnp.asarray(rng.normal(size=3), float)}
        for _ in range(calls)
    ]


def state_of(opt, params):
    return list(map(np.array, jax.tree.leaves((values_of(params), opt._core.value))))


def assert_same(some, others):
    for x, y in zip(some, others, strict=True):
        np.testing.assert_array_equal(x, y)


# ---- what it computes --------------------------------------------------------------------------


@over_classes('accumulation')
def test_the_last_call_steps_on_the_mean(case, x64):
    params, others, compiled = make_params(), make_params(), make_params()
    opt = build(case, params, groups=2, accumulate_steps=2)
    twin = build(case, others, groups=2)
    traced = build(case, compiled, groups=2, accumulate_steps=2)
    step = jit(traced.step)
    for t, names in enumerate(CALLS):
        for i, present in enumerate(names):
            before = named(params)
            opt.step(grads_tree(2 * t + i, names=present))
            step(grads_tree(2 * t + i, names=present))
            if i == 0:
                assert_same(named(params).values(), before.values())
        twin.step(mean(2 * t, names))
        assert_close(named(params), named(others), rtol=1e-12, what=f'update {t}')
        assert_close(named(compiled), named(params), rtol=1e-12, what=f'update {t} in jit')
    assert opt.step_count.value == traced.step_count.value == 6
    inner = [chain for chain, _ in opt._core.chains]
    for got, want in zip(*map(jax.tree.leaves, (inner, list(twin._core.chains))), strict=True):
        np.testing.assert_allclose(np.float64(got), np.float64(want), rtol=1e-9, atol=1e-12)


@over_classes('accumulation')
def test_what_has_no_gradient_in_any_call_stays(case, x64):
    params, others = make_params(), make_params()
    opt = build(case, params, groups=2, accumulate_steps=2)
    twin = build(case, others, groups=2)
    opt.step(grads_tree(0)), opt.step(grads_tree(0))
    twin.step(grads_tree(0))
    before = named(params)
    some = ['a', 'block.c.weight']
    opt.step(grads_tree(1, names=['a'])), opt.step(grads_tree(1, names=['block.c.weight']))
    assert_same(
        (named(params)[k] for k in ('s', 'block.c.bias')),
        (before[k] for k in ('s', 'block.c.bias')),
    )
    if not case.traits & {'late', 'rests'}:
        assert all((named(params)[k] != before[k]).any() for k in some)
    # Its moments and counts stayed, too: the next update is what it would be without these calls.
    halved = jax.tree.map(lambda g: g / 2, grads_tree(1, names=some))
    twin.step(halved)
    opt.step(grads_tree(2)), opt.step(grads_tree(2))
    twin.step(grads_tree(2))
    assert_close(named(params), named(others), rtol=1e-12)


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
    before = list(map(np.array, jax.tree.leaves(opt._core.chains[1])))
    step({'w': grads['w']}), step({'w': grads['w']})
    assert_same(jax.tree.leaves(opt._core.chains[1]), before)
    step({'v': grads['v']}), step({'w': grads['w']})
    counts = [int(optax.tree.get(chain, 'count')) for chain in opt._core.chains]
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


# ---- groups, schedules, training steps ---------------------------------------------------------


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


# ---- checkpoints, copies, what is refused ------------------------------------------------------


def test_a_run_resumes_between_two_updates(tmp_path):
    grads = drawn(8)
    params, opt = pair(accumulate_steps=3)
    for g in grads[:4]:
        opt.step(g)
    opt.save(tmp_path / 'run', params=True)
    twin = copy.deepcopy(opt)
    others, other = pair(accumulate_steps=3)
    other.load(tmp_path / 'run')
    assert_same(state_of(other, others), state_of(opt, params))
    for g in grads[4:]:
        opt.step(g), other.step(g)
    assert_same(state_of(other, others), state_of(opt, params))
    assert twin.step_count.value == 4 and opt.step_count.value == 8


def test_another_number_of_steps_is_refused():
    _, opt = pair(accumulate_steps=2)
    for g in drawn(3):
        opt.step(g)
    saved = opt.state_dict()
    for steps in (1, 3):
        _, other = pair(accumulate_steps=steps)
        with pytest.raises(bo.IncompatibleCheckpoint) as error:
            other.load_state_dict(saved)
        line = f'accumulate_steps was 2, here it is {steps}, and 3 steps are no multiple of both'
        assert line in str(error.value)
    opt.step(drawn(1)[0])
    _, other = pair(accumulate_steps=3)  # nothing waits, but here an update would come too early
    with pytest.raises(
        bo.IncompatibleCheckpoint,
        match='and 4 steps are no multiple of both: take some more with 2',
    ):
        other.load_state_dict(opt.state_dict(), strict=False)
    for wrong in (0, -1, 'x', True, 2.0):
        with pytest.raises(bo.IncompatibleCheckpoint, match='accumulate_steps must be a count'):
            opt.load_state_dict({**saved, 'accumulate_steps': wrong})
    _, other = pair(accumulate_steps=2)
    with pytest.raises(bo.IncompatibleCheckpoint, match='leaf_added must be counts'):
        saved['opt_state']['0']['leaf_added'] = {'w': -1}
        other.load_state_dict(saved)


def test_where_no_gradient_waits_it_may_change(tmp_path):
    params, opt = pair(accumulate_steps=2)
    for g in drawn(6):
        opt.step(g)
    opt.save(tmp_path / 'run', params=True)
    for steps in (1, 3):
        others, other = pair(accumulate_steps=steps)
        line = f'accumulate_steps was 2, here it is {steps}'
        with pytest.raises(bo.IncompatibleCheckpoint, match=line):
            other.load(tmp_path / 'run')
        report = other.load(tmp_path / 'run', strict=False)
        assert line in report.unexpected
        assert_close(values_of(others), values_of(params))
        twins, twin = pair()
        twin.load(tmp_path / 'run', strict=False)
        other.step(drawn(1)[0])
        for _ in range(steps - 1):
            other.step(drawn(1)[0])
        twin.step(drawn(1)[0])
        assert_close(values_of(others), values_of(twins), rtol=1e-6)


def test_one_that_does_not_add_up_writes_what_it_always_wrote():
    _, opt = pair()
    assert 'accumulate_steps' not in opt.state_dict()
    assert {'gradients', 'leaf_added'}.isdisjoint(opt.state_dict()['opt_state']['0'])


def test_it_is_fixed_and_shown():
    _, opt = pair(accumulate_steps=4)
    assert opt.accumulate_steps == 4 and bo.Adam().accumulate_steps == 1
    assert 'accumulate_steps=4' in repr(opt)
    assert 'accumulate_steps=4' in repr(bo.Adam(accumulate_steps=4))
    assert 'accumulate_steps' not in repr(bo.Adam())
    with pytest.raises(AttributeError, match='accumulate_steps of AdamW is fixed'):
        opt.accumulate_steps = 2
    with pytest.raises(TypeError, match='option of the whole optimizer'):
        opt.add_param_group({'x': ParamState(jnp.ones(2))}, accumulate_steps=2)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: bo.Adam(accumulate_steps=0), r'integer >= 1 for accumulate_steps, got 0'),
        (lambda: bo.Adam(accumulate_steps=2**31), r'below 2\*\*31 for accumulate_steps, got 21'),
        (lambda: bo.Adam(accumulate_steps=2.0), r'integer >= 1 for accumulate_steps, got 2.0'),
        (lambda: bo.Adam(accumulate_steps=True), r'integer >= 1 for accumulate_steps, got True'),
        (lambda: bo.SparseAdam(accumulate_steps=2), 'SparseAdam takes no accumulate_steps: grad'),
        (lambda: bo.Mars(exact=True, accumulate_steps=2), 'two gradients in each step. Give step'),
        (lambda: bo.LBFGS(accumulate_steps=2), 'LBFGS takes no accumulate_steps: its history'),
        (
            lambda: bo.Lookahead(bo.SparseAdam(), accumulate_steps=2),
            'Lookahead takes no accumulate_steps: gradients of other rows',
        ),
        (lambda: pair(accumulate_steps=2)[1].tx, 'wrap opt.tx in optax.MultiSteps'),
        (
            lambda: pair(accumulate_steps=2)[1].step(drawn(1)[0], value=1.0),
            'adds up the gradients of 2 steps, and takes nothing besides, got value',
        ),
        (
            lambda: bo.Adam(gradient_accumulation_steps=4),
            'It is accumulate_steps here',
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_model_of_brainstate_as_with_a_large_batch():
    brainstate.random.seed(0)
    net = brainstate.nn.Linear(3, 2)
    twin = copy.deepcopy(net)
    x, y = brainstate.random.normal(size=(8, 3)), brainstate.random.normal(size=(8, 2))

    def step_of(model, **options):
        weights = model.states(brainstate.ParamState)
        opt = bo.AdamW(1e-2, grad_clip_norm=0.1, **options).register_trainable_weights(weights)
        return bo.train_step(model, opt, lambda x, y: jnp.mean((model(x) - y) ** 2))

    small, large = step_of(net, accumulate_steps=4), step_of(twin)
    for _ in range(3):
        for i in range(4):
            small(x[2 * i : 2 * i + 2], y[2 * i : 2 * i + 2])
        large(x, y)
    for got, want in zip(
        *(jax.tree.leaves(values_of(m.states(brainstate.ParamState))) for m in (net, twin)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-7)


def test_the_whole_road_in_a_loop(x64):
    params, opt = pair(accumulate_steps=2)
    grads = stacked_grads(4)
    assert jax.tree.leaves(grads)[0].shape[0] == 4
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *drawn(4))
    for_loop(opt.step, stacked)
    others, twin = pair()
    for i in (0, 2):
        twin.step(jax.tree.map(lambda g, i=i: g[i : i + 2].mean(0), stacked))
    assert_close(values_of(params), values_of(others), rtol=1e-12)


@pytest.mark.parametrize('steps', [(2, 1), (1, 2)])
def test_a_chain_keeps_its_names_where_slots_need_positions(steps):
    def build(count):
        w = ParamState(jnp.ones(3))
        chain = optax.chain(optax.trace(0.9), optax.trace(0.5), optax.scale(-0.1))
        return bo.OptaxOptimizer(tx=chain, accumulate_steps=count).register_trainable_weights(
            {'w': w}
        )

    old, new = map(build, steps)
    for _ in range(4):
        old.step({'w': jnp.ones(3)})
    report = new.load_state_dict(old.state_dict(), strict=False)
    assert not [line for line in report.missing if 'trace' in line]
    pairs = zip((old, new), steps, strict=True)
    inner = [o.opt_state.value if n == 1 else o.opt_state.value[0] for o, n in pairs]
    assert_same(*map(jax.tree.leaves, inner))


def test_a_chain_may_have_names_of_the_sums():
    def init(params):
        return {'gradients': jax.tree.map(jnp.zeros_like, params)}

    def update(updates, state, params=None):
        return updates, {'gradients': updates}

    w = ParamState(jnp.ones(3))
    tx = optax.GradientTransformation(init, update)
    made = [
        bo.OptaxOptimizer(tx=tx, accumulate_steps=2).register_trainable_weights({'w': w})
        for _ in range(2)
    ]
    for t in range(3):
        made[0].step({'w': t + jnp.arange(3.0)})
    made[1].load_state_dict(made[0].state_dict())
    assert_same(*(jax.tree.leaves(o.opt_state.value) for o in made))


@pytest.mark.parametrize('steps', [1, 2])
def test_loading_forgets_what_was_added_up_here(steps):
    w, v = (ParamState(jnp.zeros(2)) for _ in range(2))
    old = bo.SGD(1.0, accumulate_steps=steps).register_trainable_weights({'w': w})
    for _ in range(4):
        old.step({'w': jnp.ones(2)})
    w, v = (ParamState(jnp.zeros(2)) for _ in range(2))
    opt = bo.SGD(1.0, accumulate_steps=2).register_trainable_weights({'w': w, 'v': v})
    opt.step({'w': jnp.full(2, 100.0), 'v': jnp.full(2, 100.0)})
    opt.load_state_dict(old.state_dict(), strict=False)
    for _ in range(2):
        opt.step({'w': jnp.ones(2), 'v': jnp.ones(2)})
    np.testing.assert_array_equal(w.value, [-1.0, -1.0])
    np.testing.assert_array_equal(v.value, [-1.0, -1.0])
