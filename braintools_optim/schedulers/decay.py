"""Schedulers that decay: in steps, exponentially, as a power, or as a function says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .. import schedules
from ..check import check_number, is_tracer
from ..ranges import NON_NEGATIVE
from .functions import call_or_each, called, returned
from .present import PresentRate
from .rate import OPTIMIZER_RATE, BaseRateArgument, LRScheduler, PerGroup
from .row import Row, either
from .shown import Parts

__all__ = [
    *('ExponentialDecayLR', 'ExponentialLR', 'InverseTimeLR', 'LambdaLR', 'MultiStepLR'),
    *('MultiplicativeLR', 'PiecewiseConstantSchedule', 'PolynomialLR', 'RexLR', 'StepLR'),
]


class Geometric(LRScheduler):
    """What multiplies by ``gamma`` now and then.

    Where its powers have come to zero, as all of gamma=0, it goes on with the factor alone: so a
    learning rate that is changed by hand decays from there on.
    """

    def _decays(self, epoch: Any) -> Any:
        """Return how often it has multiplied by gamma up to an epoch."""
        raise NotImplementedError

    def _moved(
        self, group: int, row: Row, lr: Any, now: Any, then: Any, carries: bool
    ) -> tuple[Row, Any]:
        if not carries or type(self).affine is not LRScheduler.affine:
            return super()._moved(group, row, lr, now, then, carries)
        _, scale = self._affine(now, group, row)
        moved, new = super()._moved(group, row, lr, now, then, carries)
        if not is_tracer(scale) and scale != 0.0:
            return moved, new
        times = self._decays(then) - self._decays(now)
        new = either(scale == 0.0, lr * self._numbers_of(row)['gamma'] ** times, new)
        return moved._replace(written=new), new


class StepLR(Geometric):
    r"""Multiply the learning rate by a factor every so many epochs.

    .. math:: \eta_t = \gamma^{\lfloor t / s \rfloor}\,\eta_0

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    step_size : int
        The number of epochs s between two steps.
    gamma : float
        The factor.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.step

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        step_size: int = 30,
        gamma: PerGroup = 0.1,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch, step_size=step_size, gamma=gamma)

    def _decays(self, epoch: Any) -> Any:
        return epoch // self.step_size


class MultiStepLR(Geometric):
    r"""Multiply the learning rate by a factor at each of several epochs.

    .. math:: \eta_t = \gamma^{|\{i : m_i \le t\}|}\,\eta_0

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    milestones : list of int
        The epochs, ascending; one that is named twice counts twice.
    gamma : float
        The factor.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.multistep

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        milestones: Sequence[int] = (30, 60, 90),
        gamma: PerGroup = 0.1,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch, milestones=milestones, gamma=gamma)

    def _decays(self, epoch: Any) -> Any:
        return sum(1 * (epoch >= m) for m in self._fixed['milestones'])


class ExponentialLR(Geometric):
    r"""Multiply the learning rate by a factor at every epoch.

    .. math:: \eta_t = \gamma^t\,\eta_0

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    gamma : float
        The factor.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.exponential

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        gamma: PerGroup = 0.95,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch, gamma=gamma)

    def _decays(self, epoch: Any) -> Any:
        return epoch


class ExponentialDecayLR(LRScheduler):
    r"""Decay by a rate in so many steps, smoothly or in a staircase, as optax does.

    .. math:: \eta_t = r^{\max(t - t_0, 0) / s}\,\eta_0

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    decay_steps, decay_rate : int, float
        The learning rate is multiplied by the rate r in each s steps.
    transition_begin : int
        The step t0 until which the learning rate stays.
    staircase : bool
        Whether it decays in jumps, one every s steps.
    end_value : float, optional
        The bound of the learning rate: the lowest for r < 1, the highest for r > 1.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.exponential_decay

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        decay_steps: int = 1000,
        decay_rate: PerGroup = 0.96,
        transition_begin: int = 0,
        staircase: bool = False,
        end_value: PerGroup | None = None,
        last_epoch: int = 0,
    ):
        super().__init__(
            base_lr,
            last_epoch,
            decay_steps=decay_steps,
            decay_rate=decay_rate,
            transition_begin=transition_begin,
            staircase=staircase,
            end_value=end_value,
        )


class PolynomialLR(LRScheduler):
    r"""Decay to 0 as a power of the fraction of epochs that is left.

    .. math:: \eta_t = (1 - \min(t / T, 1))^p\,\eta_0

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    total_iters : int
        The number of epochs T.
    power : float
        The power p; 1 is a straight line.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.polynomial

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        total_iters: int = 5,
        power: PerGroup = 1.0,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch, total_iters=total_iters, power=power)


