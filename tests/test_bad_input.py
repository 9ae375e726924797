"""Calls, groups and gradients that are refused by name, with nothing changed."""

import copy

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from refusals import GRADS, MODEL, digest, param, refused, unchanged

import braintools_optim as bo

TYPED = (TypeError, ValueError, KeyError, AttributeError)


# ---- calls on a trained optimizer ---------------------------------------------------------------


def assign(name, value):
    return lambda opt: setattr(opt, name, value)


def group(key, value):
    return lambda opt: opt.param_groups[0].__setitem__(key, value)


def add(params=None, **options):
    return lambda opt: opt.add_param_group(params or {'new': param(2)}, **options)


def state(opt, name):
    return opt.param_states.get_state_by_path(name)


CALLS = {
    # the learning rate is a scheduler here
    'lr': ('Adam', assign('lr', 0.1), AttributeError, ['scheduler', 'current_lr = 0.1']),
    'flag': ('Adam', assign('amsgrad', True), AttributeError, ['amsgrad', 'Adam', 'construction']),
    'group flag': ('SGD', group('nesterov', True), AttributeError, ['nesterov', 'construction']),
    'momentum of none': (
        *('plain SGD', assign('momentum', 0.9), ValueError),
        ['SGD', 'momentum', 'momentum=0', 'group 0', '> 0'],
    ),
    'group momentum of none': (
        *('plain SGD', group('momentum', 0.9), ValueError),
        ['SGD', 'momentum=0', 'group 0', '> 0'],
    ),
    'alpha of RMSprop': (
        *('RMSprop', assign('alpha', 1.0), ValueError),
        ['RMSprop', 'alpha', '[0, 1)', '1.0'],
    ),
    'etas': ('Rprop', group('etas', (0.5, 0.75)), ValueError, ['Rprop', 'etas[1]', '0.75']),
    'step_sizes': ('Rprop', group('step_sizes', (2.0, 1.0)), ValueError, ['step_sizes[1]', '1.0']),
    'dampening with nesterov': (
        *('nesterov', assign('dampening', 0.5), ValueError),
        ['SGD', 'nesterov', 'dampening', '0.5'],
    ),
    'new group: nesterov without momentum': (
        *('plain SGD', add(nesterov=True), ValueError),
        ['SGD', 'nesterov', 'momentum', 'got 0'],
    ),
    'new group: nesterov with dampening': (
        *('nesterov', add(dampening=0.5), ValueError),
        ['SGD', 'nesterov', 'dampening', '0.5'],
    ),
    'clipping added later': (
        *('Adam', assign('grad_clip_norm', 1.0), AttributeError),
        ['Adam', 'grad_clip_norm', 'without', 'construct'],
    ),
    'value clipping added later': (
        *('Adam', assign('grad_clip_value', 1.0), AttributeError),
        ['Adam', 'grad_clip_value', 'without', 'construct'],
    ),
    'clipping removed': (
        *('clipped', assign('grad_clip_norm', None), (TypeError, ValueError)),
        ['grad_clip_norm', 'None', '(0, inf]'],
    ),
    'clipping of a group': ('clipped', add(grad_clip_norm=2.0), TypeError, ["'grad_clip_norm'"]),
    # group options
    'unknown group option': (
        *('Adam', add(foo=1), TypeError),
        ['Adam', "per-group option 'foo'", 'betas', 'weight_decay'],
    ),
    'group learning_rate': (
        *('Adam', add(learning_rate=0.1), TypeError),
        ["'learning_rate'", "Did you mean 'lr'"],
    ),
    'set unknown group option': (
        *('Adam', group('foo', 1), KeyError),
        ['Adam', "per-group option 'foo'", 'betas', 'weight_decay'],
    ),
    'get unknown group option': (
        *('Adam', lambda opt: opt.param_groups[0]['momentum'], KeyError),
        ["'momentum'", 'betas', 'weight_decay'],
    ),
    'a group by a place': (
        *('Adam', lambda opt: opt.param_groups[0][0], KeyError),
        ['Adam', 'per-group option 0', 'betas', 'weight_decay'],
    ),
    'set a group by a place': (
        *('Adam', group(0, 0.1), KeyError),
        ['Adam', 'per-group option 0', 'betas', 'weight_decay'],
    ),
    'delete group option': (
        *('Adam', lambda opt: opt.param_groups[0].__delitem__('lr'), TypeError),
        ["'lr'", 'deleted'],
    ),
    'set group params': ('Adam', group('params', {}), AttributeError, ['params', 'fixed']),
    'update of a group, half bad': (
        *('Adam', lambda opt: opt.param_groups[0].update(lr=0.7, betas=(2.0, 0.9)), ValueError),
        ['betas', '2'],
    ),
    'update of a group, half unknown': (
        *('Adam', lambda opt: opt.param_groups[0].update(lr=0.7, foo=3), KeyError),
        ["'foo'"],
    ),
    'group lr.value': (
        *('Adam', lambda opt: setattr(opt.param_groups[1]['lr'], 'value', -1), ValueError),
        ['lr', '-1'],
    ),
    'group lr is a scheduler': (
        *('Adam', add(lr=bo.ConstantLR(0.1)), TypeError),
        ['Adam', 'lr', 'ConstantLR'],
    ),
    'unknown attribute': ('Adam', lambda opt: opt.momentum, AttributeError, ['Adam', "'momentum'"]),
    # parameters
    'group that overlaps': (
        *('Adam', lambda opt: opt.add_param_group({'mine': state(opt, 'x')}), ValueError),
        ["'mine'", 'group 0', "'x'", 'one group'],
    ),
    'group that overlaps another': (
        'Adam',
        lambda opt: opt.add_param_group({'new': param(2), 'mine': state(opt, 'z')}, lr=0.7),
        ValueError,
        ["'mine'", 'group 1', "'z'"],
    ),
    'empty group': ('Adam', lambda opt: opt.add_param_group({}), ValueError, ['without param']),
    'None group': ('Adam', lambda opt: opt.add_param_group(None), TYPED, ['Adam', 'param']),
    'array group': (
        *('Adam', lambda opt: opt.add_param_group({'new': jnp.ones(2)}), TypeError),
        ['State', 'Array', 'new', 'states'],
    ),
    'torch group': (
        *('Adam', lambda opt: opt.add_param_group({'params': [param(2)], 'lr': 0.1}), TypeError),
        ['State', 'float', 'lr'],
    ),
    'integer group': (
        *('Adam', lambda opt: opt.add_param_group({'new': param(2, dtype=int)}), TypeError),
        ["'new'", 'int32', 'floating'],
    ),
    'half integer group': (
        'Adam',
        lambda opt: opt.add_param_group({'a': param(2), 'b': param(2, dtype=int)}, lr=0.7),
        TypeError,
        ["'b'", 'int32', 'floating'],
    ),
    'integer registration': (
        *('Adam', lambda opt: opt.register_trainable_weights({'new': param(2, dtype=int)})),
        *(TypeError, ["'new'", 'int32', 'floating']),
    ),
    'text registration': (
        *('Adam', lambda opt: opt.register_trainable_weights({'new': brainstate.ParamState('x')})),
        *(TypeError, ["'new'", 'array', "'x'"]),
    ),
    'array registration': (
        *('Adam', lambda opt: opt.register_trainable_weights({'a': param(2), 'b': 1.0})),
        *(TypeError, ['State', 'float', 'b']),
    ),
    'module registration': (
        *('Adam', lambda opt: opt.register_trainable_weights(MODEL), TypeError),
        ['State', 'Linear', 'states'],
    ),
    # schedulers
    'scheduler of another': (
        *('Adam', lambda opt: bo.Adam(lr=opt.lr), ValueError),
        ['ConstantLR', 'already', 'own'],
    ),
    'second scheduler of another': (
        *('Adam', lambda opt: opt.add_scheduler(bo.SGD(0.1).lr), ValueError),
        ['ConstantLR', 'already', 'own'],
    ),
    'scheduler appended': (
        *('Adam', lambda opt: opt.schedulers.append(bo.StepLR(step_size=2)), TypeError),
        ['add_scheduler'],
    ),
    'loss for an epoch': (
        *('Adam', lambda opt: opt.lr.step(jnp.float32(0.53)), TypeError),
        ['ConstantLR.step', 'float32', 'ReduceLROnPlateau'],
    ),
    'scheduler is a number': (
        *('Adam', lambda opt: opt.add_scheduler(0.1), TypeError),
        ['LRScheduler', 'float'],
    ),
    'scheduler is a class': (
        *('Adam', lambda opt: opt.add_scheduler(bo.ConstantLR), TypeError),
        ['LRScheduler', 'type'],
    ),
    'attached to nothing': (
        *('Adam', lambda opt: bo.ConstantLR(0.1).attach_optimizer('x'), TypeError),
        ['ConstantLR', 'OptaxOptimizer', 'str'],
    ),
    'lr_apply': ('Adam', lambda opt: opt.lr_apply(lambda lr: -lr), ValueError, ['lr', '-0.1']),
    'lr_apply of the scheduler': (
        *('Adam', lambda opt: opt.lr.apply(lambda lr: -lr), ValueError),
        ['lr', '-0.1'],
    ),
    # checkpoints
    'load a number': ('Adam', lambda opt: opt.load_state_dict(3), ValueError, ['dict', 'int']),
    'load nothing': ('Adam', lambda opt: opt.load_state_dict({}), ValueError, ['param_groups']),
    'load half': (
        'Adam',
        lambda opt: opt.load_state_dict({**opt.state_dict(), 'step_count': 'x', 'opt_state': {}}),
        ValueError,
        ['step_count', 'opt_state'],
    ),
}


