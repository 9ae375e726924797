"""Keeping the newest and the best checkpoints; looking into files; restoring onto a mesh."""

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

import braintools_optim as bo
from braintools_optim.__main__ import show
from braintools_optim.checkpoint import file, rotation


def run_of(value=1.0):
    w = ParamState(jnp.full(2, value))
    return bo.SGD(0.1, momentum=0.9).register_trainable_weights({'w': w}), w


@pytest.fixture
def keeper(tmp_path):
    opt, w = run_of()
    return bo.Checkpointer(tmp_path / 'a' / 'run', {'opt': opt, 'w': w, 'epoch': 0}, keep=2)


def step(keeper):
    keeper.tree['opt'].step({'w': jnp.ones(2)})


def test_the_newest_are_kept(keeper):
    assert keeper.latest() is None and keeper.restore() is None and keeper.steps() == []
    for i in (1, 5, 3, 20):
        step(keeper)
        keeper.tree['epoch'] = 10 * i
        assert keeper.save(np.int64(i)) == keeper.directory / f'step-{i:08d}.ckpt'
    assert keeper.steps() == [5, 20] and keeper.latest().name == 'step-00000020.ckpt'
    end = keeper.tree['w'].value
    step(keeper)
    report = keeper.restore()
    assert (report.step, report.extra) == (20, {'epoch': 200})
    np.testing.assert_array_equal(keeper.tree['w'].value, end)
    assert keeper.restore(step=5).extra == {'epoch': 50}
    assert keeper.tree['opt'].step_count.value == 2
    with pytest.raises(bo.CheckpointError, match=r'no checkpoint of step 7; it has \[5, 20\]'):
        keeper.restore(step=7)


@pytest.mark.parametrize(('mode', 'best'), [('min', [1, 2]), ('max', [4, 3])])
def test_the_best_are_kept(tmp_path, mode, best):
    opt, w = run_of()
    keeper = bo.Checkpointer(tmp_path, {'opt': opt, 'w': w}, keep=1, keep_best=2, mode=mode)
    for i, metric in enumerate([float('nan'), -0.5, 1e-3, 7, jnp.float32(8.0), None]):
        keeper.save(i, metric=metric)
    assert keeper.steps() == sorted([*best, 5])
    assert keeper.best().name.startswith(f'step-0000000{best[0]}.metric-')
    again = bo.Checkpointer(tmp_path, {'opt': opt, 'w': w}, keep=1, keep_best=1, mode=mode)
    again.save(9)  # what it knows stands in the directory
    assert again.steps() == sorted([best[0], 9])


def test_all_are_kept_and_a_step_is_replaced(tmp_path):
    opt, _ = run_of()
    keeper = bo.Checkpointer(tmp_path, opt, keep=None)
    for i in (0, 1, 2, 1):
        keeper.save(i, metric=None if i else 0.25)
    keeper.save(1, metric=3.0)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        'step-00000000.metric-0.25.ckpt',
        'step-00000001.metric-3.0.ckpt',
        'step-00000002.ckpt',
    ]
    keeper.save(5_000_000_000)  # such as the number of tokens
    assert keeper.restore(run_of()[0]).step == 5_000_000_000


def test_nothing_old_goes_before_the_new_is_there(keeper, monkeypatch):
    for i in range(2):
        keeper.save(i)
    real = file.write

    def full(path, *args, **kwargs):
        real(str(path) + '.elsewhere', *args, **kwargs)
        raise bo.SaveError('no space left')

    monkeypatch.setattr(file, 'write', full)
    with pytest.raises(bo.SaveError):
        keeper.save(2)
    assert keeper.steps() == [0, 1]


def test_of_a_step_that_was_not_replaced_whole_the_last_file_counts(tmp_path, monkeypatch):
    keeper = bo.Checkpointer(tmp_path, {'n': 1}, keep_best=1)
    keeper.save(3, metric=0.9)
    with monkeypatch.context() as patched:  # killed before the old one is removed
        patched.setattr(bo.Checkpointer, '_prune', lambda *_: None)
        last = keeper.save(3, {'n': 2}, metric=0.1)
    assert len(list(tmp_path.iterdir())) == 2
    assert keeper.steps() == [3] and keeper.latest() == keeper.best() == last
    assert keeper.restore().extra == {'n': 2}
    keeper.save(4)
    assert sorted(tmp_path.iterdir()) == [last, keeper.latest()]


def test_other_files_stay_and_stale_temporaries_go(tmp_path):
    others = ['notes.txt', 'step-1.ckpt.bak', 'step-x.ckpt', 'step-00000003.metric-good.ckpt']
    for name in others:
        (tmp_path / name).write_text('mine')
    stale = tmp_path / '.braintools_optim-dead.tmp'
    stale.write_text('half')
    opt, _ = run_of()
    keeper = bo.Checkpointer(tmp_path, opt, keep=1)
    assert not stale.exists()
    for i in range(3):
        keeper.save(i)
    assert keeper.steps() == [2]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, 'step-00000002.ckpt'])


