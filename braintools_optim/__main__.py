"""``python -m braintools_optim``."""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

import braintools_optim

from . import demo
from .checkpoint import CheckpointError, file
from .checkpoint.table import table
from .optimizer import OptaxOptimizer
from .schedulers import LRScheduler, Scheduler


def main() -> None:
    """Run the command that was asked for; without one, list what there is."""
    parser = argparse.ArgumentParser(prog='python -m braintools_optim')
    commands = parser.add_subparsers(dest='command')
    commands.add_parser('list', help='list algorithms and schedulers with their arguments')
    check = commands.add_parser('inspect', help='check a checkpoint and show what is in it')
    check.add_argument('file', help='the file')
    shown = commands.add_parser('demo', help='train a small RNN, kill it, and resume it')
    shown.add_argument('--steps', type=int, default=400, help='number of steps (default: 400)')
    shown.add_argument('--work', type=Path, help='only train, and save to this file now and then')
    arguments = parser.parse_args()
    if arguments.command == 'inspect':
        sys.exit(show(arguments.file))
    if arguments.command == 'demo':
        if arguments.steps < 2 * demo.EVERY:
            parser.error(f'--steps must be at least {2 * demo.EVERY}, got {arguments.steps}')
        if arguments.work:
            demo.work(arguments.work, arguments.steps)
        else:
            demo.main(arguments.steps)
        return
    print(listing())


def listing() -> str:
    """Return all algorithms and schedulers: what each is, and its arguments."""
    of_one = {'tx', 'lr', 'weight_decay', 'hyper'}
    common = set(inspect.signature(OptaxOptimizer).parameters) - of_one
    lines = []
    for title, base, hidden in (
        ('Algorithms', OptaxOptimizer, common),
        ('Schedulers', Scheduler, set()),
    ):
        lines += [title, '']
        for name in braintools_optim.__all__:
            kind = getattr(braintools_optim, name)
            if not inspect.isclass(kind) or not issubclass(kind, base):
                continue
            if kind in (OptaxOptimizer, LRScheduler, Scheduler) or kind.__name__ != name:
                continue
            parameters = inspect.signature(kind).parameters.values()
            own = [str(p).split(':')[0] + _default(p) for p in parameters if p.name not in hidden]
            lines += [f'  {name}({", ".join(own)})', f'      {_first_sentence(kind)}']
        lines.append('')
    options = ', '.join(sorted(common - {'mu_dtype', 'decay_mask', 'accumulate_steps'}))
    lines += [
        f'Every algorithm takes these, too: {options}.',
        'All but LBFGS, SparseAdam and the exact Mars take accumulate_steps.',
        'Those that keep a first moment or momentum take mu_dtype; those that decay each '
        'parameter by itself, decay_mask.',
    ]
    return '\n'.join(lines)


def _default(parameter: inspect.Parameter) -> str:
    empty = parameter.default is inspect.Parameter.empty
    return '' if empty else f'={parameter.default!r}'


def _first_sentence(kind: type) -> str:
    return (inspect.getdoc(kind) or '').split('\n\n')[0].replace('\n', ' ')


def show(path: str) -> int:
    """Print what is in a checkpoint; return what the process exits with."""
    try:
        print(table(file.describe(path)))
    except (CheckpointError, OSError, ValueError) as error:
        print(f'{path}: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    main()
