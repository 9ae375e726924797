"""What a scheduler remembers of each group, and torch's recursion on it."""

from __future__ import annotations

import operator
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..check import is_tracer

__all__ = [
    *('Row', 'carried', 'either', 'flat', 'is_concrete', 'one_each', 'same', 'start_of'),
    *('started_anew', 'written'),
]


class Row(NamedTuple):
    """What a scheduler remembers of one group."""

    base: Any  # the learning rate before any schedule
    start: Any  # what the schedule starts from now: the base, or what manual changes made of it
    written: Any  # the learning rate that it gave last
    numbers: tuple[Any, ...]  # its live numbers, in the order of `Arguments._names`


def flat(row: Row) -> tuple:
    """Return the numbers of a row one after the other."""
    return (*row[:3], *row.numbers)


def one_each(owner: str, name: str, values: Any, count: int) -> list:
    """Return the values that the groups are given in a list; raise if there is not one for each."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f'{owner} needs {count} {name}, one for each group, got {values!r}.')
    return list(values)


def written(rows: list[Row], lrs: list) -> list[Row]:
    """Return rows with the learning rates that were given last."""
    return [row._replace(written=lr) for row, lr in zip(rows, lrs, strict=False)]


def same(some: list, others: list) -> Any:
    """Whether learning rates are the same: True or False, or an array where that is traced."""
    if len(some) != len(others):
        return False
    each = [x is y or x == y for x, y in zip(some, others, strict=True)]
    traced = [x for x in each if is_tracer(x)]
    known = all(x for x in each if not is_tracer(x))
    return known and reduce(operator.and_, traced, True)


def either(condition: Any, yes: Any, no: Any) -> Any:
    """Return one of two trees of numbers, by a condition that may be traced."""
    if not is_tracer(condition):
        return yes if condition else no
    return jax.tree.map(partial(jnp.where, condition), yes, no)


def is_concrete(number: Any, row: Row) -> bool:
    """Whether neither a number nor the row is traced, whose numbers come from one State."""
    return type(row.base) is float and not is_tracer(number)


def carried(row: Row, lr: Any, a0: Any, b0: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Return the new start and learning rate, given ``(a, b)`` of the last epoch and of this.

    A learning rate that is not what was written is carried on: the schedule goes on as if it had
    come from another start. Where ``b`` was 0, what was added to ``a`` stays added.
    """
    if not (is_concrete(lr, row) and not is_tracer(b0) and not is_tracer(b)):
        return _carried_traced(row, lr, a0, b0, a, b)
    if b0 != 0.0:
        start = row.start if lr == row.written else (lr - a0) / b0
        return start, a + b * start
    beyond = lr - a0
    return row.base + (beyond / b if b != 0.0 else 0.0), a + b * row.base + beyond


def start_of(row: Row, lr: Any, a: Any, b: Any) -> Any:
    """Return the start from which ``(a, b)`` gives a learning rate; where b is 0 there is none."""
    if is_tracer(b):
        rests = b == 0.0
        return jnp.where(rests, row.start, (lr - a) / jnp.where(rests, 1.0, b))
    return row.start if b == 0.0 else (lr - a) / b


def started_anew(row: Row, lr: Any, a: Any, b: Any) -> Row:
    """Return a row that starts from where ``(a, b)`` gives a learning rate, if it was changed."""
    start = either(lr == row.written, row.start, start_of(row, lr, a, b))
    return row._replace(start=start, written=lr)


def _carried_traced(row: Row, lr: Any, a0: Any, b0: Any, a: Any, b: Any) -> tuple[Any, Any]:
    rests, ends = jnp.equal(b0, 0.0), jnp.equal(b, 0.0)
    carried = jnp.where(lr == row.written, row.start, (lr - a0) / jnp.where(rests, 1.0, b0))
    anew = row.base + jnp.where(ends, 0.0, (lr - a0) / jnp.where(ends, 1.0, b))
    start = jnp.where(rests, anew, carried)
    return start, jnp.where(rests, a + b * row.base + (lr - a0), a + b * carried)
