"""Numbers and constructor arguments that are refused, in every way in which they come."""

import functools
import warnings
from inspect import signature

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from refusals import MODEL, param, refused, unchanged

import braintools_optim as bo

NAN, INF = float('nan'), float('inf')


# ---- hyper-parameters: every way in which a value comes -----------------------------------------

NUMBERS = [NAN, None, 'x', -1, INF, True, 1j]
ARRAYS = [np.True_, jnp.array(True), np.complex64(1 + 2j), np.array('x'), jnp.array(1j)]

PAIRS = [(1.5, 0.9), (-1, 0.9), (0.9, 1.0), (NAN, 0.9), ('x', 0.9), None, 'xy']

BAD = {
    'lr': [*NUMBERS, [0.1, 0.2], jnp.ones(2), {}, 0.1 * u.mV],
    'betas': [*PAIRS, (), (0.9,), (0.9, 0.9, 0.9), 0.9],
    'eps': NUMBERS,
    'weight_decay': [*NUMBERS, *ARRAYS],
    'momentum': [*NUMBERS, -0.5],
    'dampening': [NAN, None, 'x', INF],
    'alpha': NUMBERS,
    'rho': [*NUMBERS, 1.5],
    'lr_decay': NUMBERS,
    'initial_accumulator_value': NUMBERS,
    'momentum_decay': NUMBERS,
    'etas': [(1.5, 1.2), (1, 1.2), (-0.5, 1.2), (0.5, 0.9), (NAN, 1.2), None, 'xy', (), (0.9,)],
    'step_sizes': [(-1, 0.9), (NAN, 0.9), None, 'xy', (), (0.9,), 0.9],
    'lambd': NUMBERS,
    't0': NUMBERS,
    'centered': [None, 'yes', 1, 0.9],
    'beta2_decay': [*NUMBERS[:3], 0.5, INF, True],
    'd': [*NUMBERS[:4], 0.5, True],
    'ns_coefficients': [None, 'xyz', 0.9, ()],
    'ns_steps': [None, 'x', 2.5, -1, 100, True],
    'b3': [*NUMBERS, 1.5],
    'T_b3': NUMBERS,
    'gamma': NUMBERS,
    'max_grad_norm': [*NUMBERS[:4], True],
    'lr_1d': NUMBERS,
    'betas_1d': PAIRS,
    'step_offset': [None, 'x', 2.5, -1, True],
    'optimize_1d': [None, 'yes', 1, 0.9],
    'factored': [None, 'yes', 1, 0.9],
    'original': [None, 'yes', 1, 0.9],
    'amsgrad': [None, 'yes', 1, 0.9],
    'decoupled_weight_decay': [None, 'yes', 1, 0.9],
    'nesterov': [None, 'yes', 1, 0.9],
    'maximize': [None, 'yes', 1, 0.9],
    'grad_clip_norm': [0, -1, NAN, 'x', True],
    'grad_clip_value': [0, -1, NAN, 'x', True],
}

FLAGS = {'amsgrad', 'centered', 'decoupled_weight_decay', 'nesterov', 'maximize'}

FLAGS |= {'factored', 'original', 'ns_steps', 'step_offset', 'optimize_1d'}

CLASSES = ['SGD', 'Momentum', 'MomentumNesterov', 'Adam', 'AdamW', 'OptaxOptimizer']

CLASSES += ['RMSprop', 'Adagrad', 'Adadelta', 'Adamax', 'Nadam', 'RAdam', 'Rprop', 'ASGD']

CLASSES += ['Adafactor', 'Muon', 'AdEMAMix', 'Mars']

OPTIONS = [
    (name, option)
    for name in CLASSES
    for option in BAD
    if option in signature(getattr(bo, name)).parameters
]


def came(value):
    """Return the part of an error that says what came."""
    if isinstance(value, tuple):
        odd = [x for x in value if isinstance(x, str) or not 0 <= x < 1]
        return came(odd[0]) if odd and len(value) == 2 else '0.9' if value else '()'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'{value:g}'
    return 'Quantity' if isinstance(value, u.Quantity) else repr(value)


def each_value(test):
    """Run a test of a class and an option with every bad value; a failure tells the value."""

    @functools.wraps(test)
    def run(name, option):
        for value in BAD[option]:
            if (name, option, value) == ('Adafactor', 'lr', None):  # its own choice
                continue
            try:
                test(name, option, value)
            except BaseException as error:
                error.add_note(f'with {option}={value!r}')
                raise

    run.__signature__ = signature(lambda name, option: None)
    return run


@pytest.mark.parametrize(('name', 'option'), OPTIONS)
@each_value
def test_at_construction(name, option, value):
    more = {'momentum': 0.9} if option == 'nesterov' else {}
    with refused((TypeError, ValueError), name, option, came(value)):
        getattr(bo, name)(**{option: value}, **more)


