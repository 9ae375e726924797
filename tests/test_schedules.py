"""The formulas of schedules: recipes, steps of Python and traced ones, gradients, arguments."""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scheduler_cases import traced

from braintools_optim import schedules
from braintools_optim.schedules import backend, formula

# Hyper-parameters with which every family does something within 40 steps.
HYPER: dict[str, dict[str, Any]] = {
    'constant': {'factor': 0.4, 'total_iters': 7},
    'cosine': {'T_max': 13, 'eta_min': 0.01},
    'cosine_restarts': {'T_0': 4, 'T_mult': 2, 'eta_min': 0.01},
    'cyclic': {'max_lr': 0.3, 'step_size_up': 5, 'step_size_down': 8},
    'exponential': {'gamma': 0.93},
    'exponential_decay': {'decay_steps': 6, 'decay_rate': 0.7, 'transition_begin': 4},
    'inverse_sqrt': {'warmup_steps': 6, 'warmup_start_lr': 0.01},
    'inverse_time': {'decay_rate': 0.5, 'decay_steps': 3},
    'lambda_': {'fn': lambda t: 1.0 / (1.0 + t)},
    'linear': {'start_factor': 0.1, 'end_factor': 0.8, 'total_iters': 11},
    'multistep': {'milestones': (5, 9, 9, 20), 'gamma': 0.5},
    'one_cycle': {'max_lr': 0.7, 'total_steps': 33, 'pct_start': 0.37},
    'polynomial': {'total_iters': 17, 'power': 0.5},
    'rex': {'total_iters': 19, 'eta_min': 0.02},
    'step': {'step_size': 6, 'gamma': 0.3},
    'swa': {'swa_lr': 0.03, 'anneal_epochs': 12},
    'warmup': {'warmup_epochs': 9, 'warmup_start_lr': 0.02},
    'warmup_cosine': {'warmup_steps': 5, 'total_steps': 25, 'eta_min': 0.01},
    'wsd': {'warmup_steps': 5, 'stable_steps': 9, 'decay_steps': 8, 'eta_min': 0.01},
}

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *HYPER.items(),
    ('cyclic', {**HYPER['cyclic'], 'mode': 'triangular2'}),
    ('cyclic', {**HYPER['cyclic'], 'mode': 'exp_range', 'gamma': 0.97}),
    ('cyclic', {**HYPER['cyclic'], 'scale_fn': lambda x: 1.0 / x, 'scale_mode': 'cycle'}),
    ('exponential_decay', {**HYPER['exponential_decay'], 'staircase': True}),
    ('exponential_decay', {**HYPER['exponential_decay'], 'end_value': 0.03}),
    ('inverse_sqrt', {'warmup_steps': 0, 'timescale': 3}),
    ('inverse_time', {**HYPER['inverse_time'], 'staircase': True}),
    ('one_cycle', {**HYPER['one_cycle'], 'three_phase': True, 'anneal_strategy': 'linear'}),
    ('swa', {**HYPER['swa'], 'anneal_strategy': 'linear'}),
    ('wsd', {**HYPER['wsd'], 'decay': '1-sqrt'}),
    ('wsd', {**HYPER['wsd'], 'decay': 'cosine'}),
]

IDS = [f'{name}-{i}' for i, (name, _) in enumerate(VARIANTS)]


def make(name, hyper, base=0.1):
    return getattr(schedules, name)(base, **hyper)


# ---- recipes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'decay, shape',
    [
        ('linear', lambda x: 1 - x),
        ('cosine', lambda x: (1 + math.cos(math.pi * x)) / 2),
        ('1-sqrt', lambda x: 1 - math.sqrt(x)),
    ],
)
def test_wsd(decay, shape):
    f = schedules.wsd(0.4, 10, 20, 8, decay, warmup_start_lr=0.1, eta_min=0.05)
    want = [0.1 + 0.03 * t for t in range(10)] + [0.4] * 20
    want += [0.05 + 0.35 * shape(i / 8) for i in range(9)] + [0.05] * 3
    np.testing.assert_allclose([f(t) for t in range(len(want))], want, rtol=1e-12)
    assert schedules.wsd(0.4, 0, 0, 4, decay)(0) == 0.4


