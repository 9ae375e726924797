"""What keeps the numbers of a scheduler's groups from being loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..hyper import check_number

if TYPE_CHECKING:
    from .rate import LRScheduler

__all__ = ['row_differences']


def row_differences(scheduler: LRScheduler, state_dict: Mapping[str, Any]) -> list[str]:
    """Return what keeps the rows of a snapshot from being loaded."""
    wrong: list[str] = []
    owner, mine = type(scheduler).__name__, scheduler.state_dict()
    hyper = state_dict.get('hyper', {})
    vectors = {k: state_dict.get(k) for k in ('base_lrs', 'starts', 'written', 'current_lrs')}
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
                check_number(owner, 'lr' if key in ('base_lrs', 'current_lrs') else key, value)
            except (TypeError, ValueError) as error:
                wrong.append(f'{key}: {error}')
    for i in range(len(mine['base_lrs']) if fits else 0):
        try:
            scheduler._checked({k: values[i] for k, values in hyper.items()})
        except (TypeError, ValueError) as error:
            wrong.append(str(error))
    theirs = state_dict.get('fixed', {})
    if theirs != mine['fixed']:
        wrong.append(f'{owner}: it was built with {theirs}, here with {mine["fixed"]}')
    return wrong
