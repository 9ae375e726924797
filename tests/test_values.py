"""What may stand in a parameter: all dtypes, empty and complex arrays, quantities."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from brainstate import ParamState
from brainstate.transform import grad
from one_parameter import LR, adam_reference, close, moved, param

import braintools_optim as bo

# ---- what stands in a State ---------------------------------------------------------------------


@pytest.mark.parametrize('clip', [{}, {'grad_clip_norm': 1e3, 'grad_clip_value': 1e3}])
def test_empty_scalar_and_unusual_arrays(clip):
    states = {
        'empty': ParamState(jnp.zeros((0, 3))),
        'scalar': ParamState(jnp.array(1.0)),
        'python': ParamState(1.0),
        'numpy': ParamState(np.ones(2, np.float32)),
        'large rank': ParamState(jnp.ones((1, 2, 1, 2, 1))),
    }
    before = {k: jax.typeof(jnp.asarray(s.value)) for k, s in states.items()}
    opt = bo.Adam(LR, weight_decay=0.1, **clip).register_trainable_weights(states)
    for _ in range(3):
        opt.step({k: jnp.full(np.shape(s.value), 2.0) for k, s in states.items()})
    for key, state in states.items():
        assert jax.typeof(state.value) == before[key], key  # dtype, shape and weak type
        shape = np.shape(state.value)
        close(state.value, adam_reference(np.ones(shape), [np.full(shape, 2.0)] * 3, decay=0.1))


DTYPES = {
    'bfloat16': (jnp.bfloat16, 2e-2),
    'float16': (jnp.float16, 4e-3),
    'float32': (jnp.float32, 1e-5),
    'float64': (jnp.float64, 1e-13),
    'complex64': (jnp.complex64, 1e-5),
    'complex128': (jnp.complex128, 1e-13),
}


@pytest.mark.parametrize('dtype', DTYPES)
def test_dtypes(dtype):
    kind, tolerance = DTYPES[dtype]
    with jax.enable_x64(jnp.finfo(kind).bits == 64):
        pairs = jnp.issubdtype(kind, jnp.complexfloating)
        start = np.array([[0.5, -1.0], [1.5, 2.0]])
        gs = [np.array([[1.0, -0.5], [0.25, 2.0]]) * (1 + t) for t in range(4)]

        def number(x):  # the pairs of the last axis are real and imaginary parts
            return jnp.asarray(x[..., 0] + 1j * x[..., 1] if pairs else x, kind)

        p = ParamState(number(start))
        opt = bo.Adam(LR, weight_decay=0.01).register_trainable_weights({'p': p})
        avals = [jax.typeof(x) for x in jax.tree.leaves((p.value, opt._core.value))]
        for g in gs:
            opt.step({'p': number(g)})
        assert [jax.typeof(x) for x in jax.tree.leaves((p.value, opt._core.value))] == avals
        assert p.value.dtype == kind
        got = np.asarray(p.value)
        got = np.stack([got.real, got.imag], -1) if pairs else got.astype(np.float64)
        np.testing.assert_allclose(got, adam_reference(start, gs, decay=0.01), 0, tolerance)


def test_all_dtypes_together():
    with jax.enable_x64(True):
        states = {name: ParamState(jnp.ones(3, kind)) for name, (kind, _) in DTYPES.items()}
        opt = bo.Adam(LR, grad_clip_norm=1.0).register_trainable_weights(states)
        avals = [jax.typeof(x) for x in jax.tree.leaves(opt._core.value)]
        grads = {name: jnp.full(3, 2.0, kind) for name, (kind, _) in DTYPES.items()}

        @brainstate.transform.jit
        def train():
            opt.step(grads)

        opt.step(grads)
        train()
        # The global norm is over all of them; Adam does not see the scale.
        for name, (kind, tolerance) in DTYPES.items():
            assert states[name].value.dtype == kind
            want = adam_reference(np.ones(3), np.ones((2, 3)))
            got = np.asarray(states[name].value)
            np.testing.assert_allclose(got.real.astype(np.float64), want, max(tolerance, 1e-7))
        assert [jax.typeof(x) for x in jax.tree.leaves(opt._core.value)] == avals


@pytest.mark.parametrize('name', ['bfloat16', 'float16', 'float32'])
def test_gradient_of_another_precision_is_cast(name):
    p = ParamState(jnp.ones(2, DTYPES[name][0]))
    opt = bo.SGD(1.0, momentum=0.9).register_trainable_weights({'p': p})
    opt.step({'p': jnp.full(2, 0.5, jnp.float16 if name != 'float16' else jnp.float32)})
    assert p.value.dtype == DTYPES[name][0]
    moved(p, 0.5)


def test_complex_parameter_is_two_reals():
    """torch's view: both parts have second moments of their own, and are clipped alone."""
    z = ParamState(jnp.array([1 + 2j, -1j], jnp.complex64))
    gs = [np.array([0.5 - 3j, 1e-3 + 2j]), np.array([-1.0 + 0.1j, 0.3 + 0j])]
    opt = bo.Adam(LR, amsgrad=True, grad_clip_value=1.0).register_trainable_weights({'z': z})
    for g in gs:
        opt.step({'z': jnp.asarray(g, jnp.complex64)})
    for part, start in (('real', [1.0, 0.0]), ('imag', [2.0, -1.0])):
        clipped = [np.clip(getattr(g, part), -1, 1) for g in gs]
        close(getattr(z.value, part), adam_reference(start, clipped, amsgrad=True))


