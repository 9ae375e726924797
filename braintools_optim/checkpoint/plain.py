"""An optimizer as nested plain data (dicts of str keys, lists, numbers, numpy arrays), and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..hyper import check_number
from ..slot import Slot, is_masked, rebuild, slots_of
from ..state import Keys
from ..step import GroupPlan
from .errors import IncompatibleCheckpoint

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['export', 'restore']

VERSION = [1, 0]
ALL = ''  # the parameter name of a slot that belongs to the whole group


def export(optimizer: OptaxOptimizer) -> dict[str, Any]:
    """Return a snapshot: copies, never live buffers."""
    groups = {str(g.index): _export_group(optimizer, g) for g in optimizer.param_groups}
    states = {str(g.index): _export_slots(optimizer, g) for g in optimizer.param_groups}
    return {
        'format': list(VERSION),
        'optimizer': type(optimizer).__name__,
        'step_count': int(optimizer.step_count.value),
        'lr': optimizer.current_lr,
        'base_lr': optimizer.base_lr,
        'options': {k: getattr(optimizer, k) for k in optimizer._options},
        'param_groups': groups,
        'opt_state': states,
        'schedulers': [s.state_dict() for s in optimizer._all_schedulers()],
    }


def _export_group(optimizer: OptaxOptimizer, group: ParamGroup) -> dict[str, Any]:
    names = optimizer.param_states.names
    values = {k: group.number(k) for k in optimizer._numbers}
    return {
        'params': [names[i] for i in group.members],
        **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()},
        **{k: _plain_flag(v) for k, v in group.flags.items()},
    }


def _plain_flag(flag: Any) -> Any:
    """Return what is written of a flag; of a function its name, which outlives the process."""
    if isinstance(flag, bool | str | None):
        return flag
    if isinstance(flag, tuple):  # a chain is its functions
        return [_plain_flag(x) for x in flag]
    name = getattr(flag, '__qualname__', None)
    return repr(flag) if name is None else f'{flag.__module__}.{name}'


def _slots(optimizer: OptaxOptimizer, group: ParamGroup) -> tuple[list[Slot], dict[Keys, str]]:
    """Return the slots of a group's state, and its parameters' names by path, in tree order."""
    plan = GroupPlan.of(optimizer.param_states, optimizer._leaves, group.members)
    leaves = [optimizer._leaves[i] for i in plan.leaves]
    names = {leaf.path: leaf.name for leaf in leaves}
    return slots_of(optimizer._core.value[0][group.index], list(names)), names


def _export_slots(optimizer: OptaxOptimizer, group: ParamGroup) -> dict[str, dict[str, Any]]:
    slots, names = _slots(optimizer, group)
    exported: dict[str, dict[str, Any]] = {}
    for slot in slots:
        entry = exported.setdefault(slot.name, {})
        if slot.per_leaf:
            entry.update(zip(names.values(), np.asarray(slot.value).tolist(), strict=True))
        elif not is_masked(slot.value):  # a masked leaf holds nothing
            entry[_name(slot, names)] = np.array(slot.value)
    return exported


def _name(slot: Slot, names: dict[Keys, str]) -> str:
    return ALL if slot.parameter is None else names[slot.parameter]


def restore(optimizer: OptaxOptimizer, saved: Mapping[str, Any]) -> None:
    """Check everything, then take everything over; raise with all differences otherwise."""
    if not len(optimizer.param_states):
        raise IncompatibleCheckpoint(
            ['the optimizer has no parameters yet; call register_trainable_weights before loading']
        )
    wrong: list[str] = []
    saved = _as_dict(saved, 'the checkpoint', wrong)
    expected = ('optimizer', 'step_count', 'param_groups', 'opt_state', 'schedulers', 'options')
    wrong += [f'{key!r} is missing' for key in expected if key not in saved]
    name = type(optimizer).__name__
    if saved.get('optimizer', name) != name:
        wrong.append(f'it was saved by {saved["optimizer"]}, this is {name}')
    count = saved.get('step_count', 0)
    if not _is_count(count):
        wrong.append(f'step_count must be in [0, 2**31), got {count!r}')
    groups = _as_dict(saved.get('param_groups', {}), 'param_groups', wrong)
    states = _as_dict(saved.get('opt_state', {}), 'opt_state', wrong)
    live = {str(g.index) for g in optimizer.param_groups}
    for what, part in (('param_groups', groups), ('opt_state', states)):
        if what in saved and set(part) != live:
            theirs = sorted(map(str, part))
            wrong.append(f'{what} has groups {theirs}, this optimizer has {sorted(live)}')
    numbers: dict[tuple[int, str], Any] = {}
    new_states: list[Any] = []
    for group in optimizer.param_groups:
        key, where = str(group.index), f'group {group.index}'
        if key in groups:
            values = _as_dict(groups[key], where, wrong)
            numbers |= _checked_group(optimizer, group, values, wrong)
        if key in states:
            slots = _as_dict(states[key], f'the state of {where}', wrong)
            slots = {s: _as_dict(v, f'{where}: {s}', wrong) for s, v in slots.items()}
            new_states.append(_checked_slots(optimizer, group, slots, wrong))
    options = _as_dict(saved.get('options', {}), 'options', wrong)
    numbers |= _checked_options(optimizer, options, wrong)
    schedulers = saved.get('schedulers', [])
    _check_schedulers(optimizer, schedulers, wrong)
    if wrong:
        raise IncompatibleCheckpoint(wrong)
    place = optimizer._core.value[1]
    with optimizer._undone_on_error():
        count = _placed(np.asarray(count, np.int32), place)
        optimizer._core.value = (tuple(new_states), count)
        for scheduler, state in zip(optimizer._all_schedulers(), schedulers, strict=True):
            scheduler._restore(state)
        optimizer._table.write(numbers)


def _as_dict(value: Any, what: str, wrong: list[str]) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    wrong.append(f'{what} must be a dict, got {type(value).__name__}')
    return {}


def _is_count(value: Any) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and 0 <= value < 2**31


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checked_group(
    optimizer: OptaxOptimizer, group: ParamGroup, saved: Mapping, wrong: list[str]
) -> dict[tuple[int, str], Any]:
    mine = _export_group(optimizer, group)
    where = f'group {group.index}'
    if sorted(saved.get('params', ())) != sorted(mine['params']):
        wrong.append(
            f"{where} has parameters {sorted(saved.get('params', ()))}, this optimizer's has "
            f'{sorted(mine["params"])}'
        )
    for key in sorted(set(saved) ^ set(mine)):
        wrong.append(f'{where}: {key!r} is {"missing" if key in mine else "unknown here"}')
    numbers: dict[tuple[int, str], Any] = {}
    for key in set(saved) & set(mine) - {'params'}:
        if key in group.flags:
            if saved[key] != mine[key]:
                wrong.append(f'{where}: {key} was {saved[key]!r}, here it is {mine[key]!r}')
            continue
        try:
            value = check_number(type(optimizer).__name__, key, saved[key], optimizer._numbers[key])
        except (TypeError, ValueError) as error:
            wrong.append(f'{where}: {error}')
            continue
        if key in group.unused and value != 0.0:
            wrong.append(f'{where}: {key} was {value}, here it was built with 0 and has no state')
        numbers[group.index, key] = value
    try:
        optimizer._validate_changes(group, numbers)
    except (TypeError, ValueError) as error:
        wrong.append(f'{where}: {error}')
    return numbers


def _checked_options(
    optimizer: OptaxOptimizer, saved: Mapping, wrong: list[str]
) -> dict[tuple[int, str], Any]:
    numbers: dict[tuple[int, str], Any] = {}
    for key, mine in optimizer._options.items():
        value = saved.get(key)
        if (value is None) != (mine is None):
            wrong.append(f'{key} was {value!r}, here it is {mine!r}')
        elif value is not None:
            try:
                numbers[0, key] = check_number(type(optimizer).__name__, key, value)
            except (TypeError, ValueError) as error:
                wrong.append(str(error))
    return numbers


def _check_schedulers(optimizer: OptaxOptimizer, saved: Any, wrong: list[str]) -> None:
    mine = optimizer._all_schedulers()
    if not isinstance(saved, list | tuple) or not all(isinstance(s, Mapping) for s in saved):
        wrong.append(f'schedulers must be a list of dicts, got {saved!r:.60}')
        return
    names = [s.get('scheduler') for s in saved]
    if names != [type(s).__name__ for s in mine]:
        here = [type(s).__name__ for s in mine]
        wrong.append(f'the schedulers were {names}, here they are {here}')
        return
    for scheduler, state in zip(mine, saved, strict=True):
        wrong += scheduler.differences(state)


def _checked_slots(
    optimizer: OptaxOptimizer, group: ParamGroup, saved: Mapping, wrong: list[str]
) -> Any:
    slots, names = _slots(optimizer, group)
    where = f'group {group.index}'
    wanted: set[tuple[str, str]] = set()
    values: list[Any] = []

    def take(slot: str, name: str) -> Any:
        wanted.add((slot, name))
        value = saved.get(slot, {}).get(name)
        if value is None:
            wrong.append(f'{where}: {slot} of {name or "the group"} is missing')
        return value

    for slot in slots:
        if slot.per_leaf:
            entries = [take(slot.name, name) for name in names.values()]
            dtype = slot.value.dtype
            whole = np.issubdtype(dtype, np.integer)
            fit = all(map(_is_count if whole else _is_finite, entries))
            if not fit:
                allowed = 'counts in [0, 2**31)' if whole else 'finite numbers'
                wrong.append(f'{where}: {slot.name} must be {allowed}, got {entries}')
            values.append(_placed(np.asarray(entries, dtype), slot.value) if fit else None)
        elif is_masked(slot.value):
            values.append(slot.value)
        else:
            name = _name(slot, names)
            value = take(slot.name, name)
            if value is not None:
                value, mine = np.asarray(value), slot.value
                if value.shape != mine.shape or value.dtype != mine.dtype:
                    wrong.append(
                        f'{where}: {slot.name} of {name or "the group"} is {value.dtype}'
                        f'{list(value.shape)}, here it is {mine.dtype}{list(mine.shape)}'
                    )
                else:
                    value = _placed(value, mine)
            values.append(value)
    for slot_name in saved:
        for name in saved[slot_name]:
            if (slot_name, name) not in wanted:
                wrong.append(f'{where}: {slot_name} of {name or "the group"} is unknown here')
    return rebuild(optimizer._core.value[0][group.index], values)


def _placed(value: np.ndarray, like: Any) -> jax.Array:
    if isinstance(getattr(like, 'sharding', None), jax.sharding.NamedSharding):
        return jax.device_put(value, like.sharding)
    return jnp.array(value)
