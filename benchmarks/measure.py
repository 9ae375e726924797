"""Side-by-side measurement: A B A B on fresh instances, process CPU and wall time."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import jax

Step = Callable[[], Any]


@dataclass
class Ratio:
    """How the work of A compares to that of B."""

    name: str
    cpu: float
    wall: float
    cpu_quartiles: tuple[float, float]
    a_cpu_us: float
    b_cpu_us: float
    samples: int
    target: float | None = None
    at_least: bool = False
    note: str = field(default='')

    @property
    def reached(self) -> str:
        if self.target is None:
            return ''
        return (
            'yes'
            if (self.cpu >= self.target if self.at_least else self.cpu <= self.target)
            else 'NO'
        )


@dataclass
class Skipped:
    """What could not be measured here."""

    name: str
    reason: str
    reached: str = 'skipped'


Row = Ratio | Skipped


def missing(module: str) -> str:
    """Return why a module cannot be imported, or nothing."""
    try:
        import_module(module)
    except ImportError as error:
        return f'{module.split(".")[0]} is not installed ({error})'
    return ''


def where_installed(module: str, name: str, work: Callable[[], Row]) -> Row:
    """Measure what needs a module; without it, say so."""
    reason = missing(module)
    return Skipped(name, reason) if reason else work()


MOST = {'instances': 1000, 'repeats': 1000}
"""Of what `compare` is asked for, how much it does."""


def hurry() -> None:
    """Let all that follows take fewer samples."""
    MOST.update(instances=2, repeats=7)


def compare(
    name: str,
    make_a: Callable[[], Step],
    make_b: Callable[[], Step],
    *,
    calls: int,
    target: float | None = None,
    at_least: bool = False,
    instances: int = 4,
    repeats: int = 9,
    note: str = '',
) -> Ratio:
    """Time A and B in turn, on instances made in alternating order.

    Two identical programs differ by up to a tenth with the order of their allocations: so each
    sample is a ratio of neighbours in time, and every few samples both are made anew.
    """
    cpu, wall, a_times, b_times = [], [], [], []
    repeats = min(repeats, MOST['repeats'])
    for instance in range(min(instances, MOST['instances'])):
        if instance % 2:
            b, a = make_b(), make_a()
        else:
            a, b = make_a(), make_b()
        for step in (a, b):
            for _ in range(3):
                step()
        for _ in range(repeats):
            (a_cpu, a_wall), (b_cpu, b_wall) = timed(a, calls), timed(b, calls)
            cpu.append(a_cpu / b_cpu)
            wall.append(a_wall / b_wall)
            a_times.append(a_cpu)
            b_times.append(b_cpu)
    low, _, high = statistics.quantiles(cpu, n=4)
    return Ratio(
        name,
        statistics.median(cpu),
        statistics.median(wall),
        (low, high),
        statistics.median(a_times) * 1e6,
        statistics.median(b_times) * 1e6,
        len(cpu),
        target,
        at_least,
        note,
    )


def counted(name: str, value: float, target: float | None, at_least: bool = False) -> Ratio:
    """Return a row of what is one number: it stands in the place of the ratios."""
    nan = float('nan')
    return Ratio(name, value, value, (value, value), nan, nan, 1, target, at_least)


def timed(step: Step, calls: int) -> tuple[float, float]:
    """Return CPU and wall seconds of one call, the mean of ``calls``, all finished."""

    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        out = step()
    jax.block_until_ready(out)
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def high_water() -> int:
    """Return the highest resident set of this program, in bytes.

    What getrusage tells is not it: that begins with what the process had that started this one.
    """
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) * 1024
    raise OSError('this system does not tell its highest resident set')


def add_dispatch_option(parser: argparse.ArgumentParser) -> None:
    """Let the command line choose who runs JAX's programs."""
    parser.add_argument(
        '--synchronous',
        action='store_true',
        help='run every program in the thread that calls it (jax_cpu_enable_async_dispatch off)',
    )


def choose_dispatch(given: argparse.Namespace) -> None:
    """Do what the command line chose; JAX must not have computed anything yet."""
    if given.synchronous:
        jax.config.update('jax_cpu_enable_async_dispatch', False)
        ABOUT['dispatch'] = 'synchronous'


ABOUT: dict[str, Any] = {}  # what was chosen for this process


def environment() -> dict[str, Any]:
    """Return versions, what was chosen, and the machine's load."""
    packages = ('jax', 'jaxlib', 'optax', 'brainstate', 'numpy', 'braintools', 'torch', 'eformer')
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = 'not installed'
    versions |= ABOUT
    return {**versions, 'cores': os.cpu_count(), 'load': [round(x, 2) for x in os.getloadavg()]}


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a markdown table."""
    lines = [
        '| what | CPU ratio | quartiles | wall ratio | A us | B us | target | reached |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for r in rows:
        if isinstance(r, Skipped):
            lines.append(f'| {r.name} | {r.reason} | | | | | | {r.reached} |')
            continue
        sign = '>=' if r.at_least else '<='
        target = '' if r.target is None else f'{sign} {r.target:g}'
        low, high = r.cpu_quartiles
        lines.append(
            f'| {r.name} | {r.cpu:.3f} | {low:.3f} - {high:.3f} | {r.wall:.3f} | {r.a_cpu_us:.0f} '
            f'| {r.b_cpu_us:.0f} | {target} | {r.reached} |'
        )
    return '\n'.join(lines)


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return everything measured, for a file."""
    return {
        'environment': environment(),
        'rows': [asdict(r) | {'reached': r.reached} for r in rows],
    }


def command(program: str, work: Mapping[str, Callable[[], list]]) -> None:
    """Measure what the command line asks for, print a table, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument('--only', help='comma-separated part of ' + ','.join(work))
    parser.add_argument('--json', help='file to write the numbers to')
    add_dispatch_option(parser)
    given = parser.parse_args()
    choose_dispatch(given)
    chosen = given.only.split(',') if given.only else list(work)
    if unknown := sorted({*chosen} - {*work}):
        parser.error(f'--only got {", ".join(unknown)}; there are {", ".join(work)}')
    print(' '.join(f'{k}={v}' for k, v in environment().items()), flush=True)
    rows = []
    for name in chosen:
        new = work[name]()
        print('\n'.join(table(new).splitlines()[2:]), flush=True)
        rows += new
    print('\n' + table(rows))
    if given.json:
        with open(given.json, 'w') as file:
            json.dump(as_json(rows), file, indent=1)