@pytest.mark.parametrize('row', CALLS)
def test_calls(row):
    kind, call, error, words = CALLS[row]
    with unchanged(kind) as opt, refused(error, *words):
        call(opt)


@pytest.mark.parametrize('empty', [{}, [], None, {'a': {}}])
def test_registering_nothing(empty):
    opt = bo.Adam(0.1)
    with refused(TYPED, 'Adam', 'param'):
        opt.register_trainable_weights(empty)
    assert opt.param_groups == [] and len(opt.param_states) == 0


def test_before_registration():
    opt = bo.Adam(0.1)
    for call in (
        lambda: opt.step({'x': jnp.ones(2)}),
        lambda: opt.update({'x': jnp.ones(2)}),
        lambda: opt.add_param_group({'x': param(2)}),
        lambda: opt.load_state_dict(opt.state_dict()),
    ):
        with refused(ValueError, 'no parameters', 'register_trainable_weights'):
            call()
    assert opt.param_groups == []


# ---- what a refused group leaves behind ---------------------------------------------------------


class Picky(bo.OptaxOptimizer):
    def __init__(self, lr=0.1, kind='sgd'):
        super().__init__(lr=lr, kind=kind)

    def transform(self, h):
        if h.kind == 'none':
            raise ValueError('no such kind')
        return optax.scale_by_learning_rate(h.lr)


