"""What a scheduler's snapshot has of its groups, and what keeps it from being loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..check import check_number
from ..plain import alike
from .row import Row

if TYPE_CHECKING:
    from .rate import LRScheduler

__all__ = ['is_code', 'other_arguments', 'resized', 'row_differences', 'row_snapshot', 'saved_rows']

PER_GROUP = ('base_lrs', 'starts', 'written', 'current_lrs')  # lists of one entry for each group


def is_code(value: Any) -> bool:
    """Whether a value is a function, or a list with one: those are not saved."""
    return callable(value) or (isinstance(value, list) and any(map(callable, value)))


def row_snapshot(scheduler: LRScheduler) -> dict[str, Any]:
    """Return all that belongs to the groups, as plain data, and how the scheduler was built."""
    rows = scheduler._progress().memory
    fixed = {k: v for k, v in scheduler._identity().items() if not is_code(v)}
    return {
        'base_lrs': [row.base for row in rows],
        'starts': [row.start for row in rows],
        'written': [row.written for row in rows],
        'current_lrs': list(scheduler._lrs()),
        'hyper': {k: [row.numbers[i] for row in rows] for i, k in enumerate(scheduler._names)},
        'fixed': {k: list(v) if isinstance(v, tuple) else v for k, v in fixed.items()},
    }


def _completed(scheduler: LRScheduler, saved: Mapping[str, Any]) -> Any:
    """Return the numbers of a snapshot, with those that older versions did not have."""
    hyper, bases = saved.get('hyper', {}), saved.get('base_lrs')
    if not (isinstance(hyper, Mapping) and isinstance(bases, list | tuple)):
        return hyper
    return {k: [v] * len(bases) for k, v in scheduler.later_numbers.items()} | dict(hyper)


def saved_rows(scheduler: LRScheduler, saved: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a snapshot that fits."""
    hyper = _completed(scheduler, saved)
    lists = [saved[k] for k in ('base_lrs', 'starts', 'written')]
    columns = [list(map(float, x)) for x in (*lists, *(hyper[k] for k in scheduler._names))]
    return [
        Row(base, start, written, tuple(numbers))
        for base, start, written, *numbers in zip(*columns, strict=True)
    ]


def resized(saved: Any, mine: Any) -> Any:
    """Return a snapshot of other groups for those here: what it lacks is as in ``mine``."""
    if not (isinstance(saved, Mapping) and isinstance(mine, Mapping)):
        return saved
    new = {k: _fitted(v, mine[k]) if k in PER_GROUP and k in mine else v for k, v in saved.items()}
    hyper, numbers = saved.get('hyper'), mine.get('hyper')
    if isinstance(hyper, Mapping) and isinstance(numbers, Mapping):
        new['hyper'] = {k: _fitted(v, numbers.get(k)) for k, v in hyper.items()}
    parts, here = saved.get('schedulers'), mine.get('schedulers')
    if isinstance(parts, list) and isinstance(here, list) and len(parts) == len(here):
        new['schedulers'] = [resized(*pair) for pair in zip(parts, here, strict=True)]
    return new


def _fitted(saved: Any, mine: Any) -> Any:
    """Return a list with one entry for each group that is here."""
    if not (isinstance(saved, list | tuple) and isinstance(mine, list)):
        return saved
    return [*saved[: len(mine)], *mine[len(saved) :]]


def row_differences(scheduler: LRScheduler, saved: Mapping[str, Any]) -> list[str]:
    """Return what keeps the rows of a snapshot from being loaded."""
    wrong: list[str] = []
    owner, mine = type(scheduler).__name__, scheduler.state_dict()
    hyper = _completed(scheduler, saved)
    vectors = {k: saved.get(k) for k in PER_GROUP}
    fits = isinstance(hyper, Mapping) and set(hyper) == set(scheduler._names)
    if not fits:
        wrong.append(f'{owner}: hyper must have {list(scheduler._names)}, got {hyper!r:.80}')
    for key, values in (vectors | (dict(hyper) if fits else {})).items():
        count = len(mine['current_lrs' if key == 'current_lrs' else 'base_lrs'])
        if not isinstance(values, list | tuple) or len(values) != count:
            wrong.append(f'{owner}: {key} must be {count} numbers, got {values!r}')
            fits = False
            continue
        for value in values if key in vectors else ():
            try:
                # A start may be anything finite: it is what a changed rate is traced back to.
                check_number(owner, 'lr' if key == 'base_lrs' else key, value)
            except (TypeError, ValueError) as error:
                wrong.append(f'{key}: {error}')
    for i in range(len(mine['base_lrs']) if fits else 0):
        try:
            scheduler._checked({k: values[i] for k, values in hyper.items()})
        except (TypeError, ValueError) as error:
            wrong.append(str(error))
    if not isinstance(theirs := saved.get('fixed', {}), Mapping):
        return [*wrong, f'{owner}: fixed must be a dict, got {theirs!r:.80}']
    later = scheduler.later_fixed
    here, there = ({k: v for k, v in x.items() if k in later} for x in (mine['fixed'], theirs))
    undecided = {k for x in (here, there) for k, v in x.items() if v is None}
    if not all(k in undecided or alike(v, here[k]) for k, v in there.items()):
        wrong.append(f'{owner}: it was built with {there}, here with {here}')
    return wrong


def other_arguments(scheduler: LRScheduler, saved: Any) -> list[str]:
    """Return in what a scheduler was built otherwise, and can go on all the same: its horizon."""
    theirs = saved.get('fixed', {}) if isinstance(saved, Mapping) else {}
    if not isinstance(theirs, Mapping):  # which is refused in any case
        return []
    mine = scheduler.state_dict()['fixed']
    # Older versions did not write those attributes.
    later = {*scheduler.later_fixed, *(scheduler._built_with.keys() - theirs.keys())}
    here, there = ({k: v for k, v in x.items() if k not in later} for x in (mine, theirs))
    if there == here or alike(there, here):
        return []
    return [f'{type(scheduler).__name__}: it was built with {there}, here with {here}']
