"""AdEMAMix: recorded runs of xlstm-jax, optax, Apple and pytorch_optimizer, and what went wrong."""

import inspect

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit
from brainstate import ParamState
from looking import assert_trees_close
from recorded import GOLDEN, off_by, replay_chain, replay_optimizer

import braintools_optim as bo
from braintools_optim import transforms
from braintools_optim.transforms import (
    ScaleByAdemamixState,
    ademamix,
    alpha_scheduler,
    beta3_scheduler,
    scale_by_ademamix,
)

WARM = {
    'b3_scheduler': beta3_scheduler(0.9999, 0.9, 20),
    'alpha_scheduler': alpha_scheduler(5.0, 0, 20),
}
FROM_ZERO = {
    'b3_scheduler': beta3_scheduler(0.9999, 0.0, 20),
    'alpha_scheduler': alpha_scheduler(5.0, 1.0, 20),
}
OPTAX = {'b3': WARM['b3_scheduler'], 'alpha': WARM['alpha_scheduler']}
DECAY, LATER = {'weight_decay': 0.1}, {'weight_decay': 0.1, 'step_offset': 1}
T20 = {'T_b3': 20, 'T_alpha': 20}
RUNS = {  # by file: the chain's arguments, the class', the tolerance
    'xlstm_const': ({'lr': 0.01}, {}, 5e-5),
    'xlstm_sched': ({'lr': 0.01, **WARM, **DECAY}, {**T20, **DECAY}, 5e-5),
    'xlstm_sched_b30': (
        {'lr': 0.01, **FROM_ZERO, 'eps_root': 1e-6},
        {**T20, 'b3_start': 0.0, 'alpha_start': 1.0, 'eps_root': 1e-6},
        5e-5,
    ),
    'xlstm_mu_bf16': ({'lr': 0.01, 'mu_dtype': jnp.bfloat16}, {'mu_dtype': jnp.bfloat16}, 1e-2),
    'optax_const': ({'learning_rate': 0.01, **DECAY}, DECAY, 5e-5),
    'optax_sched': ({'learning_rate': 0.01, **OPTAX}, OPTAX, 5e-5),
    'apple_optax_sched': ({'lr': 0.01, **WARM, **DECAY}, {**T20, **DECAY}, 5e-5),
    'apple_torch_sched': ({'lr': 0.01, **WARM, **LATER}, {**T20, **LATER}, 5e-5),
    'apple_torch_b1zero': ({'lr': 0.01, 'b1': 0.0}, {'betas': (0.0, 0.999)}, 5e-5),
    'pytorchoptimizer_sched': ({'lr': 0.01, **WARM, **LATER}, {**T20, **LATER}, 5e-5),
}


@pytest.mark.parametrize('name', RUNS)
def test_recorded_runs(name):
    options, of_class, tolerance = RUNS[name]
    trajectory, (state, *_) = replay_chain(ademamix(**options))
    assert isinstance(state, ScaleByAdemamixState) and state.count == state.count_m2 == 30
    for got in (trajectory, replay_optimizer(bo.AdEMAMix(0.01, **of_class))):
        deviation = off_by(got, f'ademamix_{name}')
        assert max(deviation.values()) <= tolerance, deviation


# ---- schedules ---------------------------------------------------------------------------------

RECORDED = np.load(GOLDEN / 'ademamix_schedules.npz')
EXACT = [k for k in RECORDED.files if k.startswith('beta3_exact')]


def settings(key):
    return {k: float(v) for k, v in (x.split('=') for x in key.partition('/')[2].split(','))}


@pytest.mark.parametrize('key', EXACT)
def test_recorded_decays(key):
    """One less the decay is exact in float32, of which that of xlstm-jax has lost up to 1 %."""
    s = settings(key)
    schedule = beta3_scheduler(s['end'], s['start'], int(s['warmup']))
    steps, exact = jnp.asarray(RECORDED['step']), RECORDED[key]
    np.testing.assert_allclose(schedule(steps), exact, rtol=1e-6)
    np.testing.assert_allclose(schedule.complement(steps), 1.0 - exact, rtol=3e-6)
    np.testing.assert_allclose(
        schedule(steps), RECORDED[key.replace('exact_f64', 'xlstm_f32')], rtol=2e-5
    )
    ended = RECORDED['step'] >= s['warmup']
    assert (np.asarray(schedule(steps))[ended] == np.float32(s['end'])).all()