def test_inverse_sqrt():
    f = schedules.inverse_sqrt(0.4, 10, warmup_start_lr=0.1)
    want = [0.1 + 0.03 * t for t in range(10)] + [0.4 * math.sqrt(10 / t) for t in range(10, 60)]
    np.testing.assert_allclose([f(t) for t in range(60)], want, rtol=1e-12)
    f = schedules.inverse_sqrt(0.4, 10, timescale=5)
    assert f(10) == pytest.approx(0.4, rel=1e-15) and f(25) == pytest.approx(0.2, rel=1e-15)
    assert schedules.inverse_sqrt(0.4, 0)(3) == pytest.approx(0.2, rel=1e-15)


def test_inverse_time_and_rex():
    smooth, stairs = schedules.inverse_time(0.3, 0.5, 4), schedules.inverse_time(0.3, 0.5, 4, True)
    for t in range(20):
        assert smooth(t) == pytest.approx(0.3 / (1 + 0.5 * t / 4), rel=1e-14)
        assert stairs(t) == pytest.approx(0.3 / (1 + 0.5 * (t // 4)), rel=1e-14)
        left = max(1 - t / 15, 0)
        want = 0.01 + 0.29 * left / (0.5 + 0.5 * left)
        assert schedules.rex(0.3, 15, 0.01)(t) == pytest.approx(want, rel=1e-14)


def test_sequential_children():
    calls = []

    def child(t):
        calls.append(t)
        return 1.0

    f = schedules.sequential([child, lambda t: 2.0, lambda t: 3.0 + t], [4, 4])
    assert [f(t) for t in (0, 3, 4, 6)] == [1.0, 1.0, 3.0, 5.0]
    assert calls == [0, 3]  # a Python step runs one child only
    np.testing.assert_array_equal(jax.vmap(f)(jnp.arange(7)), [1, 1, 1, 1, 3, 4, 5])

    def pair(t):
        return schedules.cosine.pair(t, 10, 0.1)

    both = schedules.sequential([pair, pair], [3])
    for t in (0, 2, 3, 8):
        assert both(t) == pair(t % 3 if t < 3 else t - 3)
        np.testing.assert_allclose(jax.jit(both)(t), pair(t if t < 3 else t - 3), rtol=1e-6)


# ---- numbers ------------------------------------------------------------------------------------


def test_every_schedule_has_its_row():
    assert {*HYPER, 'piecewise_constant', 'sequential'} == set(schedules.__all__)


@pytest.mark.parametrize('name, hyper', VARIANTS, ids=IDS)
def test_python_numbers_need_no_jax(name, hyper, monkeypatch):
    f = make(name, hyper)
    monkeypatch.setattr(formula, 'jnp', None)
    values = [f(t) for t in range(40)]
    assert {type(v) for v in values} == {float} and min(values) >= 0
    assert {type(x) for x in getattr(schedules, name).pair(3, **hyper)} == {float}
    assert [f(np.int64(t)) for t in range(40)] == values
    assert [f(np.asarray(t)) for t in range(40)] == values
    assert type(f(np.float32(3.0))) is float
    np.testing.assert_array_equal(f(np.arange(40)), values)


@pytest.mark.parametrize('name, hyper', VARIANTS, ids=IDS)
def test_traced_equals_python(name, hyper, x64):
    f = make(name, hyper)
    family, steps = getattr(schedules, name), jnp.arange(40, dtype=jnp.int32)
    want = [f(t) for t in range(40)]

    floats = {k: v for k, v in hyper.items() if isinstance(v, float)}

    @jax.jit
    def with_traced(t, base, floats):
        inner = family(base, **{**hyper, **floats})
        return jnp.stack([inner(t) * 1.0, f(t) * 1.0, f(t * 1.0) * 1.0])

    def scan(_, t):
        return _, with_traced(t, 0.1, floats)

    got = jax.lax.scan(scan, None, steps)[1]
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got.T, [want] * 3, rtol=1e-12, atol=1e-18)
    bases = jnp.array([0.1, 0.2])
    two = jax.vmap(lambda base: family(base, **hyper)(17) * 1.0)(bases)
    np.testing.assert_allclose(two, [make(name, hyper, b)(17) for b in (0.1, 0.2)], rtol=1e-12)


@pytest.mark.parametrize('name, hyper', VARIANTS, ids=IDS)
def test_weakly_typed(name, hyper):
    f = make(name, hyper)

    def scaled(t, p):
        return p * f(t), f(t) * 1.0

    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        out, value = jax.eval_shape(scaled, jnp.int32(3), jax.ShapeDtypeStruct((2,), dtype))
        assert out.dtype == dtype and value.weak_type


@pytest.mark.parametrize('name, hyper', VARIANTS, ids=IDS)
def test_gradients(name, hyper, x64):
    floats = {k: v for k, v in hyper.items() if isinstance(v, float)}

    def value_of(t, args):
        args = dict(args)
        base = args.pop('base')
        return make(name, {**hyper, **args}, base)(t) * 1.0

    args = {'base': 0.1, **floats}
    grad = jax.jit(jax.vmap(jax.grad(value_of, (0, 1)), (0, None)))
    smooth = [0.3, 2.6, 5.4, 8.7, 11.3, 16.6, 24.4, 37.7]
    on_kinks = [float(t) for t in range(40)]
    by_step, by_args = grad(jnp.array(smooth + on_kinks), args)
    for g in jax.tree.leaves((by_step, by_args)):
        assert np.isfinite(g).all()
    eps = 1e-6
    for i, t in enumerate(smooth):
        slope = (value_of(t + eps, args) - value_of(t - eps, args)) / (2 * eps)
        np.testing.assert_allclose(by_step[i], slope, rtol=1e-6, atol=1e-9)
        for k, x in args.items():
            up, down = ({**args, k: x + e} for e in (eps, -eps))
            slope = (value_of(t, up) - value_of(t, down)) / (2 * eps)
            np.testing.assert_allclose(by_args[k][i], slope, rtol=1e-6, atol=1e-9)


def test_no_gradient_from_where_a_child_does_not_run():
    root = schedules.polynomial(0.1, 5, 0.5)
    f = schedules.sequential([root, lambda t: 1.0 / (t + 1.0), lambda t: jnp.sqrt(t + 1.0)], [3, 6])
    slopes = jax.vmap(jax.grad(f))(jnp.arange(10) + 0.5)
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[4], -1 / 2.5**2, rtol=1e-6)


EXTREMES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in HYPER if name not in ('lambda_', 'one_cycle', 'rex', 'swa', 'wsd')),
    ('constant', {'total_iters': 0}),
    ('cosine_restarts', {'T_0': 3}),
    ('exponential', {'gamma': 1e200}),
    ('exponential_decay', {'decay_rate': 1.5, 'decay_steps': 2, 'end_value': 30.0}),
    ('inverse_sqrt', {'warmup_steps': 0}),
    ('linear', {'total_iters': 0}),
    ('multistep', {'milestones': [], 'gamma': 0.5}),
    ('one_cycle', {**HYPER['one_cycle'], 'three_phase': True}),
    ('one_cycle', {**HYPER['one_cycle'], 'pct_start': 0.0}),
    ('one_cycle', {'max_lr': 0.7, 'total_steps': 1}),
    ('polynomial', {'total_iters': 17, 'power': 0.0}),
    ('polynomial', {'total_iters': 17, 'power': 2.0}),
    ('step', {'step_size': 6, 'gamma': 0.0}),
    ('swa', {'swa_lr': 0.03, 'anneal_epochs': 0}),
    ('warmup', {'warmup_epochs': 0}),
    ('warmup_cosine', {'warmup_steps': 25, 'total_steps': 25}),
    ('wsd', {'warmup_steps': 0, 'stable_steps': 0, 'decay_steps': 1, 'decay': '1-sqrt'}),
]


