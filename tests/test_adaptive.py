"""What is special about torch.optim's adaptive and classic algorithms."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_adaptive as rules
from brainstate import ParamState

import braintools_optim as bo
from braintools_optim import transforms
from braintools_optim.transforms.adam_variants import _average_length


def registered(opt, size=4, value=0.0):
    weight = ParamState(jnp.full(size, value))
    opt.register_trainable_weights({'w': weight})
    return opt, weight


GRAD = np.array([3.0, -0.02, 1e-3, -250.0], np.float32)
B2 = float(np.float32(1 - 1e-7))


@pytest.mark.parametrize(
    ('cls', 'rule'), [(bo.Adamax, rules.adamax), (bo.Nadam, rules.nadam), (bo.RAdam, rules.radam)]
)
def test_updates_with_a_decay_close_to_one(cls, rule):
    """In float32 1 - b2**t by subtraction is 9 % off, and the length of RAdam's average by 2."""
    opt, weight = registered(cls(lr=0.125, betas=(0.9, B2), eps=1e-30))
    b1, p, memory = float(np.float32(0.9)), np.zeros(4), {}
    for t in range(12):
        grad = GRAD * np.float32(1 + t % 3)
        before = np.asarray(weight.value)
        opt.step({'w': jnp.asarray(grad)})
        after = rule(p, np.float64(grad), memory, lr=0.125, betas=(b1, B2), eps=1e-30)
        if t == 0:
            np.testing.assert_allclose(weight.value, after, rtol=1e-6)
        # Later parameters are rounded at their own size.
        slack = 4 * np.spacing(np.abs(before).max())
        np.testing.assert_allclose(weight.value - before, after - p, rtol=2e-5, atol=slack)
        p = after


@pytest.mark.parametrize('b2', [0.0, 0.5, 0.875, 0.9990234375, 1 - 2.0**-17, 1 - 2.0**-23])
@pytest.mark.parametrize('precision', ['float32', 'float64'])
def test_length_of_the_average(b2, precision, request):
    if precision == 'float64':
        request.getfixturevalue('x64')
    counts = np.array([1, 2, 5, 6, 20, 300, 5000, 200_000])
    b = Fraction(b2)
    want = []
    for t in map(int, counts):
        # A power with few digits enough: the numbers below differ by less than 1e-40.
        power = b**t if t <= 20 or b2 == 0 else Fraction(round_power(b, t), 10**80)
        want.append(float(2 / (1 - b) - 1 - 2 * t * power / (1 - power)))
    got = _average_length(jnp.asarray(b2, precision), jnp.asarray(counts))
    np.testing.assert_allclose(got, want, rtol=2e-6 if precision == 'float32' else 1e-13)


def round_power(b, t):
    """Return 10**80 b**t, by squaring, rounded down."""
    one, result, square = 10**80, 10**80, int(b * 10**80)
    while t:
        if t & 1:
            result = result * square // one
        square, t = square * square // one, t >> 1
    return result


def test_a_centered_rms_is_never_negative():
    """The averaged square less the squared average of a constant is 0 but for rounding."""
    opt, weight = registered(bo.RMSprop(0.5, alpha=0.9, centered=True, eps=1.0))
    for _ in range(400):
        opt.step({'w': jnp.asarray(GRAD)})
    (variance,) = [v for k, v in opt.state_dict()['opt_state']['0'].items() if 'variance' in k]
    assert (variance['w'] >= 0).all() and (variance['w'] < 1e-9 * GRAD**2).all()
    assert np.isfinite(weight.value).all()


def test_accumulators_start_where_they_are_told():
    opt, _ = registered(bo.Adagrad(0.1, initial_accumulator_value=0.5))
    opt.step({'w': jnp.ones(4)})
    opt.register_trainable_weights({'v': ParamState(jnp.ones(2))})
    opt.add_param_group({'u': ParamState(jnp.ones(3))}, initial_accumulator_value=0.25)
    sums = [state['sum'] for state in opt.state_dict()['opt_state'].values()]
    np.testing.assert_array_equal(sums[0]['w'], np.full(4, 1.5))
    np.testing.assert_array_equal(sums[0]['v'], np.full(2, 0.5))
    np.testing.assert_array_equal(sums[1]['u'], np.full(3, 0.25))


# ---- Rprop -------------------------------------------------------------------------------------


def rprop_moves(rates, **options):
    """How far each step of equal gradients moves, at these learning rates."""
    opt, weight = registered(bo.Rprop(rates[0], **options), size=())
    moves = []
    for rate in rates:
        opt.current_lr = rate
        before = float(weight.value)
        opt.step({'w': jnp.asarray(1.0)})
        moves.append(before - float(weight.value))
    return moves


