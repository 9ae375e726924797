"""What it saves that small arrays of the state lie together, by how many do and by their size.

    python -m benchmarks.packs [--only 10x4,200x16,50x64] [--json FILE]

An eager step of AdamW with so many arrays in a buffer beside one with each in its own: first its
compilation, then the next steps. A name is a number of leaves and the side of their matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from unittest.mock import patch

import braintools_optim as bo
from braintools_optim.engine import packs

from .measure import Row, Step, command, compare
from .step import gradients, model, states

WORK = {
    '10x4': (10, 4),
    '200x4': (200, 4),
    '200x16': (200, 16),
    '50x32': (50, 32),
    '50x64': (50, 64),
}
TOGETHER = (2, 4, 8, 16)


def eager(leaves: int, side: int, together: int) -> Step:
    """Return an eager step of AdamW with so many arrays in a buffer, of any size."""
    params = model(leaves, side)
    grads, parts = gradients(params), states(params)
    with patch.multiple(packs, _TOGETHER=together, _SMALL=side**2):
        opt = bo.AdamW(1e-3).register_trainable_weights(parts)
    last = list(parts.values())[-1]

    def step() -> object:
        opt.step(grads)
        return last.value

    return step


def first(make: Callable[[], Step]) -> Callable[[], Step]:
    """Return a maker of what does the first call of a new step each time."""
    return lambda: lambda: make()()


def measured(name: str) -> list[Row]:
    """Measure one kind of model."""
    leaves, side = WORK[name]
    rows: list[Row] = []
    for together in TOGETHER:
        one, other = (functools.partial(eager, leaves, side, k) for k in (together, 1))
        what = f'{leaves} leaves of side {side}, {together} in a buffer / 1'
        rows.append(
            compare(
                f'first step, {what}', first(one), first(other), calls=1, instances=1, repeats=3
            )
        )
        rows.append(compare(f'step, {what}', one, other, calls=max(4, 1000 // leaves)))
    return rows


if __name__ == '__main__':
    command('python -m benchmarks.packs', {k: functools.partial(measured, k) for k in WORK})