@pytest.mark.parametrize('name, hyper', VARIANTS + EXTREMES)
def test_numbers_equal_arrays(name, hyper):
    family = getattr(schedules, name)
    for t in [*range(61), *np.linspace(0.0, 60.0, 77).tolist()]:
        one, each = family.pair(t, **hyper), family.pair(np.array([t]), **hyper)
        assert {type(x) for x in one} == {float}
        for x, y in zip(one, each, strict=True):
            np.testing.assert_array_equal(np.reshape(y, -1), x)


@pytest.mark.parametrize('x', [0.0, 0.3, 1.0, 2.5, 1e200, math.inf])
def test_backends_are_numpy(x):
    powers = [-1e5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 400.0]
    with np.errstate(all='ignore'):
        want = [np.power(x, k) for k in powers]
    for k, y in zip(powers, want, strict=True):  # the last bit is the C library's
        np.testing.assert_allclose(backend.scalar.power(x, k), y, rtol=3e-16)
    np.testing.assert_allclose(backend.array.power(x, np.array(powers)), want, rtol=3e-16)
    negative = [backend.scalar.power(-x, 3.0), backend.scalar.power(-x, 401.0)]
    with np.errstate(all='ignore'):
        np.testing.assert_allclose(negative, np.power(-x, [3.0, 401.0]), rtol=3e-16)
    for args in [(x, 0.2, 1.5), (-x, 0.2, 1.5)]:
        assert backend.scalar.clip(*args) == np.clip(*args)
        assert backend.scalar.maximum(*args[:2]) == np.maximum(*args[:2])
        assert backend.scalar.where(*args) == np.where(*args)
    assert math.isnan(backend.scalar.maximum(math.nan, 0))
    assert math.isnan(backend.scalar.clip(math.nan, 0, 1))
    assert math.isnan(backend.scalar.power(-8.0, 1 / 3))


