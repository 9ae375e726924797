"""Parameters that are put back after each update."""

import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from brainstate import ParamState
from brainstate.transform import for_loop, jit
from cases import (
    CASE,
    build,
    grads_tree,
    make_params,
    over_classes,
)
from looking import (
    assert_close,
    named,
    values_of,
)

import braintools_optim as bo
from braintools_optim.engine import chunks


def in_box(x):
    return jnp.clip(x, -0.4, 0.4)


def positive(x):
    return jnp.maximum(x, 0.0)


def put_back(params, f=in_box):
    """Do by hand what the option does."""
    for state in jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, ParamState)):
        state.value = jax.tree.map(f, state.value)


def gradients(t):
    """Return gradients of all leaves, none of which is zero."""
    return jax.tree.map(lambda g: jnp.where(g == 0.0, 0.3, g), grads_tree(t))


@over_classes('constraints')
def test_it_is_what_one_does_by_hand(case, x64):
    follow_by_hand(case, lambda step: step, rtol=1e-12)


@pytest.mark.parametrize('name', ['adam', 'quad'])
def test_it_is_what_one_does_by_hand_in_jit(name, x64):
    follow_by_hand(CASE[name], jit, rtol=1e-9)


def follow_by_hand(case, road, rtol):
    """Compare steps, taken by a road, with those of an optimizer whose parameters are put back."""
    groups = 1 if 'closure' in case.traits else 2
    params, others = make_params(), make_params()
    opt = build(case, params, groups=groups, constrain=in_box)
    twin = build(case, others, groups=groups)
    step = road(opt.step)
    for t in range(3):
        step(gradients(t))
        twin.step(gradients(t))
        put_back(others)
        assert max(abs(x).max() for x in named(params).values()) <= 0.4
        assert_close(named(params), named(others), rtol=rtol, what=f'step {t}')


class Pair(NamedTuple):
    kernel: Any
    bias: Any


@pytest.mark.parametrize(
    ('given', 'kept'),
    [
        (positive, {'w', 'kernel', 'bias', 'first', 'second'}),
        ({'w': positive}, {'w'}),
        ({'w': jax.tree_util.Partial(positive)}, {'w'}),  # a function that is a tree itself
        ({'layer': positive}, {'kernel', 'bias'}),
        ({'layer': {'kernel': positive}}, {'kernel'}),
        ({'layer': Pair(None, positive), 'w': None}, {'bias'}),
        ({'both': [None, positive]}, {'second'}),
        ({'both': (positive,)}, {'first'}),
        ({}, set()),
        (None, set()),
    ],
    ids=lambda x: str(sorted(x)) if isinstance(x, set) else None,
)
def test_a_tree_says_what_is_kept(given, kept):
    params = {
        'w': ParamState(jnp.ones(2)),
        'layer': ParamState(Pair(jnp.ones((2, 2)), jnp.ones(2))),
        'both': ParamState([jnp.ones(3), jnp.ones(())]),
    }
    opt = bo.SGD(2.0, constrain=given).register_trainable_weights(params)
    opt.step(jax.tree.map(jnp.ones_like, values_of(params)))
    layer, both = params['layer'].value, params['both'].value
    found = dict(w=params['w'].value, kernel=layer.kernel, bias=layer.bias)
    found |= dict(first=both[0], second=both[1])
    for name, value in found.items():
        np.testing.assert_array_equal(value, np.full(value.shape, 0.0 if name in kept else -1.0))


@pytest.mark.parametrize(
    'given',
    [
        {('layer', 'weight'): {'bias': positive}},
        {'layer': {('weight',): {'bias': positive}}},
        {'layer': {'weight': {'bias': positive, 'weight': None}}},
        {'layer': {'weight': {'bias': positive}}},
        {'layer.weight.bias': positive},
    ],
    ids=['as registered', 'mixed', 'nested', 'partly', 'with dots'],
)
def test_the_keys_of_a_model_may_be_nested(given):
    weights = {('layer', 'weight'): ParamState({'weight': jnp.ones((2, 2)), 'bias': jnp.ones(2)})}
    opt = bo.SGD(2.0, constrain=given).register_trainable_weights(weights)
    opt.step(jax.tree.map(jnp.ones_like, values_of(weights)))
    (state,) = weights.values()
    np.testing.assert_array_equal(state.value['bias'], [0.0, 0.0])
    np.testing.assert_array_equal(state.value['weight'], np.full((2, 2), -1.0))


