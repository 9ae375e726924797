"""Schedules that begin low, or with a warm-up."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from .domain import Count, NonNegative, PositiveCount, Real
from .formula import Pair, family
from .shape import between, fraction_done, fraction_left, half_cosine

__all__ = ['constant', 'inverse_sqrt', 'linear', 'warmup', 'warmup_cosine', 'wsd']


@family
def constant(xp: Any, t: Any, factor: NonNegative = 1 / 3, total_iters: Count = 5) -> Pair:
    r"""Multiply the base by ``factor`` during the first ``total_iters`` steps (T).

    .. math:: \eta_t = f \eta \text{ if } t < T \text{ else } \eta
    """
    return 0.0, xp.where(t < total_iters, factor, 1.0)


@family
def linear(
    xp: Any,
    t: Any,
    start_factor: NonNegative = 1 / 3,
    end_factor: NonNegative = 1.0,
    total_iters: Count = 5,
) -> Pair:
    r"""Move from ``start_factor`` to ``end_factor`` times the base in ``total_iters`` steps (T).

    .. math:: \eta_t = (f_0 + (f_1 - f_0) \min(t / T, 1))\,\eta
    """
    return 0.0, start_factor + (end_factor - start_factor) * fraction_done(xp, t, total_iters)


@family
def warmup(xp: Any, t: Any, warmup_epochs: Count = 5, warmup_start_lr: Real = 0.0) -> Pair:
    r"""Rise from ``warmup_start_lr`` on a straight line, in ``warmup_epochs`` steps (W).

    .. math:: \eta_t = \eta_s + (\eta - \eta_s) \min(t / W, 1)
    """
    return between(warmup_start_lr, fraction_done(xp, t, warmup_epochs))


def _warms_up_in_time(owner: str, hyper: dict[str, Any]) -> None:
    warm, total = hyper['warmup_steps'], hyper['total_steps']
    if isinstance(warm, int) and isinstance(total, int) and warm > total:
        raise ValueError(
            f'{owner} needs warmup_steps to be at most total_steps, got warmup_steps={warm} and '
            f'total_steps={total}.'
        )


@partial(family, agree=_warms_up_in_time)
def warmup_cosine(
    xp: Any,
    t: Any,
    warmup_steps: Count = 1000,
    total_steps: PositiveCount = 10000,
    warmup_start_lr: Real = 0.0,
    eta_min: Real = 0.0,
) -> Pair:
    r"""Rise from ``warmup_start_lr`` in ``warmup_steps`` (W), anneal to ``eta_min`` at step T.

    .. math:: \eta_t = \eta_s + (\eta - \eta_s)\,t / W \text{ for } t < W, \quad
              \eta_{min} + (\eta - \eta_{min}) (1 + \cos(\pi (t - W) / (T - W))) / 2
              \text{ for } W \le t \le T

    where T is ``total_steps``; after it :math:`\eta_{min}` stays.
    """
    decay = xp.maximum(total_steps - warmup_steps, 0)
    return between(
        warmup_start_lr,
        fraction_done(xp, t, warmup_steps),
        half_cosine(xp, fraction_left(xp, t - warmup_steps, decay)),
        eta_min,
    )


@family
def wsd(
    xp: Any,
    t: Any,
    warmup_steps: Count,
    stable_steps: Count,
    decay_steps: PositiveCount,
    decay: Literal['linear', 'cosine', '1-sqrt'] = 'linear',
    warmup_start_lr: Real = 0.0,
    eta_min: Real = 0.0,
) -> Pair:
    r"""Rise from ``warmup_start_lr``, stay, decay to ``eta_min``: a trapezoid (arXiv:2404.06395).

    .. math:: \eta_t = \eta_s + (\eta - \eta_s)\,t / W \text{ for } t < W, \text{ then }
              \eta_{min} + (\eta - \eta_{min})\,d(x), \quad
              x = \min\Big(\frac{\max(t - W - S, 0)}{D}, 1\Big)

    with the steps W, S and D of the three parts. The ``decay`` d(x) is :math:`1 - x`,
    :math:`(1 + \cos \pi x) / 2`, or :math:`1 - \sqrt x` (arXiv:2405.18392).
    """
    since = xp.maximum(t - warmup_steps, 0) - stable_steps
    down = fraction_left(xp, since, decay_steps)
    if decay == 'cosine':
        down = half_cosine(xp, down)
    elif decay == '1-sqrt':
        done = xp.where(since > 0, fraction_done(xp, since, decay_steps), 1.0)
        down = xp.where(since > 0, 1.0 - xp.sqrt(done), 1.0)
    return between(warmup_start_lr, fraction_done(xp, t, warmup_steps), down, eta_min)


@family
def inverse_sqrt(
    xp: Any,
    t: Any,
    warmup_steps: Count = 4000,
    warmup_start_lr: Real = 0.0,
    timescale: PositiveCount | None = None,
) -> Pair:
    r"""Rise from ``warmup_start_lr`` in ``warmup_steps`` (W), then decay as a root of the step.

    .. math:: \eta_t = \big(\eta_s + (\eta - \eta_s) \min(t / W, 1)\big)
              \sqrt{\frac{S}{S + \max(t - W, 0)}}

    The ``timescale`` S is W if not given (arXiv:1706.03762), or 1 where W is 0.
    """
    scale = xp.maximum(warmup_steps, 1) if timescale is None else timescale
    root = xp.sqrt(scale / (xp.maximum(t - warmup_steps, 0) * 1.0 + scale))
    return between(warmup_start_lr, fraction_done(xp, t, warmup_steps), root)