@pytest.mark.parametrize('name, hyper', VARIANTS, ids=IDS)
def test_python_and_arrays_need_no_jax(name, hyper, monkeypatch):
    family = getattr(schedules, name)
    monkeypatch.setattr(formula, 'jnp', None)
    for t in (3, np.int32(3), np.asarray(3), 3.0, np.arange(4)):
        numpy = {k: np.float64(v) if isinstance(v, float) else v for k, v in hyper.items()}
        for x, y in zip(family.pair(t, **hyper), family.pair(t, **numpy), strict=True):
            np.testing.assert_array_equal(x, y)
            assert type(x) is type(y)


def test_a_function_is_given_the_step_itself():
    seen: list[Any] = []

    def fn(t):
        seen.append(t)
        return np.float64(0.5)

    f = schedules.lambda_(0.1, fn)
    values = [f(7), f(np.int64(7)), schedules.sequential([f], [])(7)]
    assert values == [0.05] * 3 and [type(v) for v in values] == [float] * 3
    assert seen == [7] * 3 and [type(t) for t in seen] == [int] * 3


@pytest.mark.parametrize('name, hyper', VARIANTS, ids=IDS)
def test_all_numbers_may_be_traced(name, hyper, x64):
    family: Any = getattr(schedules, name)
    full = family.check(name, **hyper)
    live = {k: v for k, v in full.items() if k in family.numbers and v is not None}
    steps = jnp.arange(40.0)

    def value(live, t):
        return sum(family.pair(t, **{**full, **live})) * 1.0

    got, slopes = jax.jit(jax.vmap(jax.value_and_grad(value), (None, 0)))(live, steps)
    want = [sum(family.pair(t, **full)) for t in range(40)]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-18)
    for slope in jax.tree.leaves(slopes):
        assert np.isfinite(slope).all()
    groups = {k: jnp.array([v, v]) for k, v in live.items()}
    if groups:
        two = jax.jit(jax.vmap(value, (0, None)))(groups, 17)  # a Python step, traced numbers
        np.testing.assert_allclose(two, [want[17]] * 2, rtol=1e-12)


