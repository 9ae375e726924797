"""Schedules made of the functions that are given: one, or several in sequence."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .backend import scalar
from .domain import Milestones, Real, Scalar, admit
from .formula import Pair, Schedule, evaluate, family, plain

__all__ = ['lambda_', 'piecewise_constant', 'sequential']


@family
def lambda_(xp: Any, t: Any, fn: Callable[[Any], Any]) -> Pair:
    r"""Multiply the base by ``fn`` of the step.

    .. math:: \eta_t = f(t)\,\eta
    """
    return 0.0, plain(fn(t))


def sequential(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    r"""Follow each of ``schedules`` (or pairs), from its own 0, up to the next of ``milestones``.

    .. math:: \eta_t = f_i(t - m_i), \quad m_i \le t < m_{i+1}
    """
    at = admit('sequential', 'milestones', Milestones, milestones)
    for i, schedule in enumerate(schedules):
        if not callable(schedule):
            raise TypeError(
                f'sequential needs functions of the step for schedules, got {schedule!r} at {i}; '
                f'piecewise_constant takes numbers.'
            )
    if len(schedules) != len(at) + 1:
        raise ValueError(
            f'sequential needs {len(at) + 1} schedules for milestones {at}, got {len(schedules)}.'
        )
    return functools.partial(evaluate, functools.partial(_join, list(schedules)), milestones=at)


def _join(schedules: Sequence[Schedule], xp: Any, t: Any, milestones: Sequence[Any]) -> Any:
    if xp is scalar:
        i = bisect_right(milestones, t)
        return plain(schedules[i](t - milestones[i - 1] if i else t))
    value: Any = None
    for f, begin, end in zip(schedules, [0, *milestones], [*milestones, None], strict=True):
        # One that isn't running stays at its nearest step, where it is finite.
        new = f(xp.clip(t - begin, 0, None if end is None else end - begin))
        chosen = functools.partial(xp.where, t >= begin)
        value = new if value is None else jax.tree.map(chosen, new, value)
    return value


def piecewise_constant(boundaries: Sequence[int], values: Sequence[Scalar]) -> Schedule:
    r"""Take one of ``values`` after the other, the next at each of ``boundaries``.

    .. math:: \eta_t = v_i, \quad b_i \le t < b_{i+1}
    """
    owner = 'piecewise_constant'
    at = admit(owner, 'boundaries', Milestones, boundaries)
    listed = isinstance(values, Sequence | np.ndarray | jax.Array) and not isinstance(values, str)
    if not listed or getattr(values, 'ndim', 1) == 0:
        raise TypeError(f'{owner} needs a list of numbers for values, got {values!r}.')
    each = [admit(owner, 'values', Real, v) for v in values]
    if len(each) != len(at) + 1:
        raise ValueError(
            f'{owner} needs {len(at) + 1} values for {len(at)} boundaries, got {values!r}.'
        )
    return sequential([functools.partial(lambda v, t: v, v) for v in each], at)
