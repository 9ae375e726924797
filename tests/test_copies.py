"""Copies, pickles, and what brainstate's graph functions find of an optimizer."""

import copy
import inspect
import io
import pickle

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from looking import same
from two_groups import Trainer, trained

import braintools_optim as bo


def snapshot(opt):
    return jax.tree.map(np.array, (opt._core.value, opt.get_last_lr(), opt.betas))


# ---- copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize('make', [bo.Adam, bo.AdamW])
def test_deepcopy_has_state_of_its_own_over_the_same_parameters(make):
    opt = trained(make, grad_clip_norm=2.0)
    grads = opt.param_states.to_pytree_value()
    before = snapshot(opt)
    other = copy.deepcopy(opt)
    assert type(other) is make and same(snapshot(other), before)
    assert all(
        a is b
        for a, b in zip(
            opt.param_states.unique_states, other.param_states.unique_states, strict=True
        )
    )
    start = np.asarray(opt.param_states.unique_states[0].value)
    other.step(grads)
    assert not np.array_equal(start, opt.param_states.unique_states[0].value)  # shared
    other.current_lr = 0.7
    other.betas = (0.1, 0.2)
    other.param_groups[1]['lr'] = 0.6
    other.grad_clip_norm = 5.0
    other.lr.step()
    other.add_param_group({'late': ParamState(jnp.ones(1))})
    assert same(snapshot(opt), before)
    assert (len(opt.param_groups), len(opt.param_states)) == (2, 3)
    assert (int(opt.step_count.value), int(other.step_count.value)) == (1, 2)
    assert (opt.lr.last_epoch.value, other.lr.last_epoch.value) == (0, 1)
    assert opt.grad_clip_norm == 2.0 and other.lr is not opt.lr
    mine = snapshot(other)
    opt.step(grads)  # and the other way round
    opt.lr.step()
    assert same(snapshot(other), mine)


def test_deepcopy_continues_like_the_original():
    opt = trained(bo.SGD, momentum=0.9)
    grads = opt.param_states.to_pytree_value()
    start = opt.param_states.to_dict_value()
    other = copy.deepcopy(opt)
    results = []
    for each in (opt, other):
        for name, state in opt.param_states.to_dict().items():
            state.value = start[name]
        for _ in range(2):
            each.step(grads)
        results.append(jax.tree.map(np.asarray, each.param_states.to_pytree_value()))
    assert same(*results)