def test_attributes_of_families():
    assert schedules.cosine.numbers == {'eta_min'}
    assert not schedules.lambda_.numbers
    assert schedules.cyclic.numbers == {'max_lr', 'gamma'}
    assert schedules.one_cycle.numbers == {'max_lr', 'pct_start', 'final_div_factor'}
    assert schedules.exponential_decay.numbers == {'decay_rate', 'end_value'}  # or None
    for name in HYPER:
        family = getattr(schedules, name)
        assert (family.bound is not None) is (name == 'exponential_decay')
        parameters = list(inspect.signature(family).parameters.values())[1:]
        assert family.numbers <= {p.name for p in parameters}
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        for k, v in {**defaults, **HYPER[name]}.items():
            assert v is None or (k in family.numbers) is isinstance(v, float)


BIG = 2**30

LARGE = [
    ('constant', {'total_iters': BIG}),
    ('step', {'step_size': 7, 'gamma': 0.9999999}),
    ('step', {'step_size': 10**12}),
    ('multistep', {'milestones': [2**24 + 1, BIG, BIG + 1]}),
    ('exponential', {'gamma': 1 - 1e-9}),
    ('linear', {'total_iters': BIG + 7}),
    ('cosine', {'T_max': 1000, 'eta_min': 1e-4}),
    ('cosine', {'T_max': BIG}),
    ('cosine', {'T_max': 10**12}),
    ('cosine_restarts', {'T_0': 1000}),
    ('cosine_restarts', {'T_0': 1000, 'T_mult': 2}),
    ('cosine_restarts', {'T_0': 3, 'T_mult': 3}),
    ('polynomial', {'total_iters': BIG + 7, 'power': 2.0}),
    ('cyclic', {'max_lr': 0.5, 'step_size_up': 7, 'step_size_down': 4}),
    ('one_cycle', {'max_lr': 0.5, 'total_steps': BIG + 9, 'pct_start': 0.37}),
    ('one_cycle', {'max_lr': 0.5, 'total_steps': BIG + 9, 'three_phase': True,
                   'anneal_strategy': 'linear'}),
    ('swa', {'swa_lr': 0.3, 'anneal_epochs': BIG + 4}),
    ('exponential_decay', {'decay_steps': 7, 'decay_rate': 1 - 1e-8, 'staircase': True}),
    ('warmup_cosine', {'warmup_steps': BIG - 2, 'total_steps': BIG + 5}),
    ('wsd', {'warmup_steps': 100, 'stable_steps': BIG - 50, 'decay_steps': 200}),
    ('wsd', {'warmup_steps': 2 * BIG - 1, 'stable_steps': 2 * BIG - 1, 'decay_steps': 200}),
    ('wsd', {'warmup_steps': 9, 'stable_steps': BIG, 'decay_steps': 200, 'decay': '1-sqrt'}),
    ('inverse_sqrt', {}),
    ('inverse_time', {'decay_rate': 1e-6}),
    ('rex', {'total_iters': BIG + 7}),
]  # fmt: skip


def test_large_steps_in_float32():
    steps = [0, 1, 2**24 + 1, 2**24 + 3, *range(BIG - 3, BIG + 5), 2**31 - 1]
    functions = [make(name, hyper) for name, hyper in LARGE]
    functions += [schedules.piecewise_constant([2**24 + 1, BIG + 1], [1.0, 2.0, 3.0])]
    functions += [schedules.sequential([functions[0], make('step', {'step_size': 1})], [BIG - 1])]
    got = traced(*functions)(jnp.array(steps, jnp.int32))
    assert got.dtype == jnp.float32
    want = np.array([[f(t) for f in functions] for t in steps])
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-38)