class InverseTimeLR(LRScheduler):
    r"""Divide the learning rate by a number that grows with time.

    .. math:: \eta_t = \eta_0 / (1 + r t / s)

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    decay_rate, decay_steps : float, int
        The divisor grows by r in each s epochs.
    staircase : bool
        Whether it grows in jumps, one every s epochs.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.inverse_time

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        decay_rate: PerGroup = 1.0,
        decay_steps: int = 1,
        staircase: bool = False,
        last_epoch: int = 0,
    ):
        super().__init__(
            base_lr,
            last_epoch,
            decay_rate=decay_rate,
            decay_steps=decay_steps,
            staircase=staircase,
        )


class RexLR(LRScheduler):
    r"""Decay slowly at first and fast at the end: REX (arXiv:2107.04197), for short budgets.

    .. math:: \eta_t = \eta_{min} + (\eta_0 - \eta_{min}) \frac{2 (1 - x)}{2 - x},
              \quad x = \min(t / T, 1)

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    total_iters : int
        The number of epochs T.
    eta_min : float or list of float
        The learning rate at the end.
    last_epoch : int
        The epoch to start from.
    """

    schedule = schedules.rex

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        total_iters: int = 100,
        eta_min: PerGroup = 0.0,
        last_epoch: int = 0,
    ):
        super().__init__(base_lr, last_epoch, total_iters=total_iters, eta_min=eta_min)


class PiecewiseConstantSchedule(LRScheduler):
    r"""Take one learning rate after the other.

    .. math:: \eta_t = v_i, \quad b_i \le t < b_{i+1}

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        Without effect: the values are learning rates, the same for all groups.
    boundaries : list of int
        The epochs at which the next value is taken, ascending; (1000, 2000) if not given.
    values : list of float
        The learning rates, one more than boundaries; (1, 0.1, 0.01) if not given.
    last_epoch : int
        The epoch to start from.
    """

    carries_changes = False

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        boundaries: Sequence[int] | None = None,
        values: Sequence[float] | None = None,
        last_epoch: int = 0,
    ):
        boundaries = [1000, 2000] if boundaries is None else boundaries
        values = [1.0, 0.1, 0.01] if values is None else values
        self._value = schedules.piecewise_constant(boundaries, values)
        for value in values:
            check_number(type(self).__name__, 'values', value, allowed=NON_NEGATIVE)
        fixed = {'boundaries': list(boundaries), 'values': list(values)}
        super().__init__(base_lr, last_epoch, fixed=fixed)

    def affine(self, epoch: Any, group: int) -> tuple[Any, Any]:
        """Return ``(value, 0)``."""
        return self._value(epoch), 0.0


class LambdaLR(LRScheduler):
    r"""Multiply the base by a function of the epoch; changes by hand are overwritten.

    .. math:: \eta_t = f(t)\,\eta_0

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    lr_lambda : callable or list of callable
        The function f, or one for each group. It is not saved.
    last_epoch : int
        The epoch to start from.
    """

    carries_changes = False

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        lr_lambda: Callable | Sequence[Callable] | None = None,
        last_epoch: int = 0,
    ):
        functions = call_or_each(type(self).__name__, 'lr_lambda', lr_lambda)
        super().__init__(base_lr, last_epoch)
        self._functions = functions
        if isinstance(lr_lambda, list | tuple):
            self._lists['lr_lambda'] = len(functions)

    @property
    def lr_lambdas(self) -> list[Callable]:
        """The functions, one for each group or one for all."""
        return Parts(self._functions)

    def _factor(self, group: int, epoch: Any) -> Any:
        function = self._functions[group if 'lr_lambda' in self._lists else 0]
        return returned(type(self).__name__, function(epoch), epoch)

    def affine(self, epoch: Any, group: int) -> tuple[Any, Any]:
        """Return ``(0, f(epoch))``."""
        return schedules.lambda_.pair(epoch, fn=partial(self._factor, group))


class MultiplicativeLR(PresentRate, LambdaLR):
    r"""Multiply the present learning rate by a function of the epoch.

    .. math:: \eta_t = f(t)\,\eta_{t-1}

    ``step(epoch)`` multiplies it once, too, by the factor of that epoch, as torch's does.

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    lr_lambda : callable or list of callable
        The function f, or one for each group. It is not saved.
    last_epoch : int
        The epoch to start from.
    """

    def _moved(
        self, group: int, row: Row, lr: Any, now: Any, then: Any, carries: bool
    ) -> tuple[Row, Any]:
        new = lr * called(type(self).__name__, partial(self._factor, group), then)
        return row._replace(written=new), new
