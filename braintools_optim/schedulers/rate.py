"""Schedulers of the learning rate: affine in the base, group by group."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..check import check_number, is_tracer
from ..class_attribute import let_through
from ..engine.late_state import ProgressState
from ..engine.observe import recorded
from ..engine.own_state import EpochState
from ..ranges import NON_NEGATIVE, range_of
from ..state import OptimState
from .arguments import Arguments
from .base_rates import BaseRates
from .construction import is_optimizer
from .functions import called, check_rate_function
from .row import Row, carried, flat, is_concrete, one_each, start_of, with_written
from .scheduler import Progress, following
from .shown import CurrentRates
from .snapshot import is_code, other_arguments, row_differences, row_snapshot, saved_rows

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['OPTIMIZER_RATE', 'BaseRateArgument', 'LRScheduler', 'PerGroup']


class _Omitted(float):
    """A default that is told from the same number when it is given."""


OPTIMIZER_RATE = _Omitted(1e-3)
"""Left out, the base is the learning rate that the optimizer's groups have."""

BaseRateArgument: TypeAlias = 'float | Sequence[float] | OptaxOptimizer'
"""An optimizer may come in its place, as in torch."""

PerGroup: TypeAlias = 'float | Sequence[float]'
"""One number for all groups, or one for each."""


