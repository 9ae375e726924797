"""What saving and loading a checkpoint costs beside four other libraries, in one process.

    python -m benchmarks.checkpoint [--parameters 25000000] [--repeats 9] [--json FILE]

P8: the state of an AdamW with 25 million parameters (two float32 arrays each), as jax arrays.
Everyone in turn saves it and loads it, in every round in another order. A row is the median ratio
of the process's CPU, for which the targets are, and of the time. The extra memory is the highest
resident set while it is done beyond the one before. Ours checks and flushes (fsync) what it writes;
the second table tells who else does: of 40 files with one flipped bit each, how many were refused,
and the calls of fsync. `bytes alone, flushed` is no library: it writes the bytes of the arrays and
flushes them, the least that a lasting file takes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import brainstate  # noqa: F401  # first: it sets jax up
import jax
import jax.numpy as jnp
import numpy as np

from braintools_optim.checkpoint import file

from .measure import Ratio, Row, Skipped, as_json, counted, high_water, table

BASE = 'braintools.file'
FLUSHED = 'braintools.file, flushed'
BARE = 'bytes alone, flushed'
TARGETS = {'save': 5.0, 'load': 4.0, 'save_memory': 0.1, 'load_memory': 1.1}
PACKAGES = {
    'braintools_optim': 'braintools-optim',
    BASE: 'braintools',
    FLUSHED: 'braintools',
    BARE: 'numpy',
    'flax.serialization': 'flax',
    'orbax': 'orbax-checkpoint',
    'safetensors': 'safetensors',
}


@dataclass
class Library:
    """How somebody saves and loads a nested dict of arrays."""

    save: Callable[[Path, dict], Any]
    load: Callable[[Path], Any]
    wall: dict[str, list[float]] = field(default_factory=lambda: {'save': [], 'load': []})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {'save': [], 'load': []})
    memory: dict[str, float] = field(default_factory=dict)
    refused: str = ''
    fsyncs: str = ''

    def slower(self, than: Library, what: str) -> tuple[list[float], list[float]]:
        """Return how much more CPU and time this one takes, in each round."""
        return (
            [a / b for a, b in zip(self.cpu[what], than.cpu[what], strict=True)],
            [a / b for a, b in zip(self.wall[what], than.wall[what], strict=True)],
        )


def ours() -> Library:
    return Library(file.write, lambda path: file.read(path)[1])


def braintools() -> Library:
    from braintools.file import msgpack_load, msgpack_save

    return Library(
        lambda path, tree: msgpack_save(str(path), tree, verbose=False),
        lambda path: msgpack_load(str(path), verbose=False),
    )


def braintools_flushed() -> Library:
    """Return braintools with what ours does too: when saving returns, the disk has the file."""
    library = braintools()
    unflushed = library.save

    def save(path: Path, tree: dict) -> None:
        unflushed(path, tree)
        with open(path, 'rb') as opened:
            os.fsync(opened.fileno())

    library.save = save
    return library


def bytes_alone() -> Library:
    """Return the least that a lasting file takes: nothing is described, nothing checked."""

    def save(path: Path, tree: dict) -> None:
        with open(path, 'wb', buffering=0) as file:
            for leaf in jax.tree.leaves(tree):
                file.write(np.asarray(leaf))
            os.fsync(file.fileno())

    return Library(save, lambda path: np.fromfile(path, np.float32))


def flax() -> Library:
    from flax import serialization

    return Library(
        lambda path, tree: path.write_bytes(serialization.msgpack_serialize(tree)),
        lambda path: serialization.msgpack_restore(path.read_bytes()),
    )


def orbax() -> Library:
    import orbax.checkpoint as ocp

    # without its own asynchronous wrapper: the time until the files are there
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    return Library(
        lambda path, tree: checkpointer.save(path, tree, force=True),
        lambda path: checkpointer.restore(path),
    )


def safetensors() -> Library:
    from safetensors.numpy import load_file, save_file

    def save(path: Path, tree: dict) -> None:
        flat = {
            f'{slot}/{name}': np.asarray(v) for slot, t in tree.items() for name, v in t.items()
        }
        save_file(flat, path)

    return Library(save, load_file)


MAKERS = {
    'braintools_optim': ours,
    BASE: braintools,
    FLUSHED: braintools_flushed,
    BARE: bytes_alone,
    'flax.serialization': flax,
    'orbax': orbax,
    'safetensors': safetensors,
}


def adamw_state(parameters: int, leaves: int = 50) -> dict[str, dict[str, jax.Array]]:
    """Return both moments of so many parameters."""
    rng = np.random.default_rng(0)
    size = parameters // leaves
    return {
        slot: {
            f'layer{i:02d}.weight': jnp.asarray(rng.standard_normal(size, np.float32))
            for i in range(leaves)
        }
        for slot in ('exp_avg', 'exp_avg_sq')
    }


def reset() -> int:
    """Forget the highest resident set; return the present one."""
    Path('/proc/self/clear_refs').write_text('5')
    return high_water()


def trim() -> None:
    """Give back what malloc keeps: reused, it would not be seen as extra memory."""
    malloc_trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if malloc_trim is not None:
        malloc_trim(0)


def timed(library: Library, what: str, work: Callable[[], Any], first: bool) -> Any:
    """Return the result; note the memory beyond what was there the first time, then the times."""
    if first:
        trim()
    before = reset()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if first:
        library.memory[what] = high_water() - before
    else:
        library.cpu[what].append(cpu)
        library.wall[what].append(wall)
    return result


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def measure(libraries: dict[str, Library], tree: dict, directory: Path, repeats: int) -> None:
    """Fill in memory in the first round, whose memory is fresh, and times in the others."""
    payload = sum(x.nbytes for x in jax.tree.leaves(tree))
    for round_ in range(repeats + 1):
        names = list(libraries)
        random.Random(round_).shuffle(names)
        for name in names:
            library, path, first = libraries[name], directory / name, not round_
            timed(library, 'save', partial(library.save, path, tree), first)
            found = timed(library, 'load', partial(library.load, path), first)
            total = sum(np.asarray(x).nbytes for x in jax.tree.leaves(found))
            assert total == payload, f'{name} loaded {total} bytes of {payload}'
            del found
            remove(path)
            os.sync()  # or the next one pays for this one's pages
    for library in libraries.values():
        library.memory = {what: extra / payload for what, extra in library.memory.items()}


def one_file(path: Path) -> Path:
    """Return the file with most bytes, of a file or a directory."""
    if path.is_file():
        return path
    return max((p for p in path.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def count_refusals(library: Library, path: Path, flips: int = 40) -> str:
    """Flip bits in a small file; return how many were refused and how many loaded unchanged."""
    tree = adamw_state(1000, leaves=2)
    library.save(path, tree)
    target = one_file(path)
    good = target.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(flips):
        bit = rng.randrange(8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        target.write_bytes(bad)
        try:
            library.load(path)
        except Exception:  # whatever it raises: it noticed
            refused += 1
    remove(path)
    return f'{refused} of {flips}'


def count_fsyncs(library: Library, path: Path) -> str:
    """Return how often saving calls os.fsync (what native code calls is not seen)."""
    calls = []
    real = os.fsync
    os.fsync = lambda descriptor: (calls.append(descriptor), real(descriptor))[1]
    try:
        library.save(path, adamw_state(1000, leaves=2))
    finally:
        os.fsync = real
    remove(path)
    return str(len(calls))


def safety(libraries: dict[str, Library]) -> str:
    """Return a markdown table of who notices damage, and who flushes."""
    lines = ['| library | flips refused | fsyncs |', '|---|---|---|']
    lines += [f'| {name} | {lib.refused} | {lib.fsyncs} |' for name, lib in libraries.items()]
    return '\n'.join(lines)


def installed(names: list[str]) -> tuple[dict[str, Library], dict[str, str], dict[str, str]]:
    """Return the libraries that are there, why others are not, and versions."""
    libraries: dict[str, Library] = {}
    skipped: dict[str, str] = {}
    versions = {}
    for name in names:
        try:
            libraries[name] = MAKERS[name]()
            versions[name] = metadata.version(PACKAGES[name])
        except ImportError as error:
            skipped[name] = f'{PACKAGES[name]} is not installed ({error})'
    return libraries, skipped, versions


def compared(libraries: dict[str, Library], skipped: dict[str, str], parameters: int) -> list[Row]:
    """Return rows of what others take relative to ours, and of the extra memory of ours."""
    others, rows = dict(libraries), list[Row]()
    mine = others.pop('braintools_optim')
    size = f'{parameters // 1_000_000}M parameters'
    for what in ('save', 'load'):
        for name, other in others.items():
            target = TARGETS[what] if name == BASE else None
            cpu, wall = other.slower(mine, what)
            low, _, high = statistics.quantiles(cpu, n=4)
            a, b = (1e6 * statistics.median(library.cpu[what]) for library in (other, mine))
            rows.append(
                Ratio(
                    *(f'P8 {what} {size}, {name} / ours', statistics.median(cpu)),
                    *(statistics.median(wall), (low, high), a, b, len(cpu), target, True),
                )
            )
        extra, limit = mine.memory[what], TARGETS[f'{what}_memory']
        rows.append(counted(f'P8 {what}: extra memory of the payload', extra, limit))
    return rows + [Skipped(f'P8 {size}, {name} / ours', skipped[name]) for name in skipped]


def p8(
    names: tuple[str, ...] = ('braintools_optim', BASE),
    parameters: int = 25_000_000,
    repeats: int = 5,
) -> list[Row]:
    """Save and load with these libraries in turn; return the rows."""
    libraries, skipped, _ = installed(list(names))
    tree = jax.block_until_ready(adamw_state(parameters))
    with tempfile.TemporaryDirectory() as directory:
        measure(libraries, tree, Path(directory), repeats)
    return compared(libraries, skipped, parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--parameters', type=int, default=25_000_000)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--directory', help='where to save (default: a temporary directory)')
    parser.add_argument('--json', help='write everything measured into this file')
    options = parser.parse_args()
    libraries, skipped, versions = installed(list(MAKERS))
    tree = jax.block_until_ready(adamw_state(options.parameters))
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        measure(libraries, tree, Path(directory), options.repeats)
        for name, library in libraries.items():
            library.refused = count_refusals(library, Path(directory) / f'{name}.small')
            library.fsyncs = count_fsyncs(library, Path(directory) / f'{name}.small')
    rows = compared(libraries, skipped, options.parameters)
    print(table(rows), safety(libraries), sep='\n\n')
    found = as_json(rows) | {
        'versions': versions,
        'safety': {name: [lib.refused, lib.fsyncs] for name, lib in libraries.items()},
    }
    print(json.dumps({'environment': found['environment'], 'versions': versions}))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
