"""What a parameter may be: any tree, under any keys, tied or colliding, any dtype, with units."""

import copy
import time

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit as u
from brainstate import ParamState
from brainstate.transform import grad

import braintools_optim as bo

LR = 0.1


def param(*values, dtype=None):
    return ParamState(jnp.asarray(values, dtype))


def adam_reference(start, grads, lr=LR, betas=(0.9, 0.999), eps=1e-8, decay=0.0, amsgrad=False):
    """Return where Adam goes from ``start`` with the gradients of each step, in float64."""
    b1, b2 = betas
    p = np.array(start, np.float64)
    m, v, top = np.zeros((3, *p.shape))
    for t, g in enumerate(grads, 1):
        g = np.asarray(g, np.float64) + decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        top = np.maximum(top, v) if amsgrad else v
        p = p - lr * (m / (1 - b1**t)) / (np.sqrt(top / (1 - b2**t)) + eps)
    return p


def close(value, want, tolerance=1e-5):
    got = np.asarray(value)
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got.astype(np.result_type(got, np.float64)), want, tolerance)


def moved(state, by, start=1.0):
    """Whether plain SGD with lr = 1 has subtracted ``by`` from a parameter of ``start``."""
    close(state.value, np.full(np.shape(state.value), start - by))


# ---- trees of States and trees inside States ---------------------------------------------------


def test_state_with_a_nested_tree_as_its_value():
    start = {'a': jnp.array([1.0, -2.0]), 'b': [jnp.array(0.5), (jnp.ones((2, 2)), None)]}
    state = ParamState(start)
    opt = bo.Adam(LR).register_trainable_weights({'net': state})
    scale = {'a': 3.0, 'b': [-2.0, (0.25, None)]}

    def loss():
        weighted = jax.tree.map(lambda s, x: (s * x).sum(), scale, state.value)
        return sum(jax.tree.leaves(weighted))

    for _ in range(3):
        opt.step(grad(loss, {'net': state})())
    assert jax.tree.structure(state.value) == jax.tree.structure(start)
    for got, x, s in zip(*map(jax.tree.leaves, (state.value, start, scale)), strict=True):
        close(got, adam_reference(x, [np.full(x.shape, s)] * 3))


def test_a_missing_leaf_of_a_nested_value_rests_with_its_moments():
    state = ParamState({'w': jnp.ones(2), 'b': jnp.ones(2)})
    opt = bo.Adam(LR).register_trainable_weights({'net': state})
    opt.step({'net': {'w': jnp.ones(2), 'b': jnp.ones(2)}})
    opt.step({'net': {'w': jnp.ones(2)}})
    opt.step({'net': {'w': jnp.ones(2), 'b': None}})
    opt.step({'net': {'w': jnp.ones(2), 'b': jnp.ones(2)}})
    close(state.value['w'], adam_reference(np.ones(2), np.ones((4, 2))))
    close(state.value['b'], adam_reference(np.ones(2), np.ones((2, 2))))