def test_rprop_follows_the_learning_rate():
    moves = rprop_moves([0.5, 0.5, 0.25, 0.0, 0.5])
    np.testing.assert_allclose(moves, [0.5, 0.6, 0.36, 0.0, 0.5 * 1.2**4], rtol=1e-5)


def test_rprop_starts_with_the_first_rate_that_is_not_zero():
    moves = rprop_moves([0.0, 0.0, 0.5, 0.25], step_sizes=(0.1, 50.0))
    np.testing.assert_allclose(moves[:2], 0.0)
    assert moves[2] > 0.4 and moves[3] == pytest.approx(moves[2] * 1.2 / 2, rel=1e-5)


@pytest.mark.parametrize(('dtype', 'large'), [('float16', 300.0), ('float32', 3e19)])
@pytest.mark.parametrize(
    ('make', 'want'),  # torch 2.13.0
    [
        (lambda: bo.Adam(0.1), 0.7),
        (lambda: bo.AdamW(0.1), 0.6973),
        (lambda: bo.RMSprop(0.1), -1.28913),
        (lambda: bo.RMSprop(0.1, centered=True), -1.31014),
        (lambda: bo.Adadelta(0.1), 0.999029),
        (lambda: bo.Nadam(0.1), 0.742765),
    ],
)
def test_a_gradient_whose_square_alone_would_overflow_moves_its_parameter(make, want, dtype, large):
    weight = ParamState(jnp.ones(2, dtype))
    opt = make().register_trainable_weights({'w': weight})
    for _ in range(3):
        opt.step({'w': jnp.array([large, 1.0], dtype)})
    np.testing.assert_allclose(weight.value, [want] * 2, atol=2e-5 if dtype == 'float32' else 2e-3)


def test_rprop_takes_nan_as_zero_where_it_is():
    opt, weight = registered(bo.Rprop(0.01), size=3)
    nan, found = np.nan, []
    for g in ([1, 1, 1], [nan, 1, 1], [1, 1, 1], [1, nan, -1], [1, 1, 1]):
        before = weight.value
        opt.step({'w': jnp.array(g, float)})
        found.append(before - weight.value)
    want = [  # torch 2.13.0
        [0.01, 0.01, 0.01],
        [0.0, 0.012, 0.012],
        [0.01, 0.0144, 0.0144],
        [0.012, 0.0, 0.0],
        [0.0144, 0.0144, 0.0072],
    ]
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_rprop_sees_the_signs_of_the_smallest_gradients():
    """Their product would be zero in float32."""
    opt, weight = registered(bo.Rprop(0.5), size=())
    for _ in range(2):
        opt.step({'w': jnp.asarray(1e-30)})
    np.testing.assert_allclose(weight.value, -1.1, rtol=1e-6)


# ---- ASGD --------------------------------------------------------------------------------------


def test_the_average_of_asgd_is_at_hand():
    opt, weight = registered(bo.ASGD(0.1, t0=3))
    seen = []
    for t in range(10):
        opt.step({'w': jnp.asarray(GRAD) * (-1) ** t})
        seen.append(np.asarray(weight.value))
        average = optax.tree.get(opt.opt_state.value, 'ax')['w']
        np.testing.assert_allclose(average, np.mean(seen[min(t, 4) :], axis=0), rtol=1e-5)


# ---- names, checkpoints, chains ----------------------------------------------------------------


def test_both_names_of_nadam():
    assert bo.NAdam is bo.Nadam


@pytest.mark.parametrize('wrong', [None, 'x', True, [1.0]])
def test_a_product_of_momenta_that_is_no_number_is_refused(wrong):
    opt, _ = registered(bo.Nadam(0.1))
    opt.step({'w': jnp.ones(4)})
    state = opt.state_dict()
    assert 0 < state['opt_state']['0']['leaf_products']['w'] < 1
    state['opt_state']['0']['leaf_products']['w'] = wrong
    with pytest.raises(bo.IncompatibleCheckpoint, match='leaf_products'):
        opt.load_state_dict(state)


