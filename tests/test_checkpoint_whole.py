"""Whole training states in one file, and files written in the background."""

import subprocess
import sys
import threading
import tracemalloc
import warnings

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saiunit
from brainstate import ParamState
from checkpoint_runs import params_of
from looking import (
    digest,
    is_state,
)

import braintools_optim as bo
from braintools_optim.checkpoint import file


def stepped(params):
    opt = bo.Adam(0.1).register_trainable_weights(params)
    opt.step(jax.tree.map(jnp.ones_like, opt.param_states.to_pytree_value()))
    return opt


# ---- a whole training state ----------------------------------------------------------------------


class Net(brainstate.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layers = [brainstate.nn.Linear(2, size), brainstate.nn.Linear(size, 1)]
        self.noise = brainstate.ShortTermState(jax.random.key(5))
        self.seen = brainstate.LongTermState(
            {'count': 0, 'mean': jnp.zeros(2), 'parts': (1.5, None)}
        )


def whole_run(size=3):
    net = Net(size)
    weights = net.states(ParamState)
    bodies = dict(list(weights.items())[:1])
    heads = dict(list(weights.items())[1:])
    opts = [bo.AdamW(1e-2), bo.SGD(bo.StepLR(0.1, 2), momentum=0.9)]
    for opt, part in zip(opts, (bodies, heads), strict=True):
        opt.register_trainable_weights(part)
    alone = bo.ExponentialLR(0.5, gamma=0.9)
    tree = {
        'opts': opts,
        'model': net.states(),
        'schedule': alone,
        'data': {'epoch': 3, 'losses': [0.5, 0.25], 'name': 'x', 'best': None, 'a': np.arange(3)},
    }
    return net, opts, alone, tree


def train_whole(net, opts, alone):
    for opt in opts:
        grads = jax.tree.map(jnp.ones_like, opt.param_states.to_pytree_value())
        opt.step(grads)
        opt.lr.step()
    alone.step()
    net.seen.value = {'count': 4, 'mean': jnp.ones(2), 'parts': (2.5, None)}
    net.noise.value = jax.random.key(8)


def test_a_whole_training_state(tmp_path):
    path = tmp_path / 'run.ckpt'
    net, opts, alone, tree = whole_run()
    train_whole(net, opts, alone)
    assert bo.save(path, tree) is None
    data = bo.load(path)
    assert data['data']['losses'] == [0.5, 0.25] and data['opts'][0]['optimizer'] == 'AdamW'
    assert data['model']['seen']['count'] == 4
    other, fresh, lone, live = whole_run()
    live['data']['losses'] = []
    report = bo.restore(path, live)
    assert report.extra['data']['losses'] == [0.5, 0.25] and set(report.extra) == {'data'}
    np.testing.assert_array_equal(report.extra['data']['a'], np.arange(3))
    for a, b in zip(opts, fresh, strict=True):
        assert digest(a, a.param_states.to_pytree()) == digest(b, b.param_states.to_pytree())
    assert other.seen.value['count'] == 4 and other.seen.value['parts'] == (2.5, None)
    assert jax.random.key_data(other.noise.value).tolist() == [0, 8]
    assert lone.state_dict() == alone.state_dict()


def test_all_differences_of_a_training_state_are_listed_at_once(tmp_path):
    path = tmp_path / 'run.ckpt'
    net, opts, alone, tree = whole_run()
    bo.save(path, tree)
    other, fresh, lone, live = whole_run(size=4)
    train_whole(other, fresh, lone)
    live['more'] = ParamState(jnp.ones(1))
    live['schedule'] = bo.StepLR(0.1, 3)
    fresh[0].add_param_group(params_of(z=1))
    before = [digest(o, o.param_states.to_pytree()) for o in fresh]
    with pytest.raises(bo.IncompatibleCheckpoint) as caught:
        bo.restore(path, live)
    message = str(caught.value)
    for words in (
        'tree.opts[0]: group 0: mu of layers.0.weight.weight',
        "tree.opts[0]: param_groups has groups ['0']",
        *('tree.opts[1]: group 0: trace', 'tree.model.layers.0.weight.weight is float32[2, 3]'),
        *('tree.more is missing', 'tree.schedule: it was saved by ExponentialLR'),
    ):
        assert words in message, message
    assert [digest(o, o.param_states.to_pytree()) for o in fresh] == before
    assert other.seen.value['count'] == 4


def test_what_cannot_be_saved_is_named(tmp_path):
    path = tmp_path / 'run.ckpt'
    opt = stepped(params_of(a=2))
    itself: dict = {}
    itself['again'] = [itself]
    for tree, error, says in (
        ({'f': {'g': print}}, TypeError, r'tree\.f\.g is of type builtin_function'),
        ({'o': opt, 'd': itself}, ValueError, r'tree\.d\.again\[0\].* nested too deep or holds it'),
        ({'net': Net(2)}, TypeError, r'tree\.net is of type Net.*model\.states'),
        ({'ids': {3: 'x'}}, TypeError, r'tree\.ids has the key 3'),
        ({'s': {1: ParamState(1.0), '1': ParamState(2.0)}}, ValueError, "two entries .*'1'"),
    ):
        with pytest.raises(error, match=says):
            bo.save(path, tree)
    with pytest.raises(TypeError, match=r'extra\.f is of type'):
        opt.save(path, extra={'f': print})
    assert not path.exists()
    with pytest.raises(bo.CheckpointError, match='no parameters yet'):
        bo.save(path, {'o': opt})
        bo.restore(path, {'o': bo.Adam(0.1)})
    with pytest.raises(bo.IncompatibleCheckpoint, match=r"training state of \['o'\]"):
        opt.load(path)


def test_renaming_and_relaxing_a_training_state(tmp_path):
    path = tmp_path / 'run.ckpt'
    params = params_of(a=2)
    bo.save(path, {'opt': stepped(params), 'model': params, 'old': 1})
    others = params_of(b=2)
    tree = {'opt': bo.Adam(0.3).register_trainable_weights(others), 'model': others}
    with pytest.raises(bo.IncompatibleCheckpoint, match='tree.old is in the file and not here'):
        bo.restore(path, tree, rename={'a': 'b'})
    report = bo.restore(path, tree, rename={'a': 'b'}, strict=False)
    assert report.unexpected == ['tree.old is in the file and not here'] and report.renamed == {
        'a': 'b'
    }
    np.testing.assert_array_equal(others['b'].value, params['a'].value)
    with pytest.raises(bo.IncompatibleCheckpoint, match="no parameter 'c'"):
        bo.restore(path, tree, rename={'a': 'b', 'c': 'd'}, strict=False)


# ---- in the background ---------------------------------------------------------------------------


def test_a_background_save_is_a_snapshot(tmp_path, monkeypatch):
    gate, real = threading.Event(), file.write
    monkeypatch.setattr(file, 'write', lambda *a, **k: (gate.wait(30), real(*a, **k)))
    path, params = tmp_path / 'run.ckpt', params_of(a=2)
    opt = stepped(params)
    extra = {'x': np.ones(2)}
    before = digest(opt, params)
    saving = opt.save(path, params=True, extra=extra, background=True)
    opt.step({'a': jnp.ones(2)})  # donates what was saved
    extra['x'][:] = 5.0
    params['a'].value = params['a'].value * 3
    assert not saving.done() and not saving.wait(0.01) and not path.exists()
    assert 'writing' in repr(saving)
    gate.set()
    assert saving.result() == str(path) and saving.done() and 'written' in repr(saving)
    assert opt.load(path).extra['x'].tolist() == [1.0, 1.0]
    assert digest(opt, params) == before


def test_background_saves_come_in_order(tmp_path):
    path, params = tmp_path / 'run.ckpt', params_of(a=2)
    opt = stepped(params)
    savings = []
    for _ in range(5):
        opt.step({'a': jnp.ones(2)})
        savings.append(opt.save(path, background=True))
    opt.load(path)  # waits
    assert opt.step_count.value == 6 and all(s.wait() for s in savings)


ENDING = """
import sys, time
import numpy as np
import braintools_optim as bo
from braintools_optim.checkpoint import file

write = file.write
file.write = lambda *a, **k: (time.sleep(1.0), write(*a, **k))
bo.save(sys.argv[1], {'x': np.arange(2_000_000.0)}, background=True)
"""


def test_a_background_save_ends_after_the_script(tmp_path):
    path = tmp_path / 'run.ckpt'
    command = [sys.executable, '-W', 'error', '-c', ENDING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert np.array_equal(bo.load(path)['x'], np.arange(2_000_000.0))


def test_errors_of_background_saves_are_not_lost(tmp_path):
    opt = stepped(params_of(a=2))
    nowhere = tmp_path / 'no' / 'run.ckpt'
    saving = opt.save(nowhere, background=True)
    for _ in range(2):
        with pytest.raises(bo.SaveError):
            saving.wait()
    assert 'failed' in repr(saving)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        del saving  # somebody knows
        left = opt.save(nowhere, background=True)
        left._work.thread.join()
        del left
    assert len(heard) == 1 and 'nobody waited' in str(heard[0].message)


def test_an_interrupted_load_changes_nothing(tmp_path):
    """Also of the parameters, and of other optimizers in the same file."""
    path = tmp_path / 'run.ckpt'
    runs = [params_of(a=2), params_of(b=2)]
    opts = [stepped(p) for p in runs]
    bo.save(path, {'one': opts[0], 'two': opts[1], 'model': runs})
    for params, opt in zip(runs, opts, strict=True):
        opt.step(jax.tree.map(lambda p: p.value, params, is_leaf=is_state))
    before = [digest(o, p) for o, p in zip(opts, runs, strict=True)]

    def veto(context):
        raise RuntimeError('no')

    handle = runs[1]['b'].register_hook('write_before', veto)
    with pytest.raises(Exception, match='no|failed'):
        bo.restore(path, {'one': opts[0], 'two': opts[1], 'model': runs})
    handle.remove()
    single, both = tmp_path / 'single.ckpt', params_of(a=2, z=2)
    opt = stepped(both)
    opt.save(single, params=True)
    opt.step({'a': jnp.ones(2)})
    then = digest(opt, both)
    handle = both['z'].register_hook('write_before', veto)
    with pytest.raises(Exception, match='no|failed'):
        opt.load(single)
    handle.remove()
    assert digest(opt, both) == then
    assert [digest(o, p) for o, p in zip(opts, runs, strict=True)] == before
    bo.restore(path, {'one': opts[0], 'two': opts[1], 'model': runs})
    assert [digest(o, p) for o, p in zip(opts, runs, strict=True)] != before


@pytest.mark.parametrize(
    'value',
    [
        *(np.arange(3), np.ones(3), np.int64(3), np.float32(1.5), np.array(3.0)),
        *(True, 5, 'a', b'x'),
        *({'best': np.float64(0.1)}, 3 * saiunit.ms, {'v': [2.5 * saiunit.mV]}),
    ],
    ids=repr,
)
def test_what_is_not_jax_s_comes_back_as_it_was(value, tmp_path):
    state = brainstate.ShortTermState(value)
    bo.save(tmp_path / 'x', {'s': state})
    bo.restore(tmp_path / 'x', {'s': state})
    assert repr(state.value) == repr(value)
    assert type(state.value) is type(value)


@pytest.mark.parametrize('value', [20.0 * saiunit.ms, np.ones(3), 0.5], ids=repr)
def test_a_parameter_that_is_not_jax_s_yet_is_restored_from_before_and_after_a_step(
    value, tmp_path
):
    def fresh():
        w = ParamState(value)
        return w, bo.SGD(0.1).register_trainable_weights({'w': w})

    w, opt = fresh()
    for name in 'before', 'after':
        opt.save(tmp_path / name, params=True)
        kept = w.value
        new, other = fresh()
        other.load(tmp_path / name)
        assert saiunit.math.allclose(new.value, kept)
        opt.step({'w': saiunit.math.ones_like(kept)})
        other.step({'w': saiunit.math.ones_like(kept)})
        assert saiunit.math.all(new.value == w.value)


def test_a_background_save_copies_once(tmp_path):
    w = ParamState(jnp.ones(1 << 20))
    opt = bo.SGD(0.1, momentum=0.9).register_trainable_weights({'w': w})
    for save in (
        lambda: opt.save(tmp_path / 'one', params=True, background=True),
        lambda: bo.save(tmp_path / 'all', {'opt': opt, 'w': w}, background=True),
    ):
        tracemalloc.start()
        save().wait()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 2 * w.value.nbytes <= peak < 2.2 * w.value.nbytes


def test_a_background_save_goes_where_the_path_led(tmp_path, monkeypatch):
    begin, write = threading.Event(), file.write
    monkeypatch.setattr(file, 'write', lambda *a, **k: (begin.wait(), write(*a, **k)))
    for name in 'here', 'there':
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    opt = bo.SGD(0.1).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    keeper = bo.Checkpointer('run', {'opt': opt}, background=True)
    saving = [bo.save('x', {'n': 1}, background=True), opt.save('y', background=True)]
    keeper.save(0)
    monkeypatch.chdir(tmp_path / 'there')
    begin.set()
    written = [each.result() for each in saving]
    assert written == [str(tmp_path / 'here' / name) for name in 'xy']
    assert keeper.latest().parent == tmp_path / 'here' / 'run'
    assert list((tmp_path / 'there').iterdir()) == []
    assert bo.load(b'../here/x') == {'n': 1}


def test_what_is_traced_is_neither_saved_nor_restored(tmp_path):
    w = ParamState(jnp.ones(2))
    opt = bo.Adam(0.1).register_trainable_weights({'w': w})
    bo.save(tmp_path / 'whole', {'opt': opt, 'w': w})
    opt.save(tmp_path / 'one')
    before = digest(opt, w)
    for work in (
        *(lambda: opt.save(tmp_path / 'new'), lambda: opt.state_dict()),
        *(lambda: opt.load(tmp_path / 'one'), lambda: bo.save(tmp_path / 'new', {'o': opt})),
        lambda: bo.restore(tmp_path / 'whole', {'w': w, 'opt': opt}),
    ):
        with pytest.raises(TypeError, match='is being traced; (save|restore) it outside of jit'):
            brainstate.transform.jit(lambda work=work: (work(), None)[1])()
    with pytest.raises(TypeError, match='is being traced; restore it outside of jit'):
        jax.jit(lambda: (opt.load(tmp_path / 'one'), None)[1])()
    assert digest(opt, w) == before and not (tmp_path / 'new').exists()


def test_a_background_save_that_cannot_begin_leaves_the_path_free(tmp_path, monkeypatch):
    opt = bo.SGD(0.1).register_trainable_weights(params_of(w=2))

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, 'start', refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            opt.save(tmp_path / 'run', background=True)
    opt.save(tmp_path / 'run')
    opt.load(tmp_path / 'run')


def test_schedulers_that_are_restored_alone_know_what_they_do_not_know(tmp_path):
    part = bo.StepLR(0.1, step_size=3)
    scheduler = bo.SequentialLR([part, bo.ConstantLR(0.1)], milestones=[5])
    state = scheduler.state_dict()
    for wrong in (
        {**state, 'foo': 1},
        {**state, 'schedulers': [{**state['schedulers'][0], 'foo': 1}, state['schedulers'][1]]},
    ):
        with pytest.raises(bo.IncompatibleCheckpoint, match="'foo' is unknown here"):
            scheduler.load_state_dict(wrong)
        bo.save(tmp_path / 'run', {'s': wrong})
        with pytest.raises(bo.IncompatibleCheckpoint, match="'foo' is unknown here"):
            bo.restore(tmp_path / 'run', {'s': scheduler})
        report = bo.restore(tmp_path / 'run', {'s': scheduler}, strict=False)
        assert "'foo' is unknown here" in str(report.unexpected)


def test_a_file_of_one_optimizer_is_told_where_a_training_state_is_restored(tmp_path):
    opt = bo.SGD(0.1).register_trainable_weights(params_of(w=2))
    opt.save(tmp_path / 'run')
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'as opt.save writes it.*use opt.load'):
        bo.restore(tmp_path / 'run', {'opt': opt})
    with pytest.raises(bo.IncompatibleCheckpoint, match='attach them before loading'):
        opt = bo.SGD(bo.StepLR(0.1, step_size=2)).register_trainable_weights(params_of(w=2))
        opt.load(tmp_path / 'run')


class Layer(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = brainstate.ParamState(jnp.ones(2))


@pytest.mark.parametrize(
    ('here', 'error', 'says'),
    [
        (lambda layer: layer, TypeError, 'tree.m is of type Layer.*model.states'),
        (lambda layer: object(), TypeError, 'tree.m is of type object'),
        (lambda layer: None, bo.IncompatibleCheckpoint, 'tree.m was saved from States.*NoneType'),
        (lambda layer: {'w': layer.w.value}, bo.IncompatibleCheckpoint, 'tree.m was saved from'),
        (lambda layer: [layer.w], bo.IncompatibleCheckpoint, 'tree.m must be a list of 1'),
    ],
    ids=['module', 'object', 'None', 'arrays', 'list'],
)
def test_data_cannot_stand_for_states_that_were_saved(here, error, says, tmp_path):
    layer = Layer()
    opt = bo.SGD(0.1).register_trainable_weights(layer.states())
    bo.save(tmp_path / 'run', {'m': layer.states(), 'opt': opt, 'epoch': 3})
    layer.w.value = jnp.zeros(2)
    with pytest.raises(error, match=says):
        bo.restore(tmp_path / 'run', {'m': here(layer), 'opt': opt, 'epoch': None})
    with pytest.raises(bo.IncompatibleCheckpoint, match='tree.opt was saved from'):
        bo.restore(tmp_path / 'run', {'m': layer.states(), 'opt': {}, 'epoch': None})
    assert not layer.w.value.any()
    report = bo.restore(tmp_path / 'run', {'m': layer.states(), 'opt': opt, 'epoch': None})
    assert report.extra == {'epoch': 3} and layer.w.value.all()


def test_flags_of_files_are_true_or_false(tmp_path):
    opt = bo.SGD(0.1).register_trainable_weights(params_of(w=2))
    opt.save(tmp_path / 'run')
    for use in (
        lambda: opt.save(tmp_path / 'run', params='no'),
        lambda: opt.save(tmp_path / 'run', background='no'),
        lambda: opt.load(tmp_path / 'run', strict='no'),
        lambda: opt.load_state_dict(opt.state_dict(), cast=1),
        lambda: bo.Checkpointer(tmp_path / 'many', {'opt': opt}, background='no'),
    ):
        with pytest.raises(TypeError, match="needs True or False for .*, got ('no'|1)"):
            use()


def test_a_state_of_a_traced_function_is_named(tmp_path):
    class Cell(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = brainstate.nn.Linear(2, 2)

        def init_state(self, batch_size):
            self.hidden = brainstate.HiddenState(jnp.zeros((batch_size, 2)))

        def update(self, x):
            self.hidden.value = jnp.tanh(self.layer(x) + self.hidden.value)
            return self.hidden.value

    net = Cell()
    brainstate.nn.init_all_states(net, batch_size=3)
    opt = bo.Adam(0.1).register_trainable_weights(net.states(ParamState))

    def loss(xs):
        brainstate.nn.init_all_states(net, batch_size=3)
        return brainstate.transform.for_loop(net.update, xs).mean()

    bo.train_step(net, opt, loss)(jnp.ones((4, 3, 2)))
    with pytest.raises(ValueError, match=r'net\.hidden is a State that was made in a compiled'):
        bo.save(tmp_path / 'run', {'opt': opt, 'net': net.states()})
    run = {'opt': opt, 'net': net.states(ParamState)}
    bo.save(tmp_path / 'run', run)
    bo.restore(tmp_path / 'run', run)


def test_a_scheduler_beside_its_optimizer_goes_on_where_groups_came(tmp_path):
    def made(groups):
        opt = bo.SGD(bo.ExponentialLR(0.1, gamma=0.5))
        opt.register_trainable_weights({'a': brainstate.ParamState(jnp.ones(2))})
        if groups > 1:
            opt.add_param_group({'b': brainstate.ParamState(jnp.ones(2))}, lr=0.2)
        return {'opt': opt, 'schedule': opt.lr}

    old, path = made(1), tmp_path / 'run.ckpt'
    for _ in range(3):
        old['schedule'].step()
    bo.save(path, old)
    new = made(2)
    with pytest.raises(bo.IncompatibleCheckpoint):
        bo.restore(path, new)
    assert bo.restore(path, new, strict=False).missing
    assert new['opt'].get_last_lr() == pytest.approx([0.1 * 0.5**3, 0.2 * 0.5**3])
    alone = bo.ExponentialLR(0.1, gamma=0.5)
    bo.restore(path, {'schedule': alone}, strict=False)
    assert alone.get_last_lr() == [0.1 * 0.5**3]
