"""Reading a chain's state: which of its leaves belongs to which parameter, under which name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import DictKey, GetAttrKey

from .check import is_real
from .paths import Keys, plain_key, plain_keys
from .transforms.absent import is_masked

__all__ = [
    'Slot',
    'check_vectors',
    'may_lie_together',
    'rebuild',
    'slots_of',
    'with_known',
    'with_common',
    'with_dtype',
    'with_masked',
]


class Slot(NamedTuple):
    """A leaf of a chain's state.

    ``parameter`` is the path of the parameter it belongs to, None if it belongs to all. With
    ``per_leaf`` it is a vector with an entry for each parameter, in the order of their tree: of
    such a field the name begins with ``leaf_``.
    """

    name: str
    parameter: Keys | None
    per_leaf: bool
    value: Any


def slots_of(state: Any, parameters: Sequence[Keys]) -> list[Slot]:
    """Return the leaves of a chain's state in order, each with its slot and parameter.

    A leaf belongs to a parameter if its path ends in the parameter's: optax keeps state per
    parameter in trees of the parameters' structure. The slot's name is what stands before,
    without the positions in chains where it is clear without them.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(state, is_leaf=is_masked)
    known = set(parameters)
    found = []
    for path, value in flat:
        starts = (i for i, entry in enumerate(path) if isinstance(entry, DictKey))
        cut = next((i for i in starts if plain_keys(path[i:]) in known), len(path))
        found.append((path[:cut], plain_keys(path[cut:]) or None, value))
    short = [_words(head, GetAttrKey | DictKey) or 'state' for head, _, _ in found]
    full = [_words(head, object) for head, _, _ in found]
    meanings: dict[tuple, set[str]] = {}
    for s, f, (_, owner, _) in zip(short, full, found, strict=True):
        meanings.setdefault((s, owner), set()).add(f)
    names = short if all(len(m) == 1 for m in meanings.values()) else full
    return [
        Slot(name, owner, _is_per_leaf(head), value)
        for name, (head, owner, value) in zip(names, found, strict=True)
    ]


def check_vectors(state: Any, parameters: Sequence[Keys], owner: str) -> None:
    """Raise if a field is named as a vector with an entry for each parameter, and is none."""
    for slot in slots_of(state, parameters):
        if not slot.per_leaf:
            continue
        shape, dtype = jnp.shape(slot.value), jnp.result_type(slot.value)
        if shape != (len(parameters),) or not (jnp.issubdtype(dtype, jnp.bool_) or is_real(dtype)):
            raise TypeError(
                f'the chain of {owner} keeps {slot.name!r}, {dtype}{list(shape)}; a field of a '
                f'state whose name begins with leaf_ is a vector with one real number for each '
                f'array of the parameters, {len(parameters)} here, masked ones too. Choose another '
                f'name.'
            )


def may_lie_together(state: Any, parameters: Sequence[Keys]) -> list[bool]:
    """Return whether a chain's arrays may lie with others, in the order of JAX.

    Those of one parameter may, and how many updates each has had.
    """
    return [
        slot.parameter is not None or _last_word(slot) == 'leaf_counts'
        for slot in slots_of(state, parameters)
        if not is_masked(slot.value)
    ]


def _is_per_leaf(head: tuple) -> bool:
    return bool(head) and str(plain_key(head[-1])).startswith('leaf_')


def _words(head: tuple, kinds: Any) -> str:
    return '.'.join(str(plain_key(entry)) for entry in head if isinstance(entry, kinds))


def rebuild(state: Any, values: Sequence[Any]) -> Any:
    """Return a tree like ``state`` with these leaves, as counted by `slots_of`."""
    return jax.tree.unflatten(jax.tree.structure(state, is_leaf=is_masked), values)


def with_dtype(
    state: Any, parameters: Sequence[Keys], names: Sequence[str], dtype: Any, owner: str
) -> Any:
    """Return the state with the slots of these names in another dtype; raise if there are none."""
    slots = slots_of(state, parameters)
    if not any(_last_word(slot) in names for slot in slots):
        kept = ', '.join(sorted({slot.name for slot in slots})) or 'nothing'
        sought = ' or '.join(names)
        raise ValueError(f'{owner} keeps no {sought} to be kept in {dtype}; it keeps {kept}.')
    moved = [_last_word(s) in names and not is_masked(s.value) for s in slots]
    return rebuild(
        state,
        [
            s.value.astype(dtype) if there and not jnp.iscomplexobj(s.value) else s.value
            for s, there in zip(slots, moved, strict=True)
        ],
    )


def _last_word(slot: Slot) -> str:
    return slot.name.rpartition('.')[2]


def with_masked(state: Any, parameters: Sequence[Keys], absent: set[Keys]) -> Any:
    """Return the state with a MaskedNode in every slot of the absent parameters."""
    slots = slots_of(state, parameters)
    return rebuild(state, [optax.MaskedNode() if s.parameter in absent else s.value for s in slots])


def with_common(state: Any, other: Any, parameters: Sequence[Keys]) -> Any:
    """Return the state with what belongs to all parameters as it is in the other one."""
    if state is other:
        return state
    pairs = zip(slots_of(state, parameters), slots_of(other, parameters), strict=True)
    return rebuild(
        state,
        [o.value if s.parameter is None and not s.per_leaf else s.value for s, o in pairs],
    )


def with_known(new: Any, parameters: Sequence[Keys], old: Any, known: Sequence[Keys]) -> Any:
    """Return ``new`` with what ``old`` has for the parameters ``known`` and for all together."""
    before = {(s.name, s.parameter): s.value for s in slots_of(old, known)}
    order = {path: i for i, path in enumerate(parameters)}
    moved = np.array([order[path] for path in known])

    def merged(slot: Slot) -> Any:
        value = before.get((slot.name, slot.parameter), slot.value)
        return slot.value.at[moved].set(value) if slot.per_leaf else value

    return rebuild(new, [merged(slot) for slot in slots_of(new, parameters)])