class Changeable(bo.OptaxOptimizer):
    """A chain that is built once for each group, as braintools has it."""

    good = True

    def default_tx(self):
        return optax.scale(-0.1) if self.good else 'nothing'


def refuse_integer(opt):
    with pytest.raises(TypeError):
        opt.add_param_group({'i': param(2, dtype=int)}, lr=0.3)


def refuse_kind(opt):
    with pytest.raises(ValueError, match='no such kind'):
        opt.add_param_group({'x': param(2)}, kind='none')


def refuse_chain(opt):
    opt.good = False
    with pytest.raises(TypeError, match='default_tx'):
        opt.add_param_group({'x': param(2)})
    opt.good = True


MASKED = {
    **{cls: 'mask' for cls in (bo.AdEMAMix, bo.Mars)},
    **{cls: 'weight_decay_mask' for cls in (bo.Quad, bo.Skew)},
}


@pytest.mark.parametrize('cls', MASKED)
def test_a_mask_of_other_parameters(cls):
    name, many = MASKED[cls], {f'p{i}': param(2) for i in range(7)}
    opt = cls(0.1, weight_decay=0.5, **{name: {'w': True}})
    with refused(ValueError, cls.__name__, f'{name} for w', 'p0, p1, p2, p3, p4 ...: give'):
        opt.register_trainable_weights(many)
    opt.register_trainable_weights({'w': param(2, 2)})
    with refused(ValueError, f'{name} for w,', 'a group with v.a', f'params, {name}=...'):
        opt.add_param_group({'v': {'a': param(2)}})
    assert len(opt.param_groups) == 1
    later = param(2)
    opt.add_param_group({'v': later}, **{name: {'v': False}})
    opt.step({'v': jnp.zeros(2)})
    np.testing.assert_array_equal(later.value, 1.0)


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize(
    ('make', 'fail'),
    [(bo.SGD, refuse_integer), (Picky, refuse_kind), (Changeable, refuse_chain)],
    ids=['integer', 'transform', 'default_tx'],
)
def test_life_goes_on_after_a_refused_group(make, fail, jit):
    """Live numbers stay live: in the next step, in functions jitted before, in a later group."""
    w, later = param(2), param(2)
    opt = make(lr=0.1).register_trainable_weights({'w': w})
    step = brainstate.transform.jit(opt.step) if jit else opt.step
    step({'w': jnp.ones(2)})
    np.testing.assert_allclose(w.value, 0.9, 1e-6)
    size = np.size(opt._table.state.value)
    fail(opt)
    assert np.size(opt._table.state.value) == size
    assert len(opt.param_groups) == len(opt.get_last_lr()) == 1
    live = make is not Changeable
    if live:
        opt.current_lr = 0.0
    step({'w': jnp.ones(2)})
    np.testing.assert_allclose(w.value, 0.9 if live else 0.8, 1e-6)
    opt.add_param_group({'later': later})
    assert (
        np.size(opt._table.state.value) == size * 3 // 2
    )  # one more, besides that of groups to come
    if live:
        opt.param_groups[1]['lr'] = 0.5
    opt.step({'later': jnp.ones(2)})
    np.testing.assert_allclose(later.value, 0.5 if live else 0.9, 1e-6)


