"""Checking a checkpoint against a live optimizer, and taking it over: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..check import check_number, is_count
from ..engine.leaf import flat_values
from ..engine.observe import traced
from ..hyper import TO_COME, names_in_use, number_at
from ..plain import plainly, shaped_like
from ..schedulers.snapshot import resized
from .devices import placed, placed_parameter
from .export import VERSION, export_group, refuse_traced
from .fixed import check_fixed, leaves_among
from .judge import Judge, LoadReport
from .restore_slots import checked_slots

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['Restoration', 'Saved', 'checked_names', 'examine', 'restore']

REQUIRED = ('optimizer', 'step_count', 'param_groups', 'opt_state', 'schedulers', 'options')
KNOWN = (
    *REQUIRED,
    *('format', 'schema', 'lr', 'base_lr', 'dtypes', 'defaults', 'accumulate_steps', 'fixed'),
    'units',
)


class Saved(NamedTuple):
    """What was saved of an optimizer."""

    state: Any  # what state_dict() returned, if it is what it ought to be
    params: Mapping[str, Any] | None = None  # the arrays of the parameters by name


class Restoration:
    """What a checkpoint that fits will change, computed before anything is touched."""

    def __init__(self, optimizer: OptaxOptimizer):
        self.optimizer = optimizer
        self.count: Any = 0
        self.states: list[Any] = []
        self.numbers: dict[tuple[int, str], Any] = {}
        self.defaults: dict[str, Any] = {}  # the numbers of groups that are to come
        self.schedulers: list[tuple[Any, Mapping[str, Any]]] = []
        self.known: set[str] = set()  # the names here of the parameters in the checkpoint
        self.joining: list[ParamGroup] = []  # groups that are not in the checkpoint
        self.params: list[tuple[Any, Any]] = []  # States with their new values

    def undone_on_error(self) -> AbstractContextManager[None]:
        """Take everything back if writing does not end well."""
        return self.optimizer._undone_on_error(*(state for state, _ in self.params))

    def write(self) -> None:
        """Take everything over."""
        optimizer = self.optimizer
        count = placed(np.asarray(self.count, np.int32), optimizer._core.count)
        optimizer._core.replace(tuple(self.states), count)
        bases = [optimizer._lr_scheduler._bases()[group.index] for group in self.joining]
        for scheduler, state in self.schedulers:
            scheduler._restore(state)
        if self.schedulers:
            for group, base in zip(self.joining, bases, strict=True):
                optimizer._join_schedulers(group, base, again=True)
        defaults = {(TO_COME, name): value for name, value in self.defaults.items()}
        optimizer._write({**self.numbers, **defaults})
        for state, value in self.params:
            state.value = value
        optimizer._pending = None


def restore(optimizer: OptaxOptimizer, saved: Saved, judge: Judge) -> LoadReport:
    """Take over what was saved; raise with every difference, having changed nothing."""
    found = examine(optimizer, saved, judge)
    judge.check_rename()
    report = judge.conclude()
    with found.undone_on_error():
        found.write()
    return report


def check_format(saved: Mapping[str, Any], judge: Judge) -> None:
    """Refuse what this version cannot know how to read, before anything else is looked at."""
    given = shaped_like(plainly(saved.get('format', VERSION)), VERSION)
    if not (isinstance(given, list) and len(given) == 2 and all(map(is_count, given))):
        judge.refuse(f'format must be two counts, major and minor, got {given!r}')
    elif given[0] != VERSION[0]:
        age = 'newer' if given[0] > VERSION[0] else 'unknown'
        judge.refuse(
            f'its format {given[0]}.{given[1]} is {age}, this version reads {VERSION[0]}.x: '
            f'read it with the version of braintools_optim that wrote it, or one that is newer'
        )
    judge.conclude()


def examine(optimizer: OptaxOptimizer, saved: Saved, judge: Judge) -> Restoration:
    """Compare what was saved with an optimizer; the judge gets to know every difference.

    The result may be written only if the judge concludes well.
    """
    refuse_traced(optimizer, 'restore')
    if traced():
        raise TypeError(
            f'{type(optimizer).__name__} would be restored in a program that is being traced; '
            f'restore it outside of jit.'
        )
    found = Restoration(optimizer)
    state = _of_this_version(optimizer, judge.as_dict(saved.state, 'the checkpoint'))
    check_format(state, judge)
    if 'optimizer' not in state and {'opt', 'opt_state'} <= set(state):  # as bo.load returns it
        judge.refuse('it is a whole file, as opt.save writes it: use opt.load(path)')
        judge.conclude()
    if set(state) == {'state', 'param_groups'}:
        judge.refuse('it comes from torch.optim, which has numbers of parameters, and no names')
        judge.conclude()
    if 'param_groups_opt_states' in state:
        judge.refuse('it comes from braintools.optim: load it with import_braintools')
    for key in sorted(set(REQUIRED) - set(state)):
        judge.refuse(f'{key!r} is missing')
    judge.unknown(state, KNOWN)
    _check_algorithm(optimizer, state, judge)
    found.count = plainly(state.get('step_count', 0))
    if not is_count(found.count):
        judge.refuse(f'step_count must be in [0, 2**31), got {found.count!r}')
    _check_accumulation(optimizer, plainly(state.get('accumulate_steps', 1)), found.count, judge)
    options = judge.as_dict(plainly(state.get('options', {})), 'options')
    found.numbers |= _checked_options(optimizer, options, judge)
    defaults = judge.as_dict(plainly(state.get('defaults', {})), 'defaults')
    defaults = shaped_like(defaults, optimizer._numbers)
    found.defaults = _checked_defaults(optimizer, defaults, judge)
    if len(optimizer.param_states):
        _examine_groups(optimizer, state, judge, found)
        if 'units' in state:  # which older files lack, as what is fixed
            _check_units(optimizer, plainly(state['units']), found.known, judge)
        if 'fixed' in state:
            check_fixed(optimizer, state['fixed'], found.known, judge)
        found.params = _checked_params(optimizer, saved, judge)
        schedulers = plainly(state.get('schedulers', []))
        found.schedulers = _checked_schedulers(optimizer, schedulers, judge)
        _leave_driven(optimizer, found, judge)
    return found


def _of_this_version(optimizer: OptaxOptimizer, saved: Mapping) -> Mapping:
    """Return what an older version of the class saved, with the options that it did not have."""
    theirs, groups = plainly(saved.get('schema', 1)), saved.get('param_groups')
    if not is_count(theirs) or not isinstance(groups, Mapping):
        return saved
    later = range(int(theirs) + 1, optimizer.state_schema + 1)
    if not later or set(later) - set(optimizer.added_options):
        return saved
    options = {k: v for version in later for k, v in optimizer.added_options[version].items()}
    filled = {k: {**options, **v} if isinstance(v, Mapping) else v for k, v in groups.items()}
    return {**saved, 'schema': optimizer.state_schema, 'param_groups': filled}


def _check_algorithm(optimizer: OptaxOptimizer, saved: Mapping, judge: Judge) -> None:
    name = optimizer._algorithm()
    theirs = saved.get('optimizer', name)
    if not isinstance(theirs, str) or theirs != name:
        judge.refuse(f'it was saved by {theirs!s:.80}, this is {name}')
    schema = plainly(saved.get('schema', 1))
    if schema != optimizer.state_schema:
        judge.refuse(
            f'the state of {name} was of version {schema!r}, here it is {optimizer.state_schema}'
        )
    dtypes = judge.as_dict(saved.get('dtypes', {}), 'dtypes')
    judge.unknown(dtypes, optimizer._precision._fields, 'dtypes')
    for key, mine in optimizer._precision._asdict().items():
        mine = None if mine is None else np.dtype(mine).name
        given = dtypes.get(key)
        if not (given is None or isinstance(given, str)):
            judge.refuse(f'{key} must be the name of a dtype, got {given!r:.80}')
        elif given != mine and not judge.may_cast:
            judge.refuse(f'{key} was {given}, here it is {mine}')


def _check_accumulation(optimizer: OptaxOptimizer, theirs: Any, count: Any, judge: Judge) -> None:
    """Refuse to go on between two updates with gradients that were not added up for the next."""
    mine = optimizer.accumulate_steps
    if not (is_count(theirs) and theirs):
        judge.refuse(f'accumulate_steps must be a count of at least 1, got {theirs!r}')
    elif theirs != mine:
        line = f'accumulate_steps was {theirs}, here it is {mine}'
        if is_count(count) and (count % theirs or count % mine):
            judge.refuse(
                f'{line}, and {count} steps are no multiple of both: take some more with {theirs}, '
                f'until they are'
            )
        else:
            judge.unexpected(line)


def _examine_groups(
    optimizer: OptaxOptimizer, saved: Mapping, judge: Judge, found: Restoration
) -> None:
    groups = judge.as_dict(saved.get('param_groups', {}), 'param_groups')
    states = judge.as_dict(saved.get('opt_state', {}), 'opt_state')
    live = {str(g.index) for g in optimizer.param_groups}
    for what, part in (('param_groups', groups), ('opt_state', states)):
        line = f'{what} has groups {sorted(map(str, part))}, this optimizer has {sorted(live)}'
        if what in saved and live - set(part):
            judge.missing(line)
        elif what in saved and set(part) - live:
            judge.unexpected(f'{line}: add_param_group comes before loading')
    for group in optimizer.param_groups:
        key, where = str(group.index), f'group {group.index}'
        if key in groups:
            mine = export_group(optimizer, group)
            theirs = shaped_like(judge.as_dict(plainly(groups[key]), where), mine)
            found.known |= _checked_members(mine, theirs, where, judge)
            found.numbers |= _checked_group(optimizer, group, mine, theirs, judge)
        else:
            found.joining.append(group)
        slots: Mapping[str, Any] = {}
        if key in states:
            given = judge.as_dict(states[key], f'the state of {where}')
            slots = {
                s: judge.renamed(judge.as_dict(v, f'{where}: {s}'), f'{where}: {s}')
                for s, v in given.items()
            }
        if key in states or not judge.strict:
            found.states.append(checked_slots(optimizer, group, slots, judge))
            if optimizer.accumulate_steps > 1:
                _check_added(optimizer, found, where, judge)
    _check_order(optimizer, groups, judge)


def _check_added(optimizer: OptaxOptimizer, found: Restoration, where: str, judge: Judge) -> None:
    """Refuse sums of more gradients than there were calls since the last update."""
    _, added = found.states[-1]
    if not is_count(found.count) or added.leaf_added is None:
        return  # refused already
    most, calls = int(np.max(added.leaf_added)), found.count % optimizer.accumulate_steps
    if most > calls:
        judge.refuse(
            f'{where}: {most} gradients of a parameter are added up, in {calls} calls since the '
            f'last update'
        )


def _check_order(optimizer: OptaxOptimizer, groups: Mapping, judge: Judge) -> None:
    """Refuse to give a group the numbers of one whose parameters, or its own, are elsewhere."""
    names, there = optimizer.param_states.names, dict[str, set[str]]()
    here = {str(g.index): {names[i] for i in g.members} for g in optimizer.param_groups}
    for key, group in groups.items():
        given = plainly(group.get('params')) if isinstance(group, Mapping) else None
        if isinstance(given, list):
            there[key] = {judge.new_name(name) for name in given if isinstance(name, str)}
    known = set().union(*here.values()) & set().union(*there.values())
    for key in here.keys() & there.keys():
        moved = sorted((here[key] | there[key]) & known)
        if moved and not here[key] & there[key]:
            now, then = (next(k for k in at if moved[0] in at[k]) for at in (here, there))
            judge.refuse(
                f'{moved[0]} is in group {now}, and the checkpoint has it in group {then}: build '
                f'the groups in their old order, new ones last'
            )


def checked_names(given: Any, where: str, judge: Judge) -> list[str] | None:
    """Return the names of a group's parameters; the judge gets to know what are none."""
    if not isinstance(given, list) or not all(isinstance(n, str) for n in given):
        judge.refuse(f'{where}: params must be a list of names, got {given!r:.80}')
        return None
    if len(set(given)) < len(given):
        judge.refuse(f'{where}: params has a name twice, got {given!r:.80}')
        return None
    return given