def test_the_nearest_function_holds():
    params = {'w': ParamState({'x': jnp.ones(2), 'y': jnp.ones(2)})}
    opt = bo.SGD(2.0, constrain={('w',): positive, 'w': {'x': None}})
    opt.register_trainable_weights(params)
    opt.step(jax.tree.map(jnp.ones_like, values_of(params)))
    np.testing.assert_array_equal(params['w'].value['x'], [-1.0, -1.0])
    np.testing.assert_array_equal(params['w'].value['y'], [0.0, 0.0])


def test_what_has_no_gradient_stays_where_it_is():
    params = {'w': ParamState(jnp.full(2, -3.0)), 'v': ParamState(jnp.ones(2))}
    opt = bo.Adam(0.1, constrain=positive).register_trainable_weights(params)
    opt.step({'v': jnp.ones(2)})
    np.testing.assert_array_equal(params['w'].value, [-3.0, -3.0])
    opt.step({'w': jnp.ones(2)})
    np.testing.assert_array_equal(params['w'].value, [0.0, 0.0])


def test_units_complex_numbers_and_dtypes():
    params = {
        'tau': ParamState(jnp.array([5.0, 20.0]) * u.ms),
        'phase': ParamState(jnp.array([3.0 + 4.0j, 0.1j])),
        'half': ParamState(jnp.ones(2, jnp.bfloat16)),
        'weak': ParamState(jnp.asarray(0.5)),
    }
    constrain = {
        'tau': lambda x: u.math.clip(x, 4 * u.ms, 25 * u.ms).in_unit(u.second),
        'phase': lambda z: z / jnp.maximum(abs(z), 1.0),
        'half': lambda x: jnp.minimum(x, np.float32(0.5)),
        'weak': lambda x: 1,
    }
    opt = bo.SGD(1.0, constrain=constrain).register_trainable_weights(params)
    avals = jax.tree.map(jax.typeof, values_of(params))
    grads = jax.tree.map(lambda x: 0.0 * x, values_of(params))
    grads['tau'] = jnp.array([9.0, -9.0]) * u.ms
    for step in (opt.step, jit(opt.step)):
        step(grads)
        assert jax.tree.map(jax.typeof, values_of(params)) == avals
        np.testing.assert_allclose(params['tau'].value.to_decimal(u.ms), [4.0, 25.0])
        np.testing.assert_allclose(params['phase'].value, [0.6 + 0.8j, 0.1j], rtol=1e-6)
        np.testing.assert_array_equal(np.float32(params['half'].value), [0.5, 0.5])
        assert params['weak'].value == 1.0


def test_masters_go_on_from_what_is_kept():
    w = ParamState(jnp.ones(2, jnp.bfloat16))
    opt = bo.SGD(1.0, master_dtype=jnp.float32, constrain=positive)
    opt.register_trainable_weights({'w': w})
    opt.step({'w': jnp.full(2, 5.0)})
    np.testing.assert_array_equal(np.float32(w.value), [0.0, 0.0])
    opt.step({'w': jnp.full(2, -0.25)})
    np.testing.assert_array_equal(np.float32(w.value), [0.25, 0.25])


@pytest.mark.parametrize('step', ['eager', 'jit', 'many'])
def test_masters_are_constrained_before_they_are_rounded(step, monkeypatch):
    """Else what is less than a parameter shows would be lost, or added up beyond a bound."""
    if step == 'many':
        monkeypatch.setattr(chunks, '_MANY', 1)
    narrow = {'w': ParamState(jnp.full(2, 0.7, jnp.bfloat16)), 'v': ParamState(jnp.ones(1))}
    wide = {'w': ParamState(jnp.full(2, 0.7, jnp.bfloat16).astype(float)), 'v': narrow['v']}
    runs = []
    for params in (narrow, wide):
        opt = bo.SGD(1e-4, master_dtype=jnp.float32, constrain={'w': lambda x: x * 0.999})
        opt.register_trainable_weights(params)
        take = jit(opt.step) if step == 'jit' else opt.step
        for _ in range(100):
            take({'w': -jnp.ones(2), 'v': jnp.zeros(1)})
        runs.append(params['w'].value)
    assert runs[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(runs[0]), np.float32(runs[1].astype(jnp.bfloat16)))
    assert (runs[1] < 0.66).all()


