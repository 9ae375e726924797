"""Loading a snapshot: at once, or, where the parameters are still to come, when they arrive."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError
from .judge import Judge, LoadReport
from .plain import shaped_like
from .restore import examine, restore

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['Pending', 'take_over']


def take_over(
    optimizer: OptaxOptimizer,
    saved: Any,
    judge: Judge,
    params: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
) -> LoadReport:
    """Restore a snapshot, or keep it until there are parameters; raise with every difference."""
    if isinstance(saved, str | os.PathLike):
        raise TypeError(
            f'load_state_dict takes what state_dict() returned, got a path: use '
            f'opt.load({str(saved)!r}).'
        )
    if len(optimizer.param_states):
        return restore(optimizer, saved, judge, params, units)
    examine(optimizer, saved, judge, params, units)
    waiting = Pending(saved, judge, params, units)
    if not waiting.names:
        judge.refuse(
            'it holds no parameters: it was saved before register_trainable_weights was called'
        )
    report = judge.conclude()
    report.waiting = True
    optimizer._pending = waiting
    return report


class Pending:
    """A snapshot that waits for the parameters of all its groups."""

    def __init__(
        self,
        saved: Any,
        judge: Judge,
        params: Mapping[str, Any] | None,
        units: Mapping[str, str] | None,
    ):
        self.judge = judge.anew()
        self.saved, self.params, self.units = copy.deepcopy((saved, params, units))
        groups = saved.get('param_groups', {}) if isinstance(saved, Mapping) else {}
        named = groups.values() if isinstance(groups, Mapping) else ()
        lists = [shaped_like(g.get('params', []), []) for g in named if isinstance(g, Mapping)]
        rename = self.judge.anew().new_name
        self.groups = len(lists)
        self.names = {rename(n) for names in lists for n in names if isinstance(n, str)}

    def lacks(self, optimizer: OptaxOptimizer) -> list[str]:
        """Return the parameters that are still to come, none if it can be judged now."""
        live = set(optimizer.param_states.names)
        if not self.judge.strict:
            complete = len(optimizer.param_groups) >= self.groups
            return [] if complete else sorted(self.names - live)
        return sorted(self.names - live) if live <= self.names else []

    def apply(self, optimizer: OptaxOptimizer) -> None:
        """Restore it if all that it has is there."""
        if not self.lacks(optimizer):
            restore(optimizer, self.saved, self.judge.anew(), self.params, self.units)

    def refuse_use(self, optimizer: OptaxOptimizer) -> None:
        """Raise, since what the optimizer holds is not yet what was loaded."""
        raise CheckpointError(
            f'the checkpoint that was loaded into this {type(optimizer).__name__} waits for the '
            f'parameters {self.lacks(optimizer)} of its {self.groups} groups; register them, or '
            f'load another one.'
        )
