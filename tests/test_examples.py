"""Everything that is shown to readers runs: docstrings, the README, the demo."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import forget_programs

import braintools_optim
from braintools_optim import demo
from braintools_optim.schedulers import Scheduler

MODULES = ['braintools_optim'] + [
    module.name
    for module in pkgutil.walk_packages(braintools_optim.__path__, 'braintools_optim.')
    if not module.name.endswith('__main__')
]
README = Path(__file__).parent.parent / 'README.md'


@pytest.fixture(autouse=True)
def in_a_folder_of_their_own(tmp_path, monkeypatch):
    """Examples write files."""
    monkeypatch.chdir(tmp_path)


def test_docstrings():
    ran = 0
    for name in MODULES:
        failed, attempted = doctest.testmod(importlib.import_module(name))
        assert not failed, name
        ran += attempted
    assert ran >= 15


def test_readme():
    body = brainstate.nn.Linear(3, 2)
    scale = brainstate.ParamState(jnp.ones(2))
    names = {
        'body': body,
        'scale': scale,
        'loss_fn': lambda x, y: jnp.mean((body(x) * scale.value - y) ** 2),
        'batches': [(jnp.ones((4, 3)), jnp.zeros((4, 2)))] * 20,
    }
    (code,) = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
    before = names['loss_fn'](*names['batches'][0])
    exec(compile(code, str(README), 'exec'), names)
    assert names['loss_fn'](*names['batches'][0]) < before
    assert names['opt'].current_lr == pytest.approx(1e-3 * 0.999**20)
    assert names['opt'].param_groups[1]['weight_decay'] == 0.01


@pytest.mark.exact
def test_demo_learns_is_killed_and_resumes(capsys):
    forget_programs()
    run = demo.main(steps=60)
    assert np.mean(run.losses[-5:]) < 0.4 * run.losses[0]
    shown = capsys.readouterr().out
    assert 'AdamW' in shown and 'traced\n1 time' in shown and 'uninterrupted run: True' in shown


def test_command_line_lists_everything():
    command = [sys.executable, '-m', 'braintools_optim']
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 'AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01' in shown
    names = set(re.findall(r'^  (\w+)\(', shown, re.MULTILINE))
    classes = {n: getattr(braintools_optim, n) for n in braintools_optim.__all__}
    listed = (braintools_optim.OptaxOptimizer, Scheduler)
    wanted = {c.__name__ for c in classes.values() if isinstance(c, type) and issubclass(c, listed)}
    assert names == wanted - {'OptaxOptimizer', 'LRScheduler', 'Scheduler'}
