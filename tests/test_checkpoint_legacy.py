"""Checkpoints of braintools.optim 0.3.0, recorded by record_braintools.py, are continued here."""

import math

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
from brainstate import ParamState
from looking import (
    digest,
)
from record_braintools import AFTER, BEFORE, GOLDEN, RATE, ROWS, gradients, start, tree

import braintools_optim as bo

ENDS = np.load(GOLDEN / 'ends.npz')
OWN = {'Lookahead': {'base_optimizer': optax.sgd(RATE, momentum=0.9), 'lr': 1.0}}
SAME_STEPS = {
    'Adam-amsgrad': 1,  # there the maximum is of the corrected moments, which then differ
    'Adafactor': 0,  # here it clips, and scales with the parameter
    'Rprop': 0,  # there a step is as long as the one before it should have been
}


def fresh(name):
    values = jax.tree.map(jnp.array, tree(start(), name))
    params = {k: ParamState(v) for k, v in values.items()}
    kwargs = {'lr': RATE, **ROWS[name], **OWN.get(name, {})}
    first, opt = dict(params), getattr(bo, name.partition('-')[0])(**kwargs)
    if name == 'Adam-groups':
        del first['w']
    opt.register_trainable_weights(first)
    if name == 'Adam-groups':
        opt.add_param_group({'w': params['w']}, lr=0.5)
    return opt, params


def step(name, opt, params, t):
    grads = tree(gradients(t), name)
    if name == 'LBFGS':
        grads = {k: jax.tree.map(lambda x: 2.0 * x, s.value) for k, s in params.items()}
    opt.step(jax.tree.map(jnp.asarray, grads))


def slots(opt):
    state = opt.state_dict()['opt_state']
    return {
        (g, s, n): np.asarray(x) for g in state for s, e in state[g].items() for n, x in e.items()
    }


