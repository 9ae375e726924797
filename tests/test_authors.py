"""Algorithms that torch lacks: their authors' trajectories, and what is special of each."""

import copy
import inspect
import json
from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from brainstate.transform import jit
from test_parity import NARROW, WIDE, error

import braintools_optim as bo

FILE = np.load(Path(__file__).parent / 'golden' / 'authors.npz')


def lookahead_over(cls):
    """Construct Lookahead from its own arguments and those of its base together."""

    def make(sync_period=5, alpha=0.5, **kwargs):
        return bo.Lookahead(cls(**kwargs), sync_period, alpha)

    return make


def made(case):
    """The recorded case, with how its optimizer is constructed."""
    wrapper, _, base = case['optimizer'].partition(' ')
    return case | {'file': FILE, 'make': lookahead_over(getattr(bo, base)) if base else None}


RECORDED = {case['name']: made(case) for case in json.loads(FILE['cases'].item())}


@pytest.mark.parametrize('name', RECORDED)
def test_float64_is_the_authors(name, x64):
    assert error(RECORDED[name], WIDE[RECORDED[name]['problem']]) <= 1e-9


@pytest.mark.parametrize('name', RECORDED)
def test_float32_is_the_authors(name):
    assert error(RECORDED[name], NARROW[RECORDED[name]['problem']]) <= 2e-5


# ---- optax as a second source, where it agrees --------------------------------------------------

START = {'w': np.arange(-2.0, 4.0).reshape(2, 3), 'b': np.array([0.5, -1.0])}

OPTAX = {
    'lion': (bo.Lion(0.05, weight_decay=0.1), optax.lion(0.05, b2=0.99, weight_decay=0.1)),
    'lamb': (bo.Lamb(0.05, weight_decay=0.1), optax.lamb(0.05, weight_decay=0.1)),
    'fromage': (bo.Fromage(0.05), optax.fromage(0.05)),
    'novograd': (
        bo.Novograd(0.05, weight_decay=0.1),
        optax.novograd(0.05, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.1),
    ),
    'sm3': (bo.SM3(0.05), optax.sm3(0.05, 0.9)),
    'lars': (
        bo.Lars(bo.ConstantLR(0.5, 0.1, 4)),
        optax.lars(lambda t: jnp.where(t < 4, 0.05, 0.5), eps=1e-8),
    ),
}


def grads_at(t):
    return {k: jnp.asarray(np.cos(3.0 * t + v)) for k, v in START.items()}


@pytest.mark.parametrize('name', OPTAX)
def test_optax_agrees(name, x64):
    opt, tx = copy.deepcopy(OPTAX[name][0]), OPTAX[name][1]
    params = {k: ParamState(jnp.asarray(v)) for k, v in START.items()}
    opt.register_trainable_weights(params)
    values = {k: jnp.asarray(v) for k, v in START.items()}
    state = tx.init(values)
    for t in range(8):
        opt.step(grads_at(t))
        opt.lr.step()
        updates, state = tx.update(grads_at(t), state, values)
        values = optax.apply_updates(values, updates)
    for k, v in values.items():
        np.testing.assert_allclose(params[k].value, v, rtol=1e-10)


# ---- what is special of each --------------------------------------------------------------------


def lars(lr):
    """Lars with steps that a bfloat16 can show."""
    return bo.Lars(lr, trust_coefficient=1.0)


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
    'make',
    [bo.Lion, bo.Lamb, lars, bo.Novograd, bo.Fromage, bo.AdaBelief, bo.Yogi, bo.SM3],
)
def test_gradients_and_parameters_of_zero(make, dtype):
    params = {'zero': jnp.zeros(3, dtype), 'one': jnp.ones((400, 2), dtype)}
    states = {k: ParamState(v) for k, v in params.items()}
    opt = make(lr=0.125).register_trainable_weights(states)
    for scale in (0.0, 0.0, 8.0, 0.0):
        opt.step({k: jnp.full_like(v, scale) for k, v in params.items()})
        values = {k: state.value for k, state in states.items()}
        assert all(v.dtype == dtype and np.isfinite(np.float32(v)).all() for v in values.values())
        if int(opt.step_count.value) < 3 and make is not bo.Fromage:  # which turns, by an angle
            assert all((v == params[k]).all() for k, v in values.items())
    assert all((s.value != params[k]).all() for k, s in states.items())


def test_fromage_keeps_the_size_of_layers(x64):
    w = ParamState(jnp.array([3.0, 4.0]))
    opt = bo.Fromage(0.5).register_trainable_weights({'w': w})
    opt.step({'w': jnp.array([8.0, -6.0])})  # at right angles to the layer
    np.testing.assert_allclose(jnp.linalg.norm(w.value), 5.0)
    np.testing.assert_allclose(w.value @ jnp.array([3.0, 4.0]) / 25.0, np.cos(np.arctan(0.5)))


def test_fromage_shrinks_as_little_as_its_learning_rate_says():
    # 1 / sqrt(1 + lr^2) is one in float32; what one step does not show, many must.
    w = ParamState(jnp.float32(1.0))
    opt = bo.Fromage(1e-3).register_trainable_weights({'w': w})
    jitted = jit(lambda: brainstate.transform.for_loop(lambda t: opt.step({'w': 0.0 * t}), STEPS))
    jitted()
    np.testing.assert_allclose(w.value, (1 + 1e-6) ** (-len(STEPS) / 2), rtol=1e-4)


STEPS = jnp.arange(2000.0)


