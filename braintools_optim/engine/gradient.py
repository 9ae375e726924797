"""Which gradient belongs to which parameter."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO, JAXSparse
from saiunit import Quantity

from ..paths import Keys, elementary, path_name, plain_keys
from ..state import UniqueStateManager
from ..transforms.sparse import coalesced
from .compiled import NUMBERS
from .leaf import Leaf

__all__ = ['assigned', 'gradient_of', 'match_gradients', 'refuse_non_arrays']

_NO_NUMBERS = frozenset('OSUMm')  # NumPy's kinds of objects, text, and times


def refuse_non_arrays(grads: Any) -> None:
    """Raise if a gradient is not an array of numbers."""
    try:
        flat, _ = jax.tree_util.tree_flatten_with_path(grads)
    except ValueError as error:
        if 'dictionary keys' in str(error):
            error.add_note(
                'JAX sorts the keys of a dict, so all of one have to be of one type: differentiate '
                'by opt.param_states.to_pytree(), which has tuples for all.'
            )
        raise
    for path, g in flat:
        numeric = getattr(getattr(g, 'dtype', None), 'kind', None) not in _NO_NUMBERS
        if isinstance(g, NUMBERS) and numeric:
            continue
        came = type(g).__name__ if numeric else f'an array of {g.dtype}'
        if not path:
            raise TypeError(
                f'step needs gradients, a pytree of arrays under the keys of their parameters, got '
                f'{came}; only LBFGS takes a closure. Compute them by '
                f'brainstate.transform.grad(loss, params)().'
            )
        raise TypeError(
            f'the gradient of {path_name(path)!r} must be an array of numbers, got {came}.'
        )


def _unpacked(grads: Any) -> str:
    """Return a hint for what is not a tree of gradients."""
    if isinstance(grads, tuple) and len(grads) == 2:
        first, second = ([jnp.ndim(x) for x in jax.tree.leaves(part)] == [0] for part in grads)
        if second:
            return ' With return_value=True, grad returns (gradients, loss): give step the first.'
        if first:
            return ' jax.value_and_grad returns (loss, gradients): give step the second.'
    if isinstance(grads, jax.Array | float) and jnp.ndim(grads) == 0:
        return ' If this is the loss: step takes its gradients.'
    return ''


def _of_the_whole(grads: Any, strays: list[Keys], manager: UniqueStateManager) -> str:
    """Return a hint for gradients of a model, of which parts were registered by their own keys."""
    parts = [elementary(path) for path in manager.aliases()]

    def within(keys: Keys) -> bool:
        keys = elementary(keys)
        return any(keys[i : i + len(p)] == p for p in parts for i in range(len(keys)) if p)

    if not isinstance(grads, Mapping) or not strays or not all(map(within, strays)):
        return ''
    return (
        ' These seem to be of a model of which only parts were registered, each by its own keys: '
        'differentiate by opt.param_states.to_pytree(), or register States that '
        'model.states(brainstate.ParamState) of the whole model gives.'
    )


def _tree_of(missing: list[Leaf], leaves: list[Leaf], manager: UniqueStateManager) -> str:
    """Return a hint for a parameter that is a tree, and so is its gradient."""
    for leaf in missing:
        if len(leaf.path) > leaf.depth:
            inner = [path_name(x.path[x.depth :]) for x in leaves if x.state == leaf.state]
            name = manager.names[leaf.state]
            return f' The gradient of {name!r} is a tree as its value is, with {", ".join(inner)}.'
    return ''


Place = tuple[int, Keys]
"""A State, and keys within its value."""

Finder = Callable[[Keys], list[Place]]
"""Finds, for the keys of a gradient, the States it may belong to and its place in their values."""


def match_gradients(
    grads: Any, values: Sequence[Any], manager: UniqueStateManager, leaves: list[Leaf]
) -> list[jax.Array | None]:
    """Return what the chain sees as the gradient of each leaf, or None where there is none.

    They are found by :func:`assigned`.
    """
    given, owned = assigned(grads, manager, leaves)
    return [
        gradient_of(leaf, [given[i] for i in own], value)
        for leaf, own, value in zip(leaves, owned, values, strict=True)
    ]


def gradient_of(leaf: Leaf, shares: Sequence[Any], value: Any) -> Any:
    """Return what the chain sees of the shares of a leaf's gradient, None of none."""
    return _combined([leaf.gradient(g, value) for g in shares])


def assigned(
    grads: Any, manager: UniqueStateManager, leaves: list[Leaf]
) -> tuple[list[Any], list[list[int]]]:
    """Return the gradients given, and of each leaf the positions of its own among them.

    A tree of gradients is read by the keys of ``manager.to_pytree()`` or by the keys under which
    the parameters were registered; by names; or with nested keys for tuples and the other way
    round: by the first reading that explains the most of it. Gradients that belong to nobody
    raise if a parameter goes without: most likely they are its own under a wrong key.
    """
    if grads is None:
        raise TypeError(
            'step needs gradients, got None: compute grads = brainstate.transform.grad(loss, '
            'params)(), and call step(grads).'
        )
    refuse_non_arrays(grads)
    flat, _ = jax.tree_util.tree_flatten_with_path(grads, is_leaf=_is_gradient_leaf)
    given = [(plain_keys(path), g) for path, g in flat]
    at: dict[Place, int] = {(x.state, x.path[x.depth :]): i for i, x in enumerate(leaves)}
    found = _best_reading([keys for keys, _ in given], manager, at)

    owned: list[list[int]] = [[] for _ in leaves]
    claimed: set[int] = set()
    strays: list[Keys] = []
    foreign: list[Keys] = []  # inside a known parameter, where it has no such leaf
    for position, ((keys, g), place) in enumerate(zip(given, found, strict=True)):
        if place is not None and place in at:
            claimed.add(at[place])
            if g is not None:
                owned[at[place]].append(position)
        elif place is not None and g is None:  # None for a whole State
            state, tail = place
            claimed |= {i for i, x in enumerate(leaves) if x.state == state and not tail}
        elif g is not None:
            (strays if place is None else foreign).append(keys)
    missing = [leaf for i, leaf in enumerate(leaves) if i not in claimed]
    if foreign or not claimed or (strays and missing):
        culprits = ', '.join(map(_show, foreign or strays))
        came = f'gradients under {culprits} match no parameter' if culprits else 'no gradients came'
        lacking = ', '.join(leaf.name for leaf in missing) or 'none'
        hint = _of_the_whole(grads, strays, manager) or _tree_of(missing, leaves, manager)
        raise KeyError(
            f'{came}; without a gradient are {lacking}. Expected the keys of the registered '
            f'parameters: {", ".join(manager.names)}.{hint}{_unpacked(grads)}'
        )
    return [g for _, g in given], owned


