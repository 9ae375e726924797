"""Runs that the tests of checkpoints save and go on with: one of every registered class."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saiunit as u
from brainstate import ParamState
from cases import (
    CASES,
    Case,
    build,
    grads_tree,
    make_params,
)
from looking import (
    digest,
)
from scheduler_cases import CASES as SCHEDULERS
from scheduler_cases import SchedulerCase

import braintools_optim as bo

FIRST = list({case.cls: case for case in reversed(CASES)}.values())[::-1]
"""The first row of each class."""

OPTIMIZERS = {case.id: case for case in FIRST}
over_classes = pytest.mark.parametrize('name', OPTIMIZERS)
SCHEDULES = {case.id: case for case in SCHEDULERS}


def trained(case: Case, groups: int = 2, steps: int = 2) -> tuple[Any, Any]:
    """Return an optimizer that made some steps, with values of its own in each group."""
    params = make_params()
    opt = build(case, params, groups)
    for t in range(steps):
        opt.step(grads_tree(t))
    opt.lr.step()
    for group in opt.param_groups:
        for name, value in case.numbers(3, group.index).items():
            group[name] = value
    return opt, params


def untrained(case: Case, groups: int = 2) -> tuple[Any, Any]:
    """Return an optimizer of the same layout that knows nothing of the other."""
    params = make_params({k: jnp.full_like(v, 0.5) for k, v in shapes().items()})
    return build(case, params, groups), params


def shapes() -> dict[str, Any]:
    """Return the arrays of the parameters by dotted name."""
    flat, _ = jax.tree_util.tree_flatten_with_path(
        jax.tree.map(lambda s: s.value, make_params(), is_leaf=lambda x: isinstance(x, ParamState))
    )
    return {'.'.join(str(k.key) for k in path): x for path, x in flat}


@functools.cache
def saved(name: str) -> bytes:
    """Return the bytes of the file that a class's run with its parameters is saved in."""
    opt, _ = trained(OPTIMIZERS[name])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'run.ckpt'
        opt.save(path, params=True, extra={'epoch': 7})
        return path.read_bytes()


@functools.cache
def small(name: str) -> bytes:
    """Return the bytes of the file of a class's optimizer of a single parameter."""
    opt = OPTIMIZERS[name].make().register_trainable_weights({'w': ParamState(jnp.ones(2))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'run.ckpt'
        opt.save(path, params=True)
        return path.read_bytes()


@functools.cache
def target(name: str) -> tuple[Any, Any, bytes]:
    """Return an optimizer into which nothing may get, its parameters and its digest."""
    opt, params = untrained(OPTIMIZERS[name])
    return opt, params, digest(opt, params)


def train_on(opt: Any, steps: range) -> None:
    """Go on, with gradients that the number of the step decides."""
    for t in steps:
        opt.step(grads_tree(t))
        opt.lr.step()


# ---- what a file tells beside numbers and arrays -------------------------------------------------


def optioned(constrained: bool = True) -> tuple[Any, Any]:
    """Return an optimizer with a mask, a constraint and a unit, and its parameters."""
    params = {name: ParamState(jnp.ones(2)) for name in 'wb'}
    params['metres'] = ParamState(jnp.ones(2) * u.meter)
    bound = {'w': functools.partial(jnp.clip, max=0.95)} if constrained else None
    opt = bo.AdamW(
        weight_decay=0.1,
        decay_mask={'w': True, 'b': False, 'metres': True},
        constrain=bound,
        skip_nonfinite=True,
    )
    return opt.register_trainable_weights(params), params


def optioned_on(opt: Any, steps: range) -> None:
    """Go on; every other gradient is skipped."""
    for t in steps:
        pull = jnp.array([0.3 - 0.2 * t, -1.0])
        for scale in (1.0, jnp.nan):
            opt.step({'w': scale * pull, 'b': scale * pull, 'metres': scale * pull / u.meter})


# ---- schedulers ----------------------------------------------------------------------------------


def scheduled(case: SchedulerCase, cls: Any, steps: int) -> tuple[Any, Any, Any]:
    """Return an optimizer with a scheduler that made some steps, its parameter, the scheduler."""
    w = ParamState(jnp.array([1.0, -2.0]))
    opt = cls(lr=0.1, momentum=0.9) if cls is bo.SGD else cls(lr=0.1)
    opt.register_trainable_weights({'w': w})
    scheduler = case.make(opt)
    name = 'momentum' if cls is bo.SGD else 'weight_decay'
    bo.ParamScheduler(opt, name, bo.schedules.linear(0.5, 1.0, 0.2, 9))
    schedule_on(case, opt, scheduler, range(steps))
    return opt, {'w': w}, scheduler


def schedule_on(case: SchedulerCase, opt: Any, scheduler: Any, steps: range) -> None:
    """Step a scheduler and its optimizer, whose parameter tells every learning rate."""
    for t in steps:
        opt.step({'w': jnp.array([0.3 + 0.1 * t, -1.0])})
        case.step(scheduler, t)
        opt.schedulers[-1].step()
        if t == 2:  # by hand, so that it is carried on
            opt.lr_apply(lambda lr: 0.7 * lr)


def bits(opt: Any, params: Any) -> str:
    """Return every bit as text."""
    return digest(opt, params).hex()


def same(a: Any, b: Any) -> bool:
    """Whether nested data is equal, arrays bit by bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


def params_of(**sizes: int) -> dict[str, ParamState]:
    """Return parameters of ones by name, of these sizes."""
    return {name: ParamState(jnp.ones(size)) for name, size in sizes.items()}
