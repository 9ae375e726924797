"""An optimizer as nested plain data: dicts of str keys, lists, numbers, numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ..check import check_number, is_tracer
from ..engine.computation import Computation
from ..engine.leaf import without_unit
from ..engine.plan import GroupPlan
from ..paths import Keys
from ..plain import plain_flag, plainly
from ..slot import Slot, slots_of
from ..transforms.absent import is_masked
from .fixed import export_fixed

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = [
    *('VERSION', 'export', 'export_group', 'export_params', 'named_slots', 'refuse_traced'),
    *('refuse_unloadable', 'slot_name'),
]

VERSION = [1, 0]
_ALL = ''  # the parameter name of a slot that belongs to the whole group


def _refuse_mapped(optimizer: OptaxOptimizer) -> None:
    if np.ndim(optimizer._core.count):
        raise ValueError(
            f'this {type(optimizer).__name__} stands for several, which a vmap made, and has no '
            f'state_dict: keep jax.tree.leaves of the values of its States, those in '
            f'brainstate.graph.states(optimizer).'
        )


def export(optimizer: OptaxOptimizer, copied: bool = True) -> dict[str, Any]:
    """Return everything but the parameters; arrays are copies unless they are written at once."""
    if optimizer._pending is not None:
        optimizer._pending.refuse_use(optimizer)
    refuse_traced(optimizer, 'save')
    _refuse_mapped(optimizer)
    schedulers = [plainly(s.state_dict()) for s in optimizer._all_schedulers()]
    refuse_unloadable(type(optimizer).__name__, _out_of_range(optimizer, schedulers))
    groups = {str(g.index): export_group(optimizer, g) for g in optimizer.param_groups}
    states = {str(g.index): _export_slots(optimizer, g, copied) for g in optimizer.param_groups}
    dtypes, steps = optimizer._precision._asdict(), optimizer.accumulate_steps
    return {
        'format': list(VERSION),
        'optimizer': optimizer._algorithm(),
        'schema': optimizer.state_schema,
        'step_count': int(optimizer.step_count.value),
        **({'accumulate_steps': steps} if steps > 1 else {}),
        'fixed': export_fixed(optimizer),
        'lr': optimizer.current_lr,
        'base_lr': optimizer.base_lr,
        'options': {k: getattr(optimizer, k) for k in optimizer._bounds},
        'dtypes': {k: None if v is None else np.dtype(v).name for k, v in dtypes.items()},
        'defaults': {k: listed(v) for k, v in optimizer._defaults().items() if k != 'lr'},
        'units': {x.name: str(x.unit) for x in optimizer._leaves if x.unit is not None},
        'param_groups': groups,
        'opt_state': states,
        'schedulers': schedulers,
    }


def refuse_unloadable(owner: str, wrong: list[str]) -> None:
    """Raise if there is anything for which loading would refuse what is being saved."""
    if wrong:
        listed = '\n'.join(f'  - {line}' for line in wrong)
        raise ValueError(
            f'{owner} cannot be saved, since loading would refuse it; a traced program may have '
            f'put numbers out of their ranges, so assign them anew:\n{listed}'
        )


def _out_of_range(optimizer: OptaxOptimizer, schedulers: list[dict[str, Any]]) -> list[str]:
    """Return what loading would refuse among the numbers of an optimizer and its schedulers."""
    owner, wrong = type(optimizer).__name__, []
    checks: list[tuple[str, Callable[[], Any]]] = [
        ('', partial(check_number, owner, k, getattr(optimizer, k))) for k in optimizer._bounded_by
    ]
    for group in optimizer.param_groups:
        where = f'group {group.index}: '
        checks += [
            (where, partial(optimizer._checked, k, group.number(k), like, driven=True))
            for k, like in optimizer._numbers.items()
        ]
        checks.append((where, partial(optimizer._validate_changes, group, {})))
    for k, value in optimizer._defaults().items():
        checks.append(('groups to come: ', partial(optimizer._checked, k, value, value)))
    for where, check in checks:
        try:
            check()
        except ValueError as error:
            wrong.append(f'{where}{error}')
    for scheduler, state in zip(optimizer._all_schedulers(), schedulers, strict=True):
        wrong += scheduler.differences(state)
    return wrong


def refuse_traced(optimizer: OptaxOptimizer, wish: str) -> None:
    """Raise if the optimizer's state is known only when a traced program runs."""
    state = optimizer._core.peek(), optimizer._table.state.value
    if any(map(is_tracer, jax.tree.leaves(state))):
        raise TypeError(f'{type(optimizer).__name__} is being traced; {wish} it outside of jit.')