def _checked_members(mine: Mapping, saved: Mapping, where: str, judge: Judge) -> set[str]:
    """Return the names here of the parameters that a group in the checkpoint has."""
    given = checked_names(saved.get('params'), where, judge)
    if given is None:
        return set()
    names = set(judge.renamed(dict.fromkeys(given), where))
    for name in sorted(set(mine['params']) - names):
        judge.missing(f'{where}: the parameter {name} is missing')
    for name in sorted(names - set(mine['params'])):
        judge.unexpected(f'{where}: the parameter {name} is unknown here')
    return names


def _checked_group(
    optimizer: OptaxOptimizer, group: ParamGroup, mine: Mapping, saved: Mapping, judge: Judge
) -> dict[tuple[int, str], Any]:
    where = f'group {group.index}'
    for key in sorted(set(mine) - set(saved) - {'params'}):
        judge.missing(f'{where}: {key!r} is missing')
    judge.unknown(saved, mine, where)
    numbers: dict[tuple[int, str], Any] = {}
    for key in sorted(set(saved) & set(mine) - {'params'}):
        if key in group.flags:
            if saved[key] != mine[key]:
                judge.refuse(f'{where}: {key} was {saved[key]!r}, here it is {mine[key]!r}')
            continue
        check = partial(optimizer._checked, key, saved[key], optimizer._numbers[key], driven=True)
        value = judge.passed(check, where)
        if value is None:
            continue
        for bare in sorted(group.unused & names_in_use(key, value)):
            was = number_at({key: value}, bare)
            judge.refuse(f'{where}: {bare} was {was}, here it was built with 0 and has no state')
        numbers[group.index, key] = value
    judge.passed(lambda: optimizer._validate_changes(group, numbers), where)
    return numbers