def test_extremes_of_powers_and_horizons():
    assert schedules.exponential(0.1, 10.0)(400) == math.inf  # and no warning
    stop = schedules.step(0.1, 2, gamma=0.0)
    assert [stop(t) for t in range(4)] == [0.1, 0.1, 0.0, 0.0]
    np.testing.assert_allclose(jax.vmap(stop)(jnp.arange(4)), [0.1, 0.1, 0, 0], rtol=1e-6)
    a, b = jax.jit(lambda t: schedules.cosine.pair(t, 10**12, np.float64(0.5)))(0)
    assert (a, b) == (0.0, 1.0) and a.weak_type


def test_restarts_fall_on_their_steps():
    """Where a logarithm misses some: log(243, 3) = 4.999."""
    for mult in (2, 3, 5, 10):
        f = schedules.cosine_restarts(1.0, T_0=3, T_mult=mult)
        start, length = 0, 3
        while start < BIG:
            assert f(start) == 1.0 and 0 < f(start + length - 1) < 0.76
            assert f(float(start)) == 1.0
            start, length = start + length, length * mult


def test_restarts_beyond_integers_of_32_bits(x64):
    steps = [0, 5, 2**31, 2**33 + 5, 2**40, 2**45 + 1]
    for first, mult in ((7, 3), (1, 2), (10, 2)):
        f = schedules.cosine_restarts(1.0, T_0=first, T_mult=mult)
        want = [f(t) for t in steps]
        for kind in (np.int64, np.float64):
            got = f(np.array(steps, kind)), jax.jit(f)(jnp.array(steps, kind))
            np.testing.assert_allclose(got, [want, want], rtol=1e-7, atol=1e-12)


def test_phases_are_continuous():
    for name, hyper in VARIANTS:
        if name in ('constant', 'step', 'multistep', 'cosine_restarts') or hyper.get('staircase'):
            continue
        if hyper.get('mode') or hyper.get('scale_fn'):
            continue
        f = make(name, hyper)
        for t in range(1, 40):
            assert f(t - 1e-9) == pytest.approx(f(t), abs=3e-5), (name, t)
            assert f(t + 1e-9) == pytest.approx(f(t), abs=3e-5), (name, t)


# ---- arguments ----------------------------------------------------------------------------------

unchecked: Any = schedules  # by the type checker, so that these can be wrong


