"""What is in a file, as a table that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report import aligned
from .describe import Description

__all__ = ['table']


def table(found: Description) -> str:
    """Return a file's contents: optimizers with their groups, schedulers, arrays."""
    versions = ', '.join(f'{k} {v}' for k, v in found.versions.items())
    form = '.'.join(map(str, found.format))
    lines = [f'{found.path}: {found.kind}, {found.size:,} bytes, format {form} ({versions})']
    state, contents = found.meta.get('state'), found.meta.get('contents')
    parts = {'': state} if isinstance(state, Mapping) else {}
    parts |= contents if isinstance(contents, Mapping) else {}
    for where, part in parts.items():
        lines += ['', *_part(where, part)]
    return '\n'.join(map(_printable, [*lines, '', *_arrays(found)]))


def _printable(line: str) -> str:
    """Return a line in which what is no character to be seen, as a forged name may have it, is."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _part(where: str, part: Any) -> list[str]:
    """Return an optimizer's lines, or a scheduler's."""
    place = f'{where}: ' if where else ''
    if not isinstance(part, Mapping) or 'optimizer' not in part:
        return [f'{place}{_scheduler(part)}']
    given = {k: v for k, v in {**part.get('options', {}), **part.get('dtypes', {})}.items() if v}
    noted = ''.join(f', {k}={_short(v)}' for k, v in given.items())
    lines = [f'{place}{part["optimizer"]}, step {part.get("step_count")}{noted}']
    groups = part.get('param_groups', {})
    names = sorted({k for g in groups.values() for k in g} - {'params'})
    names = [k for k in names if any(g.get(k) not in (False, None) for g in groups.values())]
    rows = [['group', *names, 'parameters']]
    for index, group in groups.items():
        rows.append([index, *(_short(group.get(k)) for k in names), _few(group.get('params', []))])
    lines += _table(rows)
    return lines + [f'  {_scheduler(s)}' for s in part.get('schedulers', [])]


def _scheduler(state: Any) -> str:
    if not isinstance(state, Mapping):
        return _short(state)
    numbers = {**state.get('hyper', {}), **state.get('fixed', {})}
    numbers |= {k: state[k] for k in ('name', 'base_lrs', 'current_lrs') if k in state}
    shown = ', '.join(f'{k}={_short(v)}' for k, v in numbers.items())
    inner = ''.join(f' + {_scheduler(s)}' for s in state.get('schedulers', []))
    return f'{state.get("scheduler")} at epoch {state.get("last_epoch")} ({shown}){inner}'


def _arrays(found: Description) -> list[str]:
    rows = [['array', 'dtype', 'shape', 'bytes', 'min', 'max', 'nan']]
    for a in found.arrays:
        shape = 'x'.join(map(str, a.shape)) or 'scalar'
        numbers = [_short(x) for x in (a.minimum, a.maximum, a.nans)]
        rows.append([a.path, a.dtype, shape, f'{a.nbytes:,}', *numbers])
    total = sum(a.nbytes for a in found.arrays)
    nans = sum(a.nans or 0 for a in found.arrays)
    return [*_table(rows), f'  {len(found.arrays)} arrays, {total:,} bytes, {nans} NaN']


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f'  {line}' for line in aligned(rows)]


def _few(names: Sequence[str]) -> str:
    shown = ', '.join(names[:4])
    return shown if len(names) <= 4 else f'{shown} ... ({len(names)})'


def _short(value: Any) -> str:
    if value is None:
        return '-'
    if isinstance(value, float):
        return f'{value:g}'
    if isinstance(value, list):
        return '[' + ', '.join(map(_short, value)) + ']'
    return str(value)