def _checked_options(
    optimizer: OptaxOptimizer, saved: Mapping, judge: Judge
) -> dict[tuple[int, str], Any]:
    owner = type(optimizer).__name__
    numbers: dict[tuple[int, str], Any] = {}
    judge.unknown(saved, optimizer._bounds, 'options')
    for key, mine in optimizer._bounds.items():
        value = saved.get(key)
        if (value is None) != (mine is None):
            judge.refuse(f'{key} was {value!r}, here it is {mine!r}')
        elif value is not None:
            numbers[0, key] = judge.passed(partial(check_number, owner, key, value))
    return numbers


def _checked_defaults(optimizer: OptaxOptimizer, saved: Mapping, judge: Judge) -> dict[str, Any]:
    """Return the numbers of groups that are to come, which older files lack."""
    numbers: dict[str, Any] = {}
    judge.unknown(saved, optimizer._numbers, 'defaults')
    for key in sorted(set(saved) & set(optimizer._numbers)):
        check = partial(optimizer._checked, key, saved[key], optimizer._numbers[key])
        numbers[key] = judge.passed(check, 'defaults')
    return numbers


def _check_units(optimizer: OptaxOptimizer, saved: Any, known: set[str], judge: Judge) -> None:
    """Refuse other units of parameters: their state is in them, too."""
    units = judge.renamed(judge.as_dict(saved, 'units'), 'units')
    for leaf in leaves_among(optimizer, known):
        theirs, mine = units.get(leaf.name), None if leaf.unit is None else str(leaf.unit)
        if theirs != mine:
            judge.refuse(f'the parameter {leaf.name} was in {theirs!s:.80}, here it is in {mine}')


