"""Schedulers that go up and down, and take the momentum with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from .. import schedules
from ..check import check_count, check_number, is_tracer
from ..ranges import POSITIVE, UNIT
from .rate import OPTIMIZER_RATE, BaseRateArgument, LRScheduler, PerGroup
from .scheduler import Progress, following

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['CyclicLR', 'OneCycleLR']


class MomentumCycle(LRScheduler):
    """What schedulers share that move the momentum (or first beta) against the learning rate."""

    carries_changes = False
    ranges = {'base_momentum': UNIT, 'max_momentum': UNIT}
    later_fixed: tuple[str, ...] = ('cycle_momentum',)
    base_is_private = True  # torch's constructors take it, or what it is made of

    def __init__(
        self,
        base_lr: BaseRateArgument,
        last_epoch: int,
        cycle_momentum: bool | None,
        momenta: Mapping[str, Any],
        *,
        fixed: Mapping[str, Any] | None = None,
        **hyper: Any,
    ):
        if not isinstance(cycle_momentum, bool | None):
            raise TypeError(
                f'{type(self).__name__} needs True, False or None for cycle_momentum, got '
                f'{cycle_momentum!r}.'
            )
        own = {'cycle_momentum': cycle_momentum, **(fixed or {})}
        super().__init__(base_lr, last_epoch, numbers=momenta, fixed=own, **hyper)

    def _identity(self) -> dict[str, Any]:
        cycles = self.cycle_momentum  # None where an optimizer is still to decide it
        if cycles is not False and self.optimizer is not None:
            cycles = any(map(_momentum_of, self.optimizer._groups))
        return super()._identity() | {'cycle_momentum': cycles}

    def _bases_given_for(self, lrs: list) -> list | None:
        if self._given and 'base_lr' not in self._lists:
            return self._bases()[:1] * len(lrs)  # as torch: it says what the lowest rate is
        return super()._bases_given_for(lrs)

    @property
    def max_lrs(self) -> list:
        """The highest learning rate of each group."""
        return self._each('max_lr')

    @max_lrs.setter
    def max_lrs(self, values: Sequence) -> None:
        self._set_number('max_lr', values)

    def _momentum(self, epoch: Any, base: Any, peak: Any, own: Mapping[str, Any]) -> Any:
        """Return the momentum at an epoch: ``base`` where the learning rate is at its base.

        ``own`` are the live numbers of the group.
        """
        raise NotImplementedError

    def _fit(self, optimizer: OptaxOptimizer) -> None:
        for group in optimizer._groups:
            self._check_momentum(group)

    def _check_momentum(self, group: ParamGroup) -> None:
        if self.cycle_momentum and _momentum_of(group) is None:
            raise ValueError(
                f'{type(self).__name__} cannot cycle the momentum of group {group.index}: this '
                f'{type(group._optimizer).__name__} has neither betas nor a momentum > 0 there; '
                f'give cycle_momentum=False, or leave it out to cycle that of the other groups.'
            )

    def _settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        if self.optimizer is None or self.cycle_momentum is False:
            return {}
        settings = {}
        for group, row in zip(self.optimizer._groups, progress.memory, strict=False):
            if (name := _momentum_of(group)) is None:
                continue
            own = self._numbers_of(row)
            ends = own['max_momentum'], own['base_momentum']
            value = self._momentum(progress.epoch, *ends, own)
            settings[group.index, name] = (
                value if name == 'momentum' else (value, *group.number('betas')[1:])
            )
        return settings


def _momentum_of(group: ParamGroup) -> str | None:
    """Return which number of a group is its momentum, None if it has none that may change."""
    if group.fixed_chain is not None:
        return None
    if 'betas' in group:
        return 'betas'
    return 'momentum' if 'momentum' in group and 'momentum' not in group.unused else None


class CyclicLR(MomentumCycle):
    r"""Rise to a maximum, fall back, and so on (arXiv:1506.01186).

    .. math:: \eta_t = \eta_0 + (\eta_{max} - \eta_0)\,\Lambda_t\,s_t

    where :math:`\Lambda_t` rises from 0 to 1 and falls back to 0, each on a straight line. The
    momentum moves the other way. Changes by hand are overwritten. An optimizer may come first, as
    in torch: ``CyclicLR(opt, base_lr=0.01, max_lr=0.1)``.

    Parameters
    ----------
    base_lr, max_lr : float or list of float
        The lowest and the highest learning rate.
    step_size_up, step_size_down : int
        The steps up, and down (as many as up if not given).
    mode : {'triangular', 'triangular2', 'exp_range'}
        The height s is 1, or halved with each cycle, or ``gamma`` to the power of the step.
    gamma : float
        The factor of 'exp_range'.
    scale_fn, scale_mode : callable, {'cycle', 'iterations'}
        Your own height, a function of the cycle (counted from 1) or of the step.
    last_epoch : int
        The step to start from.
    cycle_momentum : bool, optional
        Whether the momentum (or first beta) is moved; by default it is, if there is one.
    base_momentum, max_momentum : float or list of float
        The momentum at the highest and at the lowest learning rate.
    """

    schedule = schedules.cyclic
    torch_gives_base = True

    @overload  # the metaclass takes the optimizer off
    def __init__(self, optimizer: OptaxOptimizer, *args: Any, **options: Any) -> None: ...

    @overload
    def __init__(
        self,
        base_lr: BaseRateArgument = ...,
        max_lr: PerGroup = ...,
        step_size_up: int = ...,
        step_size_down: int | None = ...,
        mode: str = ...,
        gamma: PerGroup = ...,
        scale_fn: Callable | None = ...,
        scale_mode: str = ...,
        last_epoch: int = ...,
        cycle_momentum: bool | None = ...,
        base_momentum: PerGroup = ...,
        max_momentum: PerGroup = ...,
    ) -> None: ...

    def __init__(  # type: ignore[misc]  # the overloads say less
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        max_lr: PerGroup = 0.01,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = 'triangular',
        gamma: PerGroup = 1.0,
        scale_fn: Callable | None = None,
        scale_mode: str = 'cycle',
        last_epoch: int = 0,
        cycle_momentum: bool | None = None,
        base_momentum: PerGroup = 0.8,
        max_momentum: PerGroup = 0.9,
    ):
        super().__init__(
            base_lr,
            last_epoch,
            cycle_momentum,
            {'base_momentum': base_momentum, 'max_momentum': max_momentum},
            max_lr=max_lr,
            step_size_up=step_size_up,
            step_size_down=step_size_down,
            mode=mode,
            gamma=gamma,
            scale_fn=scale_fn,
            scale_mode=scale_mode,
        )

    @property
    def step_size_down(self) -> int:
        """The steps down."""
        down = self._fixed['step_size_down']
        return self.step_size_up if down is None else down

    def _momentum(self, epoch: Any, base: Any, peak: Any, own: Mapping[str, Any]) -> Any:
        a, b = self.schedule.pair(epoch, max_lr=peak, gamma=own['gamma'], **self._formula_fixed)
        return a + b * base


class OneCycleLR(MomentumCycle):
    r"""Rise to a maximum once, then fall far below the start (arXiv:1708.07120).

    .. math:: \eta_{max} / d \to \eta_{max} \to \eta_{max} / (d f)

    The momentum moves the other way. Changes by hand are overwritten. An optimizer may come first,
    as in torch: ``OneCycleLR(opt, max_lr=0.1, total_steps=100)``.

    Parameters
    ----------
    max_lr : float or list of float
        The highest learning rate.
    total_steps : int
        The number of steps; or give ``epochs`` and ``steps_per_epoch``.
    pct_start : float
        The fraction of the steps in which it rises.
    anneal_strategy : {'cos', 'linear'}
        The curve of the phases.
    div_factor, final_div_factor : float
        The first learning rate is the highest divided by d, the last the first divided by f.
    last_epoch : int
        The step to start from.
    three_phase : bool
        Whether it falls to the first learning rate in the time that it rose, and then below it.
    cycle_momentum : bool, optional
        Whether the momentum (or first beta) is moved; by default it is, if there is one.
    base_momentum, max_momentum : float or list of float
        The momentum at the highest and at the lowest learning rate.
    """

    schedule = schedules.one_cycle
    later_fixed = ('cycle_momentum', 'div_factor')
    shares_base = True

    @overload  # the metaclass takes the optimizer off
    def __init__(self, optimizer: OptaxOptimizer, *args: Any, **options: Any) -> None: ...

    @overload
    def __init__(
        self,
        max_lr: PerGroup = ...,
        total_steps: int | None = ...,
        epochs: int | None = ...,
        steps_per_epoch: int | None = ...,
        pct_start: PerGroup = ...,
        anneal_strategy: str = ...,
        div_factor: float = ...,
        final_div_factor: PerGroup = ...,
        last_epoch: int = ...,
        three_phase: bool = ...,
        cycle_momentum: bool | None = ...,
        base_momentum: PerGroup = ...,
        max_momentum: PerGroup = ...,
    ) -> None: ...

    def __init__(  # type: ignore[misc]  # the overloads say less
        self,
        max_lr: PerGroup = 0.01,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: PerGroup = 0.3,
        anneal_strategy: str = 'cos',
        div_factor: float = 25.0,
        final_div_factor: PerGroup = 1e4,
        last_epoch: int = 0,
        three_phase: bool = False,
        cycle_momentum: bool | None = None,
        base_momentum: PerGroup = 0.85,
        max_momentum: PerGroup = 0.95,
    ):
        owner = type(self).__name__
        if (total_steps is None) == (epochs is None or steps_per_epoch is None) or (
            total_steps is not None and (epochs is not None or steps_per_epoch is not None)
        ):
            raise ValueError(
                f'{owner} needs either total_steps or both epochs and steps_per_epoch, got '
                f'{total_steps=}, {epochs=}, {steps_per_epoch=}.'
            )
        if total_steps is None:
            total_steps = check_count(owner, 'epochs', epochs, 1) * check_count(
                owner, 'steps_per_epoch', steps_per_epoch, 1
            )
        div_factor = check_number(owner, 'div_factor', div_factor, allowed=POSITIVE)
        peaks: list[Any] = list(max_lr) if isinstance(max_lr, list | tuple) else [max_lr]
        for peak in peaks:
            self._by_formula(max_lr=peak, total_steps=total_steps)
        bases = [peak / div_factor for peak in peaks]
        super().__init__(
            bases if isinstance(max_lr, list | tuple) else bases[0],
            last_epoch,
            cycle_momentum,
            {'base_momentum': base_momentum, 'max_momentum': max_momentum},
            fixed={'div_factor': div_factor},
            max_lr=max_lr,
            total_steps=total_steps,
            pct_start=pct_start,
            anneal_strategy=anneal_strategy,
            final_div_factor=final_div_factor,
            three_phase=three_phase,
        )

    @property
    def min_lrs(self) -> list:
        """The learning rate of each group at the end, as torch's ``min_lr``."""
        rows = self._progress().memory
        return [r.base / self._numbers_of(r)['final_div_factor'] for r in rows]

    def _check_step(self, epoch: Any) -> None:
        then = following(self._epoch(), epoch)
        if not is_tracer(then) and then > self.total_steps:
            raise ValueError(
                f'{type(self).__name__} was made for total_steps={self.total_steps}, and this '
                f'would be step {then}.'
            )

    def _momentum(self, epoch: Any, base: Any, peak: Any, own: Mapping[str, Any]) -> Any:
        hyper = {'pct_start': own['pct_start'], 'max_lr': peak, 'final_div_factor': 1.0}
        a, b = self.schedule.pair(epoch, **hyper, **self._formula_fixed)
        return a + b * base