def test_a_complex_number_of_python_keeps_both_parts(tmp_path):
    z = ParamState(1.0 + 2.0j)
    opt = bo.SGD(0.1).register_trainable_weights({'z': z})
    opt.step({'z': jnp.asarray(1 + 1j)})
    close(z.value, 0.9 + 1.9j)
    assert z.value.weak_type
    opt.save(tmp_path / 'file', params=True)
    z.value = 0j
    opt.load(tmp_path / 'file')
    close(z.value, 0.9 + 1.9j)


def test_complex_parameters_descend():
    """Gradients are dL/dx + i dL/dy, as torch has them: the conjugate of what jax.grad gives."""
    z = ParamState(jnp.array([1 + 2j], jnp.complex64))
    opt = bo.SGD(0.1).register_trainable_weights({'z': z})
    for _ in range(30):
        g = grad(lambda: (jnp.abs(z.value - (3 - 1j)) ** 2).sum(), {'z': z})()
        opt.step(jax.tree.map(jnp.conj, g))
    close(z.value, [3 - 1j], 1e-2)


def test_real_gradient_of_a_complex_parameter():
    z = ParamState(jnp.array([1 + 2j], jnp.complex64))
    opt = bo.SGD(1.0).register_trainable_weights({'z': z})
    opt.step({'z': jnp.ones(1)})
    close(z.value, [0 + 2j])


NOT_DIFFERENTIABLE = {
    'int32': jnp.ones(2, jnp.int32),
    'uint8': jnp.ones(2, jnp.uint8),
    'bool': jnp.ones(2, bool),
    'int32 quantity': jnp.ones(2, jnp.int32) * u.mV,
    'key': jax.random.key(0),
}


@pytest.mark.parametrize('dtype', NOT_DIFFERENTIABLE)
@pytest.mark.parametrize('nested', [False, True])
def test_integer_parameters_are_refused(dtype, nested):
    value = NOT_DIFFERENTIABLE[dtype]
    good = param(1.0)
    bad = ParamState({'w': jnp.ones(2), 'i': value} if nested else value)
    opt = bo.SGD(1.0)
    name = r'net\.i' if nested else 'net'
    with pytest.raises(TypeError, match=f"'{name}'.*{dtype.split()[0]}.*float"):
        opt.register_trainable_weights({'good': good, 'net': bad})
    assert len(opt.param_states) == 0 and opt.param_groups == []
    opt.register_trainable_weights({'good': good})
    with pytest.raises(TypeError, match=f"'{name}'"):
        opt.add_param_group({'net': bad}, lr=0.5)
    assert len(opt.param_groups) == 1
    opt.step({'good': jnp.ones(1)})
    moved(good, 1)


@pytest.mark.parametrize('road', [lambda f: f, brainstate.transform.jit], ids=['eager', 'jit'])
@pytest.mark.parametrize('stepped', [False, True])
@pytest.mark.parametrize(
    ('first', 'then', 'says'),
    [
        (jnp.ones(3), jnp.arange(3), "'w' has dtype int32; only floating-point"),
        (jnp.ones(3), jnp.ones(3) * 1j, "'w' was registered as float32 and is complex64 now"),
        (jnp.ones(3) * 1j, jnp.ones(3), "'w' was registered as complex64 and is float32 now"),
        (
            jnp.ones(3, jnp.bfloat16),
            jnp.ones(3),
            "'w' was registered as bfloat16 and is float32 now; .*before they are registered",
        ),
        (
            {'a': jnp.ones(3)},
            {'b': jnp.ones(3)},
            r"'w' was registered as the tree .*'a'.*'b'.* now",
        ),
        (
            {'a': jnp.ones(3)},
            {'a': jnp.ones(3), 'b': jnp.ones(3)},
            r"'w' was registered as the tree .*'a'.*'b'.* now; its moments",
        ),
    ],
    ids=['integers', 'complex', 'real', 'wider', 'other keys', 'more leaves'],
)
def test_a_parameter_that_became_another_kind_is_named(first, then, says, stepped, road):
    """It is not trained with what is left of each step after rounding to an integer."""
    other, w = param(1.0), ParamState(first)
    opt = bo.SGD(0.5, momentum=0.9).register_trainable_weights({'other': other, 'w': w})
    if stepped:
        opt.step({'other': jnp.ones(1), 'w': jax.tree.map(jnp.ones_like, first)})
    before, count = np.asarray(other.value), opt.step_count.value
    w.value = then
    step = road(lambda: opt.step({'other': jnp.ones(1), 'w': jax.tree.map(jnp.ones_like, then)}))
    with pytest.raises(TypeError, match=says):
        step()
    np.testing.assert_array_equal(other.value, before)
    assert opt.step_count.value == count
    w.value = first
    opt.step({'other': jnp.ones(1)})
    assert opt.step_count.value == count + 1


