"""Checking what was saved of a chain's state, slot by slot, against that of a live group."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..check import is_plain_number
from ..plain import plainly
from ..slot import rebuild
from ..transforms.absent import is_masked
from .devices import placed
from .export import named_slots, slot_name
from .judge import Judge

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['checked_slots']

_COUNTS = re.compile(r'(.*[._])?(counts?|leaf_added)')
"""The names of integers that are never negative in the state of any chain."""


def checked_slots(
    optimizer: OptaxOptimizer, group: ParamGroup, saved: Mapping, judge: Judge
) -> Any:
    """Return the group's chain state as it was saved; the judge gets to know what differs."""
    slots, names = named_slots(optimizer, group, anew=True)  # what is added up here is not theirs
    where = f'group {group.index}'
    known = optimizer.never_negative if group.fixed_chain is None else ()
    wanted: set[tuple[str, str]] = set()
    values: list[Any] = []

    def take(slot: str, name: str) -> Any:
        wanted.add((slot, name))
        value = saved.get(slot, {}).get(name)
        if value is None:
            judge.missing(f'{where}: {slot} of {name or "the group"} is missing')
        return value

    for slot in slots:
        mine = slot.value
        if slot.per_leaf:
            entries = [plainly(take(slot.name, name)) for name in names.values()]
            values.append(_checked_vector(entries, mine, slot.name, known, where, judge))
        elif is_masked(mine):
            values.append(mine)
        else:
            name = slot_name(slot, names)
            value = take(slot.name, name)
            what = f'{where}: {slot.name} of {name or "the group"}'
            positive = _never_negative(slot.name, mine.dtype, known)
            values.append(
                mine if value is None else _checked_array(value, mine, what, positive, judge)
            )
    for slot_key in saved:
        for name in saved[slot_key]:
            if (slot_key, name) not in wanted:
                judge.unexpected(f'{where}: {slot_key} of {name or "the group"} is unknown here')
    return rebuild(optimizer._core.chain(group.index), values)


def _never_negative(name: str, dtype: Any, known: Sequence[str]) -> bool:
    """Whether what has this name in a chain is never negative: a count, or in what is ``known``."""
    if not set(known).isdisjoint(name.split('.')):
        return True
    return _COUNTS.fullmatch(name) is not None and np.issubdtype(dtype, np.integer)


def _checked_vector(
    entries: list[Any], mine: Any, name: str, known: Sequence[str], where: str, judge: Judge
) -> Any:
    """Return a vector of one number for each parameter; what is missing stays as it is."""
    here = np.asarray(mine).tolist()
    entries = [h if x is None else x for x, h in zip(entries, here, strict=True)]
    positive = _never_negative(name, mine.dtype, known)
    allowed, fits = _entries_allowed(mine.dtype, positive)
    if not all(map(fits, entries)):
        judge.refuse(f'{where}: {name} must be {allowed}, got {entries}')
        return None
    array = judge.array(_narrowest(entries, mine.dtype), mine, f'{where}: {name}')
    return None if array is None else placed(array, mine)


def _narrowest(entries: list[Any], dtype: Any) -> np.ndarray:
    """Return numbers in a dtype that holds them, or in the widest."""
    given = np.asarray(entries)
    with np.errstate(over='ignore'):
        array = given.astype(dtype)
    return array if np.array_equal(array, given, equal_nan=True) else given


def _checked_array(value: Any, mine: Any, what: str, positive: bool, judge: Judge) -> Any:
    if jax.dtypes.issubdtype(mine.dtype, jax.dtypes.prng_key):
        return _checked_key(value, mine, what, judge)
    array = judge.array(value, mine, what)
    if array is None:
        return None
    if positive and np.any(array < 0):
        wish = 'be a count' if array.dtype.kind == 'i' else 'not be negative anywhere'
        judge.refuse(f'{what} must {wish}, got {np.min(array)}')
    return placed(array, mine)


def _checked_key(value: Any, mine: Any, what: str, judge: Judge) -> Any:
    """Return a key of random numbers, written as its kind and its words."""
    impl = str(jax.random.key_impl(mine))
    given = value.get('key_impl') if isinstance(value, Mapping) else None
    if given != impl:
        judge.refuse(f'{what} must be a key of {impl}, got {given or type(value).__name__}')
        return None
    data = judge.array(value.get('key_data'), jax.random.key_data(mine), what)
    return (
        None if data is None else placed(jax.random.wrap_key_data(jnp.array(data), impl=impl), mine)
    )


def _entries_allowed(dtype: Any, positive: bool) -> tuple[str, Callable[[Any], bool]]:
    """Return what may stand in a vector, in words and as a check."""
    if np.issubdtype(dtype, np.bool_):
        return 'True or False', lambda x: isinstance(x, bool)
    if not np.issubdtype(dtype, np.integer):
        # What is not negative is nowhere compared with nan.
        return 'numbers', lambda x: is_plain_number(x) and not (positive and x < 0)
    low, high, allowed = np.iinfo(dtype).min, np.iinfo(dtype).max, f'integers of {dtype}'
    if positive:
        low, high, allowed = 0, min(high, 2**31 - 1), 'counts in [0, 2**31)'
    return allowed, lambda x: type(x) is int and low <= x <= high
