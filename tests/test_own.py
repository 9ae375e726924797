"""Optimizers that users write: their state, numbers, options and mistakes."""

import copy
import inspect
from typing import Any, NamedTuple, Unpack

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState

import braintools_optim as bo
from braintools_optim.signature import CommonOptions


def keeping(**state: Any):
    """A class whose chain is descent, and keeps this state besides."""
    kept = NamedTuple('Kept', [(name, Any) for name in state])

    class Keeping(bo.OptaxOptimizer):
        def __init__(self, lr=0.1, **common):
            super().__init__(lr=lr, **common)

        def transform(self, h):
            memory = optax.GradientTransformation(
                lambda params: kept(**state), lambda updates, state, params=None: (updates, state)
            )
            return optax.chain(memory, optax.scale_by_learning_rate(h.lr))

    return Keeping


def registered(opt):
    return opt.register_trainable_weights(
        {'a': ParamState(jnp.ones(3)), 'b': ParamState(jnp.ones(2))}
    )


GRADS = {'a': jnp.ones(3), 'b': jnp.ones(2)}


@pytest.mark.parametrize(
    'state',
    [
        {'direction': jnp.array(-1)},
        {'leaf_best': jnp.array([jnp.inf, jnp.nan])},
        {'leaf_there': jnp.array([True, False])},
        {'leaf_sign': jnp.array([-1, 1])},
        {'leaf_hash': jnp.array([2**31, 7], jnp.uint32)},
        {'best': jnp.array(jnp.inf), 'signs': jnp.array([-1, 3])},
        {'leaf_discount': jnp.array([0.5, -1.0]), 'discount': jnp.array(-1)},
    ],
    ids=lambda state: '-'.join(state),
)
def test_whatever_a_state_holds_is_loaded(state, tmp_path):
    opt = registered(keeping(**state)())
    opt.step(GRADS)
    opt.save(tmp_path / 'own.ckpt')
    there = registered(keeping(**jax.tree.map(jnp.zeros_like, state))())
    there.load(tmp_path / 'own.ckpt')
    for name, value in state.items():
        found = getattr(there.opt_state.value[0], name)
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype


@pytest.mark.parametrize(
    ('state', 'entries', 'allowed'),
    [
        ({'leaf_counts': jnp.array([1, 2])}, {'a': -1, 'b': 2}, r'counts in \[0'),
        ({'leaf_sign': jnp.array([1, 2], jnp.int8)}, {'a': 300, 'b': 2}, 'integers of int8'),
        ({'leaf_sign': jnp.array([1, 2])}, {'a': 1.5, 'b': 2}, 'integers of int32'),
        ({'leaf_sign': jnp.array([1, 2])}, {'a': True, 'b': 2}, 'integers of int32'),
        ({'leaf_count': jnp.array([1, 2], jnp.int8)}, {'a': 1000, 'b': 2}, 'counts'),
        ({'leaf_there': jnp.array([True, False])}, {'a': 2.5, 'b': True}, 'True or False'),
        ({'leaf_best': jnp.array([1.0, 2.0])}, {'a': 'x', 'b': 2.0}, 'numbers'),
    ],
    ids=['count', 'wide', 'float', 'truth', 'wide count', 'bool', 'number'],
)
def test_entries_of_another_kind_are_refused(state, entries, allowed):
    opt = registered(keeping(**state)())
    saved = opt.state_dict()
    saved['opt_state']['0'][next(iter(state))] = entries
    with pytest.raises(bo.IncompatibleCheckpoint, match=allowed):
        opt.load_state_dict(saved)


@pytest.mark.parametrize('vector', [jnp.array([1j, 2.0]), jax.random.split(jax.random.key(0))])
def test_a_vector_over_parameters_is_of_real_numbers(vector):
    with pytest.raises(TypeError, match=r"keeps 'leaf_z'.*one real number for each array"):
        registered(keeping(leaf_z=vector)())


