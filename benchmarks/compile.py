"""What the first call of a step costs by the number of leaves, beside hand-written optax.

    python -m benchmarks.compile [--only 10,200,net,2000,mixed] [--json FILE]

P6: the first eager step over 2,000 leaves of equal shape, and of twenty shapes, in CPU seconds; it
holds tracing, compiling and running. Then what the next steps cost, and a step in which a gradient
is absent for the first time, which is traced and compiled anew.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

import braintools_optim as bo

from .measure import Ratio, Step, command, timed
from .step import by_hand

Shapes = list[tuple[int, ...]]

EQUAL: Shapes = [(4, 4)]
TWENTY: Shapes = [(i, j) for i in (2, 3, 4, 5) for j in (2, 3, 4, 5, 6)]


def resnet50() -> Shapes:
    """Return the shapes of ResNet-50: kernels of convolutions, each with a scale and a bias."""
    kernels: Shapes = [(7, 7, 3, 64)]
    came = 64
    for blocks, width in [(3, 64), (4, 128), (6, 256), (3, 512)]:
        for block in range(blocks):
            kernels += [(1, 1, came, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            kernels += [(1, 1, came, 4 * width)] if block == 0 else []
            came = 4 * width
    shapes = [shape for kernel in kernels for shape in (kernel, kernel[-1:], kernel[-1:])]
    return [*shapes, (came, 1000), (1000,)]


NET = resnet50()
WORK: dict[str, tuple[int, Shapes, int, int]] = {
    # leaves, their shapes in turn, samples of ours, samples of what takes minutes
    '10': (10, EQUAL, 5, 5),
    '200': (200, EQUAL, 3, 3),
    'net': (len(NET), NET, 3, 3),
    '2000': (2000, EQUAL, 3, 1),
    'mixed': (2000, TWENTY, 3, 1),
}
TARGET = 2.0  # P6, in CPU seconds


def model(leaves: int, shapes: Shapes) -> dict[str, jax.Array]:
    return {f'w{i:05d}': jnp.ones(shapes[i % len(shapes)]) for i in range(leaves)}


def ours(leaves: int, shapes: Shapes) -> tuple[Step, Step]:
    """Return an eager step of our AdamW, and one without the first gradient."""
    params = model(leaves, shapes)
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    fewer = {k: g for k, g in grads.items() if k != 'w00000'}
    parts = {k: brainstate.ParamState(p) for k, p in params.items()}
    opt = bo.AdamW(1e-3).register_trainable_weights(parts)

    def step(grads: Any) -> Any:
        opt.step(grads)
        return [p.value for p in parts.values()]

    return functools.partial(step, grads), functools.partial(step, fewer)


def what_of(name: str) -> str:
    leaves, shapes, *_ = WORK[name]
    return f'{leaves} leaves of {len(set(shapes))} shape' + 's' * (len(set(shapes)) > 1)


def first_alone(name: str) -> Ratio:
    """Measure the first call alone, with nothing beside it that would take minutes."""
    leaves, shapes, samples, _ = WORK[name]
    jax.block_until_ready(jax.tree.leaves(model(leaves, shapes)))
    a = [timed(ours(leaves, shapes)[0], 1) for _ in range(samples)]
    return _seconds(f'P6 first call, {what_of(name)}: CPU seconds', a, [], TARGET)


def first_calls(name: str) -> list[Ratio]:
    """Measure one kind of model; each sample is of a new optimizer, in alternating order."""
    leaves, shapes, samples, of_hand = WORK[name]
    what = what_of(name)
    jax.block_until_ready(jax.tree.leaves(model(leaves, shapes)))
    a, b, again = [], [], []
    for sample in range(samples):
        step, other = ours(leaves, shapes)
        a.append(timed(step, 1))
        again.append(timed(other, 1))
        if sample < of_hand:
            theirs = by_hand(model(leaves, shapes))
            b.append(timed(theirs, 1))
    target = TARGET if leaves == 2000 else None
    return [
        _seconds(f'P6 first call, {what}: CPU seconds', a, b, target),
        _seconds(f'absent gradient for the first time, {what}: CPU seconds', again, [], None),
        _next(f'next steps, {what} / hand-written', step, theirs, 2 if leaves > 200 else 20),
    ]


def _seconds(name: str, a: list, b: list, target: float | None) -> Ratio:
    cpu, wall = ([x[i] for x in a] for i in (0, 1))
    low, middle, high = statistics.quantiles(cpu, n=4)
    beside = statistics.median(x[0] for x in b) * 1e6 if b else float('nan')
    return Ratio(
        *(name, middle, statistics.median(wall), (low, high), middle * 1e6, beside),
        *(len(a), target),
    )


def _next(name: str, a: Step, b: Step, calls: int, repeats: int = 15) -> Ratio:
    for step in (a, b):
        for _ in range(3):
            step()
    pairs = [(timed(a, calls), timed(b, calls)) for _ in range(repeats)]
    cpu = [x[0] / y[0] for x, y in pairs]
    low, middle, high = statistics.quantiles(cpu, n=4)
    return Ratio(
        *(name, middle, statistics.median(x[1] / y[1] for x, y in pairs), (low, high)),
        *(statistics.median(pair[i][0] for pair in pairs) * 1e6 for i in (0, 1)),
        len(pairs),
    )


if __name__ == '__main__':
    command('python -m benchmarks.compile', {k: functools.partial(first_calls, k) for k in WORK})
