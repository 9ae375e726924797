"""The learning rates from which a schedule starts, one for each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..check import check_number
from ..engine.writing import undone_on_error
from .row import Row, either, one_each, same, with_written
from .scheduler import Scheduler
from .shown import Entries

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['BaseRates']


class BaseRates(Scheduler):
    """What makes a scheduler start from a base in each group: given to it, or found there.

    It *begins* with an optimizer, whose groups it *adopts*, and later groups *join*. What it knows
    of a group is a :class:`Row`: the base, and the *start*, from which the schedule goes now. That
    is the base, or what changes in between made of it.
    """

    base_is_private = False
    """Whether a base given to it is kept even if other schedulers start from another."""

    gives_base = True
    """Whether schedulers beside it start from its base; else they start from the present rates."""

    shares_base = False
    """Whether schedulers that are attached later start from its base, too."""

    starts_from_present = False
    """Whether as a later part of a sequence it goes on from the present rate, not from its base."""

    _given: bool  # whether it was given a base
    _lists: dict[str, int]  # the arguments that it was given for each group, and for how many

    def _started(self, lrs: list) -> list:
        """Return the learning rates of the first epoch, given those before it."""
        raise NotImplementedError

    def _joined(self, group: int, row: Row, lr: Any) -> Any:
        """Return the learning rate of a group that is added at the present epoch, given its own."""
        raise NotImplementedError

    def _by_itself(self, group: int, row: Row) -> Any:
        """Return the learning rate of a group at the present epoch, if nothing else acts on it."""
        raise NotImplementedError

    @property
    def base_lrs(self) -> list:
        """The learning rate of each group before any schedule.

        Assigned, they count from the present epoch on, and what was changed by hand is forgotten.
        """
        return Entries(self._bases(), self._assign_bases)

    @base_lrs.setter
    def base_lrs(self, values: Sequence) -> None:
        self._assign_bases(values)

    def _bases(self) -> list:
        return [row.base for row in self._progress().memory]

    def _rebase(self, bases: list) -> None:
        """Take other bases for given."""
        progress = self._progress()
        rows = [row._replace(base=b) for row, b in zip(progress.memory, bases, strict=True)]
        self._put(progress._replace(memory=rows))
        self._given = True

    def _assign_bases(self, values: Sequence) -> None:
        """Go on as if these had been the bases, and nothing had been changed by hand."""
        owner = type(self).__name__
        values = one_each(owner, 'numbers for base_lrs', values, len(self._bases()))
        bases = [check_number(owner, 'base_lr', x) for x in values]
        optimizer = self.optimizer
        if optimizer is None:
            with undone_on_error(*self._parts()):
                self._rebase(bases)
                self._adopt(bases, bases)
            return
        if [s for s in optimizer._all_schedulers() if isinstance(s, BaseRates)] != [self]:
            raise ValueError(
                f'{owner} is one of several schedulers of the learning rate, which share their '
                f'base: assign base_lrs of the ChainedScheduler or SequentialLR that they are in, '
                f'or build them anew.'
            )
        bases_now = bases[: len(optimizer._groups)]  # the others are for groups still to come
        with optimizer._undone_on_error():
            self._rebase(bases)
            lrs = self._adopt(bases_now, bases_now)
            self._drive(self._progress(), lrs, by_hand=True)

    def _begin(self, optimizer: OptaxOptimizer) -> list:
        first = optimizer._initial_lrs(self)
        lrs = optimizer.get_last_lr()
        given = self._bases_given_for(lrs if first is None else first)
        if first is None or self._has_private_base():
            if given is not None and self._starts_from(given):
                return self._going_on_with(len(given))
            first = lrs = given or lrs
        elif given is not None and same(given, first) is False:
            raise ValueError(
                f'{type(self).__name__} starts from base_lr={given}, and another scheduler of this '
                f'optimizer from {first}: leave base_lr out, or give the same.'
            )
        return self._adopt(first, lrs)

    def _starts_from(self, bases: list) -> bool:
        """Whether these are its bases already, from which its steps or a snapshot have gone on."""
        return same(bases, self._bases()[: len(bases)]) is True

    def _going_on_with(self, count: int) -> list:
        """Return the learning rates that it shows by itself, for so many groups."""
        progress, lrs = self._progress(), self._lrs()
        self._put(progress._replace(memory=with_written(progress.memory, lrs)))
        return lrs[:count]

    def _bases_given_for(self, lrs: list) -> list | None:
        """Return the bases it was given, for groups that have these rates before any schedule.

        One for all is not for groups whose learning rate is not that of the first.
        """
        if not self._given:
            return None
        bases = self._bases()
        if 'base_lr' in self._lists:
            return bases[: len(lrs)]
        return [bases[0], *(either(same([lr], lrs[:1]), bases[0], lr) for lr in lrs[1:])]

    def _adopt(self, bases: list, lrs: list) -> list:
        """Take groups with these bases and present learning rates; return the new ones."""
        progress = self._progress()
        rows = list(progress.memory)
        spare = rows[len(bases) :]  # given for groups that are still to come
        rows += [rows[0]] * (len(bases) - len(rows))
        if self._has_private_base():
            bases = lrs = [row.base for row, _ in zip(rows, bases, strict=False)]
        rows = [Row(b, x, x, r.numbers) for b, x, r in zip(bases, lrs, rows, strict=False)]
        self._put(progress._replace(memory=rows + spare))
        new = self._started(lrs)
        self._put(progress._replace(memory=with_written(rows, new) + spare))
        return new

    def _was_given_base(self) -> bool:
        return self._given

    def _has_private_base(self) -> bool:
        return self.base_is_private and self._given

    def _own_base(self, group: int) -> Any:
        """Return the base that was given for a group that is yet to come, None if none was."""
        rows = self._progress().memory
        return rows[group].base if 'base_lr' in self._lists and group < len(rows) else None

    def _awaited(self, group: int, base: Any, lr: Any) -> Any:
        if not self._awaits(group, base, lr):
            return None
        progress = self._progress()
        rows = list(progress.memory)
        new = self._by_itself(group, rows[group])
        rows[group] = rows[group]._replace(written=new)
        self._put(progress._replace(memory=rows))
        return new

    def _awaits(self, group: int, base: Any, lr: Any) -> bool:
        """Whether it has come to its epoch in a group that is added now, from these rates."""
        bases = self._bases() if self._was_given_base() else []
        return group < len(bases) and same([base, lr], [bases[group]] * 2) is True

    def _join(self, group: ParamGroup, base: Any, lr: Any) -> Any:
        progress = self._progress()
        rows = list(progress.memory)
        i = group.index
        for name, count in self._lists.items():
            if name != 'base_lr' and i >= count:
                raise ValueError(
                    f'{type(self).__name__} was given {count} values for {name}, and this is group '
                    f'{i}: construct it with one for each group, or with one number for all.'
                )
        if self._has_private_base() and (own := self._own_base(i)) is not None:
            base = lr = own
        row = self._begun_anew(Row(base, lr, lr, rows[min(i, len(rows) - 1)].numbers))
        rows[i : i + 1] = [row]
        self._put(progress._replace(memory=rows))
        new = self._joined(i, row, lr)
        rows[i] = row._replace(written=new)
        self._put(progress._replace(memory=rows))
        return new

    def _begun_anew(self, row: Row) -> Row:
        """Return a row without what changes by hand have made of it."""
        return row

    def _check_groups(self, count: int) -> None:
        for name, length in self._lists.items():
            if length != count and not (name == 'base_lr' and length < count and self.optimizer):
                raise ValueError(
                    f'{type(self).__name__} was given {length} values for {name}, and the number '
                    f'of parameter groups is {count}.'
                )
