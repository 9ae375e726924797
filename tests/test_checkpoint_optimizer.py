"""Saving and loading optimizers: relaxations, other encoders, all kinds of arrays."""

import copy
import json
import pickle
import re

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
import saiunit
from brainstate import ParamState
from cases import (
    grads_tree,
    make_params,
    split,
)
from checkpoint_forge import decoded
from checkpoint_runs import OPTIMIZERS, over_classes, params_of, same, saved, trained, untrained
from looking import (
    digest,
    is_state,
    named,
)

import braintools_optim as bo


@pytest.mark.parametrize('committed', [True, False])
def test_what_was_loaded_shares_no_memory_with_the_dict(committed):
    """JAX uses the memory of an array of NumPy that lies as its own do."""
    w = jnp.arange(16384.0)
    w = ParamState(jax.device_put(w, jax.devices()[0]) if committed else w)
    opt = bo.Adam(0.1).register_trainable_weights({'w': w})
    saved = opt.state_dict()
    room = np.zeros(16384 + 64, np.float32)
    moment = room[-room.ctypes.data // 4 % 16 :][:16384]
    saved['opt_state']['0']['mu']['w'] = moment
    opt.load_state_dict(saved)
    moment[:] = 77.0
    assert not np.any(opt.state_dict()['opt_state']['0']['mu']['w'])


# ---- relaxations --------------------------------------------------------------------------------


def stepped(params, **more):
    opt = bo.Adam(0.1, **more).register_trainable_weights(params)
    opt.step(jax.tree.map(jnp.ones_like, opt.param_states.to_pytree_value()))
    return opt


def test_what_is_missing_or_too_much_is_reported(tmp_path):
    path = tmp_path / 'run.ckpt'
    stepped(params_of(a=2, gone=3)).save(path, params=True)
    params = params_of(a=2, new=4)
    opt = bo.Adam(0.3).register_trainable_weights(params)
    before = digest(opt, params)
    with pytest.raises(bo.IncompatibleCheckpoint):
        opt.load(path)
    assert digest(opt, params) == before
    report = opt.load(path, strict=False)
    assert report.missing == [
        'group 0: the parameter new is missing',
        'group 0: leaf_counts of new is missing',
        *('group 0: mu of new is missing', 'group 0: nu of new is missing'),
        'the parameter new is missing',
    ]
    assert [x for x in report.unexpected if 'gone' in x] == report.unexpected
    assert len(report.unexpected) == 5
    state = opt.state_dict()
    assert state['opt_state']['0']['leaf_counts'] == {'a': 1, 'new': 0}
    assert (opt.current_lr, state['step_count']) == (0.1, 1)
    np.testing.assert_allclose(params['a'].value, 0.9, rtol=1e-6)
    assert params['new'].value.tolist() == [1.0] * 4


def test_not_strict_still_refuses_what_would_be_wrong(tmp_path):
    path = tmp_path / 'run.ckpt'
    stepped(params_of(a=2)).save(path)
    for other in (
        bo.Adam(0.1).register_trainable_weights(params_of(a=3)),
        bo.AdamW(0.1).register_trainable_weights(params_of(a=2)),
        bo.Adam(0.1, amsgrad=True).register_trainable_weights(params_of(a=2)),
    ):
        with pytest.raises(bo.IncompatibleCheckpoint):
            other.load(path, strict=False)


def test_other_groups_and_schedulers_are_reported(tmp_path):
    path = tmp_path / 'run.ckpt'
    opt = stepped(params_of(a=2))
    opt.add_param_group(params_of(b=2), lr=0.7)
    opt.save(path)
    other = bo.Adam(lr=bo.StepLR(0.5, 1)).register_trainable_weights(params_of(a=2))
    report = other.load(path, strict=False)
    assert any('schedulers were' in line for line in report.unexpected)
    assert any("groups ['0', '1']" in line for line in report.unexpected)
    assert other.current_lr == 0.5 and other.state_dict()['step_count'] == 1
    other.lr.step()
    assert other.current_lr == pytest.approx(0.05)


def test_renaming(tmp_path):
    path = tmp_path / 'run.ckpt'
    first = {'encoder': {'w': ParamState(jnp.ones(2)), 'b': ParamState({'x': jnp.ones(1)})}}
    opt = stepped(first | params_of(encoders=2))
    opt.save(path, params=True)
    second = {'backbone': jax.tree.map(lambda s: ParamState(s.value), first, is_leaf=is_state)}
    second = {'backbone': second['backbone']['encoder'], 'encoders': ParamState(jnp.zeros(2))}
    new = bo.Adam(0.1).register_trainable_weights(second)
    report = new.load(path, rename={'encoder': 'backbone'})
    assert report.renamed['encoder.b.x'] == 'backbone.b.x' and 'encoders' not in report.renamed
    assert new.state_dict()['opt_state']['0']['mu'].keys() == {
        'backbone.w',
        'backbone.b.x',
        'encoders',
    }
    np.testing.assert_array_equal(
        second['encoders'].value, opt.param_states.unique_states[-1].value
    )
    before = digest(new, second)
    for rename, says in (
        ({'encoder': 'backbone', 'nowhere': 'x'}, "no parameter 'nowhere'"),
        ({'encoder': 'backbone', 'encoders': 'backbone.w'}, "'backbone.w'"),
    ):
        with pytest.raises(bo.IncompatibleCheckpoint, match=re.escape(says)):
            new.load(path, rename=rename)
    for wrong in ({'encoder': 3}, [('encoder', 'backbone')], 'encoder'):
        with pytest.raises(TypeError, match='rename takes a dict of new names'):
            new.load(path, rename=wrong)
    assert digest(new, second) == before


def test_casting(x64):
    wide = {'w': ParamState(jnp.array([1.0, 2.0], jnp.float64))}
    opt = stepped(wide)
    state = opt.state_dict()
    short = {'w': ParamState(jnp.array([1.0, 2.0], jnp.float32))}
    new = bo.Adam(0.1).register_trainable_weights(short)
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'float64\[2\], here it is float32\[2\]'):
        new.load_state_dict(state)
    report = new.load_state_dict(state, cast=True)
    assert report.cast == [f'group 0: {s} of w from float64 to float32' for s in ('mu', 'nu')]
    got = new.state_dict()['opt_state']['0']['mu']['w']
    np.testing.assert_array_equal(got, state['opt_state']['0']['mu']['w'].astype(np.float32))
    before = digest(new, short)
    for bad in (np.array([1e300, 0.0]), np.array([1, 2]), np.array([1j, 0])):
        state['opt_state']['0']['mu']['w'] = bad
        with pytest.raises(bo.IncompatibleCheckpoint, match='mu of w'):
            new.load_state_dict(state, cast=True)
    assert digest(new, short) == before


