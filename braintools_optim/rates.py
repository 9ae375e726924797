"""The learning rates of an optimizer, and the schedulers that drive them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from .check import is_plain_number
from .engine.reads import warn_of_unread
from .engine.running import Running
from .fixed_list import FixedList
from .groups import ParamGroup
from .hyper import HyperTable
from .schedulers import LRScheduler, Scheduler
from .schedulers.construction import Driven
from .schedulers.functions import check_rate_function
from .signature import argument_defaults
from .state import OptimState

__all__ = ['DrivenRates', 'states_of']


class AddedSchedulers(FixedList):
    """The schedulers of an optimizer, as it shows them."""

    def how_to(self) -> str:
        """Return what to do instead."""
        return (
            'the schedulers of an optimizer cannot be changed in this list: add_scheduler adds '
            'one, and none can be taken away.'
        )


def states_of(schedulers: Iterable[Scheduler]) -> list[OptimState]:
    """Return the States of schedulers, each once."""
    return list({id(s): s for scheduler in schedulers for s in scheduler._states()}.values())


def _warn_of_old_traces(optimizer: Any, scheduler: Scheduler) -> None:
    """Warn that compiled functions which step ``opt.lr`` do not step a scheduler added since."""
    name = type(scheduler).__name__
    warnings.warn(
        f'a function that steps the lr of this {type(optimizer).__name__} was traced before '
        f'{name} was attached: compiled by brainstate.transform.jit, it does not step {name}. '
        f'Attach schedulers first, or give the function to jit anew.',
        UserWarning,
        stacklevel=2,
    )


class DrivenRates(Driven):
    """Mixin of `OptaxOptimizer`: its learning rates, and the schedulers that drive it."""

    _table: HyperTable
    _groups: list[ParamGroup]
    _assign: Callable[..., Any]
    _running: Running
    _lr_scheduler: LRScheduler
    _lr_is_free: bool  # whether the first scheduler that is added takes the place of `lr`
    _schedulers: list[Scheduler]
    _scheduler_states: list[OptimState]  # seen by brainstate's graph functions

    @property
    def lr(self) -> LRScheduler:
        """The learning-rate scheduler; the number is ``current_lr``."""
        return self._lr_scheduler

    @lr.setter
    def lr(self, value: Any) -> None:
        if isinstance(value, Scheduler):
            raise AttributeError(
                f'opt.lr is fixed at construction; opt.add_scheduler(...) adds this '
                f'{type(value).__name__}.'
            )
        raise AttributeError(
            f'opt.lr is the scheduler; to change the learning rate assign '
            f"opt.current_lr = {value!r} or opt.param_groups[i]['lr'] = {value!r}."
        )

    def _first_rate(self, lr: Any) -> Any:
        """Return the learning rate that was given, or with which the given scheduler begins.

        One that was given no base begins with the default of the class, as one that is attached
        later does.
        """
        if not isinstance(lr, LRScheduler):
            return lr
        default = self._default_rate()
        if is_plain_number(default) and lr.optimizer is None and not lr._was_given_base():
            return float(default)
        return lr.base_lrs[0]

    def _default_rate(self) -> Any:
        """Return the learning rate that it has where none is given, None if one must be given."""
        return argument_defaults(type(self)).get('lr')

    @property
    def lr_scheduler(self) -> LRScheduler:
        """The learning-rate scheduler, as ``lr``."""
        return self._lr_scheduler

    @property
    def schedulers(self) -> list[Scheduler]:
        """The schedulers that were added to the optimizer."""
        return AddedSchedulers(self._schedulers)

    @property
    def base_lr(self) -> Any:
        """The learning rate of group 0 before any schedule."""
        return self._lr_scheduler.base_lrs[0]

    @property
    def current_lr(self) -> Any:
        """The learning rate that the next step applies to group 0; assign to change it."""
        running = self._running.hyper_for_rate()
        return running.lr if running else self._table.read(0, 'lr')

    @current_lr.setter
    def current_lr(self, value: Any) -> None:
        self._assign({(0, 'lr'): value})

    def add_scheduler(self, scheduler: Scheduler) -> None:
        """Let one more scheduler drive this optimizer, as ``Scheduler(optimizer, ...)`` does.

        The first one becomes ``lr`` if the learning rate was a number. The effects of several
        multiply; each is stepped on its own, as in torch.
        """
        if not isinstance(scheduler, Scheduler):
            raise TypeError(
                f'add_scheduler needs an LRScheduler or ParamScheduler, got {scheduler!r} of type '
                f'{type(scheduler).__name__}.'
            )
        scheduler.attach_optimizer(self)  # type: ignore[arg-type]  # mixed into one

    def _enlist(self, scheduler: Scheduler) -> None:
        """Count a scheduler among those that drive this optimizer."""
        if scheduler is not self._lr_scheduler:
            if self._running.rate_is_read is False and isinstance(scheduler, LRScheduler):
                warn_of_unread(self)  # type: ignore[arg-type]  # mixed into one
            self._schedulers = [*self._schedulers, scheduler]
            if self._lr_is_free and isinstance(scheduler, LRScheduler):
                if self._lr_scheduler._traced:
                    _warn_of_old_traces(self, scheduler)
                self._lr_scheduler, self._lr_is_free = scheduler, False
        self._scheduler_states = states_of(self._all_schedulers())

    def _release(self, scheduler: Scheduler) -> None:
        """Leave a scheduler to the composite that takes it in."""
        self._schedulers = [s for s in self._schedulers if s is not scheduler]
        if scheduler is self._lr_scheduler:
            self._lr_is_free = True

    def _initial_lrs(self, scheduler: Scheduler) -> list | None:
        """Return the learning rates from which the schedulers beside this one started, if any."""
        based: list[Any] = [
            s for s in self._all_schedulers() if isinstance(s, LRScheduler) and s.gives_base
        ]
        if self._lr_is_free or scheduler is self._lr_scheduler or not based:
            return None
        first = [s for s in reversed(based) if s.shares_base]
        return [*first, *based][0].base_lrs[: len(self._groups)]

    def _join_schedulers(self, group: ParamGroup, base: Any, again: bool = False) -> None:
        """Let the schedulers take a new group in; ``base`` is its own learning rate, if given.

        One that they have joined before may join ``again`` at their epoch.
        """
        if base is None:
            base = self._lr_scheduler._own_base(group.index)
        if base is None:
            base = self.current_lr if self._lr_is_free else self.base_lr
        lr = base
        for scheduler in self._all_schedulers():
            scheduler._fit(self)  # type: ignore[arg-type]  # mixed into one
            awaited = None if again else scheduler._awaited(group.index, base, lr)
            lr = scheduler._join(group, base, lr) if awaited is None else awaited
        changes = {(group.index, 'lr'): lr}
        for scheduler in self._all_schedulers():
            settings = scheduler._first_settings(scheduler._progress())
            changes |= {key: value for key, value in settings.items() if key[0] == group.index}
        self._assign(changes, by_hand=False)

    def get_last_lr(self) -> list:
        """Return the learning rate that the next step applies to each group.

        Read by a chain while it runs, it is the rate of the chain's own group.
        """
        if running := self._running.hyper_for_rate():
            return [running.lr] * len(self._groups)
        entries = self._table.state.entries()
        return [entries[self._table.slots[g.index, 'lr']] for g in self._groups]

    def lr_apply(self, apply_fn: Callable[[Any], Any]) -> None:
        """Replace the present learning rate of every group by a function of it."""
        check_rate_function('lr_apply', apply_fn)
        self._assign(
            {(g.index, 'lr'): apply_fn(self._table.read(g.index, 'lr')) for g in self._groups}
        )

    def _all_schedulers(self) -> list[Scheduler]:
        first = self._lr_scheduler
        return [first, *(s for s in self._schedulers if s is not first)]
