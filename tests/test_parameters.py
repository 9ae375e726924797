"""Trees of States and in States; a State under several keys, several States under one."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saiunit as u
from brainstate import ParamState
from brainstate.transform import grad
from one_parameter import LR, TwoLayers, adam_reference, close, moved, param

import braintools_optim as bo

# ---- trees of States and trees inside States ----------------------------------------------------


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


# ---- identity: one State under several keys, several States under one ---------------------------


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


@pytest.mark.parametrize('jit', [False, True])
def test_gradients_whose_keys_cannot_be_sorted(jit):
    opt = bo.Adam(0.1).register_trainable_weights({('a',): brainstate.ParamState(jnp.ones(2))})
    opt.add_param_group({'z': brainstate.ParamState(jnp.ones(2))})
    step = brainstate.transform.jit(lambda: opt.step(grads)) if jit else lambda: opt.step(grads)
    grads = {('a',): jnp.ones(2), 'z': jnp.ones(2)}
    with pytest.raises(ValueError, match='sorting') as caught:
        step()
    assert 'differentiate by opt.param_states.to_pytree()' in caught.value.__notes__[0]
    grads = dict.fromkeys(opt.param_states.to_pytree(), jnp.ones(2))
    step()


def test_gradients_that_cannot_be_taken_apart():
    class Odd:
        pass

    def refuse(_):
        raise ValueError('an odd tree')

    jax.tree_util.register_pytree_node(Odd, refuse, lambda *_: Odd())
    opt = bo.SGD(0.1).register_trainable_weights({'a': brainstate.ParamState(jnp.ones(2))})
    with pytest.raises(ValueError, match='an odd tree') as caught:
        opt.step({'a': Odd()})
    assert not hasattr(caught.value, '__notes__')


INSIDE = {'array': jnp.ones(2), 'dict': {'param': jnp.ones(2), 'b': jnp.ones(3)}}


@pytest.mark.parametrize('value', INSIDE.values(), ids=INSIDE)
def test_the_only_state_needs_no_key(value):
    """Its gradient comes by itself, or under the key that `to_pytree` has for it."""
    for wrapped in (lambda g: g, lambda g: {'param': g}):
        w = ParamState(value)
        opt = bo.SGD(0.5).register_trainable_weights(w)
        assert list(opt.param_states.to_pytree()) == ['param']
        opt.step(wrapped(value))
        jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0.5), w.value)

    def loss():
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(w.value)) / 2

    opt.step(grad(loss, opt.param_states.to_pytree())())
    bo.train_step(w, opt, loss)()
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0.125), w.value)
