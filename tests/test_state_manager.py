"""UniqueStateManager, and the parameters of an optimizer."""

import copy
import time

import jax
import jax.numpy as jnp
import pytest
from brainstate import ParamState
from one_parameter import LR, TwoLayers, param

import braintools_optim as bo

# ---- UniqueStateManager -------------------------------------------------------------------------


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
    assert manager.flattened_states == manager.get_flattened()
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


# ---- size ---------------------------------------------------------------------------------------


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


def test_a_tree_is_taken_in_whole_or_not_at_all():
    a, b, c = param(1.0), param(2.0), param(3.0)
    manager = bo.UniqueStateManager({'a': a, 'b': b})
    with pytest.raises(ValueError, match='registered as another parameter'):
        manager.merge_with({'A': c, 'a': b})
    assert manager.names == ['a', 'b'] and c not in manager
    manager.aliases().clear()
    manager.merge_with({'again': a})
    assert len(manager.aliases()) == 3 and len(manager) == 2
