"""What a user's type checker says of programs that are right, and of one that is not."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mypy', reason='mypy is not installed: pip install ".[test]"')

RIGHT = """
from collections.abc import Callable

import optax  # type: ignore[import-untyped]  # optax has no py.typed

import braintools_optim as bo

opt = bo.SGD(0.1, momentum=0.9)
step: bo.StepLR = bo.StepLR(opt, step_size=30)
one: bo.OneCycleLR = bo.OneCycleLR(opt, max_lr=0.1, total_steps=10)
one = bo.OneCycleLR(opt, 0.1, 10, pct_start=0.2)
one = bo.OneCycleLR(optimizer=opt, max_lr=[0.1, 0.2], total_steps=10)
one = bo.OneCycleLR(0.1, 10)
down: float = one.div_factor
cyclic: bo.CyclicLR = bo.CyclicLR(opt, base_lr=0.01, max_lr=0.1)
cyclic = bo.CyclicLR(opt, 0.01, 0.1, 20, mode='exp_range')
cyclic = bo.CyclicLR(0.01, [0.1, 0.2])
parts = [bo.ConstantLR(opt), bo.ExponentialLR(opt, 0.9)]
after: bo.SequentialLR = bo.SequentialLR(opt, [step, one], [3])
after = bo.SequentialLR(opt, schedulers=parts, milestones=[3])
after = bo.SequentialLR(parts, [3], last_epoch=0)
points: list[int] = after.milestones
decay: bo.ParamScheduler = bo.ParamScheduler(opt, 'weight_decay', lambda epoch: 0.1)
decay = bo.ParamScheduler('weight_decay', [0.1, 0.2])
name: str = decay.name


class Signum(bo.OptaxOptimizer):
    def __init__(self, lr: float = 1e-3, momentum: float = 0.9):
        super().__init__(lr=lr, momentum=momentum)

    def transform(self, h: bo.Hyper) -> optax.GradientTransformation:
        return optax.chain(optax.trace(h.momentum), optax.scale_by_learning_rate(h.lr))


def build(loss: Callable[..., float]) -> bo.TrainStep:
    return bo.train_step([], Signum(), loss)
"""

WRONG = [
    'bo.OneCycleLR(max_lr=0.1, total_stps=10)',
    "bo.CyclicLR(0.01, 'high')",
    'bo.SequentialLR(3, [3])',
    'bo.ParamScheduler(3, 0.1)',
    'count: int = bo.Adam(0.1)',  # found only where mypy reads brainstate, too
    'bo.train_step(3)',
]

# Reading these libraries takes mypy four times as long as the rest, and says nothing of the above.
CONFIG = """
[mypy]
strict = true
follow_imports = silent

[mypy-jax.*,saiunit.*]
follow_imports = skip
"""


def test_programs_of_users(tmp_path):
    wrong = '\n'.join(['import braintools_optim as bo', *WRONG])
    for name, text in {'right': RIGHT, 'wrong': wrong}.items():
        (tmp_path / f'{name}.py').write_text(text)
    (tmp_path / 'mypy.ini').write_text(CONFIG)
    command = [sys.executable, '-m', 'mypy', '--cache-dir', 'cache', '.']
    env = {'MYPYPATH': str(Path(__file__).parents[1]), 'PATH': ''}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    found = [line for line in run.stdout.splitlines() if ': error: ' in line]
    assert [line for line in found if not line.startswith('wrong.py')] == [], run.stderr
    lines = {int(line.split(':')[1]) for line in found}
    assert lines == set(range(2, 2 + len(WRONG)))
