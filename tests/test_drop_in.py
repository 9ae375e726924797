"""A program written for braintools.optim runs with only its import changed."""

import inspect
import runpy
from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState

import braintools_optim as bo

PROGRAM = Path(__file__).parent / 'programs' / 'mlp_two_groups.py'


def test_program(capsys):
    text = PROGRAM.read_text()
    assert text.count('import braintools_optim as optim') == text.count('braintools_optim') == 1
    names = runpy.run_path(str(PROGRAM))
    losses, optimizer = names['losses'], names['optimizer']
    assert losses[-1] < 0.05 * losses[0] and np.isfinite(losses).all()
    assert max(losses[100:]) < 0.1 * losses[0]  # going on after load_state_dict
    assert len(losses) == optimizer.step_count.value == 150
    assert names['rate'] == optimizer.current_lr == 0.005
    assert 'learning rate 0.02 of 0.02' in capsys.readouterr().out


# ---- the public members that users know ---------------------------------------------------------

PROPERTY, METHOD = 'property', 'method'

MEMBERS = {
    bo.Optimizer: {
        'register_trainable_weights': ['param_states'],
        'update': ['grads'],
    },
    bo.OptaxOptimizer: {
        'default_tx': [],
        'add_param_group': ['params', '**'],
        'register_trainable_weights': ['param_states'],
        'update': ['grads', '**'],
        'step': ['grads', '**'],
        'state_dict': [],
        'load_state_dict': ['state_dict', 'strict', 'cast', 'rename'],
        'add_scheduler': ['scheduler'],
        'get_last_lr': [],
        'lr_apply': ['apply_fn'],
        'schedulers': PROPERTY,
        'lr_scheduler': PROPERTY,
        'lr': PROPERTY,
        'base_lr': PROPERTY,
        'current_lr': PROPERTY,
    },
    bo.LBFGS: {'update': ['grads', 'value', 'value_fn', '**']},
    bo.LRScheduler: {
        'current_lrs': PROPERTY,
        'attach_optimizer': ['optimizer'],
        'get_lr': [],
        'step': ['epoch'],
        'apply': ['apply_fn'],
        'step_epoch': [],
        'get_last_lr': [],
        '__call__': ['count'],
        'state_dict': [],
        'load_state_dict': ['state_dict'],
    },
    bo.UniqueStateManager: {
        'make_unique': ['pytree'],
        'to_pytree': [],
        'to_pytree_value': [],
        'to_dict': [],
        'to_dict_value': [],
        'get_flattened': [],
        'get_state_by_path': ['target_path'],
        'update_state': ['target_path', 'new_state'],
        'merge_with': ['other_pytree'],
        'num_unique_states': PROPERTY,
        'clear': [],
        '__len__': [],
    },
}


@pytest.mark.parametrize(
    ('cls', 'name'), [(cls, name) for cls, members in MEMBERS.items() for name in members]
)
def test_public_member(cls, name):
    member, wanted = getattr(cls, name), MEMBERS[cls][name]
    if wanted == PROPERTY:
        assert isinstance(member, property)
        return
    _, *parameters = inspect.signature(member).parameters.values()
    parameters = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]  # there to be refused
    assert ['**' if p.kind is p.VAR_KEYWORD else p.name for p in parameters] == wanted


CLIP = {'grad_clip_norm': None, 'grad_clip_value': None}