@pytest.mark.parametrize(
    ('start', 'constrain', 'g', 'end'),
    [
        (1.0, lambda x: jnp.maximum(x, 1e-8), 2.0, 1e-8),  # a sum of 1 and -1 + 1e-8 is 0
        (1e10, lambda x: jnp.clip(x, 0.5, 1.0), 0.0, 1.0),
        (np.nan, jnp.nan_to_num, 0.0, 0.0),
        (np.inf, lambda x: jnp.clip(x, 0.5, 1.0), 0.0, 1.0),
        (0.5, lambda x: jnp.minimum(x, 1.0 - jnp.finfo(x.dtype).eps), -2.0, 1.0 - 2.0**-7),
    ],
    ids=['small', 'large', 'nan', 'inf', 'by dtype'],
)
def test_what_a_master_rounds_to_is_in_bounds(start, constrain, g, end):
    w = ParamState(jnp.array([start], jnp.bfloat16))
    opt = bo.SGD(1.0, master_dtype=jnp.float32, constrain=constrain)
    opt.register_trainable_weights({'w': w})
    for _ in range(2):
        opt.step({'w': jnp.array([g], jnp.bfloat16)})
        np.testing.assert_allclose(np.float32(w.value), [end], rtol=4e-3)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.complex64])
def test_masters_do_not_run_beyond_a_bound(dtype, x64):
    def in_disc(x):
        size = jnp.abs(x)
        return x / jnp.maximum(size, 1.0)

    w = ParamState(jnp.ones(2, dtype))
    wider = jnp.float64 if dtype == jnp.complex64 else jnp.float32
    opt = bo.SGD(1e-4, master_dtype=wider, constrain=in_disc)
    opt.register_trainable_weights({'w': w})
    for sign in (-1.0, 1.0):
        for _ in range(30):
            opt.step({'w': jnp.full(2, sign, dtype)})
    assert w.value.dtype == dtype
    (masters,) = opt.opt_state.value[1].master.values()
    real = masters if dtype == jnp.bfloat16 else masters[..., 0]
    np.testing.assert_allclose(real, 1.0 - 30e-4, rtol=1e-6)


def test_over_many_leaves(monkeypatch):
    monkeypatch.setattr(chunks, '_MANY', 2)
    params = {f'k{i}': ParamState(jnp.full(3, 1.0)) for i in range(12)}
    constrain = {k: positive if i < 6 else in_box for i, k in enumerate(params)}
    opt = bo.SGD(1.0, constrain=constrain).register_trainable_weights(params)
    for _ in range(2):
        opt.step({k: jnp.full(3, -1.0) for k in params})
    assert opt._stepper.donating.chunks
    for i, k in enumerate(params):
        np.testing.assert_allclose(params[k].value, np.full(3, 3.0 if i < 6 else 0.4))


def test_in_loops_closures_training_steps_and_sums():
    w = ParamState(jnp.ones(2))
    opt = bo.SGD(1.0, constrain=positive).register_trainable_weights({'w': w})
    for_loop(lambda _: opt.step({'w': jnp.ones(2)}), jnp.arange(3))
    np.testing.assert_array_equal(w.value, [0.0, 0.0])

    w.value = jnp.ones(2)
    opt = bo.LBFGS(1.0, constrain=in_box).register_trainable_weights({'w': w})
    opt.step(lambda: jnp.sum((w.value - 2.0) ** 2))
    np.testing.assert_array_equal(w.value, np.float32([0.4, 0.4]))

    opt = bo.SGD(1.0, constrain=positive, accumulate_steps=2).register_trainable_weights({'w': w})
    step = bo.train_step({'w': w}, opt, lambda x: jnp.sum(w.value * x))
    step(jnp.ones(2)), step(jnp.ones(2))
    np.testing.assert_array_equal(w.value, [0.0, 0.0])
    step.scan((-jnp.ones((4, 2)),))
    np.testing.assert_array_equal(w.value, [2.0, 2.0])