@pytest.mark.parametrize('key', [k for k in RECORDED.files if k.startswith('alpha')])
def test_recorded_alphas(key):
    s = settings(key)
    got = alpha_scheduler(s['end'], s['start'], int(s['warmup']))(jnp.asarray(RECORDED['step']))
    np.testing.assert_allclose(got, RECORDED[key], rtol=1e-6)
    assert (np.asarray(got)[RECORDED['step'] >= s['warmup']] == s['end']).all()


@pytest.mark.parametrize('kind', [int, np.int64, np.float32, jnp.int32, jnp.asarray])
def test_kinds_of_steps(kind):
    assert float(alpha_scheduler(4.0, 2.0, 8)(kind(4))) == 3.0
    half = float(beta3_scheduler(0.99, 0.9, 8)(kind(4)))
    assert np.log(0.9) * half < 0 and half == pytest.approx(
        np.exp(2.0 / (1 / np.log(0.9) + 1 / np.log(0.99))), rel=1e-6
    )
    for warmup in (0, jnp.zeros(())):  # no warm-up: the end at once, as by default
        assert float(alpha_scheduler(4.0, 2.0, warmup)(kind(0))) == 4.0
        assert float(beta3_scheduler(0.75, 0.5, warmup)(kind(0))) == 0.75
    assert float(beta3_scheduler(0.75)(kind(0))) == 0.75 and float(alpha_scheduler(3.0)(3)) == 3.0


@pytest.mark.parametrize('traced', [False, True])
@pytest.mark.parametrize(('end', 'start'), [(1.0, 0.9), (0.9999, 0.0), (0.5, 0.9), (0.0, 0.0)])
def test_ends_of_the_range(end, start, traced):
    def decays(end, start):
        schedule = beta3_scheduler(end, start, 4)
        steps = jnp.arange(6)
        return schedule(steps), schedule.complement(steps)

    one, less = (jax.jit(decays) if traced else decays)(end, start)
    assert one[0] == pytest.approx(start, rel=1e-6) and (one[4:] == np.float32(end)).all()
    np.testing.assert_allclose(less, 1.0 - one, atol=2e-7)
    assert np.isfinite(one).all() and (np.diff(one) * np.sign(end - start) >= 0).all()


@pytest.mark.parametrize('step', [0.0, 1.0, 4.0, 9.0])
@pytest.mark.parametrize('warmup', [0.0, 4.0])
@pytest.mark.parametrize(('end', 'start'), [(0.99, 0.9), (0.99, 0.0), (1.0, 0.9)])
def test_derivatives_are_finite(step, warmup, end, start):
    def total(step, end, start, warmup):
        decay = beta3_scheduler(end, start, warmup)
        return decay(step) + decay.complement(step) + alpha_scheduler(end, start, warmup)(step)

    slopes = jax.grad(total, (0, 1, 2, 3))(step, end, start, warmup)
    assert np.isfinite(slopes).all(), slopes


# ---- what it is without the slow average -------------------------------------------------------

PARAMS = {'w': np.full((3, 2), 0.5), 'v': np.array([1.0, -2.0, 0.1])}


def grads_at(t, dtype=float):
    rng = np.random.default_rng([5, t])
    return {k: jnp.asarray(rng.normal(size=p.shape), dtype) for k, p in PARAMS.items()}