def test_sm3_is_small():
    w = ParamState(jnp.ones((50, 60, 2)))
    opt = bo.SM3(momentum=0.0).register_trainable_weights({'w': w})
    assert sum(x.size for x in jax.tree.leaves(opt.opt_state.value)) == 50 + 60 + 2


def test_lars_applies_the_learning_rate_before_the_momentum(x64):
    w = ParamState(jnp.array([1.0]))
    opt = bo.Lars(1.0, momentum=0.5, trust_coefficient=0.1, eps=0.0)
    opt.register_trainable_weights({'w': w})
    opt.step({'w': jnp.array([7.0])})
    np.testing.assert_allclose(w.value, 0.9)
    opt.current_lr = 0.0
    opt.step({'w': jnp.array([7.0])})
    np.testing.assert_allclose(w.value, 0.85)


# ---- Lookahead ----------------------------------------------------------------------------------


def registered():
    return bo.Adam().register_trainable_weights({'w': ParamState(jnp.ones(1))})


def in_use():
    base = bo.Adam()
    bo.Lookahead(base)
    return base


MISTAKES = {
    'no optimizer': (lambda: bo.Lookahead('adam'), TypeError, ['Lookahead', 'got str', 'base']),
    'a class': (lambda: bo.Lookahead(bo.Adam), TypeError, ['Lookahead', 'base_optimizer']),
    'parameters': (lambda: bo.Lookahead([ParamState(1.0)]), TypeError, ['register']),
    'registered': (lambda: bo.Lookahead(registered()), ValueError, ['Adam', 'has parameters']),
    'base of another': (lambda: bo.Lookahead(in_use()), ValueError, ['Adam', 'in use']),
    'decay of Fromage': (lambda: bo.Fromage(weight_decay=0.1), TypeError, ['Fromage', 'p_bound']),
    'decay of none': (
        *(lambda: bo.Lookahead(bo.Fromage(), weight_decay=0.1), TypeError),
        ['Lookahead', 'weight_decay'],
    ),
    'rectify and amsgrad': (
        *(lambda: bo.AdaBelief(amsgrad=True, rectify=True), ValueError),
        ['AdaBelief', 'rectify=False', 'amsgrad'],
    ),
    'nesterov': (
        *(lambda: bo.Lars(momentum=0.0, nesterov=True), ValueError),
        ['Lars', 'nesterov', 'momentum > 0'],
    ),
}

RANGES = {
    'sync_period': [0, -1, 2.5, True, 'x', None],
    'alpha': [-0.1, 1.5, float('nan'), 'x', None],
    'trust_coefficient': [-1, float('inf'), 'x', None],
    'initial_accumulator_value': [-1, float('nan'), 'x', None],
    'p_bound': [-1, float('inf'), 'x', None],
    'momentum': [-0.5, float('nan'), 'x', None],
    'betas': [(1.5, 0.9), (0.9,), 'xy', None],
    'eps': [-1, float('nan'), 'x', None],
    'weight_decay': [-1, float('nan'), 'x'],
    'grad_averaging': [None, 'yes', 1],
    'amsgrad': [None, 'yes', 1],
    'rectify': [None, 'yes', 1],
    'decoupled_weight_decay': [None, 'yes', 1],
}

CLASSES = [
    *(bo.AdaBelief, bo.Fromage, bo.Lamb, bo.Lars, bo.Lion),
    *(bo.Lookahead, bo.Novograd, bo.SM3, bo.Yogi),
]

WRONG = [
    pytest.param(cls, option, value, id=f'{cls.__name__}-{option}={value}')
    for cls in CLASSES
    for option, values in RANGES.items()
    if option in inspect.signature(cls).parameters
    for value in values
]


@pytest.mark.parametrize('row', MISTAKES)
def test_mistakes(row):
    make, kind, words = MISTAKES[row]
    with pytest.raises(kind) as caught:
        make()
    assert [w for w in words if w not in str(caught.value)] == [], caught.value


@pytest.mark.parametrize(('cls', 'option', 'value'), WRONG)
def test_wrong_values(cls, option, value):
    base = (bo.SGD(0.1),) if cls is bo.Lookahead else ()
    with pytest.raises((TypeError, ValueError)) as caught:
        cls(*base, **{option: value})
    shown = f'{value:g}' if type(value) in (int, float) else repr(value)
    shown = '1.5' if shown == '(1.5, 0.9)' else shown
    assert all(w in str(caught.value) for w in (cls.__name__, option, shown)), caught.value
    opt = cls(*((bo.SGD(0.1),) if base else ()))
    before = repr(opt)
    with pytest.raises((TypeError, ValueError, AttributeError)):
        setattr(opt, option, value)
    assert repr(opt) == before


@pytest.mark.parametrize(
    ('make', 'gradient'),
    [
        (lambda: bo.Fromage(lr=0.01), 1e-5),
        (lambda: bo.Lamb(lr=0.1, weight_decay=1e-5), 0.0),
        (lambda: bo.Lars(lr=1.0, trust_coefficient=0.1), 1e-7),
        (lambda: bo.Lars(lr=100.0, momentum=0.0), 3e4),
    ],
)
def test_quotients_of_norms_that_float16_cannot_hold(make, gradient):
    """The norms of parameters and gradients may be 1e5 apart; the update itself is ordinary."""
    ends = []
    for dtype in (jnp.float16, jnp.float32):
        param = brainstate.ParamState(jnp.ones(100, dtype))
        opt = make().register_trainable_weights({'w': param})
        opt.step({'w': jnp.full(100, gradient, jnp.float16).astype(dtype)})
        ends.append(np.float32(param.value))
    np.testing.assert_allclose(*ends, rtol=2e-3)
    assert (ends[1] < 0.995).all()
