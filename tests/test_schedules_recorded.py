"""The formulas of schedules against torch's recorded sequences, optax, and braintools' numbers."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scheduler_cases import traced

from braintools_optim import schedules

GOLDEN = np.load(Path(__file__).parent / 'golden' / 'torch_schedulers.npz')

CASES = {row['name']: row for row in json.loads(str(GOLDEN['cases']))}

FAMILY: dict[str, Any] = {
    'ConstantLR': schedules.constant,
    'CosineAnnealingLR': schedules.cosine,
    'CosineAnnealingWarmRestarts': schedules.cosine_restarts,
    'CyclicLR': schedules.cyclic,
    'ExponentialLR': schedules.exponential,
    'LambdaLR': schedules.lambda_,
    'LinearLR': schedules.linear,
    'MultiStepLR': schedules.multistep,
    'OneCycleLR': schedules.one_cycle,
    'PolynomialLR': schedules.polynomial,
    'SWALR': schedules.swa,
    'StepLR': schedules.step,
}

# As in record_torch_schedulers.py, for Python and traced steps.
FUNCTIONS = {
    'pow0.95': lambda t: 0.95 ** (t * 1.0),
    'third': lambda t: 1.0 / (1 + t // 3),
    'wave': lambda t: 1.0 + 0.1 * (jnp if isinstance(t, jax.Array) else np).sin(t * 1.0),
}


# ---- torch --------------------------------------------------------------------------------------


def group_hyper(scheduler, kwargs, base, g):
    """The base and the family's hyper-parameters for group g of a recorded row."""
    h = {k: v[g] if isinstance(v, list) and k != 'milestones' else v for k, v in kwargs.items()}
    for k in ('cycle_momentum', 'base_momentum', 'max_momentum'):
        h.pop(k, None)
    base = h.pop('base_lr', base)
    if 'scale_fn' in h:
        h['scale_fn'] = FUNCTIONS[h['scale_fn']]
    if scheduler == 'LambdaLR':
        h = {'fn': FUNCTIONS[h['lr_lambda']]}
    if scheduler == 'OneCycleLR':
        base = h['max_lr'] / h.pop('div_factor', 25.0)
        if 'epochs' in h:
            h['total_steps'] = h.pop('epochs') * h.pop('steps_per_epoch')
    return base, h


def group_schedule(row, g):
    base = row['optimizer_kwargs']['lr'][g]
    if row['scheduler'] != 'SequentialLR':
        base, h = group_hyper(row['scheduler'], row['kwargs'], base, g)
        return FAMILY[row['scheduler']](base, **h)
    children = [FAMILY[c['scheduler']](base, **c['kwargs']) for c in row['children']]
    return schedules.sequential(children, row['kwargs']['milestones'])


def recorded_steps(row):
    steps = [0, *row['step_to']] if 'step_to' in row else list(range(row['steps'] + 1))
    return steps, jnp.asarray(steps, jnp.float64 if 'step_to' in row else jnp.int32)


def assert_torch(got, want):
    # torch's linear OneCycleLR ends in a difference of large numbers: allow it one rounding.
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=2.3e-16 * np.max(want))


CLOSED = [
    name for name, row in CASES.items()
    if row['scheduler'] in (*FAMILY, 'SequentialLR')
    # of the present rate, or where others move the start of the first
    and not name.startswith('SequentialLR/to_')
    and 'changes' not in row and None not in row.get('step_to', ())
]  # fmt: skip


@pytest.mark.parametrize('name', CLOSED)
def test_torch_sequence(name, x64):
    row = CASES[name]
    f = [group_schedule(row, g) for g in (0, 1)]
    steps, array = recorded_steps(row)
    python = [[f[0](t), f[1](t)] for t in steps]
    assert {type(x) for pair in python for x in pair} == {float}
    assert_torch(python, GOLDEN[f'{name}/lr'])
    compiled = traced(*f)(array)
    assert compiled.dtype == jnp.float64
    assert_torch(compiled, GOLDEN[f'{name}/lr'])


@pytest.mark.parametrize('name', [n for n in CASES if f'{n}/momentum' in GOLDEN])
def test_torch_momentum(name, x64):
    row, curves = CASES[name], []
    low, high = (0.8, 0.9) if row['scheduler'] == 'CyclicLR' else (0.85, 0.95)
    for g in (0, 1):
        _, h = group_hyper(row['scheduler'], row['kwargs'], 0.1, g)
        ends = [row['kwargs'].get(*x) for x in (('base_momentum', low), ('max_momentum', high))]
        h['max_lr'], base = [x[g] if isinstance(x, list) else x for x in ends]
        if row['scheduler'] == 'OneCycleLR':
            h['final_div_factor'] = 1.0
        curves.append(FAMILY[row['scheduler']](base, **h))
    steps, array = recorded_steps(row)
    assert_torch([[f(t) for f in curves] for t in steps], GOLDEN[f'{name}/momentum'])
    assert_torch(traced(*curves)(array), GOLDEN[f'{name}/momentum'])


def follow(pair, base, changes, steps):
    """torch's recursion from the pair: a change by hand is carried on."""
    a, b = pair(0)
    values = [a + b * base]
    for t in range(steps):
        lr = values[-1]
        for change in changes:
            lr *= change['factor'] if change['epoch'] == t else 1.0
        (a, b), (a1, b1) = pair(t), pair(t + 1)
        values.append(a1 + b1 / b * (lr - a) if b else a1 + b1 * base + lr - a)
    return values


