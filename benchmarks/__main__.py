"""P1-P10 in one table: what was reached beside what was to be reached.

    python -m benchmarks [--full] [--only P1,P5] [--out benchmarks/results]

The quick set (P1-P10 and the training step, T1) takes less than five minutes on two cores; --full
takes more samples and all that the single commands measure. What needs a package that is not
installed is skipped, and says so.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brainstate  # noqa: F401  # first: it sets jax up
import jax.numpy as jnp

from . import algorithms, checkpoint, compile, memory, step, train, white_kron
from .measure import (
    Ratio,
    Row,
    add_dispatch_option,
    as_json,
    choose_dispatch,
    counted,
    environment,
    hurry,
    table,
)

Work = Callable[[], list[Row]]

# Small steps first: what holds much memory leaves the machine in another state.
QUICK: dict[str, Work] = {
    'P1': step.p1,
    'P2': step.p2,
    'P3': step.p3,
    'P4': step.p4,
    'P7': step.p7,
    'T1': train.t1,
    'P10': lambda: step.p10(samples=7),
    'P9': lambda: [*white_kron.p9(dtypes=(jnp.float32,)), *white_kron.state()],
    'P6': lambda: [compile.first_alone('2000')],
    'P5': step.p5,
    'P8': lambda: checkpoint.p8(repeats=3),
}
FULL: dict[str, Work] = {
    **QUICK,
    'LR': step.lr,
    'T1': lambda: [*train.t1(), *train.t2(), *train.t3()],
    'P10': step.p10,
    'P9': lambda: [
        *(*white_kron.p9(), *white_kron.compilations_of_both(), *white_kron.state()),
    ],
    'P6': lambda: [row for name in compile.WORK for row in compile.first_calls(name)],
    'P8': lambda: checkpoint.p8(tuple(checkpoint.MAKERS)),
    'M': lambda: peak_memory(),
}


def peak_memory() -> list[Row]:
    """Return train_step's peak memory relative to that of brainstate's jit."""
    shares = next(r for r in memory.compared(25, 4, 3) if r['way'] == 'train_step')['ratios']
    return [
        counted(f'M train_step, 25M parameters: peak of the {kind}', shares[kind], memory.TARGET)
        for kind in ('program', 'process')
    ]


def number(row: Row) -> tuple[str, int]:
    """Return what sorts rows: P2 before P10."""
    name = row.name.split()[0]
    return name[0], int(name[1:] or 0) if name[1:].isdigit() else 0


def verdict(rows: list[Row]) -> str:
    """Return how many targets were reached, and which were not."""
    counts = {k: sum(row.reached == k for row in rows) for k in ('yes', 'NO', 'skipped')}
    said = f'{counts["yes"]} targets reached, {counts["NO"]} missed, {counts["skipped"]} skipped.'
    missed = [
        f'- {row.name}: {row.cpu:.3f}, target {">=" if row.at_least else "<="} {row.target:g}'
        for row in rows
        if isinstance(row, Ratio) and row.reached == 'NO'
    ]
    return '\n'.join([said, *missed])


def report(title: str, before: dict[str, Any], seconds: float, rows: list[Row], more: str) -> str:
    """Return the page of results."""
    about = ', '.join(f'{k} {v}' for k, v in before.items())
    lines = [
        *(f'# {title}', '', f'{about}; {seconds:.0f} s; load at the end {environment()["load"]}.'),
        'A / B: medians of ratios of neighbours in time, each of process CPU and of wall time.',
        *('', verdict(rows), '', table(rows), '', more),
    ]
    return '\n'.join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks', description=__doc__.split('\n')[0]
    )
    parser.add_argument('--full', action='store_true', help='everything, which takes long')
    parser.add_argument('--only', help='comma-separated part of ' + ','.join([*FULL, 'algorithms']))
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results')
    add_dispatch_option(parser)
    given = parser.parse_args()
    choose_dispatch(given)
    work = FULL if given.full else QUICK
    chosen = given.only.split(',') if given.only else [*work, *['algorithms'] * given.full]
    unknown = set(chosen) - {*FULL, 'algorithms'}
    if unknown:
        parser.error(
            f'--only got {", ".join(sorted(unknown))}; there are {", ".join([*FULL, "algorithms"])}'
        )
    if not given.full:
        hurry()
    before, start = environment(), time.perf_counter()
    print(' '.join(f'{k}={v}' for k, v in before.items()), flush=True)
    rows: list[Row] = []
    for name in chosen:
        if name != 'algorithms':
            new = {**FULL, **work}[name]()
            print('\n'.join(table(new).splitlines()[2:]), flush=True)
            rows += new
    rows.sort(key=number)
    each = algorithms.measured() if 'algorithms' in chosen else []
    more = algorithms.table(each) if each else ''
    kind = 'full' if given.full else 'quick'
    text = report(f'Benchmarks, {kind}', before, time.perf_counter() - start, rows, more)
    print('\n' + text)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f'{kind}.md').write_text(text + '\n')
    found = {**as_json(rows), 'environment': before, 'after': environment()}
    found['algorithms'] = algorithms.as_dicts(each)
    (given.out / f'{kind}.json').write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