# ---- schedulers --------------------------------------------------------------------------------


def _checked_schedulers(
    optimizer: OptaxOptimizer, saved: Any, judge: Judge
) -> list[tuple[Any, Mapping[str, Any]]]:
    mine = optimizer._all_schedulers()
    saved = shaped_like(saved, [s.state_dict() for s in mine])
    if not isinstance(saved, list) or not all(isinstance(s, Mapping) for s in saved):
        judge.refuse(f'schedulers must be a list of dicts, got {saved!r:.60}')
        return []
    theirs, ours = [s.get('scheduler') for s in saved], [type(s).__name__ for s in mine]
    if theirs != ours:
        judge.unexpected(
            f'the schedulers were {theirs}, here they are {ours}: attach them before loading'
        )
        return []
    if not judge.strict:  # groups that came or went are reported as such
        saved = [resized(s, own.state_dict()) for s, own in zip(saved, mine, strict=True)]
    for scheduler, state in zip(mine, saved, strict=True):
        judge.scheduler(scheduler, state)
    return list(zip(mine, saved, strict=True))


def _leave_driven(optimizer: OptaxOptimizer, found: Restoration, judge: Judge) -> None:
    """Let the numbers be that live schedulers drive, if these do not take over anything."""
    schedulers = optimizer._all_schedulers()
    if judge.strict or found.schedulers or not schedulers:
        return
    driven = {(g.index, 'lr') for g in optimizer.param_groups}
    for scheduler in schedulers:
        driven |= set(scheduler._settings(scheduler._progress()))
    found.numbers = {k: v for k, v in found.numbers.items() if k not in driven}


# ---- parameters ------------------------------------------------------------------------------


def _checked_params(optimizer: OptaxOptimizer, saved: Saved, judge: Judge) -> list[tuple[Any, Any]]:
    """Return the States of the parameters with their values in the checkpoint, if it has them."""
    if saved.params is None:
        return []
    arrays = judge.renamed(judge.as_dict(saved.params, 'params'), 'params')
    new, leaves = [], iter(optimizer._leaves)
    for state in optimizer.param_states:
        old, treedef = flat_values(state.value)
        values = []
        for like, leaf in zip(old, leaves, strict=False):
            if leaf.name not in arrays:
                judge.missing(f'the parameter {leaf.name} is missing')
                values.append(like)
                continue
            values.append(placed_parameter(arrays[leaf.name], like, leaf.name, judge))
        new.append((state, treedef.unflatten(values)))
    for name in sorted(set(arrays) - {leaf.name for leaf in optimizer._leaves}):
        judge.unexpected(f'the parameter {name} is unknown here')
    return new