def test_lookahead_and_copies_take_it_over():
    w = ParamState(jnp.ones(2))
    opt = bo.Lookahead(bo.SGD(2.0, constrain=positive)).register_trainable_weights({'w': w})
    assert opt.constrain is positive
    opt.step({'w': jnp.ones(2)})
    np.testing.assert_array_equal(w.value, [0.0, 0.0])
    twin = copy.deepcopy(opt)
    twin.step({'w': jnp.full(2, -1.0)}), twin.step({'w': jnp.full(2, 9.0)})
    np.testing.assert_array_equal(w.value, [0.0, 0.0])


def test_a_function_that_fails_changes_nothing():
    w = ParamState(jnp.ones(2))

    def fails(x):
        raise RuntimeError('no')

    opt = bo.Adam(0.1, constrain=fails).register_trainable_weights({'w': w})
    before = list(map(np.array, jax.tree.leaves((w.value, opt._core.value))))
    with pytest.raises(RuntimeError, match='no'):
        opt.step({'w': jnp.ones(2)})
    for x, y in zip(jax.tree.leaves((w.value, opt._core.value)), before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_it_is_fixed_and_shown():
    opt = bo.Adam(0.1, constrain=positive).register_trainable_weights(
        {'w': ParamState(jnp.ones(2))}
    )
    assert opt.constrain is positive and bo.Adam().constrain is None
    assert 'constrained' in repr(opt) and 'constrained' not in repr(bo.Adam())
    with pytest.raises(AttributeError, match='constrain of Adam is fixed at construction'):
        opt.constrain = None
    with pytest.raises(ValueError, match='construct it without constrain'):
        opt.tx.init({})


def in_volts(x):
    return jnp.ones(2) * u.volt


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (5, r'SGD needs a function, or a tree of functions .* for constrain, got 5\.'),
        ({'w': [positive, 'x']}, r"got 'x' under 'w.1'"),
        ({'v': positive}, "a function under 'v', where there is no parameter; there are s, tau, w"),
        ({'w': {'v': positive}}, "under 'w.v', where there is no parameter"),
        ({'w': lambda x: None}, "constrains 'w' must return an array, got NoneType"),
        ({'w': lambda x: x.sum()}, r"constrains 'w' must return the shape \(2,\), got \(\)"),
        ({'s': lambda x: 1j}, "constrains 's' must return real numbers, got complex"),
        ({'w': lambda x: x + 1j}, "constrains 'w' must return real numbers, got complex64"),
        ({'w': in_volts}, "constrains 'w' must return a value in no unit, got one in V"),
        ({'tau': in_volts}, "constrains 'tau' must return a value in ms, got one in V"),
        ({'tau': lambda x: x.mantissa}, "constrains 'tau' must return .* got one in no unit"),
    ],
)
def test_what_is_wrong_is_refused(given, message):
    params = {'w': ParamState(jnp.ones(2)), 'tau': ParamState(jnp.ones(2) * u.ms)}
    params['s'] = ParamState(jnp.ones(()))
    with pytest.raises((TypeError, ValueError), match=message):
        opt = bo.SGD(1.0, constrain=given).register_trainable_weights(params)
        opt.step(values_of(params))
    np.testing.assert_array_equal(params['w'].value, [1.0, 1.0])


@pytest.mark.parametrize('f', [lambda x: np.clip(np.asarray(x), 0, 1), lambda x: x if x[0] else -x])
def test_a_function_that_cannot_be_compiled_is_named(f):
    w = ParamState(jnp.ones(2))
    opt = bo.SGD(1.0, constrain={'w': f}).register_trainable_weights({'w': w})
    with pytest.raises(jax.errors.JAXTypeError) as error:
        opt.step({'w': jnp.ones(2)})
    assert 'constrain of w is a part of the compiled step' in error.value.__notes__[0]


