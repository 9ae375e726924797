"""A run that goes on in a new process is the uninterrupted one, bit for bit.

The other process is this file as a script: it loads every checkpoint in a folder, goes on, and
writes what it came to.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from checkpoint_runs import (
    OPTIMIZERS,
    SCHEDULES,
    bits,
    optioned,
    optioned_on,
    schedule_on,
    scheduled,
    train_on,
    untrained,
)
from compiling import forget_programs
from looking import named
from record_format1 import EPOCHS as SCHEDULED_STEPS
from record_format1 import GOLDEN, STEPS

import braintools_optim as bo

BEFORE, AFTER = 2, 2
EPOCHS = {'before': 4, 'after': 3}
RUNS = ['adamw/1', 'quad/1', *(f'{name}/3' for name in OPTIMIZERS)]
SCHEDULED = [f'{name}/{cls.__name__}' for name in SCHEDULES for cls in (bo.SGD, bo.AdamW)]


def begin(run, resumed=False):
    """An optimizer of a row in 1 or 3 groups, or one with a scheduler; and how it goes on."""
    name, _, kind = run.partition('/')
    if kind.isdigit():
        return small_run(OPTIMIZERS[name], int(kind), resumed)
    start = 0 if resumed else EPOCHS['before']
    opt, params, scheduler = scheduled(SCHEDULES[name], getattr(bo, kind), start)
    epochs = range(EPOCHS['before'], sum(EPOCHS.values()))
    return opt, params, lambda: schedule_on(SCHEDULES[name], opt, scheduler, epochs)


def small_run(case, groups, resumed):
    shapes = {'a': (2,), 'm': (2, 2), 's': ()}
    params = {k: ParamState(jnp.full(n, 0.5 if resumed else 1.5)) for k, n in shapes.items()}
    opt = case.make().register_trainable_weights(params if groups == 1 else {'a': params['a']})
    for name in ('m', 's') if groups == 3 else ():
        opt.add_param_group({name: params[name]}, lr=0.03)

    def train(steps):
        for t in steps:
            opt.step({k: jnp.full(n, 0.3 - 0.1 * t) for k, n in shapes.items()})
            opt.lr.step()

    if not resumed:
        train(range(BEFORE))
        for group in opt.param_groups:  # as a user or scheduler left them
            for name, value in case.numbers(3, group.index).items():
                group[name] = value
    return opt, params, lambda: train(range(BEFORE, BEFORE + AFTER))


def file_of(folder, run):
    return Path(folder) / f'{run.replace("/", "-")}.ckpt'


@pytest.fixture(scope='module')
def ends(tmp_path_factory):
    """What each run comes to here, and in the other process."""
    forget_programs()
    folder, here = tmp_path_factory.mktemp('runs'), {}
    for run in (*RUNS, *SCHEDULED):
        opt, params, go_on = begin(run)
        opt.save(file_of(folder, run), params=True)
        go_on()
        here[run] = bits(opt, params), opt.get_last_lr()
    env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir or ''}
    env |= {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-W', 'error', __file__, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return here, json.loads((folder / 'ends.json').read_text())


@pytest.mark.parametrize('run', [*RUNS, *SCHEDULED])
def test_resumed_in_a_new_process(ends, run):
    here, there = ends
    assert (there[run]['bits'], there[run]['rates']) == here[run]
    assert there[run]['bits'] != there[run]['start']


# ---- files of the past ---------------------------------------------------------------------------


def recorded(name):
    path = GOLDEN / f'{name}.ckpt'
    assert path.exists(), f'a new row: run python tests/record_format1.py, and commit {path.name}'
    return path


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_file_of_format_1_goes_on(name):
    """Every class has one, which no later version may write anew."""
    opt, params = untrained(OPTIMIZERS[name])
    extra = opt.load(recorded(name)).extra
    train_on(opt, STEPS)
    check_end(extra, named(params), opt)


@pytest.mark.parametrize('name', SCHEDULES)
def test_a_scheduler_of_format_1_goes_on(name):
    opt, params, scheduler = scheduled(SCHEDULES[name], bo.SGD, 0)
    extra = opt.load(recorded(f'scheduler-{name}')).extra
    schedule_on(SCHEDULES[name], opt, scheduler, SCHEDULED_STEPS)
    check_end(extra, named(params), opt)


def test_masks_constraints_and_units_of_format_1_are_compared():
    """What was added to the format is in a file, too: this one goes on, and binds."""
    opt, params = optioned()
    extra = opt.load(GOLDEN / 'options.ckpt').extra
    optioned_on(opt, STEPS)
    check_end(extra, named(params), opt)
    with pytest.raises(bo.IncompatibleCheckpoint, match='constrain of w was .*clip'):
        optioned(constrained=False)[0].load(GOLDEN / 'options.ckpt')


def check_end(extra, values, opt):
    assert values.keys() == extra['end'].keys()
    for key, value in values.items():  # other machines round otherwise
        np.testing.assert_allclose(value, extra['end'][key], rtol=1e-5, atol=1e-6, err_msg=key)
    np.testing.assert_allclose(opt.get_last_lr(), extra['rates'], rtol=1e-6)


def main():
    folder, found = Path(sys.argv[1]), {}
    for run in (*RUNS, *SCHEDULED):
        opt, params, go_on = begin(run, resumed=True)
        opt.load(file_of(folder, run))
        start = bits(opt, params)
        go_on()
        found[run] = {'bits': bits(opt, params), 'rates': opt.get_last_lr(), 'start': start}
    (folder / 'ends.json').write_text(json.dumps(found))


if __name__ == '__main__':
    main()