@pytest.mark.parametrize(
    'kind', [brainstate.BatchState, brainstate.ShortTermState, brainstate.HiddenState]
)
def test_what_a_model_writes_by_itself_is_no_parameter(kind):
    model = brainstate.nn.Module()
    model.w, model.running = param(1.0), kind(jnp.zeros(2))
    opt = bo.AdamW(0.1)
    with pytest.raises(TypeError, match=f"'running' is a {kind.__name__}.*ParamState"):
        opt.register_trainable_weights(model.states())
    assert not len(opt.param_states)
    opt.register_trainable_weights(model.states(ParamState))
    with pytest.raises(TypeError, match=f"'more' is a {kind.__name__}"):
        opt.add_param_group({'more': model.running})
    assert len(opt.param_groups) == 1


@pytest.mark.parametrize('size', [3, 2000])
def test_double_precision_that_was_turned_off_is_told(size):
    with jax.enable_x64(True):
        w = ParamState(jnp.ones(size))
        opt = bo.Adam(0.1).register_trainable_weights({'w': w})
        opt.step({'w': jnp.ones(size)})
    for step in (opt.step, brainstate.transform.jit(opt.step)):
        with pytest.raises(
            TypeError, match="parameter 'w' is float64, and JAX computes in float32"
        ):
            step({'w': jnp.ones(size)})
    assert w.value.dtype == jnp.float64 and opt.step_count.value == 1


# ---- units --------------------------------------------------------------------------------------

ONE = np.array([1.0, -2.0], np.float32)

GRADIENTS = {  # the derivative 1, -2 per mV in every way that it can be written
    'parameter unit': lambda: ONE * u.mV,
    'inverse unit': lambda: ONE / u.mV,
    'volt': lambda: ONE * 1e-3 * u.volt,
    'inverse volt': lambda: ONE * 1e3 / u.volt,
    'microvolt': lambda: ONE * 1e3 * u.uvolt,
}


@pytest.mark.parametrize('way', GRADIENTS)
def test_gradient_of_a_quantity(way):
    p = ParamState(jnp.array([1.0, 1.0]) * u.mV)
    opt = bo.SGD(0.1).register_trainable_weights({'p': p})
    opt.step({'p': GRADIENTS[way]()})
    assert p.value.unit == u.mV
    close(p.value.to_decimal(u.mV), 1 - 0.1 * ONE)


def test_quantities_with_both_gradient_functions():
    """brainstate's grad labels the derivative with the parameter's unit, saiunit with 1/unit."""
    p, q = (ParamState(jnp.array([1.0, 4.0]) * u.mV) for _ in range(2))
    opt = bo.Adam(LR, weight_decay=0.1, grad_clip_norm=3.0)
    opt.register_trainable_weights({'p': p})
    other = bo.Adam(LR, weight_decay=0.1, grad_clip_norm=3.0).register_trainable_weights({'p': q})

    def loss(x):
        return (
            (x / u.mV).to_decimal() ** 2 if isinstance(x / u.mV, u.Quantity) else (x / u.mV) ** 2
        ).sum()

    for _ in range(3):
        first = grad(lambda: loss(p.value), {'p': p})()
        second = {'p': u.autograd.grad(loss)(q.value)}
        assert first['p'].unit == u.mV and second['p'].unit.has_same_dim(1 / u.volt)
        opt.step(first)
        other.step(second)
    np.testing.assert_array_equal(p.value.mantissa, q.value.mantissa)
    plain = param(1.0, 4.0)
    third = bo.Adam(LR, weight_decay=0.1, grad_clip_norm=3.0)
    third.register_trainable_weights({'p': plain})
    for _ in range(3):
        third.step(grad(lambda: (plain.value**2).sum(), {'p': plain})())
    close(p.value.to_decimal(u.mV), np.asarray(plain.value), 1e-6)