def test_optax_has_functions_for_it():
    w = ParamState(jnp.array([3.0, 4.0]))
    opt = bo.SGD(0.0, constrain=optax.projections.projection_l2_ball)
    opt.register_trainable_weights({'w': w})
    opt.step({'w': jnp.ones(2)})
    np.testing.assert_allclose(w.value, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize('compile_', [lambda f: f, jit], ids=['eager', 'jit'])
def test_what_a_function_reads_of_its_optimizer_is_live(compile_):
    w = ParamState(jnp.ones(2))
    opt = bo.SGD(1.0, constrain=lambda x: x - 0.1 * opt.current_lr)
    opt.register_trainable_weights({'w': w})
    step = compile_(opt.step)
    step({'w': jnp.zeros(2)})
    opt.current_lr = 0.1
    step({'w': jnp.zeros(2)})
    np.testing.assert_allclose(w.value, [0.89, 0.89], rtol=1e-6)


def test_constants_do_not_change_the_type():
    w = ParamState(jnp.ones(2))
    opt = bo.SGD(1.0, constrain=lambda x: jnp.full(x.shape, 0.5))
    opt.register_trainable_weights({'w': w}).step({'w': jnp.ones(2)})
    assert not w.value.weak_type


def test_over_many_leaves_functions_need_no_hash(monkeypatch):
    monkeypatch.setattr(chunks, '_MANY', 2)

    class Box:
        def __eq__(self, other):
            return NotImplemented

        def __call__(self, x):
            return in_box(x)

    params = {f'k{i}': ParamState(jnp.ones(3)) for i in range(12)}
    opt = bo.SGD(1.0, constrain=Box()).register_trainable_weights(params)
    opt.step({k: jnp.full(3, -1.0) for k in params})
    assert opt._stepper.donating.chunks
    np.testing.assert_allclose(params['k5'].value, np.full(3, 0.4))


def test_a_complex_python_number_is_refused():
    opt = bo.SGD(1.0, constrain=lambda x: 1j)
    opt.register_trainable_weights({'w': ParamState(jnp.asarray(1.0))})
    with pytest.raises(TypeError, match="constrains 'w' must return real numbers, got complex64"):
        opt.step({'w': jnp.asarray(1.0)})


def test_a_name_that_begins_like_another_is_another():
    params = {'w': ParamState(jnp.ones(2)), 'w2': ParamState(jnp.ones(2))}
    opt = bo.SGD(2.0, constrain={'w': positive}).register_trainable_weights(params)
    opt.step({'w': jnp.ones(2), 'w2': jnp.ones(2)})
    np.testing.assert_array_equal(params['w'].value, [0.0, 0.0])
    np.testing.assert_array_equal(params['w2'].value, [-1.0, -1.0])


def test_numbers_are_live_in_closures():
    w = ParamState(jnp.ones(2))
    opt = bo.LBFGS(1.0, constrain=lambda x: 0.0 * x + opt.current_lr)
    opt.register_trainable_weights({'w': w})

    def closure():
        return jnp.sum(w.value**2)

    opt.step(closure)
    opt.current_lr = 0.5
    opt.step(closure)
    np.testing.assert_array_equal(w.value, [0.5, 0.5])


@pytest.mark.parametrize(
    ('option', 'said'),
    [('constrain', (jnp.abs, jnp.negative)), ('decay_mask', (False, True))],
)
def test_two_things_said_of_one_path_are_refused(option, said):
    params = [ParamState(jnp.ones(2)) for _ in range(2)]
    tree = {'a.b': said[0], 'a': {'b': said[1]}}
    with pytest.raises(ValueError, match=r"says two things of 'a\.b'"):
        opt = bo.AdamW(0.1, **{option: tree})
        opt.register_trainable_weights({'a.b': params[0], 'a': {'b': params[1]}})
    alike = bo.AdamW(0.1, **{option: {'a.b': said[0], 'a': {'b': said[0]}}})
    alike.register_trainable_weights({'a.b': params[0], 'a': {'b': params[1]}})
    assert len(alike.param_states) == 2


def test_what_goes_on_shrinking_shrinks_a_master_once_a_step():
    """It is not given again what the master rounds to, as what puts back is."""
    w = ParamState(jnp.full(2, 0.7, jnp.bfloat16))
    opt = bo.SGD(0.1, master_dtype=jnp.float32, constrain=lambda x: x * 0.9)
    opt.register_trainable_weights({'w': w})
    for _ in range(3):
        opt.step({'w': jnp.zeros(2, jnp.bfloat16)})
    first = np.float32(jnp.bfloat16(0.7))
    np.testing.assert_allclose(np.float32(w.value), first * 0.9**3, rtol=4e-3)
    (master,) = opt.opt_state.value[1].master.values()
    np.testing.assert_allclose(master, first * 0.9**3, rtol=1e-6)