# ---- gradients ----------------------------------------------------------------------------------

STEPS = {
    'None': (None, TypeError, ['gradient', 'None']),
    'empty': ({}, KeyError, ['x', 'y', 'z']),
    'list': ([jnp.ones(2), jnp.ones((3, 2)), jnp.ones(4)], KeyError, ['x, y, z']),
    'bare array': (jnp.ones(2), KeyError, ['x, y, z']),
    'all misnamed': ({'a': jnp.ones(2), 'b': jnp.ones(2)}, KeyError, ["'a'", "'b'", 'x, y, z']),
    'one misnamed': (
        {'x': jnp.ones(2), 'y': jnp.ones((3, 2)), 'Z': jnp.ones(4)},
        *(KeyError, ["'Z'", 'without a gradient', 'z', 'x, y, z']),
    ),
    'too deep': ({**GRADS, 'z': {'w': jnp.ones(4)}}, KeyError, ['z', 'w', 'x, y, z']),
    'shape': ({**GRADS, 'x': jnp.ones((3, 2))}, ValueError, ["'x'", '(2,)', '(3, 2)']),
    'shape in the second group': (
        *({**GRADS, 'z': jnp.ones((4, 1))}, ValueError),
        ["'z'", '(4,)', '(4, 1)'],
    ),
    'scalar': ({'x': 1.0}, ValueError, ["'x'", '(2,)', '()']),
    'complex': ({**GRADS, 'x': jnp.ones(2) + 1j}, TypeError, ["'x'", 'complex64', 'float32']),
    'float0': (
        *({**GRADS, 'x': np.zeros(2, jax.dtypes.float0)}, TypeError),
        ["'x'", 'float0', 'float32'],
    ),
    'unit': ({**GRADS, 'x': jnp.ones(2) * u.mV}, ValueError, ["'x'", 'no unit', 'mV']),
    'text': ({**GRADS, 'x': 'abc'}, TypeError, ["gradient of 'x'", 'array', 'str']),
    'array of text': (
        *({**GRADS, 'x': np.array(['a', 'b'])}, TypeError),
        ["gradient of 'x'", 'array of numbers', '<U1'],
    ),
    'bare array of objects': (np.array([None]), TypeError, ['a pytree of arrays', 'object']),
    'object': ({**GRADS, 'x': object()}, TypeError, ["gradient of 'x'", 'array', 'object']),
    'State': ({**GRADS, 'x': param(2)}, TypeError, ["gradient of 'x'", 'array', 'ParamState']),
}


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('row', STEPS)
def test_steps(row, jit):
    grads, error, words = STEPS[row]
    with unchanged() as opt, refused(error, *words):
        if jit:
            brainstate.transform.jit(lambda: opt.step(grads))()
        else:
            opt.step(grads)


