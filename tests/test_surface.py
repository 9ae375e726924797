"""What a person sees and touches: help, repr, groups, the chain."""

import inspect
import math
import pydoc
import re
import typing
from collections.abc import MutableMapping

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from jax.experimental.sparse import BCOO
from two_groups import trained

import braintools_optim as bo
from braintools_optim.fixed_options import FixedOptions
from braintools_optim.signature import CommonOptions

CLASSES = [bo.SGD, bo.Momentum, bo.MomentumNesterov, bo.Adam, bo.AdamW, bo.OptaxOptimizer]

COMMON = {
    **{'grad_clip_norm': None, 'grad_clip_value': None, 'maximize': False},
    **{'state_dtype': None, 'mu_dtype': None, 'skip_nonfinite': False, 'decay_mask': None},
    **{'accumulate_steps': 1, 'constrain': None, 'master_dtype': None},
}


# ---- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('cls', CLASSES, ids=lambda c: c.__name__)
def test_signature_and_help_show_every_argument(cls):
    parameters = inspect.signature(cls).parameters
    kinds = {p.kind for p in parameters.values()}
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    if cls is not bo.OptaxOptimizer:  # the base takes its subclasses' hyper-parameters
        assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert next(iter(parameters)) == ('tx' if cls is bo.OptaxOptimizer else 'lr')
    assert parameters['lr'].default == 1e-3
    common = {k: v for k, v in COMMON.items() if k != 'mu_dtype' or cls.first_moments}
    assert {name: parameters[name].default for name in common} == common
    assert 'self' not in parameters
    text = pydoc.plain(pydoc.render_doc(cls))
    head = text[: text.index('Method resolution order')]
    for name, p in parameters.items():
        if p.kind is not p.VAR_KEYWORD:
            assert f'{name}: ' in head and f' = {p.default!r}' in head, name
    assert cls.__doc__ and 'Parameters' in head
    for name in common:  # in the signature, and told
        assert name in cls.__doc__, name
    assert cls.__module__.startswith('braintools_optim')


def test_signature_of_a_subclass():
    class Mine(bo.Adam):
        def __init__(self, lr=0.5, rho: float = 0.25):
            super().__init__(lr=lr)
            self.rho = rho

    class Inherits(bo.AdamW):
        pass

    assert str(inspect.signature(Mine)) == '(lr=0.5, rho: float = 0.25)'
    assert inspect.signature(Inherits) == inspect.signature(bo.AdamW)
    assert Mine(0.1).rho == 0.25


def test_signature_is_what_the_constructor_takes():
    for cls in CLASSES:
        parameters = inspect.signature(cls).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        cls(**{k: v for k, v in defaults.items() if k not in ('beta1', 'beta2')})
        with pytest.raises(TypeError, match='surplus'):
            cls(surplus=1)


def test_every_option_of_all_optimizers_is_known_everywhere():
    """One that only the constructor knew would be hidden, and lost by what is made of others."""
    taken = inspect.signature(bo.OptaxOptimizer.__init__).parameters.keys()
    options = taken - {'self', 'tx', 'lr', 'weight_decay', 'hyper'}
    assert options == CommonOptions.__annotations__.keys()
    assert options == set(COMMON)
    live = {'grad_clip_norm', 'grad_clip_value', 'maximize'}
    assert {x for x in options - live if isinstance(vars(FixedOptions).get(x), property)} == (
        options - live
    )


# ---- repr ---------------------------------------------------------------------------------------


def test_repr_is_a_table():
    opt = trained(bo.SGD, momentum=0.9, grad_clip_norm=1.0)
    head, columns, *rows = repr(opt).splitlines()
    assert head.startswith('SGD (') and 'step 1' in head and 'ConstantLR' in head
    assert 'grad_clip_norm=1' in head
    names, first, second = (re.split(r' {2,}', row.strip()) for row in (columns, *rows))
    assert {'group', 'parameters', 'lr', 'momentum', 'weight_decay', 'dampening'} <= set(names)
    assert len({len(row) for row in (columns, *rows)}) == 1
    cells = dict(zip(names, first, strict=True))
    assert (cells['group'], cells['parameters'], cells['lr']) == ('0', '2', '0.1')
    assert {'1', '1,200', '0.01', '0.9', '4.7 KiB'} <= set(second)  # 1200 floats and a count
    assert len(repr(opt)) < 600


