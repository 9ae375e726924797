"""Schedules that decay from the base."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from .domain import Count, Flag, Milestones, NonNegative, Positive, PositiveCount, Real
from .formula import Pair, family
from .shape import between, fraction_left, half_cosine, raised

__all__ = [
    'exponential',
    'exponential_decay',
    'inverse_time',
    'multistep',
    'polynomial',
    'rex',
    'step',
    'swa',
]


@family
def step(xp: Any, t: Any, step_size: PositiveCount = 30, gamma: NonNegative = 0.1) -> Pair:
    r"""Multiply by ``gamma`` every ``step_size`` steps (s).

    .. math:: \eta_t = \gamma^{\lfloor t / s \rfloor}\,\eta
    """
    return 0.0, raised(xp, gamma, t // step_size)


@family
def multistep(
    xp: Any, t: Any, milestones: Milestones = (30, 60, 90), gamma: NonNegative = 0.1
) -> Pair:
    r"""Multiply by ``gamma`` at each of ``milestones``, ascending steps; twice at one named twice.

    .. math:: \eta_t = \gamma^{|\{i : m_i \le t\}|}\,\eta
    """
    return 0.0, raised(xp, gamma, sum(xp.where(t >= m, 1, 0) for m in milestones))


@family
def exponential(xp: Any, t: Any, gamma: NonNegative = 0.95) -> Pair:
    r"""Multiply by ``gamma`` at every step.

    .. math:: \eta_t = \gamma^t\,\eta
    """
    return 0.0, raised(xp, gamma, t)


def _not_past_the_end(
    xp: Any, value: Any, present: Any, decay_rate: Any, end_value: Any, **others: Any
) -> Any:
    """Return a value that stops at ``end_value``, or stays where the present one is beyond it."""
    if end_value is None:
        return value
    low = high = end_value
    if present is not None:
        low, high = xp.minimum(end_value, present), xp.maximum(end_value, present)
    return xp.where(decay_rate < 1, xp.maximum(value, low), xp.minimum(value, high))


@partial(family, bound=_not_past_the_end)
def exponential_decay(
    xp: Any,
    t: Any,
    decay_steps: PositiveCount = 1000,
    decay_rate: Positive = 0.96,
    transition_begin: Count = 0,
    staircase: Flag = False,
    end_value: Real | None = None,
) -> Pair:
    r"""Decay by ``decay_rate`` (r) in ``decay_steps`` (s), from ``transition_begin`` (t0) on.

    .. math:: \eta_t = r^{\max(t - t_0, 0) / s}\,\eta

    A ``staircase`` rounds the exponent down; ``end_value`` bounds the value.
    """
    since = xp.maximum(t - transition_begin, 0)
    exponent = since // decay_steps if staircase else since * 1.0 / decay_steps
    return 0.0, raised(xp, decay_rate, exponent)


@family
def polynomial(xp: Any, t: Any, total_iters: PositiveCount = 5, power: NonNegative = 1.0) -> Pair:
    r"""Decay to 0 in ``total_iters`` steps (T), as the ``power`` p of the fraction that is left.

    .. math:: \eta_t = (1 - \min(t / T, 1))^p\,\eta
    """
    left = fraction_left(xp, t, total_iters)
    end = xp.where(power == 0, 1.0, 0.0)
    return 0.0, xp.where(left > 0, xp.power(xp.where(left > 0, left, 1.0), power * 1.0), end)


@family
def inverse_time(
    xp: Any,
    t: Any,
    decay_rate: NonNegative = 1.0,
    decay_steps: PositiveCount = 1,
    staircase: Flag = False,
) -> Pair:
    r"""Divide by 1 + ``decay_rate`` (r) per ``decay_steps`` (s), in jumps with ``staircase``.

    .. math:: \eta_t = \eta / (1 + r t / s)
    """
    periods = t // decay_steps if staircase else t * 1.0 / decay_steps
    return 0.0, 1.0 / (1.0 + decay_rate * periods)


@family
def rex(xp: Any, t: Any, total_iters: PositiveCount, eta_min: Real = 0.0) -> Pair:
    r"""Decay to ``eta_min`` in ``total_iters`` steps (T), slowly, then fast (arXiv:2107.04197).

    .. math:: \eta_t = \eta_{min} + (\eta - \eta_{min}) \frac{2 (1 - x)}{2 - x},
              \quad x = \min(t / T, 1)
    """
    left = fraction_left(xp, t, total_iters)
    return between(eta_min, 2.0 * left / (1.0 + left))


@family
def swa(
    xp: Any,
    t: Any,
    swa_lr: Real,
    anneal_epochs: Count = 10,
    anneal_strategy: Literal['cos', 'linear'] = 'cos',
) -> Pair:
    r"""Anneal to ``swa_lr`` in ``anneal_epochs`` steps (T): ``anneal_strategy`` 'cos' or 'linear'.

    .. math:: \eta_t = \eta_{swa} + (\eta - \eta_{swa})\,\alpha(1 - \min(t / T, 1))

    where :math:`\alpha(x)` is :math:`(1 - \cos \pi x) / 2` ('cos') or :math:`x` ('linear').
    """
    left = xp.where(t < anneal_epochs, fraction_left(xp, t, anneal_epochs), 0.0)
    return between(swa_lr, left if anneal_strategy == 'linear' else half_cosine(xp, left))