@pytest.mark.parametrize('jit', [False, True])
def test_gradient_of_a_foreign_dimension_raises(jit):
    p = ParamState({'v': jnp.ones(2) * u.mV, 'w': jnp.ones(2)})
    opt = bo.Adam(LR).register_trainable_weights({'cell': p})
    step = brainstate.transform.jit(opt.step) if jit else opt.step
    good = jnp.ones(2) * u.mV
    for bad, got in [
        ({'v': jnp.ones(2) * u.second, 'w': jnp.ones(2)}, r"'cell\.v'.*mV.*got s"),
        ({'v': jnp.ones(2), 'w': jnp.ones(2)}, r"'cell\.v'.*mV.*no unit"),
        ({'v': good, 'w': jnp.ones(2) * u.mV}, r"'cell\.w'.*no unit.*mV"),
    ]:
        with pytest.raises((TypeError, ValueError), match=got):
            step({'cell': bad})
        close(p.value['w'], np.ones(2))
        close(p.value['v'].to_decimal(u.mV), np.ones(2))
        assert int(opt.step_count.value) == 0
    step({'cell': {'v': good, 'w': jnp.ones(2)}})
    close(p.value['w'], np.full(2, 0.9))
    close(p.value['v'].to_decimal(u.mV), np.full(2, 0.9))


def test_value_that_mixes_quantities_and_arrays():
    p = ParamState({'v': jnp.ones(2) * u.mV, 'w': [jnp.ones(2), jnp.array(3.0) * u.second]})
    opt = bo.SGD(0.1).register_trainable_weights({'cell': p})
    opt.add_param_group({'extra': ParamState(jnp.ones(1) * u.ms)}, lr=0.5)
    structure = jax.tree.structure(p.value)

    def loss():
        v, (w, t) = p.value['v'], p.value['w']
        return (2 * u.get_magnitude(v)).sum() + (3 * w).sum() + 4 * u.get_magnitude(t)

    opt.step(grad(loss, {'cell': p})())
    assert jax.tree.structure(p.value) == structure  # units are part of it
    close(p.value['v'].to_decimal(u.mV), np.full(2, 0.8))
    close(p.value['w'][0], np.full(2, 0.7))
    close(p.value['w'][1].to_decimal(u.second), 2.6)


def test_dimensionless_quantities():
    p = ParamState(u.Quantity(jnp.ones(2)))
    opt = bo.SGD(1.0).register_trainable_weights({'p': p})
    opt.step({'p': u.Quantity(jnp.ones(2))})
    opt.step({'p': jnp.ones(2)})
    assert isinstance(p.value, u.Quantity)
    close(p.value.to_decimal(), -np.ones(2))
    q = param(1.0)
    bo.SGD(1.0).register_trainable_weights({'q': q}).step({'q': u.Quantity(jnp.ones(1))})
    moved(q, 1)


def test_parameter_set_in_another_unit_is_not_misread():
    """1 V put into a parameter registered in mV is 1 V, not 1 mV."""
    p = ParamState(jnp.ones(2) * u.mV)
    opt = bo.SGD(0.1).register_trainable_weights({'p': p})
    opt.step({'p': jnp.ones(2) * u.mV})
    p.value = jnp.ones(2) * u.volt
    try:
        opt.step({'p': jnp.ones(2) * u.mV})
    except (TypeError, ValueError) as error:  # refused by name ...
        assert 'p' in str(error) and 'mV' in str(error)
        close(p.value.to_decimal(u.volt), np.ones(2))
    else:  # ... or understood: a step of 0.1 mV or of 0.1 V, from 1 V
        left = np.asarray(p.value.to_decimal(u.volt))
        assert np.allclose(left, 1 - 1e-4) or np.allclose(left, 0.9), p.value


def test_quantities_through_a_given_chain():
    p = ParamState(jnp.ones(2) * u.mV)
    opt = bo.OptaxOptimizer(tx=optax.sgd(0.1)).register_trainable_weights({'p': p})
    opt.step({'p': jnp.ones(2) / u.mV})
    close(p.value.to_decimal(u.mV), np.full(2, 0.9))


def test_tied_quantity():
    p = ParamState(jnp.ones(2) * u.mV)
    opt = bo.SGD(0.1).register_trainable_weights({'a': p, 'b': p})
    opt.step({'a': jnp.ones(2) * u.mV, 'b': jnp.ones(2) * u.mV})
    close(p.value.to_decimal(u.mV), np.full(2, 0.9))
    opt.step({'b': jnp.ones(2) / u.mV})
    close(p.value.to_decimal(u.mV), np.full(2, 0.8))