def export_group(optimizer: OptaxOptimizer, group: ParamGroup) -> dict[str, Any]:
    """Return the names of a group's parameters, its numbers and its flags."""
    names = optimizer.param_states.names
    values = {k: group.number(k) for k in optimizer._numbers}
    return {
        'params': [names[i] for i in group.members],
        **{k: listed(v) for k, v in values.items()},
        **{k: plain_flag(v) for k, v in group.flags.items()},
    }


def listed(number: Any) -> Any:
    """Return what is written of a live number."""
    return list(number) if isinstance(number, tuple) else number


def named_slots(
    optimizer: OptaxOptimizer, group: ParamGroup, anew: bool = False
) -> tuple[list[Slot], dict[Keys, str]]:
    """Return the slots of a group's state, and its parameters' names by path, in tree order.

    With ``anew`` no gradient has been added up yet.
    """
    plan = GroupPlan.of(optimizer.param_states, optimizer._leaves, group)
    leaves = [optimizer._leaves[i] for i in plan.leaves]
    names = {leaf.path: leaf.name for leaf in leaves}
    state, paths = optimizer._core.chain(group.index), list(names)
    if optimizer.accumulate_steps == 1:
        return slots_of(state, paths), names
    chain, sums = state
    # What a chain keeps has the names that it has where gradients do not add up.
    inner, added = slots_of(chain, paths), slots_of(sums.cleared() if anew else sums, paths)
    taken = {slot.name for slot in inner}
    renamed = [s._replace(name=f'accumulated.{s.name}') if s.name in taken else s for s in added]
    return [*inner, *renamed], names


def slot_name(slot: Slot, names: dict[Keys, str]) -> str:
    """Return the name of a slot's parameter."""
    return _ALL if slot.parameter is None else names[slot.parameter]


def _export_slots(
    optimizer: OptaxOptimizer, group: ParamGroup, copied: bool
) -> dict[str, dict[str, Any]]:
    slots, names = named_slots(optimizer, group)
    exported: dict[str, dict[str, Any]] = {}
    for slot in slots:
        entry = exported.setdefault(slot.name, {})
        if slot.per_leaf:
            entry.update(zip(names.values(), np.asarray(slot.value).tolist(), strict=True))
        elif not is_masked(slot.value):  # a masked leaf holds nothing
            entry[slot_name(slot, names)] = _plain_array(slot.value, copied)
    return exported


def _plain_array(value: Any, copied: bool) -> Any:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        data = np.array(jax.random.key_data(value))
        return {'key_impl': str(jax.random.key_impl(value)), 'key_data': data}
    return np.array(value) if copied else value


def export_params(optimizer: OptaxOptimizer, copied: bool = True) -> dict[str, Any]:
    """Return the arrays of the parameters by name.

    Of what is not as it was registered, loading would refuse the file: it is refused here.
    """
    values = Computation.of(optimizer).checked_values([s.value for s in optimizer.param_states])
    arrays: dict[str, Any] = {}
    for leaf, value in zip(optimizer._leaves, map(without_unit, values), strict=True):
        arrays[leaf.name] = (
            value if isinstance(value, jax.Array) and not copied else np.array(value)
        )
    return arrays
