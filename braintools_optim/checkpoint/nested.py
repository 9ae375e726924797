"""What a user hands over to be saved, as nested plain data; and States restored from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from brainstate import State, TraceContextError
from saiunit import Quantity

from ..engine.own_state import CoreState
from ..plain import plainly
from .codec import DEPTH, TOO_DEEP
from .devices import placed, placed_parameter
from .judge import Judge
from .tree import plain_text

__all__ = ['LEAVES', 'encoded', 'entries', 'restored']

LEAVES = (bool, int, float, str, bytes, type(None), np.ndarray, np.generic, jax.Array)


def encoded(
    node: Any, where: str, live: Callable[[Any, str], Any] | None = None, depth: int = 1
) -> Any:
    """Return nested data that a file can hold: States as their values, dicts with names as keys.

    ``live`` says what is written of other objects, None of those it does not know; of States and
    data it is told, too, and need say nothing.
    """
    if depth > DEPTH:
        raise ValueError(f'{where:.40}{TOO_DEEP}.')
    if isinstance(node, CoreState):
        raise TypeError(
            f'{where} is a State of an optimizer, which is saved as a whole: give the optimizer '
            f'itself, and of its model model.states(brainstate.ParamState) or those of its parts.'
        )
    if isinstance(node, State):
        if live is not None:
            live(node, where)
        return encoded(_value_of(node, where), where, None, depth)
    if isinstance(node, Quantity):
        return {'mantissa': node.mantissa, 'unit': str(node.unit)}
    if isinstance(node, Mapping):
        return {
            name: encoded(v, f'{where}.{name}', live, depth + 1) for name, v in entries(node, where)
        }
    if isinstance(node, list | tuple):
        return [encoded(v, f'{where}[{i}]', live, depth + 1) for i, v in enumerate(node)]
    if isinstance(node, LEAVES):
        if live is not None:
            live(node, where)
        return node
    known = None if live is None else live(node, where)
    if known is None:
        raise TypeError(
            f'{where} is of type {type(node).__name__}, and files hold dicts and lists of numbers, '
            f'text, arrays, States, optimizers and schedulers: give those (of a model its States, '
            f'model.states()).'
        )
    return known


def _value_of(state: State, where: str) -> Any:
    try:
        return state.value
    except TraceContextError:
        raise ValueError(
            f'{where} is a State that was made in a compiled function, as init_all_states in a '
            f'loss makes them, and has no value outside: save model.states(brainstate.ParamState), '
            f'or make it anew before.'
        ) from None


def entries(node: Mapping, where: str) -> list[tuple[str, Any]]:
    """Return the entries of a dict under names; only States may stand under other keys."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if not isinstance(key, str) and not _is_states(value):
            raise TypeError(
                f'{where} has the key {key!r} of type {type(key).__name__}; data is saved under '
                f'names, since it would come back under them.'
            )
        name = '.'.join(map(str, key)) if isinstance(key, tuple) else str(key)
        name = plain_text(key) if isinstance(key, str) else name
        if name in found:
            raise ValueError(f'{where} has two entries that would be called {name!r}.')
        found[name] = value
    return list(found.items())


def _is_states(node: Any) -> bool:
    inner: Iterable = node.values() if isinstance(node, Mapping) else ()
    inner = node if isinstance(node, list | tuple) else inner
    return isinstance(node, State) or (bool(inner) and all(map(_is_states, inner)))


def restored(old: Any, saved: Any, where: str, judge: Judge) -> Any:
    """Return a State's value with what was saved of it; the judge gets to know what differs."""
    if isinstance(old, Quantity):
        unit = saved.get('unit') if isinstance(saved, Mapping) else None
        if unit != str(old.unit):
            judge.refuse(f'{where} was in {unit}, here it is in {old.unit}')
            return old
        return placed_parameter(saved.get('mantissa'), old, where, judge)
    if isinstance(old, Mapping):
        return _restored_dict(old, saved, where, judge)
    if isinstance(old, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(old):
            judge.refuse(f'{where} must be a list of {len(old)}, got {saved!r:.60}')
            return old
        parts = [
            restored(o, s, f'{where}[{i}]', judge)
            for i, (o, s) in enumerate(zip(old, saved, strict=True))
        ]
        if isinstance(old, list):
            return parts
        return type(old)(*parts) if hasattr(old, '_fields') else tuple(parts)
    if isinstance(old, jax.Array) and jax.dtypes.issubdtype(old.dtype, jax.dtypes.prng_key):
        if getattr(saved, 'dtype', None) != old.dtype or saved.shape != old.shape:
            judge.refuse(f'{where} must be a key {old.dtype}{list(old.shape)}, got {saved!r:.60}')
            return old
        return placed(saved, old)
    if isinstance(old, bool | int | float | str | bytes | None) and not isinstance(old, np.generic):
        if type(plainly(saved)) is not type(old):
            kinds = type(saved).__name__, type(old).__name__
            judge.refuse(f'{where} was a {kinds[0]}, here it is a {kinds[1]}')
        return plainly(saved)
    return placed_parameter(saved, old, where, judge)


def _restored_dict(old: Mapping, saved: Any, where: str, judge: Judge) -> Any:
    if not isinstance(saved, Mapping):
        judge.refuse(f'{where} must be a dict, got {type(saved).__name__}')
        return old
    new = dict(old)
    for (name, value), key in zip(entries(old, where), old, strict=True):
        if name in saved:
            new[key] = restored(value, saved[name], f'{where}.{name}', judge)
        else:
            judge.missing(f'{where}.{name} is missing')
    for name in sorted(set(saved) - {name for name, _ in entries(old, where)}):
        judge.unexpected(f'{where}.{name} is unknown here')
    return new
