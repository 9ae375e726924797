"""Peak memory of a jitted training step, AdamW: hand-written, in brainstate, by train_step.

    python -m benchmarks.memory [--millions 25] [--json FILE]

Each way runs in processes of its own, in turn. Two figures: what XLA says that the program holds at
its peak (arguments, outputs and temporaries, without what is aliased), and by how much the process
grew at its peak beyond what it took after its imports.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
from typing import Any

from .measure import environment, high_water

WAYS = ('brainstate', 'train_step', 'hand')
SIDE = 1000
TARGET = 0.65
BYTES = ('program', 'process', 'whole process')


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(way: str, millions: int, steps: int) -> dict[str, float]:
    """Take steps in this process; return the bytes of both figures, and of the parameters."""
    import brainstate
    import jax
    import jax.numpy as jnp
    import optax

    import braintools_optim as bo

    jnp.zeros(1).block_until_ready()
    before = resident()
    count = millions * 1_000_000 // SIDE**2
    x = jnp.ones((8, SIDE))

    def loss_of(values: list, x: Any) -> Any:
        for value in values:
            x = jnp.tanh(x @ value)
        return jnp.mean(x**2)

    def fresh() -> list:
        return [jax.random.normal(jax.random.key(i), (SIDE, SIDE)) / 30 for i in range(count)]

    if way == 'hand':
        params, tx = fresh(), optax.adamw(1e-3, weight_decay=0.01)
        carry = [params, tx.init(params)]
        del params

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def train(params: Any, state: Any, x: Any) -> Any:
            loss, grads = jax.value_and_grad(loss_of)(params, x)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        def step() -> Any:
            carry[0], carry[1], loss = train(*carry, x)
            return loss

        compiled = train.lower(*carry, x).compile()
    else:
        parts = [brainstate.ParamState(value) for value in fresh()]
        opt = bo.AdamW(1e-3).register_trainable_weights(parts)

        def loss(x: Any) -> Any:
            return loss_of([p.value for p in parts], x)

        if way == 'train_step':
            whole = bo.train_step(parts, opt, loss)
            step, compiled = (lambda: whole(x)), whole.compiled(x)
        else:

            @brainstate.transform.jit
            def in_brainstate(x: Any) -> Any:
                grads, value = brainstate.transform.grad(loss, parts, return_value=True)(x)
                opt.step(grads)
                return value

            step, compiled = (lambda: in_brainstate(x)), in_brainstate.compile(x)
    for _ in range(steps):
        jax.block_until_ready(step())
    held = compiled.memory_analysis()
    program = held.argument_size_in_bytes + held.output_size_in_bytes + held.temp_size_in_bytes
    peak = high_water()
    return {
        'program': program - held.alias_size_in_bytes,
        'aliased': held.alias_size_in_bytes / (12.0 * count * SIDE**2),
        'process': peak - before,
        'whole process': peak,
    }


def in_child(way: str, millions: int, steps: int) -> dict[str, float]:
    command = [sys.executable, '-m', 'benchmarks.memory', '--way', way]
    command += ['--millions', str(millions), '--steps', str(steps)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(shown.splitlines()[-1])


def compared(millions: int, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each way: medians over processes that ran in turn, and their ratios."""
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(in_child(way, millions, steps))
    rows = []
    for way in WAYS:
        middle = {k: statistics.median(r[k] for r in found[way]) for k in found[way][0]}
        pairs = list(zip(found[way], found[WAYS[0]], strict=True))
        ratios = {k: statistics.median(a[k] / b[k] for a, b in pairs) for k in BYTES}
        rows.append({'way': way, **middle, 'ratios': ratios})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a markdown table; the last columns are shares of brainstate's."""
    lines = [
        '| way | program MB | process MB | aliased | program ratio | process ratio '
        '| with imports | target | reached |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        r = row['ratios']
        reached = 'yes' if max(r['program'], r['process']) <= TARGET else 'NO'
        judged = f'<= {TARGET} | {reached}' if row['way'] == 'train_step' else ' | '
        lines.append(
            f'| {row["way"]} | {row["program"] / 1e6:.0f} | {row["process"] / 1e6:.0f} '
            f'| {row["aliased"]:.1%} | {r["program"]:.3f} | {r["process"]:.3f} '
            f'| {r["whole process"]:.3f} | {judged} |'
        )
    return '\n'.join(lines)


def main() -> None:
    """Measure every way in children, or one of them here."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.memory')
    parser.add_argument('--millions', type=int, default=25, help='parameters')
    parser.add_argument('--steps', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--way', choices=WAYS, help='measure this way in this process')
    parser.add_argument('--json', help='file to write the numbers to')
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.millions, given.steps)))
        return
    print(' '.join(f'{k}={v}' for k, v in environment().items()), flush=True)
    rows = compared(given.millions, given.steps, given.rounds)
    print('\n' + table(rows))
    if given.json:
        with open(given.json, 'w') as file:
            json.dump({'environment': environment(), 'rows': rows}, file, indent=1)


if __name__ == '__main__':
    main()