def _best_reading(
    keys: list[Keys], manager: UniqueStateManager, leaves: Container[Place]
) -> list[Place | None]:
    """Return, for each gradient, its State and its place in the State's value."""
    own = [plain_keys(path) for path in manager.unique_paths]
    by_own = _finder({path: [i] for i, path in enumerate(own)})
    by_registered = _finder(manager.aliases())
    exact = [_read(keys, by_own), _read(keys, by_registered)]
    # A State that was given alone, without keys, is found under all keys: is there such a leaf?
    there = [_fitting(reading, leaves) for reading in exact]
    _, best = max(zip(there, exact, strict=True), key=lambda x: (_explained(x[1]), len(x[0])))
    if all(_explained(r) == _explained(best) for r in exact):
        _refuse_ambiguity(keys, there[0], there[1], manager)
    named = _finder({(name,): [i] for i, name in enumerate(manager.names)})
    loose = _finder(_grouped(manager.aliases()))
    for finder in (named, lambda k: loose(elementary(k))):
        other = _read(keys, finder)
        if _explained(other) > _explained(best):
            best = other
    for k, places in zip(keys, best, strict=True):
        if len(places) > 1:
            raise _ambiguous(k, [i for i, _ in places], manager)
    return [places[0] if places else None for places in best]


def _finder(owners: dict[Keys, list[int]]) -> Finder:
    def find(keys: Keys) -> list[Place]:
        for depth in range(len(keys), -1, -1):
            if keys[:depth] in owners:
                return [(i, keys[depth:]) for i in owners[keys[:depth]]]
        return []

    return find


def _grouped(owners: dict[Keys, list[int]]) -> dict[Keys, list[int]]:
    loose: dict[Keys, list[int]] = {}
    for keys, found in owners.items():
        entry = loose.setdefault(elementary(keys), [])
        entry += [i for i in found if i not in entry]
    return loose


def _read(keys: list[Keys], finder: Finder) -> list[list[Place]]:
    return [finder(k) for k in keys]


def _explained(reading: list[list[Place]]) -> int:
    return sum(map(bool, reading))


def _fitting(reading: list[list[Place]], leaves: Container[Place]) -> dict[int, list[Place]]:
    """Return the places where there is an array, by the number of the gradient."""
    there = {i: [p for p in places if p in leaves] for i, places in enumerate(reading)}
    return {i: places for i, places in there.items() if places}


def _refuse_ambiguity(
    keys: list[Keys],
    one: dict[int, list[Place]],
    other: dict[int, list[Place]],
    manager: UniqueStateManager,
) -> None:
    """Raise where the keys of `to_pytree` and those of registration mean different parameters."""
    for i in one.keys() & other.keys():
        if one[i] != other[i]:
            raise _ambiguous(keys[i], sorted({s for s, _ in (*one[i], *other[i])}), manager)


def _ambiguous(keys: Keys, owners: list[int], manager: UniqueStateManager) -> ValueError:
    names = ' or '.join(repr(manager.names[i]) for i in owners)
    return ValueError(
        f'the gradient under {_show(keys)} may belong to {names}: several parameters were '
        f'registered under these keys. Give gradients in the form of opt.param_states.to_pytree(); '
        f'where one took the place of another that is no longer trained, build a new optimizer.'
    )


def _combined(shares: list[jax.Array]) -> jax.Array | None:
    """Return the gradient of a leaf that is reached by several names.

    brainstate's grad gives the whole gradient under each name of a tied State: equal values
    count once. Values that differ are the shares of each use, and add up.
    """
    if not shares:
        return None
    total = shares[0]
    for other in shares[1:]:
        if isinstance(total, BCOO):
            total = _sum_of(total, other)
            continue
        same = (total == other) | (jnp.isnan(total) & jnp.isnan(other))
        total = jnp.where(same.all(), total, total + other)
    return total


def _sum_of(one: BCOO, other: BCOO) -> BCOO:
    """Return what sparse shares of a gradient add up to; equal ones count once."""
    added = other.data
    if one.nse == other.nse:
        same_numbers = (one.data == other.data) | (jnp.isnan(one.data) & jnp.isnan(other.data))
        same = (one.indices == other.indices).all() & same_numbers.all()
        added = jnp.where(same, jnp.zeros_like(added), added)
    data = jnp.concatenate([one.data, added])
    indices = jnp.concatenate([one.indices, other.indices])
    return coalesced(BCOO((data, indices), shape=one.shape))


def _is_gradient_leaf(x: Any) -> bool:
    return x is None or isinstance(x, Quantity | JAXSparse)


def _show(keys: Keys) -> str:
    if not keys:
        return 'no key (a bare array)'
    return repr(keys[0]) if len(keys) == 1 else repr(keys)