@pytest.mark.parametrize(
    ('make', 'name', 'wrong'),
    [
        (bo.RMSprop, 'alpha', 1.5),
        (bo.Rprop, 'etas', [0.5, 0.75]),
        (bo.Rprop, 'step_sizes', [2.0, 1.0]),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused_in_checkpoints(make, name, wrong):
    opt, _ = registered(make(0.1))
    state = opt.state_dict()
    state['param_groups']['0'][name] = wrong
    before = getattr(opt, name)
    with pytest.raises(bo.IncompatibleCheckpoint, match=f'group 0: {make.__name__} needs {name}'):
        opt.load_state_dict(state)
    assert getattr(opt, name) == before


CHAINS = {
    'adamax': (transforms.scale_by_adamax(), bo.Adamax(0.1)),
    'nadam': (transforms.scale_by_nadam(), bo.Nadam(0.1)),
    'radam': (transforms.scale_by_radam(), bo.RAdam(0.1)),
    'adagrad': (transforms.scale_by_adagrad(), bo.Adagrad(0.1)),
    'centered': (transforms.scale_by_centered_rms(), bo.RMSprop(0.1, centered=True)),
    'rprop': (optax.chain(transforms.step_by_rprop(0.1), optax.scale(-10.0)), bo.Rprop(0.1)),
    'asgd': (optax.chain(transforms.step_by_asgd(0.1), optax.scale(-10.0)), bo.ASGD(0.1)),
}


@pytest.mark.parametrize('name', CHAINS)
def test_transformations_work_in_any_chain(name):
    """Masked, jitted and with bfloat16 among the parameters."""
    direction, opt = CHAINS[name]
    tx = optax.chain(
        optax.masked(direction, {'w': True, 'frozen': False, 'half': True}),
        optax.scale_by_learning_rate(0.1),
    )
    opt, weight = registered(opt, value=1.0)
    params = {'w': jnp.ones(4), 'frozen': jnp.ones(2), 'half': jnp.ones(3, jnp.bfloat16)}
    state = tx.init(params)
    types = jax.tree.map(jax.typeof, (params, state))

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for t in range(8):
        grad = jnp.asarray(GRAD) * (1 - 0.3 * t)
        opt.step({'w': grad})
        grads = {'w': grad, 'frozen': jnp.zeros(2), 'half': jnp.full(3, 0.5, jnp.bfloat16)}
        params, state = step(params, state, grads)
    assert jax.tree.map(jax.typeof, (params, state)) == types
    np.testing.assert_allclose(params['w'], weight.value, rtol=1e-5, atol=1e-6)
    assert (params['frozen'] == 1).all() and (params['half'] != 1).all()


def test_step_by_asgd_needs_the_parameters():
    tx = transforms.step_by_asgd()
    with pytest.raises(ValueError, match='step_by_asgd needs the parameters'):
        tx.update({'w': jnp.ones(2)}, tx.init({'w': jnp.ones(2)}))


def _sgd(g, m, memory, dampening=0.0, nesterov=False):
    if m == 0.0:
        return g
    b = memory['b'] = m * memory['b'] + (1 - dampening) * g if 'b' in memory else g
    return g + m * b if nesterov else b


def _rmsprop(g, m, memory):
    v = memory['v'] = 0.99 * memory.get('v', 0.0) + (1 - 0.99) * g * g
    quotient = g / (v**0.5 + 1e-8)
    if m == 0.0:
        return quotient
    memory['b'] = m * memory.get('b', 0.0) + quotient
    return memory['b']


@pytest.mark.parametrize(
    ('cls', 'rule', 'options'),
    [
        (bo.SGD, _sgd, {}),
        (bo.SGD, _sgd, {'dampening': 1.0}),
        (bo.SGD, _sgd, {'dampening': 0.5}),
        (bo.SGD, _sgd, {'nesterov': True}),
        (bo.RMSprop, _rmsprop, {}),
    ],
)
@pytest.mark.parametrize('moments', [(0.9, 0.0, 0.0, 0.9), (0.0, 0.9, 0.9, 0.0)])
def test_a_momentum_of_zero_lets_the_buffer_rest(x64, cls, rule, options, moments):
    opt, weight = registered(cls(lr=0.1, momentum=0.9, **options), size=1)
    other = ParamState(jnp.zeros(1))
    opt.add_param_group({'other': other}, momentum=0.8)
    p, memory = 0.0, {}
    for momentum, g in zip(moments, [1.0, 5.0, 2.0, -3.0], strict=True):
        opt.param_groups[0]['momentum'] = momentum
        opt.step({'w': jnp.full(1, g), 'other': jnp.ones(1)})
        p = p - 0.1 * rule(g, momentum, memory, **options)
        np.testing.assert_allclose(weight.value, p, rtol=1e-12)
    assert float(opt.param_groups[1]['momentum']) == 0.8
