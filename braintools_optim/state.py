"""Which State is which parameter, and under which name.

A parameter is a :class:`brainstate.State`. Its identity is the object; its names are the paths
under which it was registered. One State under two paths is one parameter with an alias; two
States under one path are two parameters, and the second gets a path of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set, ValuesView
from typing import Any, NoReturn

import brainstate
import jax
import jax.numpy as jnp
from brainstate import BatchState, ShortTermState, State
from brainstate.graph import Node, states
from brainstate.random import RandomState
from jax.tree_util import DictKey

from .paths import Keys, elementary, nest, path_name, plain_key, plain_keys, spelled_out

__all__ = [
    *('PASSING', 'OptimState', 'RegisteredStates', 'UniqueStateManager', 'check_trainable'),
    *('two_called', 'with_copies'),
]


class OptimState(brainstate.LongTermState):
    """A State that belongs to an optimizer or scheduler rather than to the model."""

    def duplicate(self) -> OptimState:
        """Return a State of its own with a copy of the value."""
        own = jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, self.value)
        return type(self)(own)


PASSING = (ShortTermState, RandomState, OptimState)
"""States of a run, not of what was learned."""


def check_trainable(manager: UniqueStateManager, positions: Sequence[int]) -> None:
    """Raise for States at these positions that something else than gradients changes."""
    found, names = manager.unique_states, manager.names
    for i in positions:
        if isinstance(found[i], (*PASSING, BatchState)):
            raise TypeError(
                f'{names[i]!r} is a {type(found[i]).__name__}, which is no parameter: what '
                f'the model itself writes is not trained. Register '
                f'model.states(brainstate.ParamState).'
            )


def is_state(x: Any) -> bool:
    """Whether ``x`` is a State, for the ``is_leaf`` of tree functions."""
    return isinstance(x, State)


def _unsorted(whose: str) -> TypeError:
    return TypeError(
        f'the keys {whose} cannot be sorted among each other, as JAX sorts the keys of a dict; use '
        f'keys of one type at each level.'
    )


def two_called(name: str) -> ValueError:
    """Return the error of two parameters whose keys give them one name."""
    return ValueError(f'two parameters would be called {name!r}: rename one of their keys.')


class UniqueStateManager:
    """The distinct States of one or more pytrees, each under a path and a name of its own.

    Parameters
    ----------
    pytree : pytree of State, optional
        The first tree to take in.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from brainstate import ParamState
    >>> tied, other = ParamState(jnp.ones(2)), ParamState(jnp.zeros(3))
    >>> manager = UniqueStateManager({'encoder': {'w': tied}, 'decoder': {'w': tied, 'b': other}})
    >>> list(manager.to_dict())
    ['decoder.b', 'decoder.w']
    """

    def __init__(self, pytree: Any = None):
        self._empty()
        if pytree is not None:
            self.make_unique(pytree)

    def clear(self) -> None:
        """Forget all States."""
        self._empty()

    def _empty(self) -> None:
        self._paths: list[tuple] = []  # the key path in `to_pytree`, one for each State
        self._states: list[State] = []
        self._names: dict[str, int] = {}  # readable name -> position
        self._leaves: set[tuple] = set()  # the plain keys of each path ...
        self._branches: set[tuple] = set()  # ... and of everything above it
        self._root_types: set[type] = set()  # of the outermost keys
        self._index: dict[int, int] = {}  # id of a State -> its position
        self._reached: dict[Keys, list[int]] = {}  # every registered path -> who was found there

    def make_unique(self, pytree: Any) -> Any:
        """Start anew with the States of ``pytree``; return the tree of the distinct ones."""
        self.clear()
        return self.merge_with(pytree).to_pytree()

    def merge_with(self, other_pytree: Any) -> UniqueStateManager:
        """Take in the States of another tree, or none; those already known keep their names."""
        grown = self.copy()
        grown._take_in(other_pytree)
        self.adopt(grown)
        return self

    def _take_in(self, other_pytree: Any) -> None:
        if isinstance(other_pytree, ValuesView | Iterator | Set):
            raise TypeError(
                f'expected a pytree of brainstate.State, got {type(other_pytree).__name__}, which '
                f'is none: give them as a dict, or as list(...) of what came.'
            )
        try:
            leaves, _ = jax.tree_util.tree_flatten_with_path(other_pytree, is_leaf=is_state)
        except ValueError as error:
            raise _unsorted('of the given tree') from error
        for path, leaf in leaves:
            if not is_state(leaf):
                way = 'pass the States (for example model.states(brainstate.ParamState))'
                if not isinstance(leaf, Node):
                    way += ', not their values; wrap arrays that have none: ParamState(arrays)'
                raise TypeError(
                    f'expected a pytree of brainstate.State, got {type(leaf).__name__} at '
                    f'{path_name(path) or "its root"}; {way}.'
                )
        for path, leaf in leaves:
            position = self._index.get(id(leaf))
            there = self._reached.get(plain_keys(path), ())
            if position is not None and there and position not in there:
                raise ValueError(
                    f'{path_name(path)!r} was registered as another parameter than the one that '
                    f'the new tree has there, {self.names[position]!r}: gradients under these keys '
                    f'would be ambiguous. Register only what is new.'
                )
            if position is None:
                position = self._add(path or (DictKey('param'),), leaf)
            reached = self._reached.setdefault(plain_keys(path), [])
            if position not in reached:
                reached.append(position)
        self._check_order()

    def _check_order(self) -> None:
        """Raise if JAX could not sort the keys of `to_pytree`."""
        try:
            jax.tree.structure(self.to_pytree(), is_leaf=is_state)
        except ValueError as error:
            raise _unsorted(f'of {", ".join(self.names)}') from error

    def _add(self, path: tuple, state: State) -> int:
        position = len(self._states)
        path = self._free_path(path)
        name = path_name(path)
        if name in self._names:  # only spellings such as {'a.b': x, 'a': {'b': y}} get here
            name = spelled_out(path)
            if name in self._names:
                raise two_called(name)
        self._index[id(state)] = position
        self._states.append(state)
        self._paths.append(path)
        self._names[name] = position
        keys = plain_keys(path)
        self._leaves.add(keys)
        self._root_types.add(type(keys[0]))
        self._branches.update(keys[:depth] for depth in range(1, len(keys)))
        return position

    def _free_path(self, path: tuple) -> tuple:
        """Return ``path``, or the nearest one that can stand in a dict beside those there are."""
        root_keys = self._root_types
        first = plain_key(path[0])
        if root_keys and type(first) not in root_keys:
            if tuple in root_keys and isinstance(first, str):
                path = (DictKey(elementary(plain_keys(path))),)
            elif str in root_keys and isinstance(first, tuple):
                path = (*map(DictKey, first), *path[1:])
            else:
                raise TypeError(
                    f'keys of one tree must be of one type: {path_name(path)!r} has a key of type '
                    f'{type(first).__name__}, and the parameters registered so far have '
                    f'{", ".join(sorted(t.__name__ for t in root_keys))}.'
                )
        number, free = 1, path
        while (clash := self._clash(free)) is not None:
            number += 1
            free = (*path[:clash], _renumbered(path[clash], number), *path[clash + 1 :])
        return free

    def _clash(self, path: tuple) -> int | None:
        """Return the position of the key that keeps ``path`` from being a new leaf, if any."""
        keys = plain_keys(path)
        for depth in range(1, len(keys)):
            if keys[:depth] in self._leaves:
                return depth - 1
        return len(keys) - 1 if keys in self._leaves or keys in self._branches else None

    def to_pytree(self) -> Any:
        """Return nested dicts with the States as leaves."""
        return nest(self._paths, self._states)

    def to_pytree_value(self) -> Any:
        """Return nested dicts with the States' values as leaves."""
        return nest(self._paths, [state.value for state in self._states])

    def to_dict(self) -> dict[str, State]:
        """Return the States by name."""
        return dict(zip(self._names, self._states, strict=True))

    def to_dict_value(self) -> dict[str, Any]:
        """Return the States' values by name."""
        return {name: state.value for name, state in self.to_dict().items()}

    def get_flattened(self) -> list[tuple[tuple, State]]:
        """Return the (path, State) pairs."""
        return list(zip(self._paths, self._states, strict=True))

    def get_state_by_path(self, target_path: Any) -> State | None:
        """Return the State at a path (JAX key path, plain keys, or name), None if there is none."""
        position = self._position(target_path)
        return None if position is None else self._states[position]

    def update_state(self, target_path: Any, new_state: State) -> bool:
        """Put ``new_state`` in the place of the State at a path; return whether there was one."""
        position = self._position(target_path)
        if position is None:
            return False
        self._put(position, new_state)
        return True

    def _put(self, position: int, new_state: State) -> None:
        """Put ``new_state`` in the place of the State at a position."""
        if self._index.get(id(new_state), position) != position:
            raise ValueError(
                f'the new State for {self.names[position]!r} is already registered as '
                f'{self.names[self._index[id(new_state)]]!r}.'
            )
        del self._index[id(self._states[position])]
        self._index[id(new_state)] = position
        self._states[position] = new_state

    def position(self, state: State) -> int:
        """Return the position of a State in the order of registration."""
        return self._index[id(state)]

    def copy(self) -> UniqueStateManager:
        """Return a manager of the same States that can grow on its own."""
        new = UniqueStateManager()
        new.adopt(self)
        return new

    def adopt(self, other: UniqueStateManager) -> None:
        """Become a copy of another manager."""
        self.__dict__.update({name: value.copy() for name, value in other.__dict__.items()})
        self._reached = {keys: owners.copy() for keys, owners in other._reached.items()}

    def _position(self, target_path: Any) -> int | None:
        if isinstance(target_path, str) and target_path in self._names:
            return self._names[target_path]
        wanted = plain_keys(target_path if isinstance(target_path, tuple) else (target_path,))
        for same in (lambda k: k, elementary):
            sought = same(wanted)
            for position, path in enumerate(self._paths):
                if same(plain_keys(path)) == sought:
                    return position
        return None

    @property
    def flattened_states(self) -> list[tuple[tuple, State]]:
        """The (path, State) pairs."""
        return self.get_flattened()

    @property
    def unique_paths(self) -> list[tuple]:
        """The key path of each State."""
        return list(self._paths)

    @property
    def unique_states(self) -> list[State]:
        """The distinct States, in order of registration."""
        return list(self._states)

    @property
    def names(self) -> list[str]:
        """The readable name of each State, in order of registration."""
        return list(self._names)

    @property
    def num_unique_states(self) -> int:
        """How many distinct States there are."""
        return len(self._states)

    @property
    def seen_ids(self) -> set[int]:
        """The ids of the distinct States."""
        return set(self._index)

    @property
    def pytree_structure(self) -> Any:
        """The structure of :meth:`to_pytree`, None without States."""
        return jax.tree.structure(self.to_pytree(), is_leaf=is_state) if self._states else None

    def aliases(self) -> dict[Keys, list[int]]:
        """Return every registered path with the positions of the States found there."""
        return {keys: positions.copy() for keys, positions in self._reached.items()}

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, state: object) -> bool:
        return id(state) in self._index

    def __iter__(self) -> Iterator[State]:
        return iter(self._states)