def run(tx, steps=5, dtype=float, offset=0):
    params = {k: jnp.asarray(p, dtype) for k, p in PARAMS.items()}
    state = tx.init(params)
    for t in range(steps):
        updates, state = tx.update(grads_at(t + offset, dtype), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def trained(opt, steps=5):
    params = {k: ParamState(jnp.asarray(p)) for k, p in PARAMS.items()}
    opt.register_trainable_weights(params)
    for t in range(steps):
        opt.step(grads_at(t, params['w'].value.dtype))
    return {k: p.value for k, p in params.items()}


def test_without_alpha_it_is_adamw(x64):
    ours, _ = run(ademamix(0.1, alpha=0.0, weight_decay=0.1))
    adamw, _ = run(optax.adamw(0.1, weight_decay=0.1))
    assert_trees_close(ours, adamw, rtol=1e-12)
    both = bo.AdEMAMix(0.1, alpha=0.0, weight_decay=0.1), bo.AdamW(0.1, weight_decay=0.1)
    assert_trees_close(*map(trained, both), rtol=1e-12)


def test_it_takes_the_calls_of_optax(x64):
    theirs = optax.contrib.ademamix(0.1, b3=WARM['b3_scheduler'], alpha=2.0, weight_decay=0.1)
    ours = ademamix(learning_rate=0.1, b3=WARM['b3_scheduler'], alpha=2.0, weight_decay=0.1)
    assert_trees_close(run(ours)[0], run(theirs)[0], rtol=1e-9)
    for given in ({}, {'lr': 0.1, 'learning_rate': 0.1}):
        with pytest.raises(TypeError, match='ademamix needs lr or learning_rate, got'):
            ademamix(**given)


def test_names_and_defaults():
    defaults = {
        **{'b1': 0.9, 'b2': 0.999, 'b3': 0.9999, 'alpha': 5.0, 'b3_scheduler': None},
        **{'alpha_scheduler': None, 'eps': 1e-8, 'eps_root': 0.0, 'weight_decay': 0.0},
        **{'mu_dtype': None, 'mask': None},
    }
    shown = inspect.signature(ademamix).parameters
    assert list(shown)[:12] == ['lr', *defaults]
    assert {k: shown[k].default for k in defaults} == defaults
    assert list(inspect.signature(scale_by_ademamix).parameters)[:9] == [
        *('b1', 'b2', 'b3', 'alpha', 'b3_scheduler', 'alpha_scheduler', 'eps', 'eps_root'),
        'mu_dtype',
    ]
    assert inspect.signature(beta3_scheduler).parameters['beta_start'].default == 0.0
    assert ScaleByAdemamixState._fields == ('count', 'count_m2', 'm1', 'm2', 'nu')


def test_tree_helpers():
    tree = {'a': jnp.array([1.0, -2.0]), 'b': None}
    assert transforms.tree_cast(tree, jnp.bfloat16)['a'].dtype == jnp.bfloat16
    assert transforms.tree_cast(tree, None) is tree
    zeros = transforms.tree_zeros_like(tree, jnp.float16)
    assert zeros['a'].dtype == jnp.float16 and not zeros['a'].any()
    moments = {'a': jnp.ones(2), 'b': jnp.ones(2)}
    moved = transforms.tree_update_moment(tree, moments, 0.5, 1)
    np.testing.assert_array_equal(moved['a'], [1.0, -0.5])
    assert moved['b'] is None
    z, one = {'a': jnp.array([3 + 4j, 5.0])}, {'a': jnp.ones(2)}
    squares = transforms.tree_update_moment_per_elem_norm(z, one, 0.5, 2)
    np.testing.assert_allclose(squares['a'], [13.0, 13.0])
    corrected = transforms.tree_bias_correction({'a': jnp.ones(2)}, 0.5, jnp.asarray(2))
    np.testing.assert_allclose(corrected['a'], 1.0 / 0.75)


# ---- what went wrong in the originals ----------------------------------------------------------


@pytest.mark.parametrize('b1', [0.0, 0.9])
@pytest.mark.parametrize('mu_dtype', [None, jnp.bfloat16])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_the_state_can_be_carried(b1, mu_dtype, dtype):
    tx = ademamix(0.1, b1, mu_dtype=mu_dtype, **WARM)
    params = {k: jnp.asarray(p, dtype) for k, p in PARAMS.items()}

    def one(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    grads = jax.tree.map(lambda *g: jnp.stack(g), *(grads_at(t, dtype) for t in range(3)))
    first = jax.eval_shape(tx.init, params)
    (_, state), _ = jax.eval_shape(
        lambda p, g: jax.lax.scan(one, (p, tx.init(p)), g), params, grads
    )
    assert jax.tree.leaves(state) == jax.tree.leaves(first)
    kinds = {x.dtype for x in jax.tree.leaves((first[0].m1, first[0].m2))}
    assert kinds == {jnp.dtype(mu_dtype or dtype)}
    assert {x.dtype for x in jax.tree.leaves(first[0].nu)} == {jnp.dtype(jnp.float32)}
    assert (first[0].m1 is None) == (b1 == 0.0)


def test_a_missing_gradient_rests(x64):
    tx = ademamix(0.1, weight_decay=0.1)
    params, state = run(tx, 2)
    updates, (after, *_) = tx.update({**grads_at(2), 'v': None}, state, params)
    assert updates['v'] is None and np.isfinite(updates['w']).all()
    for field in ('m1', 'm2', 'nu'):
        before, new = getattr(state[0], field), getattr(after, field)
        np.testing.assert_array_equal(new['v'], before['v'])
        assert (new['w'] != before['w']).any()


@pytest.mark.parametrize('b3', [0.999999, beta3_scheduler(0.999999, 0.9, 0)])
def test_the_slow_average_is_precise(b3):
    tx = scale_by_ademamix(0.9, 0.999, b3, 5.0)
    state = tx.init(jnp.ones(()))
    for _ in range(10):
        _, state = jax.jit(tx.update)(jnp.ones(()), state)
    assert float(state.m2) == pytest.approx(1.0 - 0.999999**10, rel=1e-5)  # else 1.3 % off


@pytest.mark.parametrize('b3', [0.0, 1e-14])
def test_the_slow_average_forgets_what_was_larger(b3):
    def update(b3, g, state):
        return scale_by_ademamix(0.9, 0.999, b3, 5.0).update(g, state)[1]

    state = scale_by_ademamix(0.9, 0.999, 0.5, 5.0).init(jnp.ones(()))
    for g in (1e6, 1e-1):
        state = jax.jit(update)(b3, jnp.asarray(g), state)
    assert float(state.m2) == pytest.approx(1e-1, rel=1e-6)  # else 0.0625 or 0.125


def test_float64(x64):
    _, state = run(ademamix(0.1, **WARM), 1)
    assert {x.dtype.name for x in jax.tree.leaves(state[0][2:])} == {'float64'}


def test_one_count_may_begin_anew(x64):
    """``count_m2`` alone is the step of the schedules, ``count`` of the bias corrections."""
    tx = scale_by_ademamix(0.9, 0.999, 0.99, alpha_scheduler(5.0, 0.0, 20))
    g, params = grads_at(0), {k: jnp.asarray(p) for k, p in PARAMS.items()}
    _, state = tx.update(g, tx.init(params))
    again = state._replace(count_m2=jnp.zeros((), jnp.int32))
    updates, _ = tx.update(g, again)
    assert_trees_close(updates, jax.tree.map(jnp.sign, g), rtol=1e-6)  # alpha is zero: Adam
    assert float(optax.tree_utils.tree_get(state, 'count_m2')) == 1


def test_numbers_may_be_traced(x64):
    def final(b3, alpha, warmup):
        decay = beta3_scheduler(b3, 0.9, warmup)
        return run(ademamix(0.1, 0.9, 0.999, decay, alpha_scheduler(alpha, 0.0, warmup)))[0]

    assert_trees_close(jax.jit(final)(0.99, 5.0, 3.0), final(0.99, 5.0, 3), rtol=1e-9)


# ---- the class ---------------------------------------------------------------------------------


def words_of(opt):
    trained(opt, 1)
    return sum(x.size for x in jax.tree.leaves(opt.opt_state.value) if x.shape in ((3, 2), (3,)))


def test_no_fast_average_without_its_decay():
    assert words_of(bo.AdEMAMix()) == 27 and words_of(opt := bo.AdEMAMix(betas=(0.0, 0.99))) == 18
    for change in (
        lambda: setattr(opt, 'betas', (0.5, 0.99)),
        lambda: opt.param_groups[0].update(betas=(0.5, 0.99)),
    ):
        with pytest.raises(ValueError, match=r'group 0 of AdEMAMix was built with betas\[0\]=0'):
            change()
    opt.betas = (0.0, 0.9)
    assert opt.betas == (0.0, 0.9)
    opt.add_param_group({'late': ParamState(jnp.ones(2))}, betas=(0.5, 0.9))
    opt.param_groups[1]['betas'] = (0.75, 0.9)
    assert opt.param_groups[1]['betas'] == (0.75, 0.9)
    saved = bo.AdEMAMix(betas=(0.0, 0.99))
    trained(saved, 1)
    state = saved.state_dict()
    state['param_groups']['0']['betas'] = [0.5, 0.99]
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'betas\[0\] was 0.5.*built with 0'):
        saved.load_state_dict(state)
    base = bo.AdEMAMix(0.1, betas=(0.0, 0.99), alpha=3.0)
    ahead = bo.Lookahead(base)
    assert words_of(ahead) == 27 and ahead.base_alpha == 3.0  # with the slow parameters


def test_warm_ups_are_live(x64):
    schedules = {'b3': beta3_scheduler(0.99, 0.9, 4), 'alpha': alpha_scheduler(3.0, 1.0, 6)}
    numbers = {'b3': 0.99, 'T_b3': 4, 'alpha': 3.0, 'alpha_start': 1.0, 'T_alpha': 6}
    want = trained(bo.AdEMAMix(0.1, **schedules))
    assert_trees_close(trained(bo.AdEMAMix(0.1, **numbers)), want, rtol=1e-9)
    opt = bo.AdEMAMix(0.1)
    for name, value in numbers.items():
        setattr(opt, name, value)
    assert_trees_close(trained(opt), want, rtol=1e-9)
    with pytest.raises(AttributeError, match='b3 of AdEMAMix is fixed at construction'):
        bo.AdEMAMix(0.1, **schedules).b3 = 0.9


def test_narrow_averages_of_the_class():
    for betas, kept in (((0.9, 0.999), {'m1', 'm2'}), ((0.0, 0.999), {'m2'})):
        opt = bo.AdEMAMix(betas=betas, mu_dtype=jnp.bfloat16)
        trained(opt, 1)
        slots = opt.state_dict()['opt_state']['0']
        narrow = {k for k, s in slots.items() if str(getattr(s['w'], 'dtype', '')) == 'bfloat16'}
        assert narrow == kept


def test_weight_decay_where_the_mask_says():
    opt = bo.AdEMAMix(0.1, weight_decay=0.5, mask=lambda p: {'w': True, 'v': False})
    params = {k: ParamState(jnp.asarray(p)) for k, p in PARAMS.items()}
    opt.register_trainable_weights(params).step(jax.tree.map(np.zeros_like, PARAMS))
    np.testing.assert_allclose(params['w'].value, 0.95 * PARAMS['w'], rtol=1e-6)
    np.testing.assert_allclose(params['v'].value, PARAMS['v'])


@pytest.mark.parametrize('options', [{}, {'state_dtype': 'bfloat16'}])
@pytest.mark.parametrize('unit', [1.0, saiunit.mV])
def test_a_mask_sees_complex_parameters(options, unit):
    start = {'v': jnp.ones(3, complex), 'm': jnp.ones((3, 2), complex), 'r': jnp.ones((3, 2))}
    params = {k: ParamState(p * unit) for k, p in start.items()}
    seen = []

    def matrices(p):
        seen.append({k: (x.shape, jnp.iscomplexobj(x)) for k, x in p.items()})
        return jax.tree.map(lambda a: a.ndim > 1, p)

    opt = bo.AdEMAMix(0.1, weight_decay=0.5, mask=matrices, **options)
    opt.register_trainable_weights(params)
    for step in (opt.step, brainstate.transform.jit(opt.step)):
        step({k: 0.0 * p.value for k, p in params.items()})
        assert seen[-1] == {'v': ((3,), True), 'm': ((3, 2), True), 'r': ((3, 2), False)}
    for k, p in params.items():
        want = start[k] if k == 'v' else 0.95**2 * start[k]
        np.testing.assert_allclose(p.value / unit, want, 1e-2 if options else 1e-6)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'b3': 1.5}, ['b3 in [0, 1]', '1.5']),
        ({'b3': 'x'}, ['b3', "'x'"]),
        ({'alpha': -1.0}, ['alpha in [0, inf)', '-1.0']),
        ({'b3_start': 1.5}, ['b3_start in [0, 1]', '1.5']),
        ({'b3_start': 'x'}, ['b3_start', "'x'"]),
        ({'T_b3': -1}, ['T_b3 in [0, inf)', '-1']),
        ({'step_offset': 0.5}, ['step_offset', 'an integer >= 0', '0.5']),
        ({'step_offset': True}, ['step_offset', 'True']),
        ({'mask': 'w'}, ['mask', 'tree of bools', "'w'"]),
        ({'betas': (0.9, 0.999, 0.9999)}, ['2 numbers for betas']),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        bo.AdEMAMix(**options)
    assert [w for w in ('AdEMAMix', *words) if w not in str(caught.value)] == []
