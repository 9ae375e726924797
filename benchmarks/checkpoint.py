"""What saving and loading a checkpoint costs beside four other libraries, in one process.

    python -m benchmarks.checkpoint [--parameters 25000000] [--repeats 5] [--json FILE]

P8: the state of an AdamW with 25 million parameters (two float32 arrays each), as jax arrays.
Everyone in turn saves it and loads it, in every round in another order; medians. The extra memory
is the highest resident set while it is done beyond the one before. Ours checks and flushes (fsync)
what it writes; the last two columns tell who else does: of 40 files with one flipped bit each, how
many were refused, and the calls of fsync. `bytes alone, flushed` is no library: it writes the bytes
of the arrays and flushes them, the least that a lasting file takes.
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
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import brainstate  # noqa: F401  # first: it sets jax up
import jax
import jax.numpy as jnp
import numpy as np

from braintools_optim.checkpoint import file

from .measure import Ratio, Row, Skipped, counted, environment, high_water

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
    times: dict[str, list[float]] = field(default_factory=lambda: {'save': [], 'load': []})
    memory: dict[str, float] = field(default_factory=dict)
    refused: str = ''
    fsyncs: str = ''

    def median(self, what: str) -> float:
        return statistics.median(self.times[what])


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


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return seconds, bytes of memory beyond those before, and the result."""
    before = reset()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return seconds, high_water() - before, result


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
            library, path = libraries[name], directory / name
            if not round_:
                trim()
            saved, save_memory, _ = timed(lambda lib=library, p=path: lib.save(p, tree))
            if not round_:
                trim()
            loaded, load_memory, found = timed(lambda lib=library, p=path: lib.load(p))
            total = sum(np.asarray(x).nbytes for x in jax.tree.leaves(found))
            assert total == payload, f'{name} loaded {total} bytes of {payload}'
            del found
            if round_:
                library.times['save'].append(saved)
                library.times['load'].append(loaded)
            else:
                library.memory = {'save': save_memory / payload, 'load': load_memory / payload}
            remove(path)
            os.sync()  # or the next one pays for this one's pages


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


def report(libraries: dict[str, Library], skipped: dict[str, str]) -> str:
    """Return a markdown table, and whether the targets were reached."""
    lines = [
        '| library | save s | load s | save vs braintools.file | load vs braintools.file '
        '| save memory | load memory | flips refused | fsyncs |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    base = libraries.get(BASE)
    for name, lib in libraries.items():
        faster = [
            f'{base.median(what) / lib.median(what):.2f}x' if base else ''
            for what in ('save', 'load')
        ]
        lines.append(
            f'| {name} | {lib.median("save"):.3f} | {lib.median("load"):.3f} | {faster[0]} '
            f'| {faster[1]} | {lib.memory["save"]:.2f}x | {lib.memory["load"]:.2f}x '
            f'| {lib.refused} | {lib.fsyncs} |'
        )
    lines += [f'| {name} | skipped: {reason} ||||||||' for name, reason in skipped.items()]
    mine = libraries['braintools_optim']
    if base:
        for what in ('save', 'load'):
            ratio = base.median(what) / mine.median(what)
            reached = 'yes' if ratio >= TARGETS[what] else 'NO'
            lines.append(f'\n{what} {ratio:.2f}x, target >= {TARGETS[what]:g}x: {reached}')
    for what in ('save', 'load'):
        extra, limit = mine.memory[what], TARGETS[f'{what}_memory']
        reached = 'yes' if extra <= limit else 'NO'
        lines.append(f'\n{what} memory {extra:.2f}x, target <= {limit:g}x: {reached}')
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


def p8(
    names: tuple[str, ...] = ('braintools_optim', BASE),
    parameters: int = 25_000_000,
    repeats: int = 5,
) -> list[Row]:
    """Return rows of the seconds of others relative to ours, and of the extra memory of ours."""
    libraries, skipped, _ = installed(list(names))
    tree = jax.block_until_ready(adamw_state(parameters))
    with tempfile.TemporaryDirectory() as directory:
        measure(libraries, tree, Path(directory), repeats)
    mine, rows = libraries.pop('braintools_optim'), list[Row]()
    size = f'{parameters // 1_000_000}M parameters'
    for what in ('save', 'load'):
        for name, other in libraries.items():
            target = TARGETS[what] if name == BASE else None
            times = zip(other.times[what], mine.times[what], strict=True)
            ratios = [a / b for a, b in times]
            middle, ends = statistics.median(ratios), (min(ratios), max(ratios))
            seconds = (1e6 * library.median(what) for library in (other, mine))
            rows.append(
                Ratio(
                    *(f'P8 {what} {size}, {name} / ours (wall)', middle, middle, ends, *seconds),
                    *(repeats, target, True),
                )
            )
        extra, limit = mine.memory[what], TARGETS[f'{what}_memory']
        rows.append(counted(f'P8 {what}: extra memory of the payload', extra, limit))
    return rows + [Skipped(f'P8 {size}, {name} / ours', skipped[name]) for name in skipped]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--parameters', type=int, default=25_000_000)
    parser.add_argument('--repeats', type=int, default=5)
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
    print(report(libraries, skipped))
    result = {'environment': environment(), 'versions': versions, 'skipped': skipped}
    print(json.dumps(result))
    if options.json:
        rows = {
            name: {k: v for k, v in asdict(lib).items() if k not in ('save', 'load')}
            for name, lib in libraries.items()
        }
        Path(options.json).write_text(json.dumps({**result, 'rows': rows}, indent=1))


if __name__ == '__main__':
    main()
