"""``python -m braintools_optim``."""

from __future__ import annotations

import argparse

from .demo import run


def main() -> None:
    """Run the command that was asked for."""
    parser = argparse.ArgumentParser(prog='python -m braintools_optim')
    commands = parser.add_subparsers(dest='command', required=True)
    demo = commands.add_parser('demo', help='train a small network and show what is live')
    demo.add_argument('--steps', type=int, default=600, help='number of steps (default: 600)')
    arguments = parser.parse_args()
    run(arguments.steps)


if __name__ == '__main__':
    main()