def test_repr_of_what_is_part_of_the_state():
    opt = trained()
    assert repr(opt.step_count) == f'CountState(value={opt.step_count.value!r})'
    assert repr(opt.opt_state) == f'ChainState(value={opt.opt_state.value!r})'


@pytest.mark.parametrize('cls', CLASSES, ids=lambda c: c.__name__)
def test_repr_before_registration(cls):
    text = repr(cls(lr=0.25))
    assert text.startswith(cls.__name__) and 'lr=0.25' in text and len(text) < 200
    assert 'object at 0x' not in text and '\n' not in text


def test_repr_inside_a_module_and_a_trace():
    class Trainer(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = brainstate.nn.Linear(2, 2)
            self.opt = bo.Adam().register_trainable_weights(self.model.states(ParamState))

    trainer = Trainer()
    table = repr(trainer.opt).replace('\n', '\n  ')  # as far in as the other attributes
    assert f'opt={table}' in repr(trainer)
    seen = []
    brainstate.transform.jit(lambda: seen.append(repr(trainer.opt)))()
    assert 'Adam' in seen[0]


def test_repr_of_groups_and_schedulers():
    opt = trained()
    text = repr(opt.param_groups)
    assert '2 parameters' in text and 'lr=0.01' in text and 'betas=(0.9, 0.999)' in text
    assert repr(opt.lr).startswith('ConstantLR(') and '0.1' in repr(opt.lr)


# ---- groups -------------------------------------------------------------------------------------


def test_group_is_a_dict():
    opt = trained()
    group = opt.param_groups[1]
    assert isinstance(group, MutableMapping)
    assert list(group)[:2] == ['params', 'lr']
    assert set(group) == {
        *('params', 'lr', 'betas', 'eps', 'weight_decay'),
        *('amsgrad', 'decoupled_weight_decay', 'maximize'),
    }
    assert len(group) == len(list(group)) == len(dict(group))
    assert 'lr' in group and 'params' in group and 'momentum' not in group
    assert group.get('momentum') is None and group.get('eps') == 1e-8
    assert group['betas'] == (0.9, 0.999) and group['amsgrad'] is False
    assert list(group['params']['head']) == ['w']
    assert group.states() == [group['params']['head']['w']]
    with pytest.raises(KeyError, match='momentum'):
        group['momentum']


def test_learning_rate_of_a_group_is_a_number():
    opt = trained(lr=0.5)
    lr = opt.param_groups[0]['lr']
    assert lr.value == 0.5 and isinstance(lr.value, float)
    assert (lr + 1, 1 + lr, lr - 1, 1 - lr, lr * 2, 2 * lr) == (1.5, 1.5, -0.5, 0.5, 1.0, 1.0)
    assert (lr / 2, 2 / lr, lr**2, 2**lr, -lr, +lr, abs(lr)) == (
        *(0.25, 4.0, 0.25, 2**0.5, -0.5, 0.5, 0.5),
    )
    assert (lr // 0.3, lr % 0.3, round(lr, 0)) == (1.0, 0.5 % 0.3, 0.0)
    assert lr == 0.5 and lr != 0.4 and lr < 1 and lr <= 0.5 and lr > 0.1 and lr >= 0.5
    assert lr == lr and lr + lr == 1.0 and min(lr, 0.7) == 0.5
    assert float(lr) == 0.5 and math.sqrt(lr) == 0.5**0.5 and bool(lr)
    assert f'{lr:.3f}' == '0.500' and str(lr) == '0.5'
    assert np.asarray(lr) == 0.5 and jnp.asarray(lr) == 0.5
    np.testing.assert_array_equal(lr * jnp.ones(2), [0.5, 0.5])
    np.testing.assert_array_equal(jnp.ones(2) * lr, [0.5, 0.5])
    np.testing.assert_array_equal(np.ones(2) * lr, [0.5, 0.5])


def test_learning_rate_of_a_group_is_live():
    opt = trained()
    group, held = opt.param_groups[1], opt.param_groups[1]['lr']
    group['lr'] *= 0.1
    assert held.value == pytest.approx(0.001) and held == 0.01  # what was read stays
    group['lr'] = 0.25
    assert held.value == 0.25
    group['lr'].value = 0.5
    assert held.value == 0.5 and opt.get_last_lr() == [0.1, 0.5]
    held.value /= 2
    assert opt.get_last_lr() == [0.1, 0.25]
    for other in opt.param_groups:  # as in torch
        other['lr'] *= 0.5
    assert opt.get_last_lr() == [0.05, 0.125]
    group.update(lr=0.75, betas=(0.5, 0.6))
    assert opt.get_last_lr() == [0.05, 0.75] and group['betas'] == (0.5, 0.6)
    head = opt.param_states.get_state_by_path('head.w')
    group['lr'] = 0.0
    before = np.asarray(head.value)
    opt.step({'head': {'w': jnp.ones((20, 60))}})
    np.testing.assert_array_equal(head.value, before)


def test_attribute_of_the_optimizer_is_that_of_all_groups():
    opt = trained()
    opt.param_groups[1]['betas'] = (0.1, 0.2)
    assert opt.betas == (0.9, 0.999)  # reads the first group
    opt.betas = (0.5, 0.75)
    assert [g['betas'] for g in opt.param_groups] == [(0.5, 0.75)] * 2
    opt.betas = [0.25, 0.75]
    opt.eps = 1e-3
    assert [(g['betas'], g['eps']) for g in opt.param_groups] == [((0.25, 0.75), 1e-3)] * 2
    opt.add_param_group({'late': ParamState(jnp.ones(1))})
    assert opt.param_groups[2]['betas'] == (0.25, 0.75)
    opt.current_lr = 0.7
    assert opt.get_last_lr()[:2] == [0.7, 0.01]


# ---- tx -----------------------------------------------------------------------------------------


def test_tx_is_live():
    opt = trained(lr=0.1, betas=(0.0, 0.0), eps=0.0)
    tx, params = opt.tx, {'any': jnp.full(2, 4.0)}
    state = tx.init(params)
    for lr in (0.1, 0.7):
        opt.current_lr = lr
        updates, state = tx.update(params, state, params)
        np.testing.assert_allclose(updates['any'], np.full(2, -lr), 1e-6)
    chained = optax.chain(opt.tx, optax.scale(2.0))
    updates, _ = chained.update(params, chained.init(params), params)
    np.testing.assert_allclose(updates['any'], np.full(2, -1.4), 1e-6)


class Reads(bo.OptaxOptimizer):
    """A chain that is built of numbers of the optimizer, not of those it is given."""

    def __init__(self, lr=0.1, alpha=0.5, **common):
        super().__init__(lr=lr, alpha=alpha, **common)

    def transform(self, h):
        last = self.param_groups[-1]['alpha'] if self.param_groups else self.alpha
        scales = self.alpha, self.current_lr, -1.0, last, self.grad_clip_norm, self.get_last_lr()[0]
        return optax.chain(*map(optax.scale, scales))


@pytest.mark.parametrize('how', ['eager', 'jit', 'for_loop'])
def test_what_a_chain_reads_of_the_optimizer_itself_is_live(how):
    w, v = ParamState(jnp.zeros(2)), ParamState(jnp.zeros(2))
    opt = Reads(grad_clip_norm=100.0).register_trainable_weights({'w': w})
    opt.add_param_group({'v': v}, lr=0.2, alpha=0.25)
    grads = {'w': jnp.ones(2), 'v': jnp.ones(2)}
    step = brainstate.transform.jit(opt.step) if how == 'jit' else opt.step
    w_end = v_end = 0.0
    for alpha, lr, last, bound in ((0.5, 0.1, 0.25, 100.0), (0.75, 0.3, 0.5, 10.0)):
        opt.param_groups[0].update(alpha=alpha, lr=lr)
        opt.param_groups[1]['alpha'] = last
        opt.grad_clip_norm = bound
        if how == 'for_loop':
            brainstate.transform.for_loop(lambda _: opt.step(grads), jnp.arange(1))
        else:
            step(grads)
        w_end -= alpha * lr * last * bound * lr
        v_end -= last * 0.2 * last * bound * 0.2
        np.testing.assert_allclose(w.value, w_end, rtol=1e-6)
        np.testing.assert_allclose(v.value, v_end, rtol=1e-6)


@pytest.mark.parametrize('what', ['step_count', 'opt_state'])
def test_what_a_chain_reads_of_its_own_state_is_live_or_refused(what):
    class Counts(bo.OptaxOptimizer):
        def transform(self, h):
            if what == 'step_count':
                scale = 1.0 / (1 + self.step_count.value)
            else:
                scale = 1.0 + optax.tree.norm(self.opt_state.value) if self.opt_state else 1.0
            return optax.chain(optax.trace(0.0), optax.scale(-h.lr * scale))

    w = ParamState(jnp.ones(2))
    opt = Counts(lr=0.1).register_trainable_weights({'w': w})
    with pytest.raises(ValueError, match=f'reads the {what} of its optimizer.*transform.jit'):
        opt.step({'w': jnp.ones(2)})
    np.testing.assert_array_equal(w.value, np.ones(2))
    step = brainstate.transform.jit(lambda: opt.step({'w': jnp.ones(2)}))
    step(), step()
    end = 0.85 if what == 'step_count' else 1 - 0.1 - 0.1 * (1 + 2**0.5)
    np.testing.assert_allclose(w.value, end, rtol=1e-6)
    assert opt.step_count.value == 2 and opt.opt_state.value


def test_a_condition_on_a_traced_number_says_what_to_do():
    class Bad(Reads):
        def transform(self, h):
            return optax.trace(h.alpha) if h.alpha > 0 else optax.identity()

    opt = Bad().register_trainable_weights({'w': ParamState(jnp.ones(2))})
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        opt.step({'w': jnp.ones(2)})
    assert 'that Bad.transform is given are traced' in caught.value.__notes__[0]


@pytest.mark.parametrize('name', ['param_states', 'step_count', 'opt_state', 'step'])
def test_names_that_an_optimizer_has_for_itself(name):
    class Own(bo.OptaxOptimizer):
        def __init__(self, **numbers):
            super().__init__(lr=0.1, **numbers)

    with pytest.raises(TypeError, match=f'Own cannot have a hyper-parameter named {name}'):
        Own(**{name: 0.5})


def test_a_constructor_that_forgets_the_base():
    class Forgets(bo.OptaxOptimizer):
        def __init__(self, lr=0.1):
            self.rate = lr

    with pytest.raises(AttributeError, match=r'Forgets is not constructed.*super\(\).__init__\(lr'):
        Forgets().register_trainable_weights({'w': ParamState(jnp.ones(2))})


@pytest.mark.parametrize('jit', [False, True])
def test_tx_does_to_gradients_what_a_step_does(jit):
    options = {'grad_clip_norm': 3.0, 'grad_clip_value': 2.0, 'maximize': True}
    w = ParamState(jnp.array([1.0, 2.0]))
    opt = bo.SGD(0.5, momentum=0.9, skip_nonfinite=True, **options)
    opt.register_trainable_weights({'w': w})
    values, state, taken = {'w': w.value}, opt.opt_state.value, []
    update = brainstate.transform.jit(opt.tx.update) if jit else opt.tx.update
    for g in ([3.0, -8.0], [np.nan, 1.0], [0.1, 0.2], [-5.0, 4.0]):
        opt.grad_clip_value = 2.0 + len(taken) / 4
        opt.step({'w': jnp.asarray(g)})
        updates, state = update({'w': jnp.asarray(g)}, state, values)
        values = optax.apply_updates(values, updates)
        np.testing.assert_allclose(values['w'], w.value, rtol=1e-6)
        assert jax.tree.structure(state) == jax.tree.structure(opt.opt_state.value)
        taken.append(w.value)
    assert (taken[0] == taken[1]).all() and (taken[1] != taken[2]).all()


def test_tx_of_what_a_chain_cannot_do():
    opt = trained(decay_mask=lambda p: jax.tree.map(lambda _: True, p))
    with pytest.raises(ValueError, match='decay_mask, which is no part of its chain'):
        _ = opt.tx
    sparse = bo.SparseAdam(0.5, grad_clip_norm=1.0)
    g = {'w': BCOO((jnp.full((1, 2), 3.0), jnp.array([[1]])), shape=(3, 2))}
    params = {'w': jnp.ones((3, 2))}
    updates, _ = sparse.tx.update(g, sparse.tx.init(params), params)
    np.testing.assert_allclose(updates['w'], [[0, 0], [-0.5, -0.5], [0, 0]], rtol=1e-6)


def test_tx_that_was_given():
    tx = optax.sgd(0.5)
    assert bo.OptaxOptimizer(tx=tx).tx is tx


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('chained', [False, True])
@pytest.mark.parametrize('name', ['scale', 'turn', 'values'])
def test_extra_arguments_reach_the_chain_of_every_group(jit, chained, name):
    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda g: -extra[name] * g, updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = optax.chain(optax.identity(), tx) if chained else tx
    opt = bo.OptaxOptimizer(tx=tx)
    a, b = ParamState(jnp.ones(2)), ParamState(jnp.ones(3))
    opt.register_trainable_weights({'a': a}).add_param_group({'b': b})
    grads = {'a': jnp.ones(2), 'b': jnp.ones(3)}
    step = brainstate.transform.jit(lambda s: opt.step(grads, **{name: s}))
    for scale in (0.25, 0.5):
        step(scale) if jit else opt.step(grads, **{name: scale})
    np.testing.assert_allclose(a.value, 0.25)
    np.testing.assert_allclose(b.value, 0.25)
    opt.update(grads, **{name: 0.25})
    np.testing.assert_allclose(b.value, 0.0)


@pytest.mark.parametrize('cls', [bo.Rprop, bo.SGD, bo.Adam])
def test_a_chain_may_ignore_extra_arguments(cls):
    one, other = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    for param, extra in ((one, {}), (other, {'value': 0.5, 'value_fn': lambda p: 0.5})):
        opt = cls(0.1).register_trainable_weights({'w': param})
        opt.step({'w': jnp.full(2, 0.3)}, **extra)
    np.testing.assert_array_equal(one.value, other.value)
    assert (one.value != 1.0).all()


def test_functions_are_extra_arguments_too():
    def update(updates, state, params=None, *, value_fn, mode, **extra):
        assert mode == 'half'
        return jax.tree.map(lambda p: -0.5 * value_fn(p), params), state

    opt = bo.OptaxOptimizer(
        tx=optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    )
    a = ParamState(jnp.full(2, 4.0))
    opt.register_trainable_weights({'a': a})
    opt.step({'a': jnp.ones(2)}, value_fn=jnp.sqrt, mode='half')
    np.testing.assert_allclose(a.value, 3.0)


def test_tx_sees_all_gradients_as_a_step_does():
    for options in ({'maximize': True}, {'grad_clip_norm': 0.3}, {'skip_nonfinite': True}):
        w, grads, others = ParamState(jnp.ones(2)), jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0])
        opt = bo.Mars(0.1, exact=True, **options).register_trainable_weights({'w': w})
        state, values = opt.tx.init({'w': w.value}), {'w': w.value}
        for g, other in ((grads, 0.0 * others), (2 * grads, others), (grads, jnp.nan * others)):
            if options.get('skip_nonfinite') or np.isfinite(other).all():
                more = {'previous_point_grads': {'w': other}}
                updates, state = opt.tx.update({'w': g}, state, values, **more)
                values = optax.apply_updates(values, updates)
                opt.step({'w': g}, **more)
        np.testing.assert_allclose(w.value, values['w'], rtol=1e-6)
    opt = bo.LBFGS(linesearch='zoom', maximize=True)
    with pytest.raises(ValueError, match='searches along a line.*construct it without maximize'):
        opt.tx  # noqa: B018


