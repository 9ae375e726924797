"""Schedulers that warm up, hold, or anneal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import schedules
from ..check import is_tracer
from ..schedules.cycle import last_restart
from ..schedules.formula import evaluate
from .rate import OPTIMIZER_RATE, BaseRateArgument, LRScheduler, PerGroup
from .rising import Rising
from .row import Row, either
from .shown import live_count

__all__ = [
    *('ConstantLR', 'CosineAnnealingLR', 'CosineAnnealingWarmRestarts', 'InverseSqrtLR'),
    *('LinearLR', 'SWALR', 'WSDLR', 'WarmupCosineSchedule', 'WarmupScheduler'),
]


class ConstantLR(LRScheduler):
    r"""Multiply the learning rate by a factor for the first epochs.

    .. math:: \eta_t = (f \text{ if } t < T \text{ else } 1)\,\eta_0

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    factor : float
        The factor f.
    total_iters : int
        The number of epochs T with the factor.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.constant

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        factor: PerGroup = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch, factor=factor, total_iters=total_iters)


class LinearLR(LRScheduler):
    r"""Move from one factor of the learning rate to another on a straight line.

    .. math:: \eta_t = (f_0 + (f_1 - f_0) \min(t / T, 1))\,\eta_0

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    start_factor, end_factor : float
        The first factor f0 and the last, f1.
    total_iters : int
        The number of epochs T in between.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.linear

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        start_factor: PerGroup = 1.0 / 3,
        end_factor: PerGroup = 1.0,
        total_iters: int = 5,
        last_epoch: int = 0,
    ):
        super().__init__(
            base_lr,
            last_epoch,
            start_factor=start_factor,
            end_factor=end_factor,
            total_iters=total_iters,
        )


class WarmupScheduler(Rising):
    r"""Rise to the learning rate on a straight line, and stay.

    .. math:: \eta_t = \eta_s + (\eta_0 - \eta_s) \min(t / W, 1)

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    warmup_epochs : int
        The number of epochs W.
    warmup_start_lr : float or list of float
        The learning rate of the first epoch, :math:`\eta_s`.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.warmup
    warmup_length = 'warmup_epochs'

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        warmup_epochs: int = 5,
        warmup_start_lr: PerGroup = 0.0,
        last_epoch: int = 0,
    ):
        super().__init__(
            base_lr, last_epoch, warmup_epochs=warmup_epochs, warmup_start_lr=warmup_start_lr
        )


class CosineAnnealingLR(LRScheduler):
    r"""Anneal to a minimum along a cosine, then back, and so on.

    .. math:: \eta_t = \eta_{min} + (\eta_0 - \eta_{min}) (1 + \cos(\pi t / T_{max})) / 2

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    T_max : int
        The epoch of the first minimum.
    eta_min : float or list of float
        The minimum.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.cosine

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        T_max: int = 50,
        eta_min: PerGroup = 0.0,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch, T_max=T_max, eta_min=eta_min)


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Anneal along a cosine and restart, each time after longer (arXiv:1608.03983).

    .. math:: \eta_t = \eta_{min} + (\eta_0 - \eta_{min}) (1 + \cos(\pi T_{cur} / T_i)) / 2

    at :math:`T_{cur}` epochs after the last restart, :math:`T_i` of which make the present period.
    Changes by hand are overwritten. ``step(epoch)`` takes fractions of an epoch, too.

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    T_0, T_mult : int
        The epochs to the first restart, and how many times longer each period is.
    eta_min : float or list of float
        The minimum.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.cosine_restarts
    carries_changes = False

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        T_0: int = 10,
        T_mult: int = 1,
        eta_min: PerGroup = 0.0,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch, T_0=T_0, T_mult=T_mult, eta_min=eta_min)

    @property
    def T_cur(self) -> Any:  # noqa: N802  (torch's name)
        """The epochs since the last restart."""
        return live_count(lambda: self._cycle(self._epoch())[0])

    @property
    def T_i(self) -> Any:  # noqa: N802  # torch's name
        """The epochs from the last restart to the next."""
        return live_count(lambda: self._cycle(self._epoch())[1])

    def _cycle(self, epoch: Any) -> tuple[Any, Any]:
        begin, length = evaluate(last_restart, epoch, self.T_0, self.T_mult)
        return epoch - begin, length if is_tracer(length) else int(length)

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data; ``T_cur`` and ``T_i`` in it follow from the epoch."""
        current, length = self._cycle(self._epoch())
        return super().state_dict() | {'T_cur': current, 'T_i': length}

    def _differences(self, saved: Mapping[str, Any]) -> list[str]:
        if wrong := super()._differences(saved):
            return wrong
        fixed = saved.get('fixed')
        if isinstance(fixed, Mapping) and any(fixed.get(k, v) != v for k, v in self._fixed.items()):
            return wrong  # of other cycles; where these need not stop it, it goes on by its own
        cycle = self._cycle(saved['last_epoch'])
        told = tuple(saved.get(k, x) for k, x in zip(('T_cur', 'T_i'), cycle, strict=True))
        if told != cycle:
            wrong.append(f'{type(self).__name__}: T_cur and T_i must be {cycle}, got {told}')
        return wrong


