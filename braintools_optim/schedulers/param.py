"""Scheduling any hyper-parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..check import is_plain_number, is_tracer
from .construction import is_optimizer
from .functions import called, returned
from .scheduler import Progress, Scheduler, following

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['ParamScheduler']


class ParamScheduler(Scheduler):
    """Give a hyper-parameter the values of a schedule, epoch after epoch.

    An optimizer may come first, as in the example; else :meth:`OptaxOptimizer.add_scheduler` gives
    it one.

    Parameters
    ----------
    name : str
        A live number of the optimizer: ``'weight_decay'``, ``'betas'``, ``'grad_clip_norm'`` ...
    schedule : callable, number, or tuple or list of these
        A function of the epoch, such as those of `braintools_optim.schedules`. A tuple has one
        for each entry of a hyper-parameter like ``betas``. A single one replaces the values of
        all groups; a list has one for each group, None for those that keep theirs. It is not saved.
    last_epoch : int
        The epoch to start from.

    Examples
    --------
    >>> import braintools_optim as bo
    >>> opt = bo.AdamW(1e-3)
    >>> decay = bo.ParamScheduler(opt, 'weight_decay', bo.schedules.linear(0.1, 1.0, 0.0, 4))
    >>> decay.step()
    >>> round(opt.weight_decay, 4), decay.preview(4).round(4).ravel().tolist()
    (0.075, [0.075, 0.05, 0.025, 0.0])
    """

    _settled = ('name',)

    @overload  # the metaclass takes the optimizer off
    def __init__(self, optimizer: OptaxOptimizer, *args: Any, **options: Any) -> None: ...

    @overload
    def __init__(self, name: str, schedule: Any, last_epoch: int = ...) -> None: ...

    def __init__(self, name: str, schedule: Any, last_epoch: int = 0):  # type: ignore[misc]  # the overloads say less
        if not isinstance(name, str):
            raise TypeError(
                f'ParamScheduler needs the name of a hyper-parameter, got {name!r:.80}; write '
                f"ParamScheduler(optimizer, 'weight_decay', schedule)."
            )
        each = schedule if isinstance(schedule, list) else [schedule]
        given = [s for s in each if s is not None or not isinstance(schedule, list)]
        entries = [x for s in given for x in (s if isinstance(s, tuple) else (s,))]
        fit = [callable(x) or is_tracer(x) or is_plain_number(x) for x in entries]
        objects = [type(x).__name__ for x in entries if isinstance(x, Scheduler) or is_optimizer(x)]
        if not entries or not all(fit) or objects:
            got, way = repr(schedule), ''
            if objects:
                got = ', '.join(objects)
                way = (
                    ": write ParamScheduler(optimizer, 'weight_decay', f) with a function f, such "
                    'as those of braintools_optim.schedules'
                )
            raise TypeError(
                f'ParamScheduler needs a function of the epoch for {name}, got {got}{way}.'
            )
        super().__init__(last_epoch)
        self.name = name
        self._schedules = each
        self._for_each = isinstance(schedule, list)

    def _rename(self, names: Mapping[str, str]) -> None:
        """Drive the same number of an optimizer that has another name for it."""
        vars(self)['name'] = names.get(self.name, self.name)

    def _fit(self, optimizer: OptaxOptimizer) -> None:
        known = {*optimizer._numbers, *optimizer._bounded_by}
        if self.name not in known:
            raise ValueError(
                f'{type(optimizer).__name__} has no live number {self.name!r}; it has '
                f'{", ".join(sorted(known))}.'
            )
        if self._for_each and self.name in optimizer._bounds:
            raise ValueError(
                f'{self.name} of {type(optimizer).__name__} is one number for all groups; give '
                f'ParamScheduler one schedule, got a list of {len(self._schedules)}.'
            )

    def _check_groups(self, count: int) -> None:
        if self._for_each and len(self._schedules) != count:
            raise ValueError(
                f'ParamScheduler was given {len(self._schedules)} schedules for {self.name}, and '
                f'the number of parameter groups is {count}: give one for all, or attach it once '
                f'all groups are there.'
            )

    def _join(self, group: ParamGroup, base: Any, lr: Any) -> Any:
        if self._for_each:
            self._check_groups(group.index + 1)
        return lr

    def _values(self, epoch: Any) -> list:
        """Return the value of each group, or of all."""
        return [
            tuple(self._at(x, epoch) for x in s) if isinstance(s, tuple) else self._at(s, epoch)
            for s in self._schedules
        ]

    def _at(self, schedule: Any, epoch: Any) -> Any:
        if not callable(schedule):
            return schedule
        owner = f'ParamScheduler of {self.name}'
        return returned(owner, called(owner, schedule, epoch), epoch)

    def _settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        assert self.optimizer is not None
        values = self._values(progress.epoch)
        count = 1 if self.name in self.optimizer._bounds else len(self.optimizer._groups)
        each = ((i, values[i if self._for_each else 0]) for i in range(count))
        return {(i, self.name): value for i, value in each if value is not None}

    def _advanced(
        self, progress: Progress, lrs: list, epoch: Any = None, metric: Any = None
    ) -> tuple[Progress, list]:
        return Progress(following(progress.epoch, epoch)), lrs

    def _shown(self, progress: Progress, lrs: list) -> list:
        values = self._values(progress.epoch)
        size = next((len(v) for v in values if isinstance(v, tuple)), None)
        nothing = np.nan if size is None else (np.nan,) * size
        values = [nothing if v is None else v for v in values]
        return values if self._for_each else values * max(len(lrs), 1)

    def _quantity(self) -> str:
        return self.name

    @property
    def value(self) -> Any:
        """What it gives at the present epoch; a list if each group has its own."""
        values = self._values(self._epoch())
        return values if self._for_each else values[0]

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data."""
        return super().state_dict() | {'name': self.name}

    def _differences(self, saved: Mapping[str, Any]) -> list[str]:
        wrong = super()._differences(saved)
        if saved.get('name') != self.name:
            wrong.append(
                f'ParamScheduler: it drove {saved.get("name")!r}, here it drives {self.name!r}'
            )
        if not wrong:
            wrong += self._failures(saved['last_epoch'])
        return wrong

    def _failures(self, epoch: Any) -> list[str]:
        """Return what keeps it from going on at an epoch: its functions are not saved."""
        try:
            for value in self._values(epoch):
                if self.optimizer is not None and value is not None:
                    self.optimizer._check_number(self.name, value)
        except Exception as error:  # of a user's function
            what = f'ParamScheduler of {self.name} at epoch {epoch}'
            return [f'{what}: {type(error).__name__}: {error}']
        return []

    def _put_back(self, saved: Mapping[str, Any]) -> None:
        super()._put_back(saved)
        self._drive(self._progress(), self._lrs())

    def __repr__(self) -> str:
        return f'ParamScheduler({self.name!r}, epoch={self._epoch()})'