@pytest.mark.parametrize('change', [repr, lambda o: bo.ParamScheduler(o, 'lr', lambda t: 0.1)])
def test_bounds_may_be_traced(change):
    def made(bound):
        opt = bo.SGD(0.1, grad_clip_norm=bound)
        change(opt)
        return opt.grad_clip_norm

    np.testing.assert_array_equal(
        brainstate.transform.vmap(made)(jnp.arange(1.0, 4.0)), [1.0, 2.0, 3.0]
    )


@pytest.mark.parametrize(
    ('made', 'says'),
    [
        (
            lambda u: jax.tree.map(jnp.sum, u),
            r"shape \(\) for parameter 'b', which it sees .*\(1,\)",
        ),
        (jax.tree.leaves, 'updates of another structure than its gradients'),
        (lambda u: None, 'updates of another structure than its gradients'),
    ],
    ids=['shape', 'list', 'none'],
)
def test_a_chain_that_returns_no_updates_is_told(made, says):
    params = {'b': ParamState(jnp.ones(1)), 'w': ParamState(jnp.ones(2))}
    tx = optax.stateless(lambda updates, _: made(updates))
    opt = bo.OptaxOptimizer(tx=tx).register_trainable_weights(params)
    with pytest.raises((TypeError, ValueError), match=says):
        opt.step({'b': jnp.ones(1), 'w': jnp.ones(2)})
    np.testing.assert_array_equal(params['w'].value, [1.0, 1.0])