ARGUMENTS = {
    bo.OptaxOptimizer: {'tx': None, 'lr': 0.001, 'weight_decay': 0.0, **CLIP},
    bo.SGD: {'lr': 0.001, 'momentum': 0.0, 'weight_decay': 0.0, 'nesterov': False, **CLIP},
    bo.Momentum: {'lr': 0.001, 'momentum': 0.9, 'weight_decay': 0.0, **CLIP},
    bo.MomentumNesterov: {'lr': 0.001, 'momentum': 0.9, 'weight_decay': 0.0, **CLIP},
    bo.Adam: {
        **{'lr': 0.001, 'betas': (0.9, 0.999), 'beta1': None, 'beta2': None, 'eps': 1e-8},
        **{'weight_decay': 0.0, 'amsgrad': False, **CLIP},
    },
    bo.AdamW: {'lr': 0.001, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.01, **CLIP},
    bo.RMSprop: {
        **{'lr': 0.01, 'alpha': 0.99, 'eps': 1e-8, 'weight_decay': 0.0, 'momentum': 0.0},
        **{'centered': False, **CLIP},
    },
    bo.Adagrad: {
        **{'lr': 0.01, 'lr_decay': 0.0, 'weight_decay': 0.0, 'initial_accumulator_value': 0.0},
        **{'eps': 1e-10, **CLIP},
    },
    bo.Adadelta: {'lr': 1.0, 'rho': 0.9, 'eps': 1e-6, 'weight_decay': 0.0, **CLIP},
    bo.Adamax: {'lr': 0.002, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.0, **CLIP},
    bo.Nadam: {
        **{'lr': 0.002, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.0},
        **{'momentum_decay': 0.004, **CLIP},
    },
    bo.RAdam: {'lr': 0.001, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.0, **CLIP},
    bo.Rprop: {'lr': 0.01, 'etas': (0.5, 1.2), 'step_sizes': (1e-6, 50.0), **CLIP},
    bo.Lion: {'lr': 1e-4, 'betas': (0.9, 0.99), 'weight_decay': 0.0, **CLIP},
    bo.Lamb: {'lr': 0.001, 'betas': (0.9, 0.999), 'eps': 1e-6, 'weight_decay': 0.0, **CLIP},
    bo.Lars: {
        **{'lr': 1.0, 'momentum': 0.9, 'weight_decay': 0.0, 'trust_coefficient': 0.001},
        **{'eps': 1e-8, **CLIP},
    },
    bo.Novograd: {'lr': 0.001, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.0, **CLIP},
    bo.Fromage: {'lr': 1.0, 'momentum': 0.0, **CLIP},
    bo.AdaBelief: {'lr': 0.001, 'betas': (0.9, 0.999), 'eps': 1e-16, 'weight_decay': 0.0, **CLIP},
    bo.Yogi: {'lr': 0.001, 'betas': (0.9, 0.999), 'eps': 0.001, 'weight_decay': 0.0, **CLIP},
    bo.SM3: {'lr': 1.0, 'momentum': 0.9, 'eps': 1e-8, 'weight_decay': 0.0, **CLIP},
    bo.LBFGS: {
        **{'lr': 1.0, 'memory_size': 10, 'scale_init_precond': True, 'linesearch': None, **CLIP},
    },
    bo.LRScheduler: {'base_lr': 0.001, 'last_epoch': 0},
    bo.ConstantLR: {'base_lr': 0.001, 'factor': 1 / 3, 'total_iters': 5, 'last_epoch': 0},
    bo.UniqueStateManager: {'pytree': None},
}


@pytest.mark.parametrize('cls', ARGUMENTS)
def test_constructor_arguments_and_defaults(cls):
    parameters = inspect.signature(cls).parameters
    assert {n: parameters[n].default for n in ARGUMENTS[cls]} == ARGUMENTS[cls]
    given = {n: v for n, v in ARGUMENTS[cls].items() if n not in ('beta1', 'beta2')}
    cls(**given)


BY_POSITION = [bo.SGD, bo.Momentum, bo.MomentumNesterov, bo.AdamW, bo.RMSprop, bo.Adagrad]

BY_POSITION += [bo.Adadelta, bo.Adamax, bo.Nadam, bo.RAdam, bo.Rprop]

BY_POSITION += [bo.Lion, bo.Lamb, bo.Lars, bo.Novograd, bo.Fromage, bo.AdaBelief, bo.Yogi, bo.SM3]

BY_POSITION += [bo.LBFGS]


@pytest.mark.parametrize('cls', BY_POSITION)
def test_order_of_positional_arguments(cls):
    parameters = inspect.signature(cls).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert names == [n for n in ARGUMENTS[cls] if n not in CLIP]


def test_lookahead_as_braintools_has_it():
    names = ['base_optimizer', 'sync_period', 'alpha', 'lr', 'weight_decay', *CLIP]
    parameters = inspect.signature(bo.Lookahead).parameters
    assert [n for n in parameters if n in names] == names
    assert (parameters['sync_period'].default, parameters['alpha'].default) == (5, 0.5)
    w = ParamState(jnp.ones(2))
    base = optax.sgd(learning_rate=0.1)
    opt = bo.Lookahead(base_optimizer=base, sync_period=2, alpha=0.5)
    opt.register_trainable_weights({'w': w})
    for _ in range(2):
        opt.step({'w': jnp.ones(2)})
    np.testing.assert_allclose(w.value, 0.9, 1e-6)


def test_adafactor_takes_the_arguments_of_braintools():
    # Its defaults are torch's, and d, beta2_decay and a relative lr of 0.01 go by two names.
    theirs = {
        **{'lr': None, 'eps': (1e-30, 0.001), 'clip_threshold': 1.0, 'decay_rate': 0.8},
        **{'beta1': None, 'weight_decay': 0.0, 'factored': True, **CLIP},
    }
    opt = bo.Adafactor(**theirs)
    assert (opt.current_lr, opt.d, opt.beta2_decay, opt.beta1) == (0.01, 1.0, -0.8, 0.0)
    assert (opt.clip_threshold, opt.decay_rate, opt.eps) == (1.0, 0.8, (1e-30, 0.001))