class Curved(bo.OptaxOptimizer):
    """A step of the gradient and of another one."""

    more_gradients = ('hessian',)

    def __init__(self, lr=1.0, **common):
        super().__init__(lr=lr, **common)

    def transform(self, h):
        def update(updates, state, params=None, *, hessian):
            return jax.tree.map(lambda g, k: -h.lr * (g + 10.0 * k), updates, hessian), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@pytest.mark.parametrize(
    ('options', 'moved'),
    [({}, 20.0), ({'maximize': True}, -20.0), ({'grad_clip_value': 0.5}, 0.5 + 5.0)],
)
def test_other_gradients_go_the_way_of_the_gradients(options, moved):
    """Their signs, bounds, groups and absence; and in ``opt.tx`` the same."""
    opt = registered(Curved(**options))
    opt.add_param_group({'c': ParamState(jnp.ones(()))}, lr=0.5)
    grads = {name: jnp.full(x.value.shape, 10.0) for name, x in opt.param_states.to_dict().items()}
    hessian = jax.tree.map(jnp.ones_like, grads)
    before = {name: x.value for name, x in opt.param_states.to_dict().items()}
    own = {name: before[name] for name in 'ab'}
    updates, _ = opt.tx.update(
        {k: grads[k] for k in own}, opt.opt_state.value, own, hessian={k: hessian[k] for k in own}
    )
    opt.step(grads | {'b': None}, hessian=hessian)
    after = {name: x.value for name, x in opt.param_states.to_dict().items()}
    np.testing.assert_allclose(before['a'] - after['a'], moved, rtol=1e-5)
    np.testing.assert_allclose(before['c'] - after['c'], 0.5 * moved, rtol=1e-5)
    np.testing.assert_array_equal(before['b'], after['b'])
    np.testing.assert_allclose(updates['a'], -moved, rtol=1e-6)


@pytest.mark.parametrize('options', [{}, {'grad_clip_norm': 1e6}])
def test_other_gradients_are_where_the_gradients_are(options):
    opt = registered(Curved(**options))
    params = {name: x.value for name, x in opt.param_states.to_dict().items()}
    updates, _ = opt.tx.update(
        GRADS, opt.opt_state.value, params, hessian={'a': jnp.ones(3), 'b': None}
    )
    opt.step(GRADS, hessian={'a': jnp.ones(3), 'b': None})
    for name, moved in (('a', -11.0), ('b', -1.0)):
        np.testing.assert_allclose(updates[name], moved, rtol=1e-6)
        after = opt.param_states.to_dict()[name].value
        np.testing.assert_allclose(after - params[name], moved, rtol=1e-5)
    with pytest.raises(TypeError, match='hessian'):
        opt.step(GRADS)


class Own(bo.OptaxOptimizer):
    """With a number of each kind."""

    structural = ('pair[0]',)
    static = ('rounds',)
    ranges = {'rounds': bo.Range(1, 10)}

    def __init__(self, lr=0.1, pair=(0.0, 0.9), rounds=3, slope=1.0, **common):
        super().__init__(lr=lr, pair=pair, rounds=rounds, slope=slope, **common)

    def transform(self, h):
        used = optax.trace(h.pair[0]) if h.uses('pair[0]') else optax.identity()
        return optax.chain(used, optax.scale(h.slope), optax.scale_by_learning_rate(h.lr))


def test_an_entry_without_state_is_refused_without_a_validate():
    opt = registered(Own())
    with pytest.raises(ValueError, match=r'built with pair\[0\]=0'):
        opt.pair = (0.5, 0.9)
    with pytest.raises(ValueError, match=r'built with pair\[0\]=0'):
        opt.param_groups[0]['pair'] = (0.5, 0.9)
    opt.pair = (0.0, 0.5)
    assert opt.pair == (0.0, 0.5)

    def halved():
        opt.pair = (opt.pair[0], opt.pair[1] * 0.5)
        group = opt.param_groups[0]
        group['pair'] = (group['pair'][0], group['pair'][1] * 0.5)

    brainstate.transform.jit(halved)()  # where what is read of it is traced
    assert opt.pair == (0.0, 0.125)
    registered(Own(pair=(0.5, 0.9))).pair = (0.0, 0.9)