class LRScheduler(Arguments, BaseRates):
    """Base class of the schedulers that drive the learning rate of every group.

    A scheduler is affine in the base learning rate, ``lr(t) = a(t) + b(t) * base``. A subclass
    names its formula in ``schedule``, or gives the pair ``(a, b)`` in :meth:`affine` (or, as in
    braintools, all learning rates in :meth:`get_lr`). As in torch, a learning rate that was
    changed in between, by hand or by another scheduler, is carried on: ``lr(t + 1) = a(t + 1) +
    b(t + 1) / b(t) * (lr - a(t))``, or ``lr - a(t)`` is kept where ``b(t) = 0``. Schedulers that
    torch computes from the base alone overwrite it (``carries_changes``).

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate before any schedule; a list has one for each group. Left out, it is what
        the optimizer has.
    last_epoch : int
        The epoch to start from.
    numbers : dict, optional
        Live numbers besides those of ``schedule``; a list has one for each group, which is what
        :meth:`affine` reads.
    fixed : dict, optional
        Other arguments, which are read as attributes, not assigned, and compared when a checkpoint
        is loaded.
    **hyper
        The hyper-parameters of ``schedule``. Floats are live, and may be lists with one for each
        group.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import braintools_optim as bo
    >>> class HalveOnce(bo.LRScheduler):
    ...     def affine(self, epoch, group):
    ...         return 0.0, jnp.where(epoch < 1, 1.0, 0.5)  # no if: epoch is traced in jit
    >>> opt = bo.SGD(lr=HalveOnce(0.1))
    >>> opt.lr.step()
    >>> round(opt.current_lr, 6)
    0.05
    >>> bo.CosineAnnealingLR(0.1, T_max=4).preview(3).round(4).tolist()
    [[0.1], [0.0854], [0.05]]
    """

    carries_changes = True
    """Whether a learning rate that was changed in between is carried on."""

    ranges = dict.fromkeys(('eta_min', 'max_lr', 'swa_lr', 'warmup_start_lr'), NON_NEGATIVE)

    later_numbers: Mapping[str, float] = {}
    """The numbers that snapshots of older versions lack, as they were then."""

    later_fixed: tuple[str, ...] = ()
    """The fixed arguments that these lack, and without which a scheduler cannot go on."""

    remembered: tuple[str, ...] = ()
    """The names of the numbers that it remembers besides those of its groups."""

    _asked = False  # while get_lr of a subclass runs

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        last_epoch: int = 0,
        *,
        numbers: Mapping[str, Any] | None = None,
        fixed: Mapping[str, Any] | None = None,
        **hyper: Any,
    ):
        super().__init__(last_epoch)
        self._refuse_bypassed()
        if is_optimizer(base_lr):  # as a subclass written for torch has it
            base_lr = OPTIMIZER_RATE
        self._given = base_lr is not OPTIMIZER_RATE
        # OneCycleLR makes its bases of max_lr, which complaints about their number should name.
        each = {**(numbers or {}), **hyper, 'base_lr': base_lr}
        live = self.schedule.numbers if self.schedule is not None else frozenset()
        self._lists = self._given_by_group(each, but=hyper.keys() - live)
        count = max(self._lists.values(), default=1)
        self._check_groups(count)
        rows = []
        for i in range(count):
            mine = {k: v[i] if k in self._lists else v for k, v in each.items()}
            base, own, rest = self._sorted(mine, live, numbers or {})
            rows.append(Row(base, base, base, tuple(own.values())))
        self._formula_fixed, self._fixed = rest, {**rest, **(fixed or {})}
        self._names, self._formula_names = tuple(own), tuple(k for k in own if k in live)
        let_through(self, (*self._names, *self._fixed))
        self._pairs: dict[int, tuple] = {}  # the pair of the present epoch, group by group
        first = [x for row in rows for x in flat(row)] + self._first_remembered()
        self._memory = ProgressState(first, self.last_epoch.value)
        vars(self)['last_epoch'] = EpochState(self._memory)
        self._known: tuple = (None, None, None)  # the numbers it put last, and what they were

    def _first_remembered(self) -> list[float]:
        """Return the numbers that are ``remembered`` as they are in the beginning."""
        return []

    def _refuse_bypassed(self) -> None:
        """Raise for a subclass whose methods would not be called, unlike in braintools."""
        for name in ('apply', '__call__'):
            if getattr(type(self), name) is not getattr(LRScheduler, name):
                raise TypeError(
                    f'{type(self).__name__} overrides {name}, which no step calls here: say what '
                    f'the learning rate is in affine or get_lr.'
                )

    def _given_by_group(self, each: Mapping[str, Any], but: Container[str]) -> dict[str, int]:
        """Return the arguments that have a number for each group, and for how many.

        Lists of those named in ``but`` are one argument.
        """
        for name, value in each.items():
            self._check_not_each(name, value)
        lists = {k: len(v) for k, v in each.items() if isinstance(v, list | tuple) and k not in but}
        for name, count in lists.items():
            if not count:
                owner = type(self).__name__
                raise ValueError(f'{owner} needs at least one {name}, got an empty list.')
        return lists

    def _sorted(
        self, mine: dict[str, Any], live: Container[str], numbers: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Return the base of a group, its live numbers, and all else that the formula takes.

        ``live`` are the formula's names of numbers, ``numbers`` those that it does not have.
        """
        owner = type(self).__name__
        base = check_number(owner, 'base_lr', mine.pop('base_lr'))
        extra = {
            k: check_number(owner, k, mine.pop(k), allowed=range_of(k, self.ranges))
            for k in numbers
        }
        checked = {} if self.schedule is None else self._by_formula(**mine)
        own = {k: v for k, v in checked.items() if k in live and v is not None} | extra
        return base, own, {k: v for k, v in checked.items() if k not in own}

    # ---- the formula ---------------------------------------------------------------------

    def affine(self, epoch: Any, group: int) -> tuple[Any, Any]:
        """Return ``(a, b)`` of ``lr = a + b * base`` at an epoch, for one group."""
        row = self._read_from or self._progress().memory[group]
        return self._pair(epoch, row)

    def get_lr(self) -> list:
        """Return the learning rate of each group at the present epoch."""
        return self._present()

    def _present(self) -> list:
        """Return the present learning rate of each group, by the formula."""
        return [self._rate_now(i, row) for i, row in enumerate(self._progress().memory)]

    def _by_itself(self, group: int, row: Row) -> Any:
        if self._defines_get_lr():
            return self._by_get_lr(self._epoch())[group]
        return self._rate_now(group, row)

    def _rate_now(self, group: int, row: Row) -> Any:
        """Return the present learning rate of a group, by the formula."""
        a, b = self._affine(self._epoch(), group, row)
        return self._bounded(a + b * row.start, row)

    def _affine(self, epoch: Any, group: int, row: Row) -> tuple[Any, Any]:
        if type(self).affine is not LRScheduler.affine:
            return self._own_pair(epoch, group, row)
        if not is_concrete(epoch, row):
            return self._pair(epoch, row)
        key = epoch, row.start, row.numbers
        known = self._pairs.get(group)
        if known is None or known[0] != key:
            known = self._pairs[group] = key, self._pair(epoch, row)
        return known[1]

    def _own_pair(self, epoch: Any, group: int, row: Row) -> tuple[Any, Any]:
        """Return what a subclass says, to which numbers are those of the row."""
        owner, known = type(self).__name__, self.__dict__
        before, known['_read_from'] = self._read_from, row
        try:
            pair = called(owner, lambda at: self.affine(at, group), epoch)
        finally:
            known['_read_from'] = before
        try:
            a, b = pair
        except (TypeError, ValueError):
            raise TypeError(
                f'affine of {owner} must return a pair (a, b), which means a + b * base, got '
                f'{pair!r}.'
            ) from None
        return a, b

    def _pair(self, epoch: Any, row: Row) -> tuple[Any, Any]:
        """Return what the formula says of a group."""
        if self.schedule is None:
            raise NotImplementedError(f'{type(self).__name__} must define affine or get_lr.')
        return self.schedule.pair(epoch, **self._formula_hyper(row))

    def _formula_hyper(self, row: Row) -> dict[str, Any]:
        """Return what the formula takes of a group besides the epoch."""
        own = zip(self._formula_names, row.numbers, strict=False)
        return {**self._formula_fixed, **dict(own)}

    def _bounded(self, lr: Any, row: Row, present: Any = None) -> Any:
        """Return a learning rate within the formula's bound, if it has one."""
        if self.schedule is None or self.schedule.bound is None:
            return lr
        return self.schedule.bound(lr, present, **self._formula_hyper(row))

    def _going_on(self, group: int, row: Row, numbers: tuple) -> Row:
        """Return a row with other numbers, which go on from the present learning rate, as torch's.

        The schedule goes on as if it had come there with these numbers, from another start.
        """
        row = row._replace(numbers=numbers)
        if self.schedule is None or not self.carries_changes:
            return row
        a, b = self._affine(self._epoch(), group, row)
        return row._replace(start=start_of(row, row.written, a, b))

    def _by_get_lr(self, epoch: Any) -> list:
        """Return the learning rates of a class that defines get_lr, at an epoch."""
        known = self.__dict__
        present, known['last_epoch'], known['_asked'] = self.last_epoch, OptimState(epoch), True
        try:
            lrs = called(type(self).__name__, lambda _: self.get_lr(), epoch)
        finally:
            known['last_epoch'], known['_asked'] = present, False
        return list(lrs) if isinstance(lrs, list | tuple) else [lrs]

    def _defines_get_lr(self) -> bool:
        return type(self).get_lr is not LRScheduler.get_lr

    def _advanced(
        self, progress: Progress, lrs: list, epoch: Any = None, metric: Any = None
    ) -> tuple[Progress, list]:
        now, rows = progress.epoch, progress.memory
        then = following(now, epoch)
        if self._defines_get_lr():
            new = self._by_get_lr(then)
            return progress._replace(epoch=then, memory=with_written(rows, new)), new
        carries = self.carries_changes and epoch is None
        moved = [
            self._moved(i, row, lr, now, then, carries)
            for i, (row, lr) in enumerate(zip(rows, lrs, strict=True))
        ]
        rows = [row for row, _ in moved]
        return progress._replace(epoch=then, memory=rows), [lr for _, lr in moved]

    def _moved(
        self, group: int, row: Row, lr: Any, now: Any, then: Any, carries: bool
    ) -> tuple[Row, Any]:
        """Return a group's row and learning rate at the epoch ``then``."""
        if not carries:
            return self._set_out(then, group, row, row.base)
        a0, b0 = self._affine(now, group, row)
        a, b = self._affine(then, group, row)
        start, new = carried(row, lr, a0, b0, a, b)
        new = self._bounded(new, row, lr)
        return Row(row.base, start, new, row.numbers), new

    def _changed(self, epoch: Any, group: int, row: Row, lr: Any) -> Row:
        """Return a group's row with a learning rate that was changed by hand taken in."""
        return row

    def _set_out(self, epoch: Any, group: int, row: Row, start: Any) -> tuple[Row, Any]:
        """Return a group's row and learning rate at an epoch, if the schedule goes from a start."""
        row = row._replace(start=start)
        a, b = self._affine(epoch, group, row)
        new = self._bounded(a + b * start, row)
        return row._replace(written=new), new

    def _entered(
        self, progress: Progress, lrs: list, epoch: Any, metric: Any = None
    ) -> tuple[Progress, list]:
        """Return what follows at an epoch, from the rates that the schedulers before it gave."""
        if not self.carries_changes or self._defines_get_lr():
            return self._advanced(progress, lrs, epoch, metric)
        moved = self._set_out_each(progress._replace(epoch=epoch), lrs)
        rows = [row for row, _ in moved]
        return progress._replace(epoch=epoch, memory=rows), [lr for _, lr in moved]

    def _set_out_each(self, progress: Progress, lrs: list) -> list[tuple[Row, Any]]:
        """Return the row and learning rate of each group at an epoch.

        The schedules start from these rates where they carry changes on, else from the bases.
        """
        return [
            self._set_out(progress.epoch, i, row, lr if self.carries_changes else row.base)
            for i, (row, lr) in enumerate(zip(progress.memory, lrs, strict=False))
        ]

    def _started(self, lrs: list) -> list:
        """Return the learning rates of the first epoch, given those before it."""
        progress = self._progress()
        if self._defines_get_lr():
            return self._by_get_lr(progress.epoch)[: len(lrs)]
        return [lr for _, lr in self._set_out_each(progress, lrs)]

    def _joined(self, group: int, row: Row, lr: Any) -> Any:
        if self._defines_get_lr():
            return self._by_get_lr(self._epoch())[group]
        start = lr if self.carries_changes else row.base
        return self._set_out(self._epoch(), group, row, start)[1]

    def _watches(self, epoch: Any) -> bool:
        """Whether the step to an epoch takes a metric."""
        return self._wants_metric()

    # ---- what it remembers ---------------------------------------------------------------

    def _progress(self) -> Progress:
        numbers, width = self._memory.on_host(), 3 + len(self._names)
        if numbers is None:
            numbers = self._memory.entries()
        elif numbers is self._known[0]:
            return Progress(self._epoch(), *self._known[1:])
        end = len(numbers) - len(self.remembered)
        rows = [
            Row(*numbers[i : i + 3], tuple(numbers[i + 3 : i + width]))  # type: ignore[call-arg]  # the first three are there
            for i in range(0, end, width)
        ]
        return Progress(self._epoch(), rows, tuple(numbers[end:]))

    def _put(self, progress: Progress) -> None:
        numbers = [*(x for row in progress.memory for x in flat(row)), *progress.extra]
        self._memory.replace(numbers, self._as_held(progress.epoch))
        if self._memory.on_host() is numbers:  # it is not, where they are traced
            self.__dict__['_known'] = numbers, *progress[1:]

    def _states(self) -> list[OptimState]:
        return [self._memory]

    def _lrs(self) -> list:
        if self.optimizer is not None:
            return self.optimizer.get_last_lr()
        if self._asked:  # by get_lr, for what it gave last
            return self._written(self._progress())
        return self._by_get_lr(self._epoch()) if self._defines_get_lr() else self._present()

    @property
    def current_lrs(self) -> Any:
        """The learning rates that the next step applies, with ``.value``."""
        return CurrentRates(self)

    def get_last_lr(self) -> list:
        """Return the learning rates that the next step applies, one for each group."""
        return self._lrs()

    def apply(self, apply_fn: Callable[[Any], Any]) -> None:
        """Replace the present learning rate of every group by a function of it."""
        check_rate_function('apply', apply_fn)
        self._set_lrs([apply_fn(lr) for lr in self._lrs()])

    def _set_lrs(self, lrs: Sequence) -> None:
        """Replace the present learning rate of every group."""
        lrs = one_each(type(self).__name__, 'learning rates', lrs, len(self._lrs()))
        if self.optimizer is not None:
            self.optimizer._assign({(i, 'lr'): lr for i, lr in enumerate(lrs)})
            return
        progress, rows = self._progress(), []
        for i, (row, lr) in enumerate(zip(progress.memory, lrs, strict=True)):
            lr = check_number(type(self).__name__, 'lr', lr)
            row = self._changed(progress.epoch, i, row, lr)
            a, b = self._affine(progress.epoch, i, row)
            start = start_of(row, lr, a, b) if self.carries_changes else row.start
            rows.append(row._replace(start=start, written=lr))
        self._put(progress._replace(memory=rows))

    def _written(self, progress: Progress) -> list:
        """Return the learning rates that it gave last."""
        return [row.written for row in progress.memory]

    def _saved_written(self, saved: Mapping[str, Any]) -> list:
        """Return the learning rates that it had given last when it was saved."""
        return list(saved['written'])

    def __call__(self, count: Any = None) -> Any:
        """Return the learning rate; given a count, minus it, for ``optax.scale_by_schedule``."""
        if count is None:
            return self._lrs()[0]
        running = self.optimizer._running.hyper_for_rate() if self.optimizer is not None else None
        if running is None and is_tracer(count) and not recorded():
            name, way = type(self).__name__, 'give it to the optimizer, too, as lr='
            if self.optimizer is not None:
                way = (
                    f'use brainstate.transform.jit, or step {type(self.optimizer).__name__} itself'
                )
            raise ValueError(
                f'the present learning rate of this {name} would stay in the compiled program, '
                f'which does not see it change: {way}. A function of the count is one of schedules.'
            )
        return -(running.lr if running is not None else self._lrs()[0])

    # ---- saving and copying --------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data."""
        return super().state_dict() | self._memory_snapshot()

    def _memory_snapshot(self) -> dict[str, Any]:
        """Return what it remembers of the groups, as plain data."""
        return row_snapshot(self)

    def _identity(self) -> dict[str, Any]:
        """Return what it was built with that is no live number."""
        return {**self._built_with, **self._fixed}

    def _differences(self, saved: Mapping[str, Any]) -> list[str]:
        return super()._differences(saved) + self._memory_differences(saved)

    def peculiar(self, state_dict: Any) -> list[str]:
        """Return what a snapshot has of another scheduler, which need not stop it from loading."""
        return super().peculiar(state_dict) + self._other_arguments(state_dict)

    def _other_arguments(self, saved: Any) -> list[str]:
        return other_arguments(self, saved)

    def _memory_differences(self, saved: Mapping[str, Any]) -> list[str]:
        return row_differences(self, saved)

    def _restore(self, saved: Mapping[str, Any]) -> None:
        super()._restore(saved)
        if self.optimizer is None and self._was_changed(saved):
            self._set_lrs(saved['current_lrs'])

    def _was_changed(self, saved: Mapping[str, Any]) -> bool:
        """Whether the learning rates of a snapshot were changed after they had been given."""
        return list(saved['current_lrs']) != self._saved_written(saved)

    def _put_back(self, saved: Mapping[str, Any]) -> None:
        progress = Progress(saved['last_epoch'], saved_rows(self, saved), self._progress().extra)
        self._put(progress)
        self._drive(progress, list(saved['current_lrs']))

    def _copy_into(self, new: Any, memo: dict[int, Any]) -> None:
        super()._copy_into(new, memo)
        vars(new).update(_pairs={}, _known=(None, None, None))
        if isinstance(self.last_epoch, EpochState):
            vars(new).update(last_epoch=EpochState(new._memory))

    def __float__(self) -> float:
        raise TypeError(
            f'{type(self).__name__} is a scheduler, no number: the learning rate is '
            f'opt.current_lr, those of all groups are opt.get_last_lr().'
        )

    def __format__(self, spec: str) -> str:
        return format(float(self), spec) if spec else str(self)

    def __repr__(self) -> str:
        shown = {k: getattr(self, k) for k in (*self._names, *self._fixed)}
        hyper = ''.join(f', {k}={v!r}' for k, v in shown.items() if not is_code(v))
        return f'{type(self).__name__}(base_lrs={self._bases()}{hyper}, epoch={self._epoch()})'