@pytest.mark.parametrize('name', [
    name for name, row in CASES.items()
    if 'changes' in row and row['scheduler'] in FAMILY
    and row['scheduler'] not in ('LambdaLR', 'CosineAnnealingWarmRestarts')
    and name != 'SWALR/changed_cos'
])  # fmt: skip
def test_torch_recursion_from_pairs(name):
    row = CASES[name]
    for g in (0, 1):
        family = FAMILY[row['scheduler']]
        base, h = group_hyper(row['scheduler'], row['kwargs'], row['optimizer_kwargs']['lr'][g], g)
        changes = [c for c in row['changes'] if c['group'] == g]
        got = follow(lambda t, f=family, h=h: f.pair(t, **h), base, changes, row['steps'])
        assert_torch(got, GOLDEN[f'{name}/lr'][:, g])


# ---- optax and braintools -----------------------------------------------------------------------


@pytest.mark.parametrize('f, g', [
    (schedules.exponential_decay(0.1, 7, 0.6, 5), optax.exponential_decay(0.1, 7, 0.6, 5)),
    (schedules.exponential_decay(0.1, 7, 0.6, 5, True, 0.03),
     optax.exponential_decay(0.1, 7, 0.6, 5, True, 0.03)),
    (schedules.exponential_decay(0.1, 9, 1.5, end_value=0.3),
     optax.exponential_decay(0.1, 9, 1.5, end_value=0.3)),
    (schedules.exponential_decay(0.1, 9, 0.5, end_value=0.3),
     optax.exponential_decay(0.1, 9, 0.5, end_value=0.3)),
    (schedules.piecewise_constant([3, 10], [0.5, 0.1, 0.02]),
     optax.piecewise_constant_schedule(0.5, {3: 0.2, 10: 0.2})),
    (schedules.polynomial(0.1, 20, 2.5), optax.polynomial_schedule(0.1, 0.0, 2.5, 20)),
    (schedules.linear(0.1, 0.5, 2.0, 20), optax.linear_schedule(0.05, 0.2, 20)),
    (schedules.cosine(0.1, 40, 0.01), optax.cosine_decay_schedule(0.1, 40, 0.1)),
    (schedules.warmup_cosine(0.1, 7, 30, 0.02, 0.01),
     optax.warmup_cosine_decay_schedule(0.02, 0.1, 7, 30, 0.01)),
    (schedules.sequential([schedules.linear(0.1, 0.2), schedules.exponential(0.3, 0.9)], [12]),
     optax.join_schedules([optax.linear_schedule(0.02, 0.1, 5),
                           optax.exponential_decay(0.3, 1, 0.9)], [12])),
])  # fmt: skip
def test_optax_schedule(f, g):
    steps = jnp.arange(41)
    want = jax.vmap(g)(steps)
    np.testing.assert_allclose(traced(f)(steps)[:, 0], want, rtol=3e-6, atol=1e-9)
    np.testing.assert_allclose([f(t) for t in range(41)], want, rtol=3e-6, atol=1e-9)


def test_schedule_drives_optax():
    f = schedules.warmup_cosine(0.1, 3, 10, 0.01, 0.001)
    optimizer = optax.sgd(f)
    p = jnp.zeros(2)
    state = optimizer.init(p)
    step = jax.jit(optimizer.update)
    for t in range(12):
        update, state = step(jnp.ones(2), state)
        np.testing.assert_allclose(update, -f(t), rtol=1e-6)


@pytest.mark.parametrize('f, want', [
    (schedules.warmup(0.1, 5, 0.01), [0.01, 0.028, 0.046, 0.064, 0.082, 0.1, 0.1]),
    (schedules.warmup(0.1, 0, 0.01), [0.1, 0.1]),
    (schedules.warmup_cosine(0.1, 4, 10, 0.01, 0.001),
     [0.01, 0.0325, 0.055, 0.0775, 0.1, 0.0933683, 0.07525, 0.0505, 0.02575, 0.00763174, 0.001,
      0.001]),
    (schedules.warmup_cosine(0.1, 4, 4, 0.02), [0.02, 0.04, 0.06, 0.08, 0.1, 0.0]),
    (schedules.linear(0.1, 0.0, 1.0, 5), [0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.1]),
    (schedules.linear(0.1, total_iters=0), [0.1, 0.1]),
    (schedules.constant(0.1, 0.5, 0), [0.1, 0.1]),
    (schedules.piecewise_constant([3, 6], [1.0, 0.5, 0.25]),
     [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]),
    (schedules.cyclic(0.1, 0.5, 2, scale_fn=lambda c: 1 / c),
     [0.1, 0.3, 0.5, 0.3, 0.1, 0.2, 0.3, 0.2, 0.1, 0.166667, 0.233333]),
    (schedules.cyclic(0.1, 0.5, 2, scale_fn=lambda t: 1 / (t + 1), scale_mode='iterations'),
     [0.1, 0.2, 0.233333, 0.15, 0.1, 0.133333]),
])  # fmt: skip
def test_braintools_numbers(f, want):
    """Printed by braintools 0.3.0."""
    steps = range(len(want))
    np.testing.assert_allclose([f(t) for t in steps], want, rtol=1e-5)
    np.testing.assert_allclose(traced(f)(jnp.arange(len(want)))[:, 0], want, rtol=1e-5)