@pytest.mark.parametrize('wrong', [50, 0, '3', None, float('nan'), True])
def test_static_numbers_have_ranges(wrong):
    with pytest.raises((TypeError, ValueError), match=r'Own needs .*\[1, 10\]'):
        Own(rounds=wrong)
    for kind in (int, np.int64):  # kept as it is given: it may count loops
        assert type(Own(rounds=kind(4)).rounds) is kind
    opt = registered(Own(rounds=4))
    with pytest.raises((TypeError, ValueError), match=r'Own needs .*\[1, 10\]'):
        opt.add_param_group({'c': ParamState(jnp.ones(1))}, rounds=wrong)
    assert opt.rounds == 4 and type(opt.rounds) is int


@pytest.mark.parametrize('wrong', ['x', None, True, (1.0, 2.0), jnp.ones(2)])
def test_what_is_a_float_by_default_is_a_number(wrong):
    with pytest.raises(TypeError, match='Own needs a number in .* for slope'):
        Own(slope=wrong)


@pytest.mark.parametrize(
    ('said', 'message'),
    [
        ({'structural': ('paar[0]',)}, "names 'paar.*Did you mean 'pair'"),
        ({'structural': 'slope'}, "is a tuple of names, got 'slope'"),
        ({'static': ('round',)}, "names 'round'.*Did you mean 'rounds'"),
        ({'none_is_zero': ('slop',)}, "names 'slop'.*Did you mean 'slope'"),
        ({'ranges': {'slopes': bo.Range(0, 1)}}, "names 'slopes'.*Did you mean 'slope'"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else '',
)
def test_a_class_that_names_what_it_does_not_have(said, message):
    wrong = type('Wrong', (Own,), said)
    with pytest.raises(TypeError, match=f'{next(iter(said))} of Wrong {message}'):
        wrong()


@pytest.mark.parametrize('name', ['params', 'uses', 'replaced'])
def test_a_number_is_not_named_like_what_groups_and_chains_have(name):
    namespace: dict[str, Any] = {'bo': bo}
    exec(
        f'class Named(bo.OptaxOptimizer):\n'
        f'    def __init__(self, {name}=0.5):\n'
        f'        super().__init__({name}={name})\n',
        namespace,
    )
    with pytest.raises(TypeError, match=f'Named cannot have a hyper-parameter named {name}'):
        namespace['Named']()


def test_what_is_structural_is_a_number():
    class Needs(Own):
        structural = ('k',)

        def __init__(self, k, **common):
            bo.OptaxOptimizer.__init__(self, lr=0.1, k=k, **common)

    with pytest.raises(TypeError, match=r"Needs needs a number for k.*structural, got 'x'"):
        Needs('x')


@pytest.mark.parametrize('alpha', [0.0, 0.5])
def test_lookahead_asks_under_the_names_of_its_base(alpha):
    class Trace(bo.OptaxOptimizer):
        structural = ('alpha',)

        def __init__(self, lr=0.1, alpha=0.0):
            super().__init__(lr=lr, alpha=alpha)

        def transform(self, h):
            used = optax.trace(h.alpha) if h.uses('alpha') else optax.identity()
            return optax.chain(used, optax.scale_by_learning_rate(h.lr))

    opt = registered(bo.Lookahead(Trace(alpha=alpha), alpha=1.0))
    for _ in range(2):
        opt.step(GRADS)
    np.testing.assert_allclose(opt.param_states.to_dict()['a'].value, 0.8 - 0.1 * alpha, rtol=1e-6)
    assert len(opt.state_dict()['opt_state']['0']) == (3 if alpha else 2)


def test_a_chain_asks_for_what_the_class_declares():
    class Asks(Own):
        def transform(self, h):
            return optax.scale(h.lr) if h.uses('slope') else optax.identity()

    with pytest.raises(ValueError, match=r"uses\('slope'\): it is not in structural.*pair\[0\]"):
        registered(Asks())


def test_numbers_without_a_transform():
    class Misspelt(bo.OptaxOptimizer):
        def __init__(self, lr=0.1, k=1.0):
            super().__init__(lr=lr, k=k)

        def tranform(self, h):
            return optax.scale(-h.lr * h.k)

    with pytest.raises(TypeError, match=r"Misspelt has k, and no transform.*mean 'tranform'"):
        Misspelt()

    class InStep(bo.OptaxOptimizer):
        def __init__(self, lr=0.1, k=0.5):
            super().__init__(lr=lr, k=k)

        def step(self, grads):
            super().step(jax.tree.map(lambda g: self.k * g, grads))

    assert registered(InStep()).k == 0.5


def test_a_number_may_have_no_default():
    class Needs(bo.OptaxOptimizer):
        ranges = {'k': bo.Range(0, 5)}

        def __init__(self, k, lr=0.1):
            super().__init__(lr=lr, k=k)

        def transform(self, h):
            return optax.scale(-h.lr * h.k)

    opt = registered(Needs(2.0))
    opt.k = 3.0
    opt.step(GRADS)
    np.testing.assert_allclose(opt.param_states.to_dict()['a'].value, 0.7, rtol=1e-6)
    with pytest.raises(ValueError, match=r'Needs needs k in \[0, 5\]'):
        opt.k = 6.0


def test_the_rest_of_a_constructor_is_shown_and_suggested():
    class Bare(bo.AdamW):
        """AdamW with a rate of its own."""

        def __init__(self, lr=3e-4, **rest):
            super().__init__(lr, **rest)

    shown = inspect.signature(Bare).parameters
    inherited = inspect.signature(bo.AdamW).parameters
    assert shown.keys() == inherited.keys() and shown['lr'].default == 3e-4
    assert Bare(betas=(0.8, 0.9), accumulate_steps=2).betas == (0.8, 0.9)
    assert 'accumulate_steps' in inspect.signature(Own).parameters

    class Mixin:
        def __init__(self, *args, verbose=False, **rest):
            super().__init__(*args, **rest)
            self.verbose = verbose

    class Mixed(Mixin, bo.AdamW):
        pass

    shown = inspect.signature(Mixed).parameters
    assert shown.keys() == {*inherited.keys(), 'verbose'} and next(iter(shown)) == 'lr'
    assert Mixed(0.3, verbose=True, eps=1e-6).current_lr == 0.3

    class Only(bo.AdamW):
        def __init__(self, lr=0.1, **common: Unpack[CommonOptions]):
            super().__init__(lr, **common)

    class Ahead(bo.Lookahead):
        def __init__(self, alpha=0.3, /, *args, **rest):
            super().__init__(*args, alpha=alpha, **rest)

    assert 'betas' not in inspect.signature(Only).parameters
    shown = inspect.signature(Ahead).parameters
    assert list(shown)[:2] == ['alpha', 'args'] and 'base_optimizer' in shown
    for cls in (Bare, Own):
        with pytest.raises(TypeError, match="no argument 'accumulat_steps'.*'accumulate_steps'"):
            cls(accumulat_steps=2)


def test_help_tells_the_ranges():
    class Told(bo.OptaxOptimizer):
        """With a number of its own."""

        ranges = {'rho': bo.Range(0, 1, open_high=True)}

        def __init__(self, lr=0.1, rho=0.5, **common: Unpack[CommonOptions]):
            super().__init__(lr=lr, rho=rho, **common)

        def transform(self, h):
            return optax.scale(-h.lr * h.rho)

    assert '``lr`` in [0, inf),\n``rho`` in [0, 1)\n' in Told.__doc__
    assert '``betas`` in [0, 1),\n' in bo.Adam.__doc__


def test_a_step_of_a_class_of_the_library_takes_no_numbers():
    opt = registered(bo.AdamW(0.1))
    with pytest.raises(TypeError, match="AdamW.step has no argument 'learning_rate'; numbers"):
        opt.step(GRADS, learning_rate=3.0)
    with pytest.raises(TypeError, match="no argument 'closure'; only LBFGS takes a closure"):
        opt.step(closure=lambda: 0.0)
    assert opt.step_count.value == 0
    loop = {'value': jnp.array(1.0), 'grad': GRADS, 'value_fn': lambda params: jnp.array(1.0)}
    opt.step(GRADS, **loop)  # what loops give to any optimizer
    assert opt.step_count.value == 1


def test_a_state_of_its_own_is_copied():
    class Counting(bo.SGD):
        def __init__(self, lr=0.1):
            super().__init__(lr=lr)
            self.seen = brainstate.State(jnp.array(0))

        def step(self, grads):
            self.seen.value += 1
            super().step(grads)

    opt = registered(Counting())
    opt.step(GRADS)
    twin = copy.deepcopy(opt)
    twin.step(GRADS)
    assert (int(opt.seen.value), int(twin.seen.value)) == (1, 2)
    opt.seen.value.delete()
    assert int(copy.deepcopy(twin).seen.value) == 2
    opt.seen.value = jnp.array(1)
    twin = copy.deepcopy(opt)
    opt.seen.value.delete()
    assert int(twin.seen.value) == 1
    opt.seen.value = jnp.array(1)
    opt.more = {'of': [brainstate.State('text'), opt.seen]}
    twin = copy.deepcopy(opt)
    assert twin.more['of'][1] is twin.seen is not opt.seen and twin.more['of'][0].value == 'text'
    opt.first = opt.param_states.to_dict()['a']
    with pytest.raises(TypeError, match='first of Counting is one of its parameters'):
        copy.deepcopy(opt)


def test_a_decay_by_another_name_can_be_masked():
    class Decaying(bo.OptaxOptimizer):
        weight_decays = ('shrinkage',)

        def __init__(self, lr=0.1, shrinkage=0.5, **common):
            super().__init__(lr=lr, shrinkage=shrinkage, **common)

        @bo.leafwise
        def transform(self, h):
            decay = optax.add_decayed_weights(h.shrinkage)
            return optax.chain(decay, optax.scale_by_learning_rate(h.lr))

    assert 'decay_mask' in inspect.signature(Decaying).parameters
    assert bo.Lookahead(Decaying()).weight_decays == ('shrinkage',)
    opt = registered(Decaying(decay_mask={'a': True, 'b': False}))
    opt.step(jax.tree.map(jnp.zeros_like, GRADS))
    np.testing.assert_allclose(opt.param_states.to_dict()['a'].value, 0.95)
    np.testing.assert_allclose(opt.param_states.to_dict()['b'].value, 1.0)


def test_leafwise_marks_functions():
    with pytest.raises(TypeError, match='leafwise marks a function.*got Adam'):
        bo.leafwise(bo.Adam())


def test_functions_in_a_tuple_are_looked_into():
    """A function among a step's extra arguments is traced again where what it reads has changed."""
    factor = {'x': 1.0}

    def update(updates, state, params=None, *, functions, **extra):
        return jax.tree.map(lambda g: -functions[0](g), updates), state

    def scaled(g):
        return g * factor['x']

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    w = ParamState(jnp.zeros(1))
    opt = bo.OptaxOptimizer(tx=tx).register_trainable_weights({'w': w})
    opt.step({'w': jnp.ones(1)}, functions=(scaled,))
    factor['x'] = 10.0
    opt.step({'w': jnp.ones(1)}, functions=(scaled,))
    assert w.value.tolist() == [-11.0]
