"""One optimizer in one file."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from ..check import check_flag
from ..errors import IncompatibleCheckpoint
from . import file
from .background import Saving, free_path, write_or_start
from .export import export, export_params
from .judge import Judge, LoadReport
from .nested import encoded
from .pending import take_over
from .restore import Saved

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['KIND', 'load', 'save', 'state_dict_of']

KIND = 'optimizer'


def save(
    optimizer: OptaxOptimizer,
    path: str | os.PathLike,
    params: bool = False,
    extra: Any = None,
    background: bool = False,
) -> Saving | None:
    """Write an optimizer, and what else is asked for, into a file."""
    path = free_path(path)
    meta = export(optimizer, copied=False)
    tree = {'opt_state': meta.pop('opt_state')}
    if check_flag('save', 'params', params, False):
        tree['params'] = export_params(optimizer, copied=False)
    if extra is not None:
        tree['extra'] = encoded(extra, 'extra')
    write = partial(file.write, path, kind=KIND, meta={'state': meta})
    return write_or_start(path, write, tree, background)


def load(optimizer: OptaxOptimizer, path: str | os.PathLike, judge: Judge) -> LoadReport:
    """Restore an optimizer from a file, or raise with every difference."""
    path = free_path(path)
    meta, tree = file.read(path)
    state = meta.get('state')
    if not isinstance(state, dict) or not isinstance(tree, dict) or 'opt_state' not in tree:
        held = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
        raise IncompatibleCheckpoint(
            [
                f'the file holds a training state of {held}, as bo.save writes it, and not what '
                f'opt.save writes: use bo.load(path), or bo.restore(path, ...) into what was saved'
            ]
        )
    known = {'opt_state', 'params', 'extra'}
    for key in sorted(set(tree) - known):
        judge.unexpected(f'{key!r} is unknown here')
    saved = Saved(state_dict_of(meta, tree), tree.get('params'))
    report = take_over(optimizer, saved, judge)
    report.extra = tree.get('extra')
    return report


def state_dict_of(meta: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Return the snapshot that a file of one optimizer holds."""
    return {**meta['state'], 'opt_state': tree['opt_state']}
