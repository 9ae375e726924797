"""What an optimizer says about itself: a table that a person reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .check import is_tracer
from .engine.leaf import all_leaves

if TYPE_CHECKING:
    from .optimizer import OptaxOptimizer

__all__ = ['aligned', 'describe']


def aligned(
    rows: Sequence[Sequence[str]], justified: Callable[[str, int], str] = str.ljust
) -> list[str]:
    """Return the lines of a table, its columns as wide as what stands in them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ['  '.join(map(justified, row, widths)).rstrip() for row in rows]


def describe(optimizer: OptaxOptimizer) -> str:
    """Return the optimizer as a table: its groups, their sizes, values and state."""
    options = [f'{k}={_number(getattr(optimizer, k))}' for k in optimizer._bounded_by]
    options += ['skip_nonfinite=True'] if optimizer.skip_nonfinite else []
    if optimizer.accumulate_steps > 1:
        options.append(f'accumulate_steps={optimizer.accumulate_steps}')
    options += [f'{k}={np.dtype(v).name}' for k, v in optimizer._precision._asdict().items() if v]
    options += [] if optimizer.decay_mask is None else ['with a decay_mask']
    options += [] if optimizer.constrain is None else ['constrained']
    head = type(optimizer).__name__
    if not optimizer.param_groups:
        values = [f'{k}={_number(getattr(optimizer, k))}' for k in optimizer._numbers if k != 'lr']
        flags = [f'{k}={v!r}' for k, v in optimizer._flags.items() if v]
        inner = ', '.join([f'lr={_number(optimizer.current_lr)}', *values, *flags, *options])
        return f'{head}({inner}), no parameters registered'
    used = (k for k in optimizer._flags if any(g.flags[k] for g in optimizer._groups))
    columns = [*optimizer._numbers, *used]
    rows = [['group', 'parameters', 'numbers', 'state', *columns]]
    for group in optimizer.param_groups:
        leaves = all_leaves(s._value for s in group.states())
        rows.append(
            [
                str(group.index),
                str(len(group.members)),
                f'{sum(int(np.prod(np.shape(x))) for x in leaves):,}',
                _bytes(optimizer._core.chain(group.index)),
                *(
                    _number(group.flags[k] if k in group.flags else group.number(k))
                    for k in columns
                ),
            ]
        )
    lines = aligned(rows, str.rjust)
    schedule = type(optimizer.lr).__name__
    notes = ', '.join([f'step {optimizer._core.count}', f'lr by {schedule}', *options])
    return '\n  '.join([f'{head} ({notes})', *lines])


def _bytes(tree: Any) -> str:
    size = float(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)))
    for unit in ('B', 'KiB', 'MiB', 'GiB'):
        if size < 1024 or unit == 'GiB':
            break
        size /= 1024
    return f'{size:.0f} {unit}' if unit == 'B' else f'{size:.1f} {unit}'


def _number(value: Any) -> str:
    if isinstance(value, tuple):
        return '(' + ', '.join(map(_number, value)) + ')'
    if isinstance(value, float):
        return f'{value:g}'
    return 'traced' if is_tracer(value) else str(value)
