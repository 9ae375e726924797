"""What a step costs beside hand-written optax and braintools.optim, in one process.

    python -m benchmarks.step [--only P1,P2] [--json FILE]

P1 eager step, P2 inside brainstate.transform.jit, P3 a learning rate that changes every step, P4
five groups, P5 25 million parameters against the memory's bandwidth, P7 clipping, P10 the import;
LR a scheduler that is stepped with every step, by Python and inside the jitted function.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax

import braintools_optim as bo

from .measure import Ratio, Row, Step, command, compare, timed, where_installed

CALLS = {10: 100, 200: 8}


def model(leaves: int, side: int = 4) -> dict:
    """Return the values of ``leaves // 2`` linear layers, as brainstate's Linear holds them."""
    layer = {'weight': jnp.ones((side, side)), 'bias': jnp.ones(side)}
    return {(f'layer{i:03d}', 'weight'): jax.tree.map(jnp.array, layer) for i in range(leaves // 2)}


def gradients(params: dict) -> dict:
    return jax.tree.map(lambda p: 0.1 * p, params)


def states(params: dict) -> dict:
    return {key: brainstate.ParamState(value) for key, value in params.items()}


def ours(
    leaves: int,
    groups: int = 1,
    change: bool = False,
    scheduled: bool = False,
    side: int = 4,
    **options: Any,
) -> Step:
    """Return an eager step of our AdamW."""
    params = model(leaves, side)
    grads, parts = gradients(params), states(params)
    keys = list(parts)
    size = len(keys) // groups
    opt = bo.AdamW(1e-3, **options).register_trainable_weights({k: parts[k] for k in keys[:size]})
    for i in range(1, groups):
        members = keys[i * size : (i + 1) * size if i < groups - 1 else None]
        opt.add_param_group({k: parts[k] for k in members}, lr=1e-4 * i)
    scheduler = bo.CosineAnnealingLR(opt, T_max=100_000) if scheduled else None

    def step() -> Any:
        if change:
            opt.current_lr = 1e-3
        opt.step(grads)
        if scheduler is not None:
            scheduler.step()
        return parts[keys[-1]].value

    return step


def hand(leaves: int, side: int = 4) -> Step:
    """Return a step of optax.adamw on the model."""
    return by_hand(model(leaves, side))


def by_hand(params: dict) -> Step:
    """Return optax.adamw as one writes it by hand: jitted, its state donated."""
    grads, tx = gradients(params), optax.adamw(1e-3, weight_decay=0.01)
    carry = [params, tx.init(params)]

    @functools.partial(jax.jit, donate_argnums=1)
    def apply(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def step() -> Any:
        carry[:] = apply(carry[0], carry[1], grads)
        return carry[0]

    return step


def hand_with_rate(leaves: int, rate: Callable[[int], Any]) -> Step:
    """Return the same with a learning rate that it is given, a function of the step."""
    params = model(leaves)
    grads = gradients(params)
    carry = [params, optax.adamw(0.0).init(params)]
    count = itertools.count()

    @functools.partial(jax.jit, donate_argnums=1)
    def apply(params: Any, state: Any, grads: Any, lr: Any) -> Any:
        updates, state = optax.adamw(lr, weight_decay=0.01).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def step() -> Any:
        carry[:] = apply(carry[0], carry[1], grads, rate(next(count)))
        return carry[0]

    return step


def on_device() -> Callable[[int], Any]:
    """Return a learning rate that stays where it is."""
    lr = jnp.float32(1e-3)
    return lambda i: lr


def from_host(i: int) -> Any:
    """Return a learning rate that comes from the host."""
    return np.float32(1e-3)


def cosine_by_hand(i: int) -> Any:
    """Return the learning rate of `CosineAnnealingLR(T_max=100_000)`, by the least Python."""
    return np.float32(0.5e-3 * (1.0 + math.cos(math.pi * i / 100_000)))


def braintools(leaves: int) -> Step:
    """Return an eager step of braintools.optim's AdamW."""
    from braintools import optim

    params = model(leaves)
    grads, parts = gradients(params), states(params)
    opt = optim.AdamW(1e-3)
    opt.register_trainable_weights(parts)

    def step() -> Any:
        opt.step(grads)
        return opt.opt_state.value

    return step


def ours_jitted(
    leaves: int, change: bool = False, scheduled: str = '', counter: list | None = None
) -> Step:
    """Return a jitted function that does a step of our AdamW; scheduled 'inside' or 'outside'."""
    params = model(leaves)
    grads, parts = brainstate.State(gradients(params)), states(params)
    opt = bo.AdamW(1e-3).register_trainable_weights(parts)
    scheduler = bo.CosineAnnealingLR(opt, T_max=100_000)

    @brainstate.transform.jit
    def train() -> None:
        if counter is not None:
            counter.append(1)
        opt.step(grads.value)
        if scheduled == 'inside':
            scheduler.step()

    last = list(parts.values())[-1]

    def step() -> Any:
        if change:
            opt.current_lr = 1e-3
        train()
        if scheduled == 'outside':
            scheduler.step()
        return last.value

    return step


def hand_jitted(leaves: int) -> Step:
    """Return the same with hand-written optax, its state in one State."""
    params = model(leaves)
    grads, parts = brainstate.State(gradients(params)), states(params)
    tx = optax.adamw(1e-3, weight_decay=0.01)
    state = brainstate.State(tx.init(params))

    @brainstate.transform.jit
    def train() -> None:
        values = {key: part.value for key, part in parts.items()}
        updates, state.value = tx.update(grads.value, state.value, values)
        for key, value in optax.apply_updates(values, updates).items():
            parts[key].value = value

    last = list(parts.values())[-1]

    def step() -> Any:
        train()
        return last.value

    return step


def p1() -> list[Row]:
    rows: list[Row] = []
    for leaves, calls in CALLS.items():
        rows.append(
            compare(
                f'P1 eager AdamW, {leaves} leaves / hand-written jitted optax',
                lambda n=leaves: ours(n),
                lambda n=leaves: hand(n),
                calls=calls,
                target=1.0,
            )
        )
        rows.append(
            where_installed(
                'braintools.optim', BESIDE.format(leaves), functools.partial(beside, leaves)
            )
        )
    # XLA runs programs without a buffer above 512 bytes in one thread; the counts of 200 leaves
    # are one, so with leaves as small as above only the other program is run like that.
    rows.append(
        compare(
            'P1 eager AdamW, 200 leaves, weights of 1 KiB / hand-written jitted optax',
            lambda: ours(200, side=16),
            lambda: hand(200, side=16),
            calls=CALLS[200],
            target=1.0,
        )
    )
    return rows


BESIDE = 'P1 braintools.optim, {} leaves / ours'


def beside(leaves: int) -> Ratio:
    return compare(
        BESIDE.format(leaves),
        lambda: braintools(leaves),
        lambda: ours(leaves),
        calls=max(CALLS[leaves] // 4, 2),
        target=20.0,
        at_least=True,
        instances=2,
        repeats=15,
    )


def p2() -> list[Ratio]:
    return [
        compare(
            f'P2 in brainstate jit, {leaves} leaves / hand-written optax there',
            lambda n=leaves: ours_jitted(n),
            lambda n=leaves: hand_jitted(n),
            calls=max(calls // 2, 4),
            target=1.05,
        )
        for leaves, calls in CALLS.items()
    ]


def p3() -> list[Ratio]:
    rows = []
    for leaves, calls in CALLS.items():
        rows.append(
            compare(
                f'P3 lr changed every eager step, {leaves} leaves / unchanged',
                lambda n=leaves: ours(n, change=True),
                lambda n=leaves: ours(n),
                calls=calls,
                target=1.05,
            )
        )
        traces: list = []
        row = compare(
            f'P3 lr changed every jitted step, {leaves} leaves / unchanged',
            lambda n=leaves, t=traces: ours_jitted(n, change=True, counter=t),
            lambda n=leaves: ours_jitted(n),
            calls=max(calls // 2, 4),
            target=1.05,
        )
        row.note = f'{len(traces)} traces of 4 programs'
        row.name += f' ({row.note})'
        rows.append(row)
        rows += beside_hand(
            f'P3 lr changed every eager step, {leaves} leaves',
            lambda n=leaves: ours(n, change=True),
            leaves,
            from_host,
        )
    return rows


def beside_hand(name: str, make: Callable[[], Step], leaves: int, rate: Any) -> list[Ratio]:
    """Compare ours, and what it takes by hand to give a step a learning rate of the host."""
    return [
        compare(
            f'{name} / the same by hand',
            make,
            lambda: hand_with_rate(leaves, rate),
            calls=CALLS[leaves],
        ),
        compare(
            f'{name}, by hand / unchanged by hand',
            lambda: hand_with_rate(leaves, rate),
            lambda: hand_with_rate(leaves, on_device()),
            calls=CALLS[leaves],
        ),
    ]


def lr() -> list[Ratio]:
    rows = []
    for leaves, calls in CALLS.items():
        rows.append(
            compare(
                f'LR scheduler stepped every eager step, {leaves} leaves / none',
                lambda n=leaves: ours(n, scheduled=True),
                lambda n=leaves: ours(n),
                calls=calls,
                target=1.1,
            )
        )
        for where in ('outside', 'inside'):
            traces: list = []
            row = compare(
                f'LR scheduler stepped {where} the jitted step, {leaves} leaves / none',
                lambda n=leaves, t=traces, w=where: ours_jitted(n, scheduled=w, counter=t),
                lambda n=leaves: ours_jitted(n),
                calls=max(calls // 2, 4),
                target=1.1,
            )
            row.note = f'{len(traces)} traces of 4 programs'
            row.name += f' ({row.note})'
            rows.append(row)
        rows += beside_hand(
            f'LR scheduler stepped every eager step, {leaves} leaves',
            lambda n=leaves: ours(n, scheduled=True),
            leaves,
            cosine_by_hand,
        )
    return rows


def p4() -> list[Ratio]:
    return [
        compare(
            f'P4 five groups, {leaves} leaves / one',
            lambda n=leaves: ours(n, groups=5),
            lambda n=leaves: ours(n),
            calls=calls,
            target=1.1,
        )
        for leaves, calls in CALLS.items()
    ]


def p5(millions: int = 25) -> list[Ratio]:
    """Compare a step's memory traffic, 28 bytes a parameter, with a stream triad's."""
    side = 1000
    size = millions * 1_000_000
    params = {f'w{i}': jnp.ones((side, side)) for i in range(size // side**2)}
    grads, parts = gradients(params), states(params)
    opt = bo.AdamW(1e-3).register_trainable_weights(parts)

    def step() -> Any:
        opt.step(grads)
        return [p.value for p in parts.values()]

    write = jax.jit(lambda a, b, c: b + 3.0 * c, donate_argnums=0, keep_unused=True)
    a, b, c = jnp.zeros(size), jnp.ones(size), jnp.ones(size)
    memory = [a]

    def triad() -> Any:
        memory[0] = write(memory[0], b, c)
        return memory[0]

    for run in (step, triad):
        jax.block_until_ready(run())
    shares, walls = [], []
    for _ in range(31):
        _, stream = timed(triad, 2)
        _, wall = timed(step, 2)
        shares.append((28 * size / wall) / (12 * size / stream))
        walls.append(wall)
    low, _, high = statistics.quantiles(shares, n=4)
    return [
        Ratio(
            f'P5 {millions}M parameters: share of the stream triad (wall)',
            statistics.median(shares),
            statistics.median(shares),
            (low, high),
            statistics.median(walls) * 1e6,
            float('nan'),
            len(shares),
            0.7,
            at_least=True,
        )
    ]


def p7() -> list[Ratio]:
    return [
        compare(
            f'P7 global-norm clipping, {leaves} leaves / none',
            lambda n=leaves: ours(n, grad_clip_norm=1.0),
            lambda n=leaves: ours(n),
            calls=calls,
            target=1.3,
        )
        for leaves, calls in CALLS.items()
    ]


def p10(samples: int = 15) -> list[Ratio]:
    """Compare what importing costs in new processes, from bytecode, as what is installed has it."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'}

    def cost(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, '-c', code], check=True, env=env)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    ours_, base = 'import braintools_optim', 'import brainstate, optax'
    for code in (ours_, base):
        cost(code)
    pairs = np.array([(cost(ours_), cost(base)) for _ in range(samples)])
    ratios = pairs[:, 0] / pairs[:, 1]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    a, b = np.median(pairs, axis=0) * 1e6
    return [
        Ratio(
            'P10 import braintools_optim / brainstate and optax',
            float(middle),
            float('nan'),
            (float(low), float(high)),
            float(a),
            float(b),
            samples,
            1.15,
        )
    ]


WORK = {'P1': p1, 'P2': p2, 'P3': p3, 'P4': p4, 'P5': p5, 'P7': p7, 'P10': p10, 'LR': lr}


if __name__ == '__main__':
    command('python -m benchmarks.step', WORK)
