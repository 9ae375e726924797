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
    'with_written',
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
        raise ValueError(
            f'{owner} needs {name} in a list of {count}, one for each group, got {values!r}.'
        )
    return list(values)


def with_written(rows: list[Row], lrs: list) -> list[Row]:
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
    beyond, rests = lr - a0, b0 == 0.0
    start = either(lr == row.written, row.start, _over(beyond, b0))
    new = either(rests, a + b * row.base + beyond, a + b * start)
    return either(rests, row.base + _over(beyond, b), start), new


def start_of(row: Row, lr: Any, a: Any, b: Any) -> Any:
    """Return the start from which ``(a, b)`` gives a learning rate; where b is 0 there is none."""
    return either(b == 0.0, row.start, _over(lr - a, b))


def _over(x: Any, b: Any) -> Any:
    """Return ``x / b``, or 0 where b is 0."""
    if not is_tracer(b):
        return x / b if b != 0.0 else 0.0
    return jnp.where(b == 0.0, 0.0, x / jnp.where(b == 0.0, 1.0, b))