@pytest.mark.parametrize('name', ROWS)
def test_a_run_of_braintools_goes_on(name):
    opt, params = fresh(name)
    report = bo.import_braintools(GOLDEN / f'{name}.msgpack', opt, params=True)
    assert report.missing == report.unexpected == report.cast == []
    assert opt.state_dict()['step_count'] == BEFORE
    for t in range(BEFORE, BEFORE + SAME_STEPS.get(name, AFTER)):
        step(name, opt, params, t)
        last, matrix = (state.value for state in params.values())
        np.testing.assert_allclose(last, ENDS[f'{name}.a.{t}'], rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(matrix['k'], ENDS[f'{name}.w.k.{t}'], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize('name', ['Adafactor', 'Rprop'])
def test_the_state_of_those_that_step_otherwise(name):
    """It is what this library has after the same gradients."""
    opt, _ = fresh(name)
    bo.import_braintools(GOLDEN / f'{name}.msgpack', opt)
    own, params = fresh(name)
    for t in range(BEFORE):
        step(name, own, params, t)
    got, want = slots(opt), slots(own)
    assert got.keys() == want.keys()
    for key in want:
        np.testing.assert_allclose(got[key], want[key], rtol=1e-5, err_msg=str(key))


def test_large_matrices_of_adafactor():
    """There they are factored, along the longest axes."""
    for shape in ((140, 130), (2, 130, 140)):
        tx = optax.scale_by_factored_rms(decay_rate=0.8)
        value = jnp.ones(shape)
        opt = bo.Adafactor(0.1).register_trainable_weights({'w': ParamState(value)})
        state = tx.init({'w': value})
        for t in range(2):
            g = jax.random.normal(jax.random.key(t), shape)
            _, state = tx.update({'w': g}, state, {'w': value})
            opt.step({'w': g})
        new = bo.Adafactor(0.1).register_trainable_weights({'w': ParamState(value)})
        bo.import_braintools(
            of(2, (state, optax.ScaleByScheduleState(jnp.int32(2))), {'w': value}), new
        )
        got, want = slots(new), slots(opt)
        for key in want:
            np.testing.assert_allclose(got[key], want[key], rtol=1e-4, err_msg=f'{shape} {key}')


def of(steps, chain, params, **more):
    """A live state_dict of braintools: named tuples, arrays of JAX."""
    group = {'lr': 0.03, 'weight_decay': 0.2, 'params': params}
    return {
        **{'step_count': steps, 'lr': 0.03, 'base_lr': 0.03, 'param_groups': {'0': group}},
        **{'param_groups_opt_states': {}, 'opt_state': chain, **more},
    }


def adam_state(shape=(2,)):
    moments = {'x': jnp.full(shape, 0.25)}
    state = optax.ScaleByAdamState(jnp.int32(5), moments, moments)
    return of(5, (state, optax.ScaleByScheduleState(jnp.int32(5))), {'x': jnp.full(shape, 7.0)})


def test_a_live_state_dict():
    w = ParamState(jnp.ones(2))
    opt = bo.Adam(0.5).register_trainable_weights({'x': w})
    bo.import_braintools(adam_state(), opt)
    state = opt.state_dict()
    assert (opt.current_lr, opt.weight_decay, state['step_count']) == (0.03, 0.2, 5)
    assert state['opt_state']['0']['leaf_counts'] == {'x': 5}
    assert state['opt_state']['0']['mu']['x'].tolist() == [0.25, 0.25]
    assert w.value.tolist() == [1.0, 1.0]  # only if asked for
    bo.import_braintools(adam_state(), opt, params=True)
    assert w.value.tolist() == [7.0, 7.0]


def test_moments_in_a_wider_dtype_than_there():
    """AdaBelief keeps the second moment of bfloat16 in float32."""
    w = ParamState(jnp.ones(2, jnp.bfloat16))
    opt = bo.AdaBelief(0.5).register_trainable_weights({'x': w})
    saved = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if getattr(x, 'ndim', 0) else x, adam_state()
    )
    bo.import_braintools(saved, opt)
    nu = opt.state_dict()['opt_state']['0']['nu']['x']
    assert nu.dtype == np.float32 and nu.tolist() == [0.25, 0.25]


def test_masters_begin_from_the_parameters():
    """braintools has none: with them the next step is that of a float32 run, rounded."""
    ends = []
    for dtype, options in ((jnp.float32, {}), (jnp.bfloat16, {'master_dtype': jnp.float32})):
        _, params = fresh('Adam')
        for state in params.values():
            state.value = jax.tree.map(
                lambda x, dtype=dtype: jnp.asarray(x, jnp.bfloat16).astype(dtype), state.value
            )
        opt = bo.Adam(RATE, **options).register_trainable_weights(params)
        bo.import_braintools(GOLDEN / 'Adam.msgpack', opt)
        step('Adam', opt, params, BEFORE)
        ends.append([x for state in params.values() for x in jax.tree.leaves(state.value)])
    for wide, narrow in zip(*ends, strict=True):
        np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_its_scheduler_is_taken_over():
    saved = msgpack_of('StepLR')
    opt = bo.SGD(lr=bo.StepLR(0.7, step_size=2), momentum=0.9)
    opt.register_trainable_weights({'x': ParamState(jnp.ones(2))})
    bo.import_braintools(saved['opt'], opt, scheduler=saved['scheduler'])
    for t in range(3, 6):
        opt.lr.step()
        assert opt.current_lr == pytest.approx(ENDS['StepLR'][t], rel=1e-6)


def test_where_its_restarts_are_follows_from_the_epoch():
    opt = bo.Adam(lr=bo.CosineAnnealingWarmRestarts(0.1, T_0=4))
    opt.register_trainable_weights({'x': ParamState(jnp.ones(2))})
    lr = 0.1 * (1 + math.cos(math.pi / 4)) / 2
    there = {'last_epoch': 5, 'base_lrs': [0.1], 'current_lrs': [lr], 'T_cur': 1, 'T_i': 4}
    state = adam_state()
    state['lr'] = state['param_groups']['0']['lr'] = lr
    bo.import_braintools(state, opt, scheduler=there)
    assert (opt.lr.T_cur, opt.lr.T_i, opt.current_lr) == (1, 4, pytest.approx(lr))
    opt.lr.step()
    assert opt.current_lr == pytest.approx(0.05)


def msgpack_of(name):
    from braintools_optim.checkpoint.legacy import _read

    return _read(GOLDEN / f'{name}.msgpack')


def test_what_does_not_fit_is_refused_whole(tmp_path):
    params = {'x': ParamState(jnp.ones(2))}
    opt = bo.Adam(0.5).register_trainable_weights(params)
    opt.step({'x': jnp.ones(2)})
    before = digest(opt, params)
    wide, renamed, bare = adam_state((3,)), adam_state(), adam_state()
    renamed['opt_state'][0].mu['y'] = renamed['opt_state'][0].mu.pop('x')
    del bare['opt_state']
    groups = adam_state()
    groups['param_groups']['1'] = groups['param_groups']['0']
    momentum = of(5, (optax.TraceState({'x': jnp.ones(2)}),), {'x': jnp.ones(2)})
    nan, negative = adam_state(), {**adam_state(), 'step_count': -1}
    nan['param_groups']['0']['lr'] = float('nan')
    for saved, says in (
        (wide, r'mu of x is float32\[3\], here it is float32\[2\]'),
        *((renamed, 'mu of x is missing'), (bare, "'opt_state' is missing"), (nan, 'lr=nan')),
        (adam_state() | {'param_groups': 3}, 'param_groups must be a dict, got int'),
        (adam_state() | {'param_groups': {'0': 3}}, 'group 0 must be a dict, got int'),
        *((groups, "groups .'0', '1'."), (momentum, 'nu of x is missing'), (negative, '-1')),
        (opt.state_dict() | {'opt_state': 3}, 'mu of x is missing'),
    ):
        with pytest.raises(bo.IncompatibleCheckpoint, match=says):
            bo.import_braintools(saved, opt)
        assert digest(opt, params) == before
    damaged = tmp_path / 'x.msgpack'
    for data in (b'', b'\xc1', (GOLDEN / 'Adam.msgpack').read_bytes()[:-3], msgpack.packb(3)):
        damaged.write_bytes(data)
        with pytest.raises(bo.CheckpointError):
            bo.import_braintools(damaged, opt)
    with pytest.raises(FileNotFoundError):
        bo.import_braintools(tmp_path / 'nowhere', opt)
    for wrong, says in (({'a': 1}, "'base_lrs' is missing"), ({'base_lrs': [0.1]}, "'last_epoch'")):
        with pytest.raises(bo.IncompatibleCheckpoint, match=f'the scheduler: {says}'):
            bo.import_braintools(adam_state(), opt, scheduler=wrong)
    composed = bo.Adam(bo.ChainedScheduler([bo.StepLR(0.1)])).register_trainable_weights(params)
    with pytest.raises(bo.IncompatibleCheckpoint, match='a ChainedScheduler, and states of comp'):
        bo.import_braintools(adam_state(), composed, scheduler=msgpack_of('StepLR')['scheduler'])
    with pytest.raises(TypeError, match=r'state_dict\(\) of the scheduler there, got StepLR'):
        bo.import_braintools(adam_state(), opt, scheduler=bo.StepLR(0.1))
    with pytest.raises(TypeError, match='got str for the optimizer'):
        bo.import_braintools(opt, 'run.msgpack')
    with pytest.raises(bo.CheckpointError, match='register_trainable_weights'):
        bo.import_braintools(adam_state(), bo.Adam(0.1))
    with pytest.raises(bo.IncompatibleCheckpoint, match='import_braintools'):
        opt.load_state_dict(adam_state())
    assert digest(opt, params) == before
    report = bo.import_braintools(momentum, opt, strict=False)
    assert len(report.missing) == 2 and opt.state_dict()['step_count'] == 5


def test_groups_that_ran_adam_there():
    saved = msgpack_of('Adam-groups')
    params = {
        k: ParamState(jax.tree.map(jnp.array, v)) for k, v in tree(start(), 'Adam-groups').items()
    }
    opt = bo.RMSprop(0.1).register_trainable_weights({'a': params['a']})
    opt.add_param_group({'w': params['w']})
    with pytest.raises(bo.IncompatibleCheckpoint, match='group 1 ran Adam'):
        bo.import_braintools(saved, opt)


def test_large_arrays_there_are_in_pieces():
    saved = adam_state()
    mu = np.arange(2.0, dtype=np.float32)
    pieces = {'0': mu[:1], '1': mu[1:]}
    whole = {'__msgpack_chunked_array__': True, 'shape': {'0': 2}, 'chunks': pieces}
    saved['opt_state'] = {'0': {'count': 5, 'mu': {'x': whole}, 'nu': {'x': mu}}, '1': {'count': 5}}
    opt = bo.Adam(0.5).register_trainable_weights({'x': ParamState(jnp.ones(2))})
    bo.import_braintools(saved, opt)
    assert opt.state_dict()['opt_state']['0']['mu']['x'].tolist() == [0.0, 1.0]


def test_kinds_of_numbers_in_a_file(tmp_path):
    from braintools_optim.checkpoint.legacy import _read

    def written(code, x):
        data = (x.shape, x.dtype.name, x.tobytes())
        return msgpack.ExtType(code, msgpack.packb(data))

    kinds = {
        'array': written(1, np.arange(3, dtype=np.float32)),
        'complex': msgpack.ExtType(2, msgpack.packb((1.0, -2.0))),
        'number': written(3, np.int32(7)),
    }
    (tmp_path / 'kinds').write_bytes(msgpack.packb(kinds))
    found = _read(tmp_path / 'kinds')
    assert found['array'].tolist() == [0.0, 1.0, 2.0]
    assert found['complex'] == 1 - 2j and (type(found['number']), found['number']) == (np.int32, 7)
    (tmp_path / 'kinds').write_bytes(msgpack.packb(msgpack.ExtType(4, b'')))
    with pytest.raises(bo.CheckpointError, match='unknown extension 4'):
        _read(tmp_path / 'kinds')


def test_sums_of_gradients_begin_where_nothing_waits():
    saved = adam_state()
    count = int(saved['step_count'])
    opt = bo.Adam(0.1, accumulate_steps=count).register_trainable_weights(
        {'x': ParamState(jnp.zeros(2))}
    )
    line = f'accumulate_steps was 1, here it is {count}'
    with pytest.raises(bo.IncompatibleCheckpoint, match=line):
        bo.import_braintools(saved, opt)
    report = bo.import_braintools(saved, opt, strict=False)
    assert line in report.unexpected and opt.step_count.value == count
    assert opt.opt_state.value[1].leaf_added.tolist() == [0]
    assert optax.tree.get(opt.opt_state.value, 'mu')['x'].tolist() == [0.25, 0.25]
    other = bo.Adam(0.1, accumulate_steps=count + 1)
    other.register_trainable_weights({'x': ParamState(jnp.zeros(2))})
    with pytest.raises(bo.IncompatibleCheckpoint, match=f'{count} steps are no multiple of both'):
        bo.import_braintools(saved, other, strict=False)