def test_extra_arguments_without_a_hash_are_refused_by_name():
    def update(updates, state, params=None, *, names=(), **more):
        return updates, state

    tx = optax.GradientTransformationExtraArgs(lambda p: (), update)
    opt = bo.OptaxOptimizer(tx=tx).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    opt.step({'w': jnp.ones(2)}, names=('a',))
    with pytest.raises(TypeError, match=r"what has a hash.*names=\['a'\]"):
        opt.step({'w': jnp.ones(2)}, names=['a'])


def test_the_table_shows_dtypes():
    opt = bo.Adam(0.1, master_dtype='float32', mu_dtype=jnp.bfloat16)
    assert 'master_dtype=float32, mu_dtype=bfloat16' in repr(opt)


@pytest.mark.parametrize(
    ('cls', 'lacks'),
    [
        (bo.LBFGS, {'accumulate_steps', 'decay_mask', 'mu_dtype'}),
        (bo.Adam, set()),
        (bo.Mars, {'decay_mask'}),
        (bo.OptaxOptimizer, set()),
    ],
)
def test_a_signature_lacks_what_the_class_refuses(cls, lacks):
    assert {*COMMON} - {*inspect.signature(cls).parameters} == lacks


@pytest.mark.parametrize('name', ['StepLR', 'OptaxOptimizer', 'LoadReport', 'Checkpointer', 'Adam'])
def test_tools_find_the_source_and_types_of_a_class(name):
    cls = getattr(bo, name)
    assert f'class {name}' in inspect.getsource(cls)
    assert isinstance(typing.get_type_hints(cls), dict)
