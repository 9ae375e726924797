"""Parameter groups: the dict-like view that users read and write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from brainstate import State

from .fixed_list import FixedList
from .hyper import Hyper
from .number import live_number
from .paths import nest

if TYPE_CHECKING:
    from .optimizer import OptaxOptimizer

__all__ = ['Groups', 'ParamGroup']


class Groups(FixedList):
    """The groups of an optimizer, as it shows them."""

    def __init__(self, owner: str, groups: Iterable[ParamGroup]):
        super().__init__(groups)
        self._owner = owner

    def __getitem__(self, index: Any) -> Any:
        if not self and not isinstance(index, slice):
            raise IndexError(
                f'{self._owner} has no parameter groups yet; call register_trainable_weights first.'
            )
        if isinstance(index, int) and not -len(self) <= index < len(self):
            there = 'group 0 alone' if len(self) == 1 else f'groups 0 to {len(self) - 1}'
            raise IndexError(f'{self._owner} has {there}, got {index}; add_param_group adds one.')
        return super().__getitem__(index)

    def how_to(self) -> str:
        """Return what to do instead."""
        return (
            f'the groups of {self._owner} cannot be changed in this list: add_param_group adds '
            f'one, and none can be taken away; its numbers are assigned as group[name] = number.'
        )


_ATTRIBUTES = frozenset(['_optimizer', 'index', 'flags', 'members', 'unused', 'fixed_chain'])


class ParamGroup(MutableMapping[str, Any]):
    """One group of an optimizer: ``'params'``, its live numbers and its fixed flags.

    Numbers read as the values that the next step applies, and can be assigned; ``group['lr']``
    is a float that also has a live ``.value``. Flags and parameters are fixed.
    """

    def __init__(self, optimizer: OptaxOptimizer, index: int, flags: dict[str, Any]):
        self._optimizer = optimizer
        self.index = index
        self.flags: Mapping[str, Any] = MappingProxyType(flags)
        self.members: list[int] = []  # positions of its States in optimizer.param_states
        self.unused: frozenset[str] = frozenset()  # numbers that were zero at construction
        self.fixed_chain: Any = None  # built at construction; None: built anew in each trace

    def __deepcopy__(self, memo: dict) -> NoReturn:
        raise TypeError(
            f'a parameter group belongs to its {type(self._optimizer).__name__}; copy.deepcopy of '
            f'that copies it, and dict(group) has its numbers.'
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _ATTRIBUTES:
            raise AttributeError(
                f'a parameter group has no attribute {name!r} to assign; its numbers are assigned '
                f'as its entries: group[{name!r}] = {value!r}.'
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f'a parameter group has no attribute {name!r}; its numbers are its entries, such as '
            f"group['lr']."
        )

    def params(self) -> Any:
        """Return the group's States as nested dicts."""
        pairs = self._optimizer.param_states.get_flattened()
        members = [pairs[i] for i in self.members]
        return nest([path for path, _ in members], [state for _, state in members])

    def __getitem__(self, key: str) -> Any:
        if key == 'params':
            return self.params()
        if key in self.flags:
            return self.flags[key]
        if key not in self._optimizer._numbers:
            raise KeyError(self._optimizer._no_option(key))
        if key == 'lr':
            return live_number(lambda: self.number(key), partial(self.__setitem__, key))
        return self.number(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def update(self, *args: Any, **values: Any) -> None:
        """Change several numbers: all, or none if one of them is refused."""
        changes = dict(*args, **values)
        for key in changes.keys() & self._optimizer._bounds:
            raise KeyError(self._optimizer._no_option(key))
        self._optimizer._assign({(self.index, key): value for key, value in changes.items()})

    def __delitem__(self, key: str) -> None:
        raise TypeError(f'{key!r} is part of a parameter group and cannot be deleted.')

    def __iter__(self) -> Iterator[str]:
        return iter(('params', *self._optimizer._numbers, *self.flags))

    def __len__(self) -> int:
        return 1 + len(self._optimizer._numbers) + len(self.flags)

    def number(self, key: str) -> Any:
        """Return the present value of a live number (a float, or a tuple of them)."""
        return self._optimizer._read(self.index, key)

    def hyper(self, numbers: Mapping[str, Any] | None = None) -> Hyper:
        """Return what the chain of this group is built from: these numbers, or the present ones."""
        names = self._optimizer._numbers
        own = {n: self.number(n) if numbers is None else numbers[n] for n in names}
        return Hyper(own, self.flags, self.unused, self._optimizer.structural)

    def copy(self) -> dict[str, Any]:
        """Return its entries as a dict of its own."""
        return dict(self)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self}

    def of_copy(self, optimizer: OptaxOptimizer) -> ParamGroup:
        """Return the same group of a copied optimizer."""
        new = ParamGroup(optimizer, self.index, dict(self.flags))
        new.members, new.unused = list(self.members), self.unused
        return new

    def states(self) -> list[State]:
        """Return the group's States in a list."""
        all_states = self._optimizer.param_states.unique_states
        return [all_states[i] for i in self.members]

    def __repr__(self) -> str:
        values = ', '.join(f'{k}={v!r}' for k, v in self.items() if k != 'params')
        return f'ParamGroup({len(self.members)} parameters, {values})'
