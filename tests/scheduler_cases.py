"""The registry of the schedulers: how the tests build each, and what torch recorded of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import braintools_optim as bo

GOLDEN = np.load(Path(__file__).parent / 'golden' / 'torch_schedulers.npz')
RECORDED = {row['name']: row for row in json.loads(str(GOLDEN['cases']))}
LRS = [0.5, 0.02]

# As in record_torch_schedulers.py, for Python and traced steps.
FUNCTIONS: dict[str, Callable] = {
    'pow0.95': lambda t: 0.95 ** (t * 1.0),
    'third': lambda t: 1.0 / (1 + t // 3),
    'constant0.97': lambda t: 0.97,
    'wave': lambda t: 1.0 + 0.1 * (jnp if isinstance(t, jax.Array) else np).sin(t * 1.0),
}


@dataclass(frozen=True)
class SchedulerCase:
    """One scheduler as the tests build it, with or without an optimizer as first argument.

    ``formula`` is the schedule of `braintools_optim.schedules` that it must equal in optax, if
    there is one. ``metric`` says that its step takes one.
    """

    id: str
    make: Callable[..., Any]
    formula: Callable[[float], Callable] | None = None
    metric: bool = False
    steps: int = 100
    optimizer: dict[str, Any] = field(default_factory=dict)

    def step(self, scheduler: Any, t: Any) -> None:
        """Step a scheduler; ``t`` decides the metric."""
        if self.metric:
            scheduler.step(metric(t))
        else:
            scheduler.step()


def metric(t: Any) -> Any:
    """Return a metric that falls, then stalls."""
    xp = jnp if isinstance(t, jax.Array) else np
    return 1.0 / (1.0 + xp.minimum(t, 20) * 1.0)


def simple(cls: Any, formula: Any = None, **kwargs: Any) -> SchedulerCase:
    """Return the row of a class that takes its base first."""
    schedule = None if formula is None else lambda base: formula(base, **kwargs)
    return SchedulerCase(cls.__name__, lambda *base, **more: cls(*base, **kwargs, **more), schedule)


S = bo.schedules
ONE_CYCLE = {'pct_start': 0.4, 'anneal_strategy': 'linear', 'three_phase': True}
CASES = [
    simple(bo.StepLR, S.step, step_size=7, gamma=0.5),
    simple(bo.MultiStepLR, S.multistep, milestones=[5, 20, 20, 60], gamma=0.4),
    simple(bo.ExponentialLR, S.exponential, gamma=0.97),
    simple(
        bo.ExponentialDecayLR, S.exponential_decay, decay_steps=9, decay_rate=0.8, end_value=0.03
    ),
    simple(bo.CosineAnnealingLR, S.cosine, T_max=30, eta_min=0.004),
    simple(bo.CosineAnnealingWarmRestarts, S.cosine_restarts, T_0=7, T_mult=2, eta_min=0.001),
    simple(bo.PolynomialLR, S.polynomial, total_iters=80, power=1.7),
    simple(bo.LinearLR, S.linear, start_factor=0.2, end_factor=0.9, total_iters=50),
    simple(bo.ConstantLR, S.constant, factor=0.3, total_iters=40),
    simple(bo.WarmupScheduler, S.warmup, warmup_epochs=12, warmup_start_lr=0.001),
    simple(bo.WarmupCosineSchedule, S.warmup_cosine, warmup_steps=12, total_steps=80, eta_min=0.01),
    SchedulerCase(
        'PiecewiseConstantSchedule',
        lambda *base, **more: bo.PiecewiseConstantSchedule(
            *base, boundaries=[10, 30], values=[0.3, 0.1, 0.2], **more
        ),
        lambda base: S.piecewise_constant([10, 30], [0.3, 0.1, 0.2]),
    ),
    simple(
        bo.CyclicLR, S.cyclic, max_lr=0.4, step_size_up=9, step_size_down=14, mode='triangular2'
    ),
    SchedulerCase(
        'OneCycleLR',
        lambda *base, **more: bo.OneCycleLR(
            *[b for b in base if isinstance(b, bo.OptaxOptimizer)],
            **{'max_lr': 0.6, 'total_steps': 101, **ONE_CYCLE, **more},
        ),
        lambda base: S.one_cycle(0.6 / 25.0, 0.6, 101, **ONE_CYCLE),
    ),
    SchedulerCase(
        'ReduceLROnPlateau',
        lambda *base, **more: bo.ReduceLROnPlateau(
            *base, factor=0.5, patience=3, cooldown=2, min_lr=0.001, **more
        ),
        metric=True,
    ),
    SchedulerCase(
        'ChainedScheduler',
        lambda *base: bo.ChainedScheduler(
            [bo.LinearLR(*base, start_factor=0.1, total_iters=15), bo.ExponentialLR(gamma=0.96)]
            if not (base and isinstance(base[0], bo.OptaxOptimizer))
            else [
                bo.LinearLR(*base, start_factor=0.1, total_iters=15),
                bo.ExponentialLR(*base, gamma=0.96),
            ]
        ),
        lambda base: lambda t: S.linear(1.0, 0.1, 1.0, 15)(t) * S.exponential(base, 0.96)(t),
    ),
    SchedulerCase(
        'SequentialLR',
        lambda *base: bo.SequentialLR(
            [
                bo.ConstantLR(*base, factor=0.5, total_iters=20),
                bo.CosineAnnealingWarmRestarts(*base, T_0=6, T_mult=2, eta_min=0.001),
                bo.ExponentialLR(*base, gamma=0.96),
            ],
            milestones=[20, 70],
        ),
        lambda base: S.sequential(
            [
                S.constant(base, 0.5, 20),
                S.cosine_restarts(base, 6, 2, 0.001),
                S.exponential(base, 0.96),
            ],
            [20, 70],
        ),
    ),
    SchedulerCase(
        'LambdaLR',
        lambda *base, **more: bo.LambdaLR(*base, lr_lambda=FUNCTIONS['wave'], **more),
        lambda base: S.lambda_(base, FUNCTIONS['wave']),
    ),
    SchedulerCase(
        'MultiplicativeLR',
        lambda *base, **more: bo.MultiplicativeLR(*base, lr_lambda=FUNCTIONS['wave'], **more),
    ),
    simple(bo.SWALR, S.swa, swa_lr=0.05, anneal_epochs=70),
    simple(
        bo.WSDLR,
        S.wsd,
        warmup_steps=9,
        stable_steps=40,
        decay_steps=30,
        decay='1-sqrt',
        eta_min=0.001,
    ),  # fmt: skip
    simple(bo.InverseSqrtLR, S.inverse_sqrt, warmup_steps=11, warmup_start_lr=0.001),
    simple(bo.InverseTimeLR, S.inverse_time, decay_rate=0.5, decay_steps=3),
    simple(bo.RexLR, S.rex, total_iters=70, eta_min=0.002),
]


def two_groups(lr: Any, cls: Any = bo.SGD, **kwargs: Any) -> tuple[Any, list[Any]]:
    """Return an optimizer of two scalar parameters in groups of their own, and these."""
    params = [brainstate.ParamState(jnp.zeros(())) for _ in LRS]
    given = isinstance(lr, list)
    opt = cls(lr=lr[0] if given else lr, **kwargs).register_trainable_weights({'a': params[0]})
    opt.add_param_group({'b': params[1]}, **({'lr': lr[1]} if given else {}))
    return opt, params


def applied(opt: Any, params: list[Any]) -> list[float]:
    """Return the learning rates that a real step of SGD applies, and undo it."""
    before = [p.value for p in params]
    for p in params:
        p.value = jnp.zeros_like(p.value)
    opt.step({'a': -jnp.ones_like(before[0]), 'b': -jnp.ones_like(before[1])})
    moved = [float(p.value) for p in params]
    for p, value in zip(params, before, strict=True):
        p.value = value
    return moved


EVERY = pytest.mark.parametrize('case', CASES, ids=lambda case: case.id)


def attached(case, lrs=LRS, cls=bo.SGD):
    """Return the row's scheduler on an optimizer of two groups."""
    opt, params = two_groups(lrs, cls, **case.optimizer)
    return opt, params, case.make(opt)


def walk(case, scheduler, opt, steps):
    """Return the learning rates of so many epochs, from the present one on."""
    lrs = [opt.get_last_lr()]
    for t in range(steps - 1):
        case.step(scheduler, t)
        lrs.append(opt.get_last_lr())
    return np.array(lrs)


def traced(*functions):
    """One compiled call of all functions over an array of steps, as (steps, functions)."""
    return jax.jit(jax.vmap(lambda t: jnp.stack([f(t) * 1.0 for f in functions])))