@pytest.mark.parametrize(('name', 'option'), OPTIONS)
@each_value
def test_at_assignment_to_the_optimizer(name, option, value):
    if option.startswith('grad_clip'):
        kind, error = 'clipped', (TypeError, ValueError)
        name = 'Adam'
    else:
        kind, error = name, AttributeError if option in FLAGS else (TypeError, ValueError)
    words = ['fixed at construction'] if option in FLAGS else [came(value)]
    with unchanged(kind) as opt, refused(error, name, option, *words):
        setattr(opt, 'current_lr' if option == 'lr' else option, value)


OF_GROUPS = [(name, option) for name, option in OPTIONS if not option.startswith('grad_clip')]


@pytest.mark.parametrize(('name', 'option'), OF_GROUPS)
@each_value
def test_at_assignment_to_a_group(name, option, value):
    error = AttributeError if option in FLAGS else (TypeError, ValueError)
    words = ['fixed at construction'] if option in FLAGS else [name, came(value)]
    with unchanged(name) as opt, refused(error, option, *words):
        opt.param_groups[1][option] = value


@pytest.mark.parametrize(('name', 'option'), OF_GROUPS)
@each_value
def test_at_add_param_group(name, option, value):
    with unchanged(name) as opt, refused((TypeError, ValueError), name, option, came(value)):
        opt.add_param_group({'new': param(2)}, **{option: value})


# ---- construction -------------------------------------------------------------------------------

PARAMS = {f'w{i}': param(2) for i in range(100)}

TO_REGISTER = (TypeError, ['register_trainable_weights'])

CONSTRUCTION = {
    'nesterov without momentum': (
        *(lambda: bo.SGD(0.1, nesterov=True), ValueError),
        ['SGD', 'nesterov', 'momentum', '> 0', 'got 0'],
    ),
    'nesterov with dampening': (
        *(lambda: bo.SGD(0.1, momentum=0.9, nesterov=True, dampening=0.1), ValueError),
        ['SGD', 'nesterov', 'dampening', '0.1'],
    ),
    'learning_rate': (
        *(lambda: bo.Adam(learning_rate=0.1), TypeError),
        ['Adam', "'learning_rate'", 'betas', "Did you mean 'lr'"],
    ),
    'learning_rate of the base': (
        *(lambda: bo.OptaxOptimizer(learning_rate=0.1), TypeError),
        ['OptaxOptimizer', "'learning_rate'", "Did you mean 'lr'"],
    ),
    'unknown': (lambda: bo.SGD(foo=1), TypeError, ['SGD', "'foo'", 'dampening', 'grad_clip_norm']),
    'of another class': (lambda: bo.SGD(betas=(0.9, 0.9)), TypeError, ['SGD', "'betas'"]),
    'misspelt': (lambda: bo.AdamW(weight_decy=0.1), TypeError, ["Did you mean 'weight_decay'"]),
    'too many': (lambda: bo.Adam(0.1, (0.9, 0.9), 1e-8, 0.0, False, True), TypeError, ['6']),
    # torch's habit: the parameters first
    'parameters, lr': (lambda: bo.Adam(PARAMS, 0.1), *TO_REGISTER),
    'parameters': (lambda: bo.Adam(PARAMS), *TO_REGISTER),
    'parameters, lr=': (lambda: bo.Adam(PARAMS, lr=0.1), *TO_REGISTER),
    'SGD of parameters': (lambda: bo.SGD(PARAMS, lr=0.1, momentum=0.9), *TO_REGISTER),
    'list of parameters': (lambda: bo.SGD(list(PARAMS.values()), 0.1), *TO_REGISTER),
    'a parameter': (lambda: bo.AdamW(param(2)), *TO_REGISTER),
    'states of a module': (lambda: bo.Adam(MODEL.states(), 0.1), *TO_REGISTER),
    'params= as in torch': (lambda: bo.Adam(params=PARAMS), TypeError, ['Adam', "'params'"]),
    'alpha of RMSprop': (lambda: bo.RMSprop(alpha=1.5), ValueError, ['RMSprop', 'alpha', '[0, 1)']),
    'etas that do not shrink': (
        *(lambda: bo.Rprop(etas=(0.0, 1.2)), ValueError),
        ['Rprop', 'etas[0]', '(0, 1)', 'etas[0]=0.0'],
    ),
    'etas that do not grow': (
        *(lambda: bo.Rprop(etas=(0.5, 1.0)), ValueError),
        ['Rprop', 'etas[1]', '(1, inf)', 'etas[1]=1.0'],
    ),
    'no step size': (
        *(lambda: bo.Rprop(step_sizes=(0.5, 0.25)), ValueError),
        ['Rprop', 'step_sizes[1]', '[0.5, inf)', '0.25'],
    ),
    'Rprop with decay': (lambda: bo.Rprop(weight_decay=0.1), TypeError, ["'weight_decay'"]),
    'parameters for tx': (lambda: bo.OptaxOptimizer(PARAMS), *TO_REGISTER),
    'tx with weight_decay': (
        *(lambda: bo.OptaxOptimizer(tx=optax.sgd(0.1), weight_decay=0.1), ValueError),
        ['OptaxOptimizer', 'weight_decay', '0.1', 'add_decayed_weights'],
    ),
    'tx of another kind': (
        *(lambda: bo.OptaxOptimizer(tx='sgd'), TypeError),
        ['OptaxOptimizer', 'tx', 'GradientTransformation', 'str'],
    ),
    'tx not called': (
        *(lambda: bo.OptaxOptimizer(tx=optax.sgd), TypeError),
        ['OptaxOptimizer', 'tx', 'GradientTransformation', 'function'],
    ),
    'average of SM3': (lambda: bo.SM3(momentum=1.5), ValueError, ['SM3', 'momentum', '1.5']),
    'eps of SparseAdam': (lambda: bo.SparseAdam(eps=0.0), ValueError, ['SparseAdam', 'eps', '(0']),
    'offset of AdEMAMix': (
        lambda: bo.AdEMAMix(step_offset=2),
        ValueError,
        ['AdEMAMix', 'step_offset', '0 or 1', '2'],
    ),
    'scheduler class': (lambda: bo.Adam(lr=bo.ConstantLR), TypeError, ['Adam', 'lr', 'ConstantLR']),
    'optax schedule': (
        *(lambda: bo.Adam(lr=optax.cosine_decay_schedule(0.1, 9)), TypeError),
        ['Adam', 'lr', 'function'],
    ),
    'scheduler lr': (lambda: bo.ConstantLR(-1), ValueError, ['ConstantLR', 'lr', '-1']),
    'no scheduler lr': (lambda: bo.ConstantLR([]), ValueError, ['ConstantLR', 'base_lr', 'empty']),
    'scheduler factor': (
        *(lambda: bo.ConstantLR(0.1, -2.0), ValueError),
        ['ConstantLR', 'factor', '-2'],
    ),
    'scheduler factor x': (
        *(lambda: bo.ConstantLR(0.1, 'x'), TypeError),
        ['ConstantLR', 'factor', "'x'"],
    ),
    'scheduler iters': (
        *(lambda: bo.ConstantLR(0.1, 0.5, -1), ValueError),
        ['ConstantLR', 'total_iters', '-1'],
    ),
    'base class of schedulers': (
        *(lambda: bo.Adam(lr=bo.LRScheduler(0.1)), NotImplementedError),
        ['LRScheduler', 'affine'],
    ),
}