def test_a_damaged_newest_is_reported_or_skipped(keeper):
    for i in range(2):
        step(keeper)
        keeper.save(i)
    data = bytearray(keeper.latest().read_bytes())
    data[len(data) // 2] ^= 4
    keeper.latest().write_bytes(data)
    before = keeper.tree['opt'].state_dict(), keeper.tree['w'].value
    with pytest.raises(bo.CorruptCheckpoint) as caught:
        keeper.restore()
    assert 'step-00000001.ckpt' in caught.value.__notes__[0] and '[0]' in caught.value.__notes__[0]
    assert keeper.tree['opt'].step_count.value == before[0]['step_count'] == 2
    with pytest.warns(RuntimeWarning, match='damaged'):
        assert keeper.restore(skip_damaged=True).step == 0
    assert keeper.tree['opt'].step_count.value == 1
    keeper.directory.joinpath('step-00000000.ckpt').write_bytes(b'')
    with pytest.warns(RuntimeWarning), pytest.raises(bo.CorruptCheckpoint):
        keeper.restore(skip_damaged=True)


def test_in_the_background(tmp_path):
    opt, w = run_of()
    keeper = bo.Checkpointer(tmp_path, {'opt': opt, 'w': w}, keep=2, background=True)
    for i in range(4):
        opt.step({'w': jnp.ones(2)})
        keeper.save(i)
    opt.step({'w': jnp.ones(2)})
    assert keeper.restore().step == 3 and opt.step_count.value == 4
    assert keeper.steps() == [2, 3]
    keeper.directory = tmp_path / 'nowhere'
    keeper.save(5)
    with pytest.raises(bo.SaveError):
        keeper.wait()
    keeper.wait()  # told once


def test_bad_arguments(tmp_path):
    for wrong in (
        {'keep': 0},
        {'keep': True},
        {'keep_best': -1},
        {'keep_best': None},
        {'mode': 'x'},
    ):
        with pytest.raises((TypeError, ValueError), match='Checkpointer needs'):
            bo.Checkpointer(tmp_path, **wrong)
        keeper = bo.Checkpointer(tmp_path, keep_best=2)
        with pytest.raises((TypeError, ValueError), match='Checkpointer needs'):
            setattr(keeper, *next(iter(wrong.items())))
        assert (keeper.keep, keeper.keep_best, keeper.mode) == (3, 2, 'min')
    with pytest.raises(ValueError, match='given nothing'):
        keeper.save(1)
    for step_ in (-1, 1.5, True, '3'):
        with pytest.raises((TypeError, ValueError), match='needs an integer'):
            keeper.save(step_, {'a': 1})
    for metric in ('x', 1j, [1.0], True):
        with pytest.raises(TypeError, match=r'Checkpointer\.save needs a number for metric, got'):
            keeper.save(1, {'a': 1}, metric=metric)
    assert (
        keeper.save(1, {'a': 1}, metric=jnp.bfloat16(0.5)).name == 'step-00000001.metric-0.5.ckpt'
    )


# ---- killed while it saves -----------------------------------------------------------------------

KILLED = """
import os, sys, jax.numpy as jnp
import braintools_optim as bo
from brainstate import ParamState
w = ParamState(jnp.ones(2000))
opt = bo.SGD(0.1, momentum=0.9).register_trainable_weights({'w': w})
keeper = bo.Checkpointer(sys.argv[1], {'opt': opt, 'w': w}, keep=2)
real, seen = os.replace, []
def replace(*args):
    seen.append(args)
    if len(seen) == 4:
        os._exit(9)  # as kill -9: nothing is cleaned up
    real(*args)
os.replace = replace
for i in range(9):
    keeper.save(i)
"""


def test_after_a_kill(tmp_path):
    done = subprocess.run([sys.executable, '-c', KILLED, str(tmp_path)], capture_output=True)
    assert done.returncode == 9, done.stderr[-2000:]
    assert len(list(tmp_path.glob('.*'))) == 1  # what was being written
    w = ParamState(jnp.zeros(2000))
    opt = bo.SGD(0.1, momentum=0.9).register_trainable_weights({'w': w})
    keeper = bo.Checkpointer(tmp_path, {'opt': opt, 'w': w}, keep=2)
    assert list(tmp_path.glob('.*')) == []
    assert keeper.steps() == [1, 2] and keeper.restore().step == 2 and float(w.value[0]) == 1.0


# ---- looking into files --------------------------------------------------------------------------


def test_inspecting(tmp_path, capsys):
    opt, w = run_of()
    opt.add_param_group({'v': ParamState(jnp.array([jnp.nan, 3.0]))}, lr=0.25)
    bo.ParamScheduler(opt, 'momentum', bo.schedules.linear(0.5, 1.0, 0.0, 4))
    one, many = tmp_path / 'one.ckpt', tmp_path / 'many.ckpt'
    opt.save(one, params=True)
    assert show(str(one)) == 0
    text = capsys.readouterr().out
    assert f'{one}: optimizer, {one.stat().st_size:,} bytes, format 1.0 (' in text
    for words in (
        *('SGD, step 0', '0.25', 'momentum', 'ConstantLR at epoch 0', 'name=momentum'),
        *('params/v', 'float32', '1 NaN', 'opt_state/0/trace/w', 'braintools_optim 0.'),
    ):
        assert words in text, (words, text)
    schedulers = [bo.LinearLR(0.5, total_iters=3), bo.ExponentialLR(gamma=0.5)]
    bo.save(many, {'opt': opt, 'lone': bo.ChainedScheduler(schedulers), 'epoch': 3})
    assert show(str(many)) == 0
    text = capsys.readouterr().out
    assert 'tree.opt: SGD, step 0' in text
    assert 'tree.lone: ChainedScheduler at epoch 0' in text and '+ ExponentialLR' in text
    data = bytearray(one.read_bytes())
    data[-40] ^= 1
    one.write_bytes(data)
    assert show(str(one)) == 1 and show(str(tmp_path / 'nowhere')) == 1
    assert 'damaged' in capsys.readouterr().err


def test_the_command(tmp_path):
    path = tmp_path / 'run.ckpt'
    run_of()[0].save(path)
    command = [sys.executable, '-W', 'error', '-m', 'braintools_optim', 'inspect', str(path)]
    good = subprocess.run(command, capture_output=True, text=True)
    assert good.returncode == 0 and 'SGD, step 0' in good.stdout, good.stderr
    path.write_bytes(path.read_bytes()[:-1])
    bad = subprocess.run(command, capture_output=True, text=True)
    assert bad.returncode == 1 and 'damaged' in bad.stderr and 'Traceback' not in bad.stderr


# ---- sharded arrays ------------------------------------------------------------------------------


def test_saved_on_a_mesh_and_restored_onto_another_layout(tmp_path):
    flags = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
    env = {**os.environ, 'XLA_FLAGS': flags.strip(), 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-W', 'error', __file__, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


LAYOUTS = {
    'rows': ((8,), ('x',), ('x', None)),
    'columns': ((2, 4), ('x', 'y'), (None, 'y')),
    'both': ((4, 2), ('x', 'y'), ('x', 'y')),
    'one device': None,
}


def sharded(layout, value):
    if LAYOUTS[layout] is None:
        return jnp.array(value)
    shape, names, spec = LAYOUTS[layout]
    mesh = jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    return jax.device_put(value, place)


def main():
    folder, complaints = Path(sys.argv[1]), []
    value = np.arange(64, dtype=np.float32).reshape(8, 8)

    def fresh(layout, scale):
        w = ParamState(sharded(layout, scale * value))
        return bo.AdamW(0.1).register_trainable_weights({'w': w}), w

    def grads(layout, t):
        return {'w': sharded(layout, np.cos(value + t))}

    for source in LAYOUTS:
        opt, w = fresh(source, 1.0)
        opt.step(grads(source, 0))
        path = folder / f'{source}.ckpt'
        opt.save(path, params=True)
        opt.save(folder / 'later.ckpt', params=True, background=True).wait()
        if (folder / 'later.ckpt').read_bytes() != path.read_bytes():
            complaints.append(f'{source}: saved otherwise in the background')
        opt.step(grads(source, 1))
        for aim in LAYOUTS:
            new, v = fresh(aim, 0.0)
            places = [x.sharding for x in jax.tree.leaves((new._core.value[0], v.value))]
            new.load(path)
            now = [x.sharding for x in jax.tree.leaves((new._core.value[0], v.value))]
            if now != places:
                complaints.append(f'{source} to {aim}: moved')
            new.step(grads(aim, 1))
            if not np.allclose(v.value, w.value, rtol=1e-6):
                complaints.append(f'{source} to {aim}: other numbers')
    print(json.dumps(complaints))


if __name__ == '__main__':
    main()


def test_what_another_process_removes_meanwhile_is_no_lack(keeper, monkeypatch):
    """It has written a newer one before, which is found by looking again."""
    for i in (1, 2):
        keeper.save(i)
    reader = bo.Checkpointer(keeper.directory, keeper.tree, keep=2)
    stat, read, late = Path.stat, rotation.restore, [3]
    paths = {i: keeper.directory / f'step-{i:08d}.ckpt' for i in (1, 2, 3)}

    def stat_late(path, **options):
        if path == paths[1] and late:
            keeper.save(late.pop())  # which removes the first
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'stat', stat_late)
        assert reader.steps() == [2, 3]

    def read_late(path, *args, **options):
        if path == paths[3]:
            keeper.save(4)
            keeper.save(5)
        return read(path, *args, **options)

    monkeypatch.setattr(rotation, 'restore', read_late)
    assert reader.restore().step == 5
    with monkeypatch.context() as patch:
        patch.setattr(rotation, 'restore', lambda path, *args, **options: open(path / 'inside'))
        with pytest.raises(NotADirectoryError):  # what is wrong for another reason is told
            reader.restore()


def test_a_look_that_misses_all_is_not_believed(keeper, monkeypatch):
    keeper.save(1)
    looks = iter([[], None, [], keeper._files()])
    with monkeypatch.context() as patch:
        patch.setattr(bo.Checkpointer, '_found', lambda self: next(looks))
        assert keeper._files() == []
        assert keeper.latest().name == 'step-00000001.ckpt'