class TwoLayers(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = brainstate.nn.Linear(3, 4)
        self.rest = [brainstate.nn.Linear(4, 4), brainstate.nn.Linear(4, 1)]

    def __call__(self, x):
        for layer in (self.first, *self.rest):
            x = jnp.tanh(layer(x))
        return x


@pytest.mark.parametrize('jit', [False, True])
def test_states_of_a_module_have_tuple_keys(jit):
    with brainstate.random.seed_context(0):
        model = TwoLayers()
    params = model.states(ParamState)
    assert all(isinstance(key, tuple) for key in params)
    opt = bo.Adam(LR).register_trainable_weights(params)
    assert opt.param_states.names == ['first.weight', 'rest.0.weight', 'rest.1.weight']
    x = jnp.linspace(-1, 1, 6).reshape(2, 3)
    start = {key: jax.tree.map(np.asarray, state.value) for key, state in params.items()}
    seen = []

    def gradients():
        return grad(lambda: (model(x) ** 2).sum(), params)()

    def train():
        grads = gradients()
        opt.step(grads)
        return grads

    step = brainstate.transform.jit(train) if jit else train
    for _ in range(3):
        seen.append(step())
    for key, state in params.items():
        for name in ('weight', 'bias'):
            want = adam_reference(start[key][name], [g[key][name] for g in seen])
            np.testing.assert_allclose(state.value[name], want, 1e-4, 1e-5)


@pytest.mark.parametrize('nested', [False, True])
def test_gradients_may_be_nested_or_flat(nested):
    model = brainstate.nn.Sequential(brainstate.nn.Linear(2, 2), brainstate.nn.Linear(2, 1))
    flat = model.states(ParamState)
    tree = flat.to_nest()
    opt = bo.SGD(1.0).register_trainable_weights(tree if nested else flat)
    last = flat['layers', 1, 'weight']
    start = np.asarray(last.value['bias'])
    for n, keys in enumerate((flat if nested else tree, opt.param_states.to_dict()), 1):
        opt.step(grad(lambda: model(jnp.zeros(2)).sum(), keys)())
        close(last.value['bias'], start - n)


@pytest.mark.parametrize('kind', [list, tuple])
def test_sequence_trees(kind):
    x, y = param(1.0, 1.0), param(1.0)
    opt = bo.SGD(1.0).register_trainable_weights(kind([x, {'inner': y}]))
    opt.step(grad(lambda: x.value.sum() + 3 * y.value.sum(), kind([x, {'inner': y}]))())
    moved(x, 1)
    moved(y, 3)
    opt.step(grad(lambda: x.value.sum() + y.value.sum(), opt.param_states.to_pytree())())
    moved(x, 2)
    moved(y, 4)


def test_one_state_is_a_tree():
    x = param(1.0, 1.0)
    opt = bo.SGD(1.0).register_trainable_weights(x)
    opt.step(grad(lambda: x.value.sum(), x)())
    moved(x, 1)


def test_list_and_dict_trees_in_one_optimizer():
    """Either both work, or the second is refused by an error that says why; nothing is lost."""
    x, y = param(1.0), param(1.0)
    opt = bo.SGD(1.0).register_trainable_weights([x])
    try:
        opt.add_param_group({'head': y})
    except TypeError as error:
        assert 'head' in str(error) and 'type' in str(error)
        assert len(opt.param_groups) == 1
        opt.step([jnp.ones(1)])
    else:
        opt.step(grad(lambda: x.value.sum() + y.value.sum(), opt.param_states.to_pytree())())
        moved(y, 1)
    moved(x, 1)


# ---- identity: one State under several keys, several States under one --------------------------


def test_tied_state_takes_one_step_with_its_whole_gradient():
    tied, other = param(1.0, 1.0), param(1.0)
    tree = {'encoder': {'w': tied}, 'decoder': {'w': tied, 'b': other}}
    opt = bo.SGD(1.0).register_trainable_weights(tree)
    assert opt.param_states.num_unique_states == 2

    def loss():
        return (2 * tied.value + 3 * tied.value).sum() + other.value.sum()

    opt.step(grad(loss, tree)())  # the whole gradient under each name
    moved(tied, 5)
    moved(other, 1)
    opt.step(grad(loss, opt.param_states.to_pytree())())
    moved(tied, 10)


@pytest.mark.parametrize('name', ['first', 'second'])
def test_tied_state_with_its_gradient_under_one_name_only(name):
    tied, other = param(1.0, 1.0), param(1.0)
    opt = bo.SGD(1.0).register_trainable_weights({'first': tied, 'second': tied, 'other': other})
    opt.step({name: jnp.full(2, 4.0), 'other': jnp.ones(1)})
    moved(tied, 4)
    absent = 'second' if name == 'first' else 'first'
    opt.step({name: jnp.full(2, 4.0), absent: None, 'other': None})
    moved(tied, 8)
    moved(other, 1)


def test_shares_of_a_tied_state_add_up():
    tied = param(1.0, 1.0)
    opt = bo.SGD(1.0).register_trainable_weights({'first': tied, 'second': tied})
    opt.step({'first': jnp.full(2, 2.0), 'second': jnp.full(2, 3.0)})
    moved(tied, 5)


def test_a_whole_gradient_with_a_nan_counts_once_too():
    tied = param(1.0, 1.0)
    opt = bo.SGD(1.0).register_trainable_weights({'first': tied, 'second': tied})
    g = jnp.array([jnp.nan, 2.0])
    opt.step({'first': g, 'second': jnp.array(g)})
    np.testing.assert_array_equal(tied.value, [np.nan, -1.0])


def test_tied_state_in_jit_and_in_adam():
    tied = param(1.0, -1.0)
    tree = {'first': tied, 'second': tied}
    opt = bo.Adam(LR).register_trainable_weights(tree)

    @brainstate.transform.jit
    def train():
        opt.step(grad(lambda: (3 * tied.value).sum() + tied.value[0] * 2, tree)())

    for _ in range(3):
        train()
    close(tied.value, adam_reference([1.0, -1.0], [[5.0, 3.0]] * 3))


def test_tie_found_by_a_later_registration():
    tied, other = param(1.0), param(1.0)
    opt = bo.SGD(1.0).register_trainable_weights({'first': tied})
    opt.register_trainable_weights({'second': tied, 'other': other})
    assert opt.param_states.names == ['first', 'other']
    opt.step({'second': jnp.ones(1), 'other': jnp.full(1, 2.0)})
    moved(tied, 1)
    moved(other, 2)


def test_tied_modules():
    a, b = brainstate.nn.Linear(3, 3), brainstate.nn.Linear(3, 3)
    b.weight = a.weight
    tree = {'a': a.states(ParamState), 'b': b.states(ParamState)}
    opt = bo.SGD(1.0).register_trainable_weights(tree)
    assert len(opt.param_states) == 1
    start = np.asarray(a.weight.value['bias'])
    opt.step(grad(lambda: b(a(jnp.zeros(3)))[0] * 0 + a.weight.value['bias'].sum(), tree)())
    close(a.weight.value['bias'], start - 1)


def test_error_in_one_gradient_of_a_tied_state_names_it():
    tied = ParamState(jnp.ones(2) * u.mV)
    opt = bo.SGD(1.0).register_trainable_weights({'tied': tied, 'alias': tied})
    with pytest.raises((TypeError, ValueError), match="'(tied|alias)'.*mV.*got s"):
        opt.step({'tied': jnp.ones(2) * u.mV, 'alias': jnp.ones(2) * u.second})
    plain = param(1.0, 1.0)
    opt = bo.SGD(1.0).register_trainable_weights({'tied': plain, 'alias': plain})
    with pytest.raises(ValueError, match=r"'(tied|alias)'.*\(2,\).*\(2, 3\)"):
        opt.step({'tied': jnp.ones(2), 'alias': jnp.ones((2, 3))})


@pytest.mark.parametrize('as_group', [False, True])
@pytest.mark.parametrize(
    'key', ['weight', ('weight',), ('layer', 'weight')], ids=['str', 'tuple', 'path']
)
def test_two_modules_with_the_same_path(key, as_group):
    x, y = param(1.0, 1.0), param(1.0, 1.0, 1.0)
    opt = bo.SGD(1.0).register_trainable_weights({key: x})
    if as_group:
        opt.add_param_group({key: y}, lr=2.0)
    else:
        opt.register_trainable_weights({key: y})
    first, second = opt.param_states.names
    assert first != second and second.startswith(first)
    opt.step(grad(lambda: x.value.sum() + 10 * y.value.sum(), opt.param_states.to_pytree())())
    moved(x, 1)
    moved(y, 20 if as_group else 10)
    with pytest.raises(ValueError, match=f"'{first}'.*'{second}'.*to_pytree"):
        opt.step({key: jnp.ones(2)})
    moved(x, 1)
    moved(y, 20 if as_group else 10)
    names = opt.param_states.to_dict()
    opt.step(grad(lambda: x.value.sum() + 10 * y.value.sum(), names)())  # by name, too
    moved(x, 2)
    moved(y, 40 if as_group else 20)


def test_modules_with_the_same_path():
    body, head = brainstate.nn.Linear(2, 2), brainstate.nn.Linear(2, 3)
    opt = bo.SGD(1.0).register_trainable_weights(body.states(ParamState))
    opt.add_param_group(head.states(ParamState), lr=0.5)
    start = [np.asarray(m.weight.value['bias']) for m in (body, head)]
    weights = opt.param_states.to_pytree()

    def loss():
        return head(body(jnp.zeros(2))).sum() * 0 + sum(
            m.weight.value['bias'].sum() for m in (body, head)
        )

    opt.step(grad(loss, weights)())
    close(body.weight.value['bias'], start[0] - 1)
    close(head.weight.value['bias'], start[1] - 0.5)


SECOND_TREES = {
    'list': ([0], [0, 1]),
    'dict': ({'w': 0}, {'w': 0, 'w_2': 1}),
    'tuple keys': ({('w',): 0}, {('w',): 0, ('w_2',): 1}),
}


@pytest.mark.parametrize('kind', SECOND_TREES)
def test_a_name_made_for_a_collision_is_not_taken_for_a_registered_key(kind):
    """The path given to a colliding State may be the very key of the next one."""
    first, second = SECOND_TREES[kind]
    x, y, z = param(1.0), param(1.0), param(1.0)
    opt = bo.SGD(1.0)
    opt.register_trainable_weights(jax.tree.map(lambda i: [x][i], first))
    opt.add_param_group(jax.tree.map(lambda i: [y, z][i], second))
    assert len(set(opt.param_states.names)) == 3

    def loss():
        return x.value.sum() + 10 * y.value.sum() + 100 * z.value.sum()

    opt.step(grad(loss, opt.param_states.to_pytree())())
    moved(x, 1)
    moved(y, 10)
    moved(z, 100)


def test_a_dotted_key_is_not_a_nested_one():
    x, y = param(1.0), param(1.0)
    opt = bo.SGD(1.0).register_trainable_weights({'a.b': x, 'a': {'b': y}})
    assert len(set(opt.param_states.names)) == 2
    opt.step({'a.b': jnp.ones(1)})
    opt.step({'a': {'b': jnp.full(1, 10.0)}})
    moved(x, 1)
    moved(y, 10)


def test_gradients_by_name_where_a_dotted_key_meets_a_nested_one():
    x, y = param(1.0), param(1.0)
    opt = bo.SGD(1.0).register_trainable_weights({'a.b': x, 'a': {'b': y}})
    names = opt.param_states.to_dict()
    grads = grad(lambda: x.value.sum() + 10 * y.value.sum(), names)()
    try:
        opt.step(grads)
    except (KeyError, ValueError):  # refusing is right too; losing or mixing them is not
        moved(x, 0)
        moved(y, 0)
    else:
        moved(x, 1)
        moved(y, 10)


@pytest.mark.parametrize('shallow_first', [True, False])
def test_one_path_that_is_the_beginning_of_another(shallow_first):
    shallow, deep = param(1.0), param(1.0, 1.0)
    trees = [{'a': shallow}, {'a': {'b': deep}}]
    opt = bo.SGD(1.0).register_trainable_weights(trees[0 if shallow_first else 1])
    opt.add_param_group(trees[1 if shallow_first else 0])
    weights = opt.param_states.to_pytree()
    assert len(jax.tree.leaves(weights, is_leaf=lambda x: isinstance(x, ParamState))) == 2
    opt.step(grad(lambda: shallow.value.sum() + 10 * deep.value.sum(), weights)())
    moved(shallow, 1)
    moved(deep, 10)


def test_tuple_path_that_is_the_beginning_of_another():
    shallow, deep = param(1.0), param(1.0)
    opt = bo.SGD(1.0).register_trainable_weights({('a',): shallow, ('a', 'b'): deep})
    opt.step({('a',): jnp.ones(1), ('a', 'b'): jnp.full(1, 10.0)})
    moved(shallow, 1)
    moved(deep, 10)


def test_leaf_of_one_value_where_the_path_of_another_state_ends():
    """Leaf 'b' of State ('a',) and State ('a', 'b') are different parameters."""
    tree, flat = ParamState({'b': jnp.ones(2)}), param(1.0, 1.0)
    opt = bo.Adam(LR)
    weights = {('a',): tree, ('a', 'b'): flat}
    try:
        opt.register_trainable_weights(weights)
    except (ValueError, KeyError) as error:  # refusing the tree is right, too
        assert 'a' in str(error)
        return
    grads = {('a',): {'b': jnp.ones(2)}, ('a', 'b'): -jnp.ones(2)}
    try:
        opt.step(grads)
    except (ValueError, KeyError):
        close(tree.value['b'], [1.0, 1.0])
        close(flat.value, [1.0, 1.0])
    else:
        close(tree.value['b'], adam_reference([1.0, 1.0], [grads['a',]['b']]))
        close(flat.value, adam_reference([1.0, 1.0], [grads['a', 'b']]))


def test_keys_that_cannot_be_sorted_together():
    """A list in one module and a dict in another: ('layers', 0) beside ('layers', 'head')."""
    x, y = param(1.0), param(1.0)
    opt = bo.SGD(1.0).register_trainable_weights({('layers', 0, 'w'): x})
    try:
        opt.add_param_group({('layers', 'head', 'w'): y})
    except (TypeError, ValueError) as error:  # refused, by name and before anything happened
        assert 'layers' in str(error) and 'head' in str(error)
        assert len(opt.param_groups) == 1
        opt.step({('layers', 0, 'w'): jnp.ones(1)})
    else:
        opt.step(grad(lambda: x.value.sum() + y.value.sum(), opt.param_states.to_pytree())())
        moved(y, 1)
    moved(x, 1)


# ---- what stands in a State --------------------------------------------------------------------


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


def keeps(value):
    return value


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


# ---- units -------------------------------------------------------------------------------------

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


# ---- UniqueStateManager ------------------------------------------------------------------------


def test_manager_of_a_tree_with_a_tie():
    tied, bias, deep = param(1.0), param(2.0), param(3.0)
    tree = {'dec': {'b': bias, 'w': tied}, 'enc': {'layers': [{'w': tied}, {'w': deep}]}}
    manager = bo.UniqueStateManager(tree)
    assert len(manager) == manager.num_unique_states == 3
    named = manager.to_dict()
    assert list(named) == ['dec.b', 'dec.w', 'enc.layers[1].w']
    assert [*named.values()] == [bias, tied, deep]
    assert manager.seen_ids == {id(bias), id(tied), id(deep)}
    assert manager.pytree_structure.num_leaves == 3
    values = manager.to_dict_value()
    assert list(values) == list(named)
    assert all(values[name] is state.value for name, state in named.items())
    nested = manager.to_pytree()
    assert nested['dec'] == {'b': bias, 'w': tied}
    assert nested['enc']['layers'][1]['w'] is deep
    assert manager.to_pytree_value()['dec']['w'] is tied.value
    pairs = manager.get_flattened()
    assert [state for _, state in pairs] == [bias, tied, deep]
    for path, state in pairs:
        assert manager.get_state_by_path(path) is state
        assert jax.tree_util.keystr(path)  # a JAX key path
    for name, state in named.items():
        assert manager.get_state_by_path(name) is state
    assert manager.get_state_by_path(('dec', 'b')) is bias
    assert manager.get_state_by_path('nobody') is None


def test_manager_make_unique_starts_anew():
    x, y = param(1.0), param(2.0)
    manager = bo.UniqueStateManager({'old': y})
    assert manager.make_unique({'a': x, 'b': x, 'c': y}) == {'a': x, 'c': y}
    assert len(manager) == 2


def test_manager_merge_keeps_names_and_returns_itself():
    x, y, z = param(1.0), param(2.0), param(3.0)
    manager = bo.UniqueStateManager()
    assert len(manager) == 0 and manager.to_dict() == {} and manager.to_pytree() == {}
    assert manager.merge_with({'a': x}) is manager
    manager.merge_with({'a': y, 'other': x}).merge_with({'z': z})
    assert len(manager) == 3
    first, second, third = manager.to_dict()
    assert (first, third) == ('a', 'z') and second not in (first, third) and 'a' in second
    assert [*manager.to_dict().values()] == [x, y, z]
    with pytest.raises(TypeError, match='State.*got.*at q'):
        manager.merge_with({'p': param(1.0), 'q': jnp.ones(2)})
    assert len(manager) == 3


def test_the_states_of_an_optimizer_change_through_the_optimizer_alone():
    x, y = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    opt = bo.SGD(0.5)
    for registered in (False, True):
        if registered:
            opt.register_trainable_weights({'x': x})
        manager = opt.param_states
        changes = (
            lambda m: m.merge_with({'y': y}),
            lambda m: m.make_unique({'y': y}),
            lambda m: m.update_state('x', y),
            lambda m: m.clear(),
        )
        for change in changes:
            with pytest.raises(TypeError, match='param_states of SGD.*register_trainable_weights'):
                change(manager)
            assert manager.unique_states == [x] * registered
    assert isinstance(manager, bo.UniqueStateManager)
    assert type(manager.copy().merge_with({'y': y})) is bo.UniqueStateManager
    copied = copy.deepcopy(opt)
    copied.add_param_group({'y': y})
    assert (len(copied.param_states), len(opt.param_states)) == (2, 1)


def test_manager_update_state():
    x, y, new = param(1.0), param(2.0), param(3.0)
    manager = bo.UniqueStateManager({'x': x, 'y': y})
    assert manager.update_state('x', new) is True
    assert manager.get_state_by_path('x') is new
    assert manager.to_dict() == {'x': new, 'y': y}
    assert manager.update_state('nobody', new) is False
    with pytest.raises(ValueError, match='y'):
        manager.update_state('x', y)
    path = manager.get_flattened()[1][0]
    assert manager.update_state(path, x) is True
    assert manager.merge_with({'again': x}).num_unique_states == 2


def test_manager_clear():
    x = param(1.0)
    manager = bo.UniqueStateManager({'x': x})
    manager.clear()
    assert len(manager) == manager.num_unique_states == 0
    assert manager.seen_ids == set() and manager.pytree_structure is None
    assert manager.get_flattened() == [] and manager.to_dict_value() == {}
    assert manager.merge_with({'again': x}).to_dict() == {'again': x}


def test_manager_names_of_module_states_are_readable():
    model = TwoLayers()
    manager = bo.UniqueStateManager().merge_with(model.states(ParamState))
    assert list(manager.to_dict()) == ['first.weight', 'rest.0.weight', 'rest.1.weight']
    assert list(manager.to_pytree()) == list(model.states(ParamState))
    assert manager.get_state_by_path(('rest', 1, 'weight')) is model.rest[1].weight


def test_manager_refuses_states_that_are_not():
    with pytest.raises(TypeError, match=r'float at a\.b.*states'):
        bo.UniqueStateManager({'a': {'b': 1.0}})


# ---- size --------------------------------------------------------------------------------------


def test_a_thousand_parameters_register_quickly():
    first = {('layers', i, 'weight'): param(1.0, 1.0) for i in range(1000)}
    again = {('layers', i, 'weight'): param(1.0) for i in range(1000)}
    opt = bo.Adam(LR)
    start = time.perf_counter()
    opt.register_trainable_weights(first)
    assert time.perf_counter() - start < 5
    start = time.perf_counter()
    opt.add_param_group(again)  # every path collides
    assert time.perf_counter() - start < 5
    assert len(set(opt.param_states.names)) == 2000
