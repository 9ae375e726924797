"""Schedules that go up and down: waves, cycles and restarts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from .backend import array, scalar
from .domain import Flag, Fraction, NonNegative, Positive, PositiveCount, Real
from .formula import Pair, family, is_jax, plain
from .shape import between, half_cosine, raised

__all__ = ['cosine', 'cosine_restarts', 'cyclic', 'last_restart', 'one_cycle']


@family
def cosine(xp: Any, t: Any, T_max: PositiveCount = 50, eta_min: Real = 0.0) -> Pair:
    r"""Anneal to ``eta_min`` in ``T_max`` steps, then back, and so on: a cosine.

    .. math:: \eta_t = \eta_{min} + (\eta - \eta_{min}) (1 + \cos(\pi t / T_{max})) / 2
    """
    rest = t % T_max
    left = xp.where((t // T_max) % 2 == 0, T_max - rest, rest)
    return between(eta_min, half_cosine(xp, left * 1.0 / T_max))


@family
def cosine_restarts(
    xp: Any, t: Any, T_0: PositiveCount = 10, T_mult: PositiveCount = 1, eta_min: Real = 0.0
) -> Pair:
    r"""Anneal to ``eta_min`` in ``T_0`` steps, restart, each time ``T_mult`` (an int) times longer.

    .. math:: \eta_t = \eta_{min} + (\eta - \eta_{min}) (1 + \cos(\pi T_{cur} / T_i)) / 2

    at :math:`T_{cur}` steps after the last restart, :math:`T_i` of which make the present period.
    """
    begin, cycle = last_restart(xp, t, T_0, T_mult)
    return between(eta_min, half_cosine(xp, 1.0 - (t - begin) / cycle))


def last_restart(xp: Any, t: Any, T_0: int, T_mult: int) -> tuple[Any, Any]:
    """Return when the present cycle of restarts began, and how long it is."""
    # In units of T_0, a cycle begins at 0, 1, 1 + M, 1 + M + M^2 ...: found by comparing integers,
    # where a logarithm would miss it.
    begin = units = t // T_0
    if T_mult > 1:
        last = units if xp is scalar else np.max(units) if xp is array else _largest(units)
        begin, start, length = 0, 1, 1
        while start <= last:
            begin = begin + xp.where(units >= start, length, 0)
            length *= T_mult
            start += length
    return begin * T_0, (begin * (T_mult - 1.0) + 1.0) * T_0


def _largest(x: Any) -> int:
    """Return the largest integer that is as wide as a number of JAX."""
    return x if isinstance(x, int) else np.iinfo(f'i{x.dtype.itemsize}').max


@family
def cyclic(
    xp: Any,
    t: Any,
    max_lr: Real = 0.01,
    step_size_up: PositiveCount = 2000,
    step_size_down: PositiveCount | None = None,
    mode: Literal['triangular', 'triangular2', 'exp_range'] = 'triangular',
    gamma: NonNegative = 1.0,
    scale_fn: Callable[[Any], Any] | None = None,
    scale_mode: Literal['cycle', 'iterations'] = 'cycle',
) -> Pair:
    r"""Rise to ``max_lr`` in ``step_size_up`` steps, fall back in ``step_size_down``, and so on.

    .. math:: \eta_t = \eta + (\eta_{max} - \eta)\,\Lambda_t\,s_t

    where :math:`\Lambda_t` rises from 0 to 1 and falls back to 0, each on a straight line.
    The height s is 1 in ``mode`` 'triangular', halved from cycle to cycle in 'triangular2',
    ``gamma`` to the step in 'exp_range', or ``scale_fn`` of the cycle (counted from 1) or, in
    ``scale_mode`` 'iterations', of the step. For momentum give max_momentum as base, base_momentum
    as max_lr.
    """
    down = step_size_up if step_size_down is None else step_size_down
    cycle, rest = t // (step_size_up + down), t % (step_size_up + down)
    fall = (step_size_up + down - rest) * 1.0 / down
    weight = xp.where(rest <= step_size_up, rest * 1.0 / step_size_up, fall)
    if scale_fn is not None:
        weight = weight * plain(scale_fn(cycle + 1 if scale_mode == 'cycle' else t))
    elif mode != 'triangular':
        weight = weight * (raised(xp, gamma, t) if mode == 'exp_range' else raised(xp, 0.5, cycle))
    return max_lr * weight, 1.0 - weight


@family
def one_cycle(
    xp: Any,
    t: Any,
    max_lr: Real,
    total_steps: PositiveCount,
    pct_start: Fraction = 0.3,
    anneal_strategy: Literal['cos', 'linear'] = 'cos',
    final_div_factor: Positive = 1e4,
    three_phase: Flag = False,
) -> Pair:
    r"""Rise to ``max_lr`` in the part ``pct_start`` of ``total_steps``, then fall below the base.

    .. math:: \eta \to \eta_{max} \to \eta / f, \quad \eta \to \eta_{max} \to \eta \to \eta / f

    The base is torch's max_lr / div_factor, f ``final_div_factor``, and the phases, two or
    ``three_phase``, are 'cos' or 'linear'. For momentum give max_momentum as base, base_momentum
    as max_lr, and f = 1.
    """
    initial, peak, final = (0.0, 1.0), (max_lr, 0.0), (0.0, 1.0 / final_div_factor)
    last = total_steps - 1
    phases: list[Any] = [(pct_start * total_steps - 1.0, initial, peak), (last, peak, final)]
    if three_phase:
        phases[1:] = [(2 * pct_start * total_steps - 2.0, peak, initial), (last, initial, final)]
    a = b = begin = 0.0
    reached = True  # whether all phases before this one are over
    for end, (a0, b0), (a1, b1) in phases:
        whole = 0 if is_jax(end) else math.floor(end)  # for the exact sign of t - end
        past = (t - whole) * 1.0 - (end - whole)
        left = xp.clip(-past / xp.where(end == begin, 1.0, end - begin), 0.0, 1.0)
        w = left if anneal_strategy == 'linear' else half_cosine(xp, left)
        a = xp.where(reached, a0 * w + a1 * (1.0 - w), a)
        b = xp.where(reached, b0 * w + b1 * (1.0 - w), b)
        begin, reached = end, reached & (past > 0)
    return a, b