@pytest.mark.parametrize('call, message', [
    (lambda: unchecked.cosine(0.1, T_max=0), 'cosine needs an integer >= 1 for T_max, got 0'),
    (lambda: unchecked.cosine(0.1, T_max=2.5), 'cosine needs an integer >= 1 for T_max, got 2.5'),
    (lambda: unchecked.step(0.1, gamma=-1), 'step needs a finite number >= 0 for gamma, got -1'),
    (lambda: unchecked.exponential(0.1, gamma=math.nan), 'a finite number >= 0 for gamma, got'),
    (lambda: unchecked.exponential(0.1, gamma=jnp.array(-1.0)), '>= 0 for gamma, got Array'),
    (lambda: unchecked.multistep(0.1, [30, 10]),
     r'multistep needs integers >= 0 in ascending order for milestones, got \[30, 10\]'),
    (lambda: unchecked.multistep(0.1, [-1, 10]), 'ascending order for milestones'),
    (lambda: unchecked.linear(0.1, total_iters=-1), 'an integer >= 0 for total_iters, got -1'),
    (lambda: unchecked.polynomial(0.1, 0), 'needs an integer >= 1 for total_iters, got 0'),
    (lambda: unchecked.one_cycle(0.1, 1.0, 10, pct_start=1.5),
     'one_cycle needs a number from 0 to 1 for pct_start, got 1.5'),
    (lambda: unchecked.one_cycle(0.1, 1.0, 10, final_div_factor=0),
     'needs a finite number > 0 for final_div_factor, got 0'),
    (lambda: unchecked.one_cycle(0.1, 1.0, 10, final_div_factor=jnp.array(0.0)),
     'needs a finite number > 0 for final_div_factor, got Array'),
    (lambda: unchecked.cyclic(0.1, mode='square'),
     "cyclic needs one of 'triangular', 'triangular2', 'exp_range' for mode, got 'square'"),
    (lambda: unchecked.cyclic(0.1, step_size_down=0), 'integer >= 1 for step_size_down'),
    (lambda: unchecked.swa(0.1, math.inf), 'swa needs a finite number for swa_lr, got inf'),
    (lambda: unchecked.cosine(math.nan), 'cosine needs a finite number for base, got nan'),
    (lambda: unchecked.piecewise_constant([3], [1.0]),
     r'piecewise_constant needs 2 values for 1 boundaries, got \[1.0\]'),
    (lambda: unchecked.sequential([abs], [3]), r'needs 2 schedules for milestones \[3\], got 1'),
    (lambda: unchecked.one_cycle.check('OneCycleLR', 1.0, 0),
     'OneCycleLR needs an integer >= 1 for total_steps, got 0'),
])  # fmt: skip
def test_values_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    'call, message',
    [
        (
            lambda: unchecked.cosine(0.1, T_max='x'),
            "cosine needs an integer >= 1 for T_max, got 'x'",
        ),
        (lambda: unchecked.cosine(None), 'cosine needs a finite number for base, got None'),
        (
            lambda: unchecked.cosine(0.1, T_max=None),
            'cosine needs an integer >= 1 for T_max, got None',
        ),
        (lambda: unchecked.multistep(0.1, 30), 'integers >= 0 .* for milestones, got 30'),
        (lambda: unchecked.cosine(0.1, T_max=True), 'an integer >= 1 for T_max, got True'),
        (lambda: unchecked.exponential(0.1, gamma=jnp.array(True)), 'for gamma, got Array'),
        (lambda: unchecked.multistep(0.1, [True, 3]), r'for milestones, got \[True, 3\]'),
        (lambda: unchecked.cosine(np.complex64(1j)), 'a finite number for base'),
        (lambda: unchecked.step(0.1, gamma=jax.random.key(0)), 'number >= 0 for gamma, got Array'),
        (lambda: unchecked.piecewise_constant([], jnp.ones(())), 'a list of numbers for values'),
        (lambda: unchecked.lambda_(0.1, 3), 'lambda_ needs a function for fn, got 3'),
        (lambda: unchecked.cyclic(0.1, scale_fn=3), 'cyclic needs a function for scale_fn, got 3'),
        (
            lambda: unchecked.cosine(0.1, t_max=3),
            "cosine: got an unexpected keyword argument 't_max'; it takes T_max, eta_min",
        ),
        (lambda: unchecked.rex(0.1), "rex: missing a required argument: 'total_iters'"),
    ],
)
def test_wrong_types(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_check_returns_the_normal_form():
    got = unchecked.cosine.check('CosineAnnealingLR', T_max=np.float64(50.0), eta_min=0)
    assert got == {'T_max': 50, 'eta_min': 0.0}
    assert [type(x) for x in got.values()] == [int, float]
    got = schedules.cyclic.check('CyclicLR', 0.5, mode='exp_range')
    assert list(got) == list(inspect.signature(schedules.cyclic).parameters)[1:]
    assert got['step_size_down'] is None and got['max_lr'] == 0.5
    assert unchecked.multistep.check('', np.array([1, 2]))['milestones'] == [1, 2]
    jax.jit(lambda g: schedules.step(0.1, gamma=g)(3))(-1.0)  # traced: can't be checked


def test_signatures_and_docstrings():
    assert str(inspect.signature(schedules.cosine)).startswith('(base')
    for name in schedules.__all__:
        f = getattr(schedules, name)
        assert '.. math::' in f.__doc__ and f.__name__ == name
        if name in HYPER:
            assert next(iter(inspect.signature(f).parameters)) == 'base'
            assert callable(f.pair) and callable(f.check)
