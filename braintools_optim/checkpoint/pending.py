"""Loading a snapshot: at once, or, where the parameters are still to come, when they arrive."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..plain import shaped_like
from .judge import Judge, LoadReport
from .restore import Saved, checked_names, examine, restore

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['Pending', 'take_over']


def take_over(optimizer: OptaxOptimizer, saved: Saved, judge: Judge) -> LoadReport:
    """Restore it, or keep it until there are parameters; raise with every difference."""
    if isinstance(saved.state, str | os.PathLike):
        raise TypeError(
            f'load_state_dict takes what state_dict() returned, got a path: use '
            f'opt.load({str(saved.state)!r}).'
        )
    if len(optimizer.param_states):
        return restore(optimizer, saved, judge)
    examine(optimizer, saved, judge)
    waiting = Pending(saved, judge)
    if not waiting.names:
        judge.refuse(
            'it holds no parameters: it was saved before register_trainable_weights was called'
        )
    judge.conclude()
    optimizer._pending = waiting
    return waiting.report


class Pending:
    """What was saved, waiting for the parameters of all its groups."""

    def __init__(self, saved: Saved, judge: Judge):
        self.judge = judge.anew()
        self.report = LoadReport(waiting=True)  # which the user holds
        self.saved = copy.deepcopy(saved)
        state = saved.state
        groups = state.get('param_groups', {}) if isinstance(state, Mapping) else {}
        named = groups.items() if isinstance(groups, Mapping) else ()
        lists = [
            checked_names(shaped_like(group.get('params'), []), f'group {key}', judge) or []
            for key, group in named
            if isinstance(group, Mapping)
        ]
        rename = self.judge.anew().new_name
        self.groups = len(lists)
        self.names = {rename(name) for names in lists for name in names}

    def lacks(self, optimizer: OptaxOptimizer) -> list[str]:
        """Return the parameters that are still to come, none if others came in their place."""
        live = set(optimizer.param_states.names)
        if self.judge.strict and not live <= self.names:
            return []
        return sorted(self.names - live)

    def apply(self, optimizer: OptaxOptimizer) -> None:
        """Restore it if all that it has is there, or without strictness what is there."""
        waits = bool(self.lacks(optimizer))
        if waits and self.judge.strict:
            return
        report = restore(optimizer, self.saved, self.judge.anew())
        optimizer._pending = self if waits else None
        kept = {'waiting': waits, 'extra': self.report.extra}
        vars(self.report).update(vars(report), **kept)

    def refuse_use(self, optimizer: OptaxOptimizer) -> None:
        """Raise if what the optimizer holds is not yet what was loaded."""
        if not self.judge.strict:
            return
        raise CheckpointError(
            f'the checkpoint that was loaded into this {type(optimizer).__name__} waits for the '
            f'parameters {self.lacks(optimizer)} of its {self.groups} groups; register them, or '
            f'load another one.'
        )
