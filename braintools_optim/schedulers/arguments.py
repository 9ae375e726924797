"""What a scheduler was given, as its attributes: numbers that are live, and what is fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..check import check_number
from ..ranges import Range, inherit_ranges, range_of
from .row import Row, one_each
from .scheduler import Scheduler
from .shown import Entries

__all__ = ['Arguments']


class Arguments(Scheduler):
    """What makes the arguments of a scheduler its attributes.

    Numbers can be assigned, one for all groups or a list with one for each; all else is fixed.
    """

    schedule: Any = None
    """The formula, one of `braintools_optim.schedules`."""

    ranges: Mapping[str, Range] = {}
    """The ranges of numbers, besides what the formula takes."""

    of_all_groups: tuple[str, ...] = ()
    """Live numbers that are one for all groups."""

    _names: tuple[str, ...] = ()  # its live numbers ...
    _formula_names: tuple[str, ...] = ()  # ... of which the schedule's come first ...
    _fixed: Mapping[str, Any] = {}  # ... and all else that it was given ...
    _formula_fixed: Mapping[str, Any] = {}  # ... of which this is the schedule's
    _lists: dict[str, int]  # the arguments that were given for each group, and for how many
    _read_from: Row | None = None  # of the group whose learning rate is being computed

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        inherit_ranges(cls)

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            if self._read_from is not None:
                return self._numbers_of(self._read_from)[name]
            each = self._each(name)
            differ = len({x for x in each if isinstance(x, float)}) > 1
            return each if differ or name in self._lists else each[0]
        if name in self._fixed:
            value = self._fixed[name]
            if isinstance(value, list):
                return Entries(value, lambda _: self._refuse_fixed(name))
            return value
        raise AttributeError(f'{type(self).__name__} has no attribute {name!r}.')

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._names:
            self._set_number(name, value)
        elif name in self._fixed:
            self._refuse_fixed(name)
        elif name == 'base_lr':
            raise AttributeError(
                f'base_lr of {type(self).__name__} is fixed at construction; a learning rate that '
                f"is assigned, opt.current_lr or group['lr'], is what it goes on from."
            )
        else:
            super().__setattr__(name, value)

    def _assignable(self) -> list[str]:
        return ['base_lrs', *self._names]

    def _each(self, name: str) -> list:
        i = self._names.index(name)
        values = [row.numbers[i] for row in self._progress().memory]
        return Entries(values, lambda new: self._set_number(name, new))

    def _numbers_of(self, row: Row) -> dict[str, Any]:
        """Return the live numbers of a group by name."""
        return dict(zip(self._names, row.numbers, strict=True))

    def _check_not_each(self, name: str, value: Any) -> None:
        """Raise for a list of numbers for what is one for all groups."""
        if name in self.of_all_groups and isinstance(value, list | tuple):
            raise TypeError(
                f'{type(self).__name__} needs one number for {name}, which is for all groups, got '
                f'{value!r}.'
            )

    def _set_number(self, name: str, value: Any) -> None:
        self._check_not_each(name, value)
        progress = self._progress()
        count = len(progress.memory)
        each = value if isinstance(value, list | tuple) else [value] * count
        each = one_each(type(self).__name__, f'numbers for {name}', each, count)
        rows = []
        for i, (row, new) in enumerate(zip(progress.memory, each, strict=True)):
            numbers = self._checked(self._numbers_of(row) | {name: new})
            rows.append(self._going_on(i, row, numbers))
        self._put(progress._replace(memory=rows))

    def _going_on(self, group: int, row: Row, numbers: tuple) -> Row:
        """Return a group's row with other numbers."""
        return row._replace(numbers=numbers)

    def _by_formula(self, **hyper: Any) -> dict[str, Any]:
        """Return what the formula takes in normal form: of arrays it takes many numbers, we one."""
        owner = type(self).__name__
        checked = self.schedule.check(owner, **hyper)
        for name, value in checked.items():
            if isinstance(value, jax.Array | np.ndarray) and value.shape:
                raise TypeError(
                    f'{owner} needs one number for {name}, or a list with one for each group, got '
                    f'{value!r}.'
                )
            if value is not None and name in self.ranges:
                checked[name] = check_number(owner, name, value, allowed=self.ranges[name])
        return checked

    def _checked(self, hyper: Mapping[str, Any]) -> tuple:
        """Return the live numbers of one group in order, or raise where one is not allowed."""
        owner, own = type(self).__name__, {k: hyper[k] for k in self._formula_names}
        if self.schedule is not None:
            own = self._by_formula(**self._formula_fixed, **own)
        return tuple(
            own[k]
            if k in self._formula_names
            else check_number(owner, k, hyper[k], allowed=range_of(k, self.ranges))
            for k in self._names
        )