class Tied(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.layer = ParamState(jnp.ones(3)), brainstate.nn.Linear(2, 2)
        self.again = self.w


@pytest.mark.parametrize('order', [1, -1], ids=['model first', 'optimizer first'])
@pytest.mark.parametrize('kind', [tuple, lambda x: dict(enumerate(x))], ids=['tuple', 'dict'])
def test_a_model_and_its_optimizer_are_copied_together(kind, order):
    net, other = Tied(), ParamState(jnp.ones(2))
    opt = bo.SGD(0.5).register_trainable_weights(net.states(ParamState))
    opt.add_param_group({('other',): other})
    copies = copy.deepcopy(kind([net, opt][::order]))
    net2, opt2 = [copies[0], copies[1]][::order]
    again = copy.deepcopy(opt2)
    assert again.param_states.unique_states == opt2.param_states.unique_states
    grads = jax.tree.map(jnp.ones_like, opt2.param_states.to_pytree_value())
    opt2.step(grads)
    (weight,), (weight2,) = (
        [s for k, s in n.states(ParamState).items() if 'layer' in k] for n in (net, net2)
    )
    np.testing.assert_array_equal(net.w.value, np.ones(3))
    np.testing.assert_array_equal(net2.w.value, np.full(3, 0.5))
    np.testing.assert_array_equal(weight2.value['bias'], weight.value['bias'] - 0.5)
    np.testing.assert_array_equal(other.value, np.full(2, 0.5))  # in no model that was copied
    opt.step(grads)
    np.testing.assert_array_equal(net2.w.value, np.full(3, 0.5))


def test_a_copy_has_the_parameters_of_its_time():
    opt = trained()
    early, late = copy.deepcopy(opt), copy.deepcopy(opt)
    names = early.param_states.names
    opt.add_param_group({'new': ParamState(jnp.ones(1))})
    assert late.param_states.names == names != opt.param_states.names


def test_deepcopy_before_registration():
    other = copy.deepcopy(bo.Adam(0.3, eps=1e-3))
    assert (other.current_lr, other.eps) == (0.3, 1e-3)
    w = ParamState(jnp.ones(1))
    other.register_trainable_weights({'w': w}).step({'w': jnp.ones(1)})
    np.testing.assert_allclose(w.value, 0.7, 1e-2)


def test_deepcopy_of_a_chain_with_the_scheduler():
    class Old(bo.OptaxOptimizer):
        def default_tx(self):
            return optax.scale_by_schedule(self._lr_scheduler)

    w = ParamState(jnp.ones(1))
    opt = Old(lr=0.5).register_trainable_weights({'w': w})
    other = copy.deepcopy(opt)
    other.current_lr = 0.25
    other.step({'w': jnp.ones(1)})
    np.testing.assert_allclose(w.value, 0.75)
    opt.step({'w': jnp.ones(1)})
    np.testing.assert_allclose(w.value, 0.25)


@pytest.mark.parametrize('dump', [pickle.dumps, lambda x: pickle.Pickler(io.BytesIO()).dump(x)])
def test_pickling_says_what_to_do_instead(dump):
    with pytest.raises(TypeError, match='Adam cannot be pickled.*state_dict.*load_state_dict'):
        dump(trained())


def test_state_dict_can_be_pickled():
    opt = trained()
    before = snapshot(opt)
    saved = pickle.loads(pickle.dumps(opt.state_dict()))
    opt.step(opt.param_states.to_pytree_value())
    opt.load_state_dict(saved)
    assert same(snapshot(opt), before)


# ---- brainstate's graph -------------------------------------------------------------------------


def covers(states, opt):
    """Whether some states hold the moments and the count of an optimizer."""
    held = jax.tree.leaves([s.value for s in states])
    return all(any(x is y for y in held) for x in jax.tree.leaves(opt._core.value))


def test_graph_finds_the_states():
    opt = trained()
    states = brainstate.graph.states(opt)
    assert covers(states.values(), opt)
    assert all(isinstance(s, bo.OptimState) for s in states.values())
    assert covers(brainstate.graph.states(opt, bo.OptimState).values(), opt)
    assert len(brainstate.graph.states(opt, ParamState)) == 0  # the model's


@pytest.mark.parametrize(
    'make',
    [
        lambda: bo.AdamW(0.1, decay_mask={'w': True, 'v': False}, skip_nonfinite=True),
        lambda: bo.Lookahead(bo.Adam(0.1)),
        lambda: bo.Quad(0.1),
    ],
    ids=['AdamW', 'Lookahead', 'Quad'],
)
def test_graph_has_the_states_alone_and_those_of_a_subclass(make):
    opt = make()
    assert set(vars(opt)) - set(opt.graph_invisible_attrs) == {
        *('_core', '_number_state', '_scheduler_states')
    }
    opt.temperature = brainstate.State(jnp.ones(()))
    assert opt.temperature in brainstate.graph.states(opt).values()


def test_a_duplicate_of_a_state_shares_no_memory():
    state = bo.OptimState({'a': jnp.ones(3), 'n': np.int32(2)})
    twin = state.duplicate()
    state.value['a'].delete()
    assert float(twin.value['a'].sum()) == 3.0 and twin.value['n'] == 2


@pytest.mark.parametrize(
    ('cls', 'takes'),
    [(bo.AdamW, True), (bo.Muon, True), (bo.Mars, False), (bo.Quad, False), (bo.Lookahead, True)],
)
def test_the_signature_lacks_a_mask_that_is_refused(cls, takes):
    assert ('decay_mask' in inspect.signature(cls).parameters) == takes


@pytest.mark.parametrize('name', ['save', 'schedulers', 'update', 'step_count', 'ranges'])
def test_a_number_cannot_be_named_like_what_all_optimizers_have(name):
    class Named(bo.OptaxOptimizer):
        def __init__(self, lr=0.1, **numbers):
            super().__init__(lr=lr, **numbers)

    with pytest.raises(TypeError, match=f'named {name}.*another name'):
        Named(**{name: 0.5})


def test_graph_of_a_module_with_an_optimizer():
    trainer = Trainer()
    trainer.opt.step({('weight',): trainer.model.weight.value})
    assert list(trainer.states(ParamState)) == [('model', 'weight')]
    assert covers(trainer.states(bo.OptimState).values(), trainer.opt)
    assert all(key[0] == 'opt' for key in trainer.states(bo.OptimState))


def test_graph_split_and_update():
    """treefy_split gives the states as a tree; update_states puts such a tree back."""
    opt = trained()
    before = snapshot(opt)
    _, states = brainstate.graph.treefy_split(opt)
    leaves = [x for x in jax.tree.leaves(states) if hasattr(x, 'shape')]
    moments = [x for x in jax.tree.leaves(opt._core.value[0]) if x.ndim]
    assert {x.shape for x in moments} <= {x.shape for x in leaves}
    kept = jax.tree.map(jnp.array, states)
    opt.step(opt.param_states.to_pytree_value())
    assert not same(snapshot(opt), before)
    brainstate.graph.update_states(opt, kept)
    assert same(snapshot(opt), before)
    opt.step(opt.param_states.to_pytree_value())
    assert int(opt.step_count.value) == 2


@pytest.mark.parametrize(
    'how',
    [
        brainstate.graph.clone,
        copy.deepcopy,
        lambda node: brainstate.graph.treefy_merge(*brainstate.graph.treefy_split(node)),
    ],
)
def test_a_module_is_copied_though_its_optimizer_is_not(how):
    trainer = Trainer()
    other = how(trainer)
    x = jnp.ones((1, trainer.model.weight.value['weight'].shape[0]))
    assert other.model is not trainer.model
    np.testing.assert_array_equal(other.model(x), trainer.model(x))
    with pytest.raises(AttributeError, match=r'States alone.*copy\.deepcopy\(\(old.net, old.opt'):
        other.opt.step({('weight',): other.model.weight.value})
    with pytest.raises(AttributeError, match='this Adam was put together from its States alone'):
        brainstate.graph.clone(trained()).step({})


def test_a_group_is_copied_with_its_optimizer():
    opt = trained()
    with pytest.raises(TypeError, match=r'copy.deepcopy of that copies it, and dict\(group\)'):
        copy.deepcopy(opt.param_groups[0])
    with pytest.raises(AttributeError, match="no attribute 'states'. Call brainstate.graph.states"):
        opt.states  # noqa: B018  # reading it is what raises


def test_a_model_is_not_copied_while_it_is_traced():
    """The values that it has now would stay in the compiled program."""
    net = brainstate.nn.Linear(1, 1)
    opt = bo.SGD(0.5).register_trainable_weights(net.states(ParamState))

    def inner():
        other, its = copy.deepcopy((net, opt))
        its.step(jax.tree.map(jnp.ones_like, its.param_states.to_pytree_value()))
        return other(jnp.ones(1))

    with pytest.raises(ValueError, match='a model was copied in a function that is being traced'):
        brainstate.transform.jit(inner)()
    inner()
    assert brainstate.transform.jit(lambda: copy.deepcopy(opt).current_lr)() == 0.5
    assert int(opt.step_count.value) == 0