class RegisteredStates(UniqueStateManager):
    """The States of an optimizer, which only the optimizer changes: it keeps moments for them."""

    __slots__ = ('owner',)  # not among what `adopt` copies

    def __init__(self, owner: str):
        super().__init__()
        self.owner = owner

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(
            f'the param_states of {self.owner} are those that it keeps state for. Register more by '
            f'register_trainable_weights or add_param_group; assign to the value of a State to '
            f'replace its array; build a new {self.owner} for other States.'
        )

    clear = make_unique = merge_with = update_state = _refuse  # type: ignore[assignment]  # none of them is called


def _renumbered(entry: Any, number: int) -> DictKey:
    """Return a key changed for the n-th parameter that wants it."""
    key = plain_key(entry)
    if isinstance(key, int):
        return DictKey(key + number - 1)
    if isinstance(key, tuple):
        return DictKey((*key[:-1], f'{key[-1]}_{number}'))
    return DictKey(f'{key}_{number}')


def with_copies(manager: UniqueStateManager, memo: dict) -> UniqueStateManager:
    """Return a manager of the States of the copied models in a memo of :func:`copy.deepcopy`.

    brainstate copies a model as a whole, so only the model itself is found there. Those of other
    States stay.
    """
    copies: dict[int, State] = {}
    for original in memo.get(id(memo), ()):
        if isinstance(original, Node) and isinstance(memo.get(id(original)), Node):
            there = states(memo[id(original)])
            copies |= {id(state): there[path] for path, state in states(original).items()}
    new = manager.copy()
    for position, state in enumerate(manager):
        if id(state) in copies:
            new._put(position, copies[id(state)])
    return new