# ---- plain data from elsewhere ------------------------------------------------------------------


def as_braintools_file(node):
    """What braintools.file makes of nested data: dicts of lists."""
    if isinstance(node, dict):
        return {k: as_braintools_file(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return {str(i): as_braintools_file(v) for i, v in enumerate(node)}
    return node


def as_orbax(node):
    """What orbax makes of nested data: numbers are arrays."""
    if isinstance(node, dict):
        return {k: as_orbax(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [as_orbax(v) for v in node]
    return np.asarray(node) if isinstance(node, bool | int | float) else node


def as_tuples(node):
    if isinstance(node, dict):
        return {k: as_tuples(v) for k, v in node.items()}
    return tuple(map(as_tuples, node)) if isinstance(node, list) else node


def as_jax(node):
    return jax.tree.map(lambda x: jnp.array(x) if isinstance(x, np.ndarray) else x, node)


@over_classes
def test_state_dicts_come_back_from_other_encoders(name):
    opt, params = trained(OPTIMIZERS[name])
    extra = bo.ParamScheduler(opt, 'lr', [bo.schedules.linear(0.1, 1.0, 0.0, 9)] * 2)
    extra.step()
    state = opt.state_dict()
    before = digest(opt, params)[len(digest_of_params(params)) :]
    for encode in (as_braintools_file, as_orbax, as_tuples, as_jax):
        new, others = untrained(OPTIMIZERS[name])
        bo.ParamScheduler(new, 'lr', [bo.schedules.linear(0.1, 1.0, 0.0, 9)] * 2)
        new.load_state_dict(encode(copy.deepcopy(state)))
        assert digest(new, others)[len(digest_of_params(others)) :] == before, encode


def digest_of_params(params):
    return b''.join(
        repr((x.dtype.name, x.shape)).encode() + np.asarray(x).tobytes()
        for x in jax.tree.leaves([p.value for p in jax.tree.leaves(params, is_leaf=is_state)])
    )


# ---- before the parameters are there ------------------------------------------------------------


@over_classes
def test_loaded_before_the_parameters_are_registered(name):
    case = OPTIMIZERS[name]
    opt, params = trained(case, groups=2)
    _, values = decoded(saved(name))
    new = case.make()
    report = new.load_state_dict(opt.state_dict())
    assert report.waiting
    others = make_params(named(params))
    parts = split(others, 2)
    new.register_trainable_weights(parts[0])
    for use in (new.state_dict, lambda: new.step(grads_tree(0)), lambda: new.save('nowhere')):
        with pytest.raises(bo.CheckpointError, match=r"waits for the parameters \['block.c'\]"):
            use()
    new.add_param_group(parts[1])
    assert digest(new, others) == digest(opt, params)
    opt.step(grads_tree(5))
    new.step(grads_tree(5))
    assert digest(new, others) == digest(opt, params)


def test_what_does_not_fit_later_is_refused_by_registering(tmp_path):
    path = tmp_path / 'run.ckpt'
    stepped(params_of(a=2)).save(path, params=True)
    opt = bo.Adam(0.5)
    opt.load(path)
    for wrong in (params_of(b=2), params_of(a=3), params_of(a=2, b=1)):
        with pytest.raises(bo.IncompatibleCheckpoint):
            opt.register_trainable_weights(wrong)
        assert opt.param_groups == [] and opt.current_lr == 0.5
    right = params_of(a=2)
    opt.register_trainable_weights(right)
    assert opt.current_lr == 0.1 and opt.state_dict()['step_count'] == 1
    np.testing.assert_allclose(right['a'].value, 0.9, rtol=1e-6)


def test_what_cannot_fit_is_refused_at_once(tmp_path):
    path = tmp_path / 'run.ckpt'
    stepped(params_of(a=2), grad_clip_norm=1.0).save(path)
    for opt in (bo.AdamW(0.1), bo.Adam(0.1)):
        with pytest.raises(bo.IncompatibleCheckpoint):
            opt.load(path)
    with pytest.raises(bo.IncompatibleCheckpoint, match='no parameters.*register_trainable'):
        bo.Adam(0.1).load_state_dict(bo.Adam(0.1).state_dict())


def test_a_waiting_checkpoint_is_a_snapshot():
    state = stepped(params_of(a=2)).state_dict()
    opt = bo.Adam(0.5)
    opt.load_state_dict(state, rename={'a': 'b'})
    state['opt_state']['0']['mu']['a'][:] = 77.0
    opt.register_trainable_weights(params_of(b=2))
    np.testing.assert_allclose(opt.state_dict()['opt_state']['0']['mu']['b'], 0.1, rtol=1e-6)
    other = bo.Adam(0.5)
    state['param_groups']['0']['params'] = ['a']
    other.load_state_dict(state, strict=False)
    other.register_trainable_weights(params_of(a=2, more=1))
    assert other.state_dict()['opt_state']['0']['leaf_counts'] == {'a': 1, 'more': 0}


# ---- kinds of arrays ----------------------------------------------------------------------------

DTYPES = ['bfloat16', 'float16', 'float8_e4m3fn', 'float8_e5m2', 'complex64', 'float32']


@pytest.mark.parametrize('dtype', DTYPES)
def test_parameters_of_every_dtype(dtype, tmp_path):
    path = tmp_path / 'run.ckpt'
    values = {'w': np.array([0.5, -2.0]), 'scalar': np.array(1.5), 'empty': np.zeros((0, 3))}

    def fresh(scale):
        return {k: ParamState(jnp.asarray(scale * v, dtype)) for k, v in values.items()}

    params = fresh(1)
    opt = bo.OptaxOptimizer(tx=optax.trace(0.5)).register_trainable_weights(params)
    if not dtype.startswith('float8'):
        opt.step(jax.tree.map(lambda p: p.value, params, is_leaf=is_state))
    opt.save(path, params=True)
    others = fresh(0)
    new = bo.OptaxOptimizer(tx=optax.trace(0.5)).register_trainable_weights(others)
    new.load(path)
    assert digest(new, others) == digest(opt, params)
    assert new.state_dict()['opt_state']['0']['trace']['w'].dtype == jnp.dtype(dtype)


def test_random_keys_in_the_state(tmp_path):
    tx = optax.chain(optax.add_noise(0.1, 0.5, key=jax.random.key(3)), optax.scale(-0.1))
    path, params = tmp_path / 'run.ckpt', params_of(a=3)
    opt = bo.OptaxOptimizer(tx=tx).register_trainable_weights(params)
    opt.step({'a': jnp.ones(3)})
    opt.save(path, params=True)
    others = params_of(a=3)
    new = bo.OptaxOptimizer(tx=tx).register_trainable_weights(others)
    new.load(path)
    new.load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))
    for o in (opt, new):
        o.step({'a': jnp.ones(3)})
    np.testing.assert_array_equal(params['a'].value, others['a'].value)
    state = opt.state_dict()
    state['opt_state']['0']['rng_key']['']['key_impl'] = 'rbg'
    with pytest.raises(bo.IncompatibleCheckpoint, match='rng_key of the group must be a key of'):
        new.load_state_dict(state)


@pytest.mark.parametrize(
    ('value', 'error', 'words'),
    [
        (saiunit.Quantity(jnp.array([1.0, 2.0]), unit=saiunit.volt), ValueError, 'holds .* in V;'),
        (jnp.array([1.0, 2.0]), ValueError, 'now holds a value in no unit'),
        (saiunit.Quantity(jnp.ones(3), unit=saiunit.mV), ValueError, r'shape \(2,\) and now has'),
        (saiunit.Quantity(jnp.ones(2, 'bfloat16'), unit=saiunit.mV), TypeError, 'as float32 and'),
        ([jnp.ones(2)], TypeError, 'was registered as the tree'),
    ],
)
def test_parameters_that_loading_would_refuse_are_not_saved(tmp_path, value, error, words):
    param = ParamState(saiunit.Quantity(jnp.array([1.0, 2.0]), unit=saiunit.mV))
    opt = bo.SGD(0.1).register_trainable_weights({'v': param})
    param.value = value
    with pytest.raises(error, match=words):
        opt.save(tmp_path / 'run.ckpt', params=True)
    assert not list(tmp_path.iterdir())
    opt.save(tmp_path / 'run.ckpt')  # the optimizer itself is as it was


def test_units_and_weak_types_are_kept(tmp_path):
    path = tmp_path / 'run.ckpt'

    def fresh(x, unit):
        weak = jnp.asarray(x)
        return {
            'v': ParamState(saiunit.Quantity(jnp.array([x, 2.0]), unit=unit)),
            'weak': ParamState(weak),
        }

    params = fresh(1.0, saiunit.mV)
    bo.SGD(0.1, momentum=0.9).register_trainable_weights(params).save(path, params=True)
    others = fresh(9.0, saiunit.mV)
    opt = bo.SGD(0.1, momentum=0.9).register_trainable_weights(others)
    opt.load(path)
    assert others['v'].value.unit == saiunit.mV
    assert others['v'].value.mantissa.tolist() == [1.0, 2.0]
    assert others['weak'].value.weak_type and float(others['weak'].value) == 1.0
    wrong = bo.SGD(0.1, momentum=0.9).register_trainable_weights(fresh(9.0, saiunit.ms))
    with pytest.raises(bo.IncompatibleCheckpoint, match='the parameter v was in mV, here .* in ms'):
        wrong.load(path)


# ---- many rounds --------------------------------------------------------------------------------


def test_the_file_tells_what_it_holds_without_its_arrays():
    header = json.loads(json.dumps(decoded(saved('adamw'))[0]))
    assert header['state']['optimizer'] == 'AdamW'
    assert header['state']['param_groups']['1']['params'] == ['block.c']


def test_msgpack_of_a_state_dict():
    opt, params = trained(OPTIMIZERS['adamw'])
    state = opt.state_dict()
    frozen = msgpack.packb(
        state, default=lambda x: {'nd': x.tolist(), 'dtype': x.dtype.name, 'shape': x.shape}
    )

    def thaw(x):
        return np.array(x['nd'], x['dtype']).reshape(x['shape']) if 'nd' in x else x

    new, others = untrained(OPTIMIZERS['adamw'])
    new.load_state_dict(msgpack.unpackb(frozen, object_hook=thaw))
    assert same(new.state_dict(), state)


def test_numbers_that_contradict_each_other_are_refused():
    opt = bo.Rprop().register_trainable_weights({'w': ParamState(jnp.ones(2))})
    saved = opt.state_dict()
    saved['param_groups']['0']['etas'] = [0.5, 0.9]
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'group 0: Rprop needs etas\[1\] in'):
        opt.load_state_dict(saved)
    assert opt.etas == (0.5, 1.2)


@pytest.mark.parametrize('names', [None, 3, [1], 'w'])
def test_names_that_are_none_are_refused_before_there_are_parameters(names):
    saved = bo.SGD(0.1).register_trainable_weights(params_of(w=2)).state_dict()
    saved['param_groups']['0']['params'] = names
    with pytest.raises(bo.IncompatibleCheckpoint, match='group 0: params must be a list of names'):
        bo.SGD(0.1).load_state_dict(saved)


@pytest.mark.parametrize(
    'made',
    [
        lambda n: bo.CosineAnnealingLR(0.1, T_max=n),
        lambda n: bo.OneCycleLR(max_lr=1.0, total_steps=n),
        lambda n: bo.ChainedScheduler([bo.CosineAnnealingLR(0.1, T_max=n)]),
    ],
    ids=['cosine', 'one cycle', 'chained'],
)
def test_training_on_with_a_longer_schedule(made, tmp_path):
    def run(steps):
        opt = bo.SGD(made(steps)).register_trainable_weights(params_of(w=2))
        return opt, opt.lr

    opt, scheduler = run(10)
    for _ in range(8):
        scheduler.step()
    opt.save(tmp_path / 'run')
    longer, schedule = run(20)
    with pytest.raises(bo.IncompatibleCheckpoint, match='was built with .*10.*, here with .*20'):
        longer.load(tmp_path / 'run')
    with pytest.raises(bo.IncompatibleCheckpoint, match='was built with'):
        schedule.load_state_dict(scheduler.state_dict())
    assert schedule.last_epoch.value == 0
    report = longer.load(tmp_path / 'run', strict=False)
    assert 'was built with' in report.unexpected[0] and schedule.last_epoch.value == 8
    _, whole = run(20)
    for _ in range(9):
        whole.step()
    schedule.step()
    assert longer.current_lr == pytest.approx(whole.get_lr()[0])


def test_what_a_scheduler_was_built_with_must_be_a_dict(tmp_path):
    opt = bo.SGD(bo.StepLR(0.1, step_size=3)).register_trainable_weights(params_of(w=2))
    state = opt.state_dict()
    state['schedulers'][0]['fixed'] = 5
    for strict in (True, False):
        with pytest.raises(bo.IncompatibleCheckpoint, match='fixed must be a dict'):
            opt.load_state_dict(state, strict=strict)


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('optimizer', np.ones(2), 'it was saved by'),
        ('dtypes', {'mu_dtype': np.ones(2)}, 'mu_dtype must be the name of a dtype'),
        ('schema', np.ones(2), 'was of version'),
    ],
)
def test_arrays_in_place_of_names_are_refused_by_name(name, value, words):
    opt = bo.Adam(0.1).register_trainable_weights(params_of(w=2))
    with pytest.raises(bo.IncompatibleCheckpoint, match=words):
        opt.load_state_dict({**opt.state_dict(), name: value})