def test_missing_argument():
    with unchanged() as opt, refused(TypeError, 'grads'):
        opt.step()
    with unchanged() as opt, refused(TypeError, 'step'):
        opt.step(GRADS, 1.0)


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
def test_extra_arguments_that_nobody_takes(jit):
    with unchanged('scale') as opt, refused(TypeError, 'OptaxOptimizer', 'value', 'no extra'):
        if jit:
            brainstate.transform.jit(lambda: opt.step(GRADS, value=1.0))()
        else:
            opt.step(GRADS, value=1.0)


def test_gradients_that_are_all_absent_change_no_parameter():
    opt = bo.Adam(0.1).register_trainable_weights({'x': param(2)})
    opt.add_param_group({'z': param(4)})
    opt.step({'x': jnp.ones(2), 'z': jnp.ones(4)})
    before = [
        np.asarray(x)
        for x in jax.tree.leaves((opt.param_states.to_pytree_value(), opt._core.value[0]))
    ]
    opt.step({'x': None, 'z': None})
    after = jax.tree.leaves((opt.param_states.to_pytree_value(), opt._core.value[0]))
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x, y)


def test_parameter_whose_shape_changed():
    x = param(2)
    opt = bo.Adam(0.1).register_trainable_weights({'x': x})
    opt.step({'x': jnp.ones(2)})
    x.value = jnp.ones(5)
    before = copy.copy(jax.tree.leaves(opt._core.value))
    with refused(TYPED, "'x'", '(2,)', '(5,)'):
        opt.step({'x': jnp.ones(5)})
    np.testing.assert_array_equal(x.value, np.ones(5))
    for a, b in zip(before, jax.tree.leaves(opt._core.value), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('shape', [(4,), (1, 4), (6, 4), (3, 5)])
@pytest.mark.parametrize('kind', ['Adam', 'Lion'])
def test_parameter_whose_shape_changed_in_jit(kind, shape):
    x = param(3, 4)
    opt = getattr(bo, kind)(0.1).register_trainable_weights({'x': x})
    x.value = jnp.ones(shape)  # some would broadcast against the moments
    before = digest(opt)
    with refused(TYPED, "'x'", '(3, 4)', str(shape)):
        brainstate.transform.jit(lambda g: opt.step({'x': g}))(jnp.ones(shape))
    assert digest(opt) == before and x.value.shape == shape


def test_counters_stop_at_the_largest_integer():
    opt = bo.Adam(0.1).register_trainable_weights({'x': param(2)})
    opt.step_count.value = np.int32(2**31 - 2)
    for _ in range(3):
        opt.step({'x': jnp.ones(2)})
    assert int(opt.step_count.value) == 2**31 - 1
    step = brainstate.transform.jit(lambda: opt.step({'x': jnp.ones(2)}))
    step()
    assert int(opt.step_count.value) == 2**31 - 1
