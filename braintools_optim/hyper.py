"""Hyper-parameters as live values: a trace sees tracers, and plain 0.0 for what is left out.

The numbers of all groups stand in one vector in one State, so that a step reads one State and
passes one argument, and a change is a write to that State.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .check import is_zero
from .engine.late_state import NumbersState, weak_scalars

__all__ = ['TO_COME', 'Hyper', 'HyperTable', 'names_in_use', 'number_at', 'with_zeros']

TO_COME = -1
"""Stands for the index of a group that is added later."""


class Hyper:
    """The values one group hands to its chain: numbers may be tracers, flags never are."""

    _was_read = False
    _source: Hyper | None = None
    """The values of which these are, under other names."""

    def __init__(
        self,
        numbers: Mapping[str, Any],
        flags: Mapping[str, Any],
        unused: frozenset[str],
        structural: Sequence[str],
    ):
        self.__dict__.update(flags)
        # What was zero at construction is a plain 0.0: the chain may leave its part out.
        self.__dict__.update({k: with_zeros(k, v, unused) for k, v in numbers.items()})
        self._rate = self.__dict__.pop('lr', None)
        self._unused, self._structural = unused, structural

    def __getattr__(self, name: str) -> Any:
        if name == 'lr' and '_rate' in self.__dict__:
            self._was_read = True
            return self._rate if self._source is None else self._source.lr
        known = ', '.join(sorted(['lr', *(k for k in self.__dict__ if not k.startswith('_'))]))
        raise AttributeError(
            f'this group has no hyper-parameter {name!r}; it has {known}. What transform reads is '
            f'given to super().__init__ by name.'
        )

    @property
    def rate_is_read(self) -> bool:
        """Whether somebody has read the learning rate."""
        return self._was_read

    def replaced(self, **numbers: Any) -> Hyper:
        """Return the values with other numbers."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, **numbers)
        return new

    def renamed(
        self, names: Mapping[str, str], unused: frozenset[str], structural: Sequence[str]
    ) -> Hyper:
        """Return the values under other names, the keys. To read the learning rate reads it here.

        They are those of another class, which has numbers of its own that are ``structural``.
        """
        values = {new: getattr(self, old) for new, old in names.items() if new != 'lr'}
        made = Hyper({**values, 'lr': self._rate}, {}, unused, structural)
        made._source = self
        return made

    def uses(self, name: str) -> bool:
        """Whether a number that is named in ``structural`` was nonzero at construction."""
        if name not in self._structural:
            known = ', '.join(self._structural) or 'nothing'
            raise ValueError(f'uses({name!r}): it is not in structural, which has {known}.')
        return name not in self._unused


@dataclass
class HyperTable:
    """The live numbers of every group, and of those to come, as one vector in one State.

    An entry is addressed by (group index, name). Whoever writes the vector, the host or a scheduler
    inside jit, it stays one abstract value: nothing retraces.
    """

    state: NumbersState = field(default_factory=lambda: NumbersState([]))
    slots: dict[tuple[int, str], slice | int] = field(default_factory=dict)

    def append(self, group: int, numbers: Mapping[str, Any]) -> None:
        """Add the numbers of a new group."""
        values, slots = self.state.entries(), dict(self.slots)
        for name, value in numbers.items():
            if isinstance(value, tuple):
                slots[group, name] = slice(len(values), len(values) + len(value))
                values.extend(value)
            else:
                slots[group, name] = len(values)
                values.append(value)
        self.state.replace(values)
        self.slots = slots

    def copy(self) -> HyperTable:
        """Return a table of the same numbers in a State of its own."""
        return HyperTable(self.state.duplicate(), dict(self.slots))

    def read(self, group: int, name: str) -> Any:
        """Return the current value: floats outside a trace, tracers inside."""
        numbers = self.state.on_host()
        return self._pick(self.state.entries() if numbers is None else numbers, group, name)

    def write(self, changes: Mapping[tuple[int, str], Any]) -> None:
        """Set several values with one write."""
        values = self.state.entries()
        for key, value in changes.items():
            values[self.slots[key]] = value
        self.state.replace(values)

    def unpack(self, vector: Any) -> list[dict[str, Any]]:
        """Return the numbers of each group out of a vector, as weakly typed scalars."""
        entries = weak_scalars(vector)
        groups: list[dict[str, Any]] = [{} for _ in range(self.group_count)]
        for group, name in self.slots:
            if group != TO_COME:
                groups[group][name] = self._pick(entries, group, name)
        return groups

    @property
    def group_count(self) -> int:
        """The number of groups."""
        return 1 + max((group for group, _ in self.slots), default=-1)

    def _pick(self, entries: Any, group: int, name: str) -> Any:
        slot = self.slots[group, name]
        return tuple(entries[slot]) if isinstance(slot, slice) else entries[slot]


def number_at(numbers: Mapping[str, Any], name: str) -> Any:
    """Return a number by its name, or an entry of a tuple of them, as ``'betas[0]'``."""
    name, _, index = name.partition('[')
    return numbers[name][int(index[:-1])] if index else numbers[name]


def names_in_use(name: str, value: Any) -> set[str]:
    """Return a number's name, or those of a tuple's entries, but for what is known to be zero."""
    entries = {f'{name}[{i}]': x for i, x in enumerate(value)} if isinstance(value, tuple) else {}
    return {k for k, x in (entries or {name: value}).items() if not is_zero(x)}


def with_zeros(name: str, value: Any, zeros: frozenset) -> Any:
    """Return a number, or tuple of them, with a plain 0.0 for those named in ``zeros``."""
    if isinstance(value, tuple):
        return tuple(0.0 if f'{name}[{i}]' in zeros else x for i, x in enumerate(value))
    return 0.0 if name in zeros else value