def test_kinds():
    assert issubclass(bo.OptaxOptimizer, bo.Optimizer)
    assert issubclass(bo.Optimizer, brainstate.graph.Node)
    assert issubclass(bo.OptimState, brainstate.LongTermState)
    for cls in (bo.SGD, bo.Momentum, bo.MomentumNesterov, bo.Adam, bo.AdamW):
        assert issubclass(cls, bo.OptaxOptimizer)


def trained():
    opt = bo.Adam(0.1, weight_decay=0.01)
    weights = {'w': ParamState(jnp.ones(2))}
    assert opt.opt_state is None
    assert opt.register_trainable_weights(weights) is opt
    opt.add_param_group({'head': ParamState(jnp.ones(3))}, lr=0.01)
    opt.update({'w': jnp.ones(2), 'head': jnp.ones(3)})
    return opt


def test_attributes():
    opt = trained()
    assert isinstance(opt.param_states, bo.UniqueStateManager)
    assert isinstance(opt.opt_state, bo.OptimState) and isinstance(opt.step_count, bo.OptimState)
    assert int(opt.step_count.value) == 1
    assert any(x.shape == (2,) for x in jax.tree.leaves(opt.opt_state.value))
    (second,) = opt.param_groups_opt_states
    assert any(x.shape == (3,) for x in jax.tree.leaves(second.value))
    assert isinstance(opt.lr, bo.ConstantLR) and opt.lr is opt.lr_scheduler
    assert opt.lr.optimizer is opt and opt.schedulers == []
    assert isinstance(opt.lr.last_epoch, bo.OptimState) and opt.lr.last_epoch.value == 0
    assert opt.lr.base_lrs[0] == opt.base_lr == opt.current_lr == 0.1
    assert opt.lr.current_lrs.value == opt.get_last_lr() == [0.1, 0.01]
    assert (opt.weight_decay, opt.eps, opt.betas) == (0.01, 1e-8, (0.9, 0.999))
    assert opt.grad_clip_norm is None and opt.grad_clip_value is None
    assert isinstance(opt.tx, optax.GradientTransformation)
    assert isinstance(opt.default_tx(), optax.GradientTransformation)
    assert [g['lr'].value for g in opt.param_groups] == [0.1, 0.01]
    assert [list(g['params']) for g in opt.param_groups] == [['w'], ['head']]


def test_state_dict_has_the_known_keys():
    saved = trained().state_dict()
    assert {'step_count', 'lr', 'base_lr', 'param_groups', 'opt_state'} <= set(saved)
    assert (saved['step_count'], saved['lr'], saved['base_lr']) == (1, 0.1, 0.1)
    assert saved['param_groups']['0']['weight_decay'] == 0.01
    assert saved['param_groups']['1']['lr'] == 0.01


def test_the_scheduler_is_a_function():
    """Called without a count it is the learning rate, with one minus it, for optax."""
    opt = bo.SGD(0.25)
    assert opt.lr() == 0.25
    assert opt.lr(0) == opt.lr(7) == opt.lr_scheduler(jnp.array(3)) == -0.25
    opt.current_lr = 0.5
    assert (opt.lr(), opt.lr(0)) == (0.5, -0.5)
    opt.lr_apply(lambda lr: lr / 2)
    assert opt.get_last_lr() == [0.25] and opt.current_lr == 0.25


def test_scheduler_methods():
    scheduler = bo.ConstantLR(0.4, factor=0.5, total_iters=2)
    opt = bo.SGD(lr=scheduler).register_trainable_weights({'w': ParamState(jnp.ones(1))})
    opt.add_param_group({'v': ParamState(jnp.ones(1))}, lr=0.2)
    assert opt.lr is scheduler and opt.base_lr == 0.4
    rates = [opt.get_last_lr()]
    for _ in range(3):
        scheduler.step()
        rates.append(scheduler.get_last_lr())
    assert rates == [[0.2, 0.1], [0.2, 0.1], [0.4, 0.2], [0.4, 0.2]]
    scheduler.step(0)
    assert opt.current_lr == 0.2 and scheduler.last_epoch.value == 0
    scheduler.step_epoch()
    scheduler.apply(lambda lr: lr / 2)
    assert opt.get_last_lr() == [0.1, 0.05]
    saved = scheduler.state_dict()
    scheduler.step()
    assert opt.get_last_lr() == [0.2, 0.1]  # a change by hand is carried on
    scheduler.load_state_dict(saved)
    assert scheduler.last_epoch.value == 1


# ---- optimizers that users wrote ----------------------------------------------------------------