@pytest.mark.parametrize('row', CONSTRUCTION)
def test_construction(row):
    make, error, words = CONSTRUCTION[row]
    with refused(error, *words):
        make()


def test_old_betas_warn_where_they_are_used():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        opt = bo.Adam(0.1, beta1=0.5)
    assert opt.betas == (0.5, 0.999)
    assert [(w.category, w.filename) for w in caught] == [(DeprecationWarning, __file__)]
    with pytest.warns(DeprecationWarning), refused(ValueError, 'Adam', 'betas', '1.5'):
        bo.Adam(0.1, beta2=1.5)


def test_integers_that_no_float_can_hold_are_refused():
    opt = bo.SGD(0.1)
    with refused(TypeError, 'SGD', 'lr', 'number'):
        opt.current_lr = 10**400
    with refused(ValueError, 'cosine', 'T_max', 'integer >= 1'):
        bo.schedules.cosine(0.1, T_max=10**400)
    assert opt.current_lr == 0.1


def test_integers_of_numpy_are_integers():
    assert bo.LBFGS(max_iter=np.int64(20)).max_eval == 25


@pytest.mark.parametrize('lr', [[0.1, 0.2], np.array([0.1, 0.2]), jnp.ones(2)])
def test_several_numbers_for_the_learning_rate(lr):
    with pytest.raises(TypeError, match='Adam needs one number or a scheduler.*add_param_group'):
        bo.Adam(lr=lr)


def test_a_class_in_place_of_an_object():
    with pytest.raises(TypeError, match=r'base_lr, got the class Adam: call it, Adam\(\.\.\.\)\.$'):
        bo.StepLR(bo.Adam, step_size=2)


@pytest.mark.parametrize('use', [float, '{:.3f}'.format, lambda lr: np.asarray(lr, float)])
def test_a_scheduler_as_a_number(use):
    opt = bo.Adam(0.1).register_trainable_weights(param())
    with pytest.raises(TypeError, match='ConstantLR is a scheduler, no number.*opt.current_lr'):
        use(opt.lr)
    assert f'{opt.lr}' == str(opt.lr)
    assert use(opt.current_lr) == use(0.1)
