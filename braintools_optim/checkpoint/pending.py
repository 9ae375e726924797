"""A checkpoint that was loaded before its parameters: kept, and applied when they arrive."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError
from .plain import shaped_like
from .relax import Judge, LoadReport
from .restore import examine

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
    found = examine(optimizer, saved, judge, params, units)
    if len(optimizer.param_states):
        judge.check_rename()
        report = judge.conclude()
        with found.undone_on_error():
            found.write()
        return report
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
            judge = self.judge.anew()
            found = examine(optimizer, self.saved, judge, self.params, self.units)
            judge.check_rename()
            judge.conclude()
            with found.undone_on_error():
                found.write()

    def refuse_use(self, optimizer: OptaxOptimizer) -> None:
        """Raise, since what the optimizer holds is not yet what was loaded."""
        raise CheckpointError(
            f'the checkpoint that was loaded into this {type(optimizer).__name__} waits for the '
            f'parameters {self.lacks(optimizer)} of its {self.groups} groups; register them, or '
            f'load another one.'
        )