class OldRMS(bo.OptaxOptimizer):
    """As braintools documents it: attributes, then the base, and a chain in default_tx."""

    def __init__(
        self, lr=1e-3, decay=0.9, weight_decay=0.0, grad_clip_norm=None, grad_clip_value=None
    ):
        self.decay = decay
        super().__init__(
            tx=None,
            lr=lr,
            weight_decay=weight_decay,
            grad_clip_norm=grad_clip_norm,
            grad_clip_value=grad_clip_value,
        )

    def default_tx(self):
        transforms = []
        if self.grad_clip_norm is not None:
            transforms.append(optax.clip_by_global_norm(self.grad_clip_norm))
        if self.grad_clip_value is not None:
            transforms.append(optax.clip(self.grad_clip_value))
        if self.weight_decay > 0:
            transforms.append(optax.add_decayed_weights(self.weight_decay))
        transforms.append(optax.scale_by_rms(self.decay))
        transforms.append(optax.scale_by_schedule(self._lr_scheduler))
        return optax.chain(*transforms)


def rms_reference(lrs, start, decay, weight_decay=0.0):
    """Return where the chain of OldRMS goes with gradients of 0.5, at these learning rates."""
    p = np.full(2, start, np.float64)
    nu = np.zeros(2)
    for lr in lrs:
        g = 0.5 + weight_decay * p
        nu = decay * nu + (1 - decay) * g * g
        p = p - lr * g / np.sqrt(nu + 1e-8)
    return p


@pytest.mark.parametrize('jit', [False, True])
def test_subclass_that_overrides_default_tx(jit):
    w, v = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    opt = OldRMS(0.1, 0.8, weight_decay=0.1, grad_clip_norm=100.0, grad_clip_value=50.0)
    opt.register_trainable_weights({'w': w})
    opt.add_param_group({'v': v}, lr=0.01)
    grads = {'w': jnp.full(2, 0.5), 'v': jnp.full(2, 0.5)}
    traces = []

    def train():
        traces.append(None)
        opt.step(grads)

    step = brainstate.transform.jit(train) if jit else train
    rates = [0.1, 0.1, 0.3, 0.3, 0.05]
    for rate in rates:
        opt.current_lr = rate
        step()
    assert len(traces) == (1 if jit else len(rates))
    assert opt.decay == 0.8 and opt.lr(0) == -0.05
    np.testing.assert_allclose(w.value, rms_reference(rates, 1.0, 0.8, 0.1), 1e-5)
    np.testing.assert_allclose(v.value, rms_reference([0.01] * 5, 1.0, 0.8, 0.1), 1e-5)


def test_scheduler_of_a_subclass_that_overrides_default_tx():
    w, v = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    opt = OldRMS(bo.ConstantLR(0.1, factor=0.5, total_iters=1))
    opt.register_trainable_weights({'w': w})
    opt.add_param_group({'v': v}, lr=0.02)
    for _ in range(3):
        opt.step({'w': jnp.full(2, 0.5), 'v': jnp.full(2, 0.5)})
        opt.lr.step()
    np.testing.assert_allclose(w.value, rms_reference([0.05, 0.1, 0.1], 1.0, 0.9), 1e-5)
    np.testing.assert_allclose(v.value, rms_reference([0.01, 0.02, 0.02], 1.0, 0.9), 1e-5)


def test_given_chain_that_ends_in_the_scheduler():
    scheduler = bo.ConstantLR(0.5, factor=1.0, total_iters=0)
    tx = optax.chain(optax.trace(0.0), optax.scale_by_schedule(scheduler))
    w = ParamState(jnp.ones(2))
    opt = bo.OptaxOptimizer(tx=tx, lr=scheduler).register_trainable_weights({'w': w})
    opt.step({'w': jnp.ones(2)})
    opt.current_lr = 0.25
    opt.step({'w': jnp.ones(2)})
    np.testing.assert_allclose(w.value, 0.25, 1e-6)


def test_scheduler_that_a_user_wrote():
    class Halving(bo.LRScheduler):
        def get_lr(self):
            return [base * 0.5**self.last_epoch.value for base in self.base_lrs]

    opt = bo.SGD(lr=Halving(0.8))
    opt.register_trainable_weights({'w': ParamState(jnp.ones(1))})
    assert opt.current_lr == 0.8
    opt.lr.step()
    opt.lr.step()
    assert opt.current_lr == pytest.approx(0.2)


def test_optimizer_without_optax():
    class Plain(bo.Optimizer):
        def register_trainable_weights(self, param_states):
            self.weights = param_states
            return self

        def update(self, grads):
            for key, g in grads.items():
                self.weights[key].value -= g

    w = ParamState(jnp.ones(2))
    Plain().register_trainable_weights({'w': w}).update({'w': jnp.ones(2)})
    np.testing.assert_array_equal(w.value, np.zeros(2))
    assert isinstance(Plain(), bo.Optimizer)
