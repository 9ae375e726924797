"""Quad and Skew beside eformer 0.0.101 in one process: time of a step, compilation, state.

    python -m benchmarks.white_kron [--json FILE] [--repeats 7]

It needs eformer (pip install eformer==0.0.101), in an environment of its own if its dependencies
clash; without it, the table says so. P9: a jitted update of a 1024 x 1024 matrix in blocks of 256,
the compilation of 40 matrices of 6 shapes, and words of state per parameter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from braintools_optim import transforms

from .measure import (
    Ratio,
    Row,
    Skipped,
    Step,
    as_json,
    compare,
    counted,
    environment,
    missing,
    table,
)

MODULE = 'eformer.optimizers._tx.white_kron'
SHAPES = [(64, 64), (64, 32), (32, 128), (128, 64), (48, 96), (96, 96)]


def one_step(module: Any, style: str, dtype: Any) -> Step:
    """Return a jitted update of one large matrix; nothing is donated."""
    rng = np.random.default_rng(0)
    grads = {'w': jnp.asarray(rng.normal(size=(1024, 1024)), jnp.float32)}
    tx = getattr(module, f'scale_by_{style}')(block_size=256, dtype=dtype)
    carry = [tx.init(grads)]
    update = jax.jit(tx.update)

    def step() -> Any:
        updates, carry[0] = update(grads, carry[0])
        return updates

    return step


PRODUCTS = {'quad': 14, 'skew': 16}
"""How many products of whole matrices the formulas need for a block, norms not among them."""


def products_alone(style: str) -> Step:
    """Return so many products of all blocks of that matrix, one after the other."""
    rng = np.random.default_rng(0)
    blocks = jnp.asarray(rng.normal(size=(16, 256, 256)), jnp.float32) / 16.0

    @jax.jit
    def multiplied(x: jax.Array, factors: jax.Array) -> jax.Array:
        for _ in range(PRODUCTS[style]):
            x = jnp.matmul(x, factors, precision='highest')
        return x

    return lambda: multiplied(blocks, blocks)  # as arguments: XLA multiplies what it knows itself


def compile_seconds(module: Any, style: str) -> tuple[float, float]:
    """Return CPU and wall seconds from nothing to a compiled update of 40 matrices."""
    tree = {f'w{i:02d}': jnp.ones(SHAPES[i % len(SHAPES)]) for i in range(40)}
    tx = getattr(module, f'scale_by_{style}')(block_size=256, dtype=jnp.float32)
    state = tx.init(tree)
    jax.clear_caches()
    cpu, wall = time.process_time(), time.perf_counter()
    jax.jit(tx.update).lower(tree, state).compile()
    return time.process_time() - cpu, time.perf_counter() - wall


def compilations(style: str, repeats: int) -> Ratio:
    """Compare the compilations of both, in turn."""
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(repeats):
        for i, module in enumerate((transforms, import_module(MODULE))):
            times[i].append(compile_seconds(module, style))
    cpu, wall = ([a[k] / b[k] for a, b in zip(*times, strict=True)] for k in (0, 1))
    a, b = (statistics.median(t[0] for t in ts) for ts in times)
    ends = (min(cpu), max(cpu))
    name = f'P9 compile 40 matrices of 6 shapes, {style}'
    return Ratio(
        name, statistics.median(cpu), statistics.median(wall), ends, a * 1e6, b * 1e6, repeats, 0.5
    )


def words(module: Any, shape: tuple[int, ...]) -> float:
    """Return the words of state per parameter."""
    state = jax.eval_shape(module.scale_by_quad(block_size=256).init, {'w': jnp.zeros(shape)})
    return sum(x.size for x in jax.tree.leaves(state)) / np.prod(shape)


def p9(repeats: int = 5, dtypes: tuple = (jnp.float32, jnp.bfloat16)) -> list[Row]:
    rows: list[Row] = []
    reason = missing(MODULE)
    for style in ('quad', 'skew'):
        for dtype in dtypes:
            name = f'P9 step 1024x1024, {style}, {jnp.dtype(dtype).name} / eformer'
            rows.append(Skipped(name, reason) if reason else _step(name, style, dtype, repeats))
        if not reason:
            rows.append(_products(style, repeats))
    return rows


def _products(style: str, repeats: int) -> Ratio:
    return compare(
        f"P9 the {PRODUCTS[style]} products of a step alone, {style}, float32 / eformer's step",
        lambda: products_alone(style),
        lambda: one_step(import_module(MODULE), style, jnp.float32),
        calls=1,
        instances=1,
        repeats=repeats,
    )


def _step(name: str, style: str, dtype: Any, repeats: int) -> Ratio:
    return compare(
        name,
        lambda: one_step(transforms, style, dtype),
        lambda: one_step(import_module(MODULE), style, dtype),
        calls=1,
        target=0.5,
        instances=1,
        repeats=repeats,
    )


def compilations_of_both() -> list[Row]:
    reason = missing(MODULE)
    if reason:
        return [Skipped('P9 compile 40 matrices of 6 shapes', reason)]
    return [compilations(style, 2) for style in ('quad', 'skew')]


def state() -> list[Ratio]:
    """Return the words of state per parameter in the place of the ratio, by shape."""
    rows = []
    for shape in ((16, 8), (300, 300), (1024, 1024)):
        found = words(transforms, shape)
        beside = '' if missing(MODULE) else f' (eformer: {words(import_module(MODULE), shape):.2f})'
        name = 'P9 words of state per parameter, {} x {}'.format(*shape) + beside
        target = 4.0 if max(shape) < 100 else None
        rows.append(counted(name, found, target))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--json')
    parser.add_argument('--repeats', type=int, default=5)
    given = parser.parse_args()
    print(environment(), flush=True)
    rows = [*p9(given.repeats), *compilations_of_both(), *state()]
    print(table(rows))
    if given.json:
        with open(given.json, 'w') as file:
            json.dump(as_json(rows), file, indent=1)


if __name__ == '__main__':
    main()