class WarmupCosineSchedule(Rising):
    r"""Rise on a straight line, then anneal along a cosine to a minimum.

    .. math:: \eta_t = \eta_s + (\eta_0 - \eta_s)\,t / W \text{ for } t < W, \quad
              \eta_{min} + (\eta_0 - \eta_{min}) (1 + \cos(\pi (t - W) / (T - W))) / 2
              \text{ for } W \le t \le T

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    warmup_steps, total_steps : int
        The steps of the rise, W, and of everything, T.
    warmup_start_lr : float or list of float
        The learning rate of the first step, :math:`\eta_s`.
    eta_min : float or list of float
        The minimum, which is kept after T.
    last_epoch : int
        The step to start from.
    """

    schedule = schedules.warmup_cosine

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        warmup_steps: int = 1000,
        total_steps: int = 10000,
        warmup_start_lr: PerGroup = 0.0,
        eta_min: PerGroup = 0.0,
        last_epoch: int = 0,
    ):
        super().__init__(
            base_lr,
            last_epoch,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
            warmup_start_lr=warmup_start_lr,
            eta_min=eta_min,
        )


class WSDLR(Rising):
    r"""Warm up, stay, and decay at the end: a trapezoid (arXiv:2404.06395).

    .. math:: \eta_t = \eta_s + (\eta_0 - \eta_s)\,t / W \text{ for } t < W, \text{ then }
              \eta_{min} + (\eta_0 - \eta_{min})\,d(x), \quad
              x = \min\Big(\frac{\max(t - W - S, 0)}{D}, 1\Big)

    For runs whose length is not known beforehand: the decay may begin at any time.

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    warmup_steps, stable_steps, decay_steps : int
        The steps of the three parts, W, S and D.
    decay : {'linear', 'cosine', '1-sqrt'}
        The form of the decay d(x): :math:`1 - x`, :math:`(1 + \cos \pi x) / 2`, or
        :math:`1 - \sqrt x` (arXiv:2405.18392).
    warmup_start_lr, eta_min : float or list of float
        The first learning rate :math:`\eta_s` and the last.
    last_epoch : int
        The step to start from.
    """

    schedule = schedules.wsd

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        warmup_steps: int = 1000,
        stable_steps: int = 8000,
        decay_steps: int = 1000,
        decay: str = 'linear',
        warmup_start_lr: PerGroup = 0.0,
        eta_min: PerGroup = 0.0,
        last_epoch: int = 0,
    ):
        super().__init__(
            base_lr,
            last_epoch,
            warmup_steps=warmup_steps,
            stable_steps=stable_steps,
            decay_steps=decay_steps,
            decay=decay,
            warmup_start_lr=warmup_start_lr,
            eta_min=eta_min,
        )


class InverseSqrtLR(Rising):
    r"""Rise on a straight line, then decay as 1 / sqrt of time: the Transformer's schedule.

    .. math:: \eta_t = \big(\eta_s + (\eta_0 - \eta_s) \min(t / W, 1)\big)
              \sqrt{\frac{S}{S + \max(t - W, 0)}}

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate at the top, or one for each group; left out, that of the optimizer.
    warmup_steps : int
        The steps W of the rise.
    warmup_start_lr : float or list of float
        The learning rate of the first step, :math:`\eta_s`.
    timescale : int, optional
        The steps S in which the decay begins to show; W if not given (arXiv:1706.03762).
    last_epoch : int
        The step to start from.
    """

    schedule = schedules.inverse_sqrt

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        warmup_steps: int = 4000,
        warmup_start_lr: PerGroup = 0.0,
        timescale: int | None = None,
        last_epoch: int = 0,
    ):
        super().__init__(
            base_lr,
            last_epoch,
            warmup_steps=warmup_steps,
            warmup_start_lr=warmup_start_lr,
            timescale=timescale,
        )


class SWALR(LRScheduler):
    r"""Anneal to the learning rate of stochastic weight averaging, and stay there.

    .. math:: \eta_t = \eta_{swa} + (\eta_0 - \eta_{swa})\,\alpha(1 - \min(t / T, 1))

    where :math:`\alpha(x)` is :math:`(1 - \cos \pi x) / 2` ('cos') or :math:`x` ('linear').
    A change by hand is carried on while it anneals, and overwritten at the end. In a `SequentialLR`
    it anneals from the learning rate that it finds, as torch's does.

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    swa_lr : float or list of float
        The learning rate at the end.
    anneal_epochs : int
        The number of epochs T.
    anneal_strategy : {'cos', 'linear'}
        The curve of the way there.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.swa
    starts_from_present = True

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        swa_lr: PerGroup = 0.05,
        anneal_epochs: int = 10,
        anneal_strategy: str = 'cos',
        last_epoch: int = 0,
    ):
        super().__init__(
            base_lr,
            last_epoch,
            swa_lr=swa_lr,
            anneal_epochs=anneal_epochs,
            anneal_strategy=anneal_strategy,
        )

    def _moved(
        self, group: int, row: Row, lr: Any, now: Any, then: Any, carries: bool
    ) -> tuple[Row, Any]:
        a, b = self._affine(now, group, row)
        return super()._moved(group, row, either(b == 0.0, a, lr), now, then, carries)
