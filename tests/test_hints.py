"""What messages advise works, names of other libraries are known; and what is no mistake."""

from functools import partial, wraps
from typing import NamedTuple

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from mistaken import GRADS, MODEL, of_model, ready

import braintools_optim as bo


def test_what_is_no_mistake():
    """Attributes that somebody else's class has for itself, whatever their name."""

    class Mine(bo.SGD):
        pass

    class Own(bo.LRScheduler):
        def __init__(self, base_lr, peak):
            super().__init__(base_lr)
            self.peak = peak

        def affine(self, epoch, group):
            return 0.0, self.peak

    opt = Mine(lr=Own(0.1, peak=2.0)).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    opt.learning_rate = opt.rho = 0.5
    assert (opt.learning_rate, opt.rho, opt.current_lr) == (0.5, 0.5, 0.2)
    assert not hasattr(opt, 'nothing') and not hasattr(opt, '_nothing')
    opt = bo.Lookahead(bo.Adam(0.1))  # an optimizer is no model
    opt.note = 'anything'
    assert opt.note == 'anything'


def test_schedulers_whose_methods_would_not_be_called():
    class Bounded(bo.StepLR):
        def apply(self, apply_fn):
            super().apply(lambda lr: max(apply_fn(lr), 0.02))

    class Counting(bo.LRScheduler):
        def __call__(self, count):
            return -0.1 / (1 + count)

    for make, name in ((Bounded, 'apply'), (Counting, '__call__')):
        with pytest.raises(TypeError, match=f'{make.__name__} overrides {name},.*affine or get_lr'):
            make(0.1)


def test_get_lr_may_read_what_it_gave_last():
    class Halving(bo.LRScheduler):
        def get_lr(self):
            if self.last_epoch.value == 0:
                return list(self.current_lrs.value)
            return [lr * 0.5 for lr in self.get_last_lr()]

    alone, scheduler = Halving(0.1), Halving(0.1)
    opt = bo.SGD(scheduler).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    assert alone.get_last_lr() == scheduler.get_last_lr() == [0.1]
    for wanted in (0.05, 0.025):
        scheduler.step()
        assert opt.current_lr == pytest.approx(wanted)


def test_the_epoch_is_a_state():
    class Halving(bo.LRScheduler):
        def get_lr(self):
            return [base * 0.5**self.last_epoch for base in self.base_lrs]

    with pytest.raises(TypeError, match='OptimState') as caught:
        Halving(0.1).step()
    assert caught.value.__notes__ == [
        'last_epoch of Halving is a State; its number is last_epoch.value.'
    ]


def test_the_step_count_is_assigned_by_its_value():
    opt = ready()
    for count in (5, bo.OptimState(5)):
        with pytest.raises(AttributeError, match=r'assign step_count\.value = 5'):
            opt.step_count = count
    opt.step_count.value = 5
    opt.step({'w': jnp.ones((2, 3)), 'b': jnp.ones(3)})
    assert opt.step_count.value == 6


def test_a_scheduler_of_braintools_is_told_apart():
    theirs = type('StepLR', (), {'__module__': 'braintools.optim', '__call__': lambda self, n: n})
    with pytest.raises(TypeError, match=r'StepLR of braintools; take braintools_optim\.StepLR'):
        bo.Adam(theirs())


def test_groups_change_through_the_optimizer():
    opt = ready()
    for change in (
        lambda groups: groups.append({'params': []}),
        lambda groups: groups.clear(),
        lambda groups: groups.pop(),
        lambda groups: groups.__setitem__(0, {'lr': 0.1}),
        lambda groups: groups.__delitem__(0),
    ):
        with pytest.raises(TypeError, match='groups of Adam.*add_param_group'):
            change(opt.param_groups)
        assert len(opt.param_groups) == 1
    assert type(opt.param_groups + []) is list and opt.param_groups[:] == opt.param_groups
    assert [type(g) for g in jax.tree.leaves(opt.param_groups)] == [bo.ParamGroup]


@pytest.mark.parametrize(
    ('assign', 'says'),
    [
        (lambda opt: setattr(opt, 'curent_lr', 0.1), "'curent_lr' to assign.*'current_lr'"),
        (lambda opt: setattr(opt, 'wieght_decay', 0.1), "'wieght_decay' to assign.*'weight_decay'"),
        (lambda opt: setattr(opt, 'current_LR', 0.1), "'current_LR' to assign.*'current_lr'"),
        (lambda opt: setattr(opt, 'clip_grad_norm', 0.1), "to assign.*'grad_clip_norm'"),
        (lambda opt: setattr(opt, 'epsilon', 0.1), "'epsilon' to assign.*'eps'"),
        (lambda opt: setattr(opt, 'nesterov', True), "Adam has no 'nesterov' to assign"),
        (lambda opt: setattr(opt.param_groups[0], 'lr', 0.1), r"group\['lr'\] = 0.1"),
        (lambda opt: setattr(opt, 'step_count', 3), r'step_count of Adam is a State.*value = 3'),
        (lambda opt: setattr(opt.lr, 'base_lr', 0.1), 'base_lr of StepLR is fixed.*current_lr'),
        (lambda opt: setattr(opt.lr, 'last_epoch', 3), r'last_epoch of StepLR is.*step\(epoch=3\)'),
    ],
)
def test_assigning_what_is_not_there(assign, says):
    opt = ready(lr=bo.StepLR(0.1))
    before = opt.state_dict()
    with pytest.raises(AttributeError, match=says):
        assign(opt)
    with pytest.raises(TypeError, match='item assignment'):
        opt.param_groups[0].flags['maximize'] = True
    assert repr(opt.state_dict()) == repr(before)
    opt.note, opt.name = 'my own', 'first'
    opt.mask, opt.k = 'my own', 3  # arguments of others, whose names may mean anything


class ByAffine(bo.LRScheduler):
    def __init__(self, base_lr=0.1, function=None):
        super().__init__(base_lr)
        self.function = function

    def affine(self, epoch, group):
        return 0.0, self.function(epoch)


class ByRates(ByAffine):
    def get_lr(self):
        return [self.function(self.last_epoch.value)]


@pytest.mark.parametrize(
    ('name', 'make'),
    [
        ('LambdaLR', lambda opt, f: bo.LambdaLR(opt, f)),
        ('MultiplicativeLR', lambda opt, f: bo.MultiplicativeLR(opt, f)),
        ('ParamScheduler', lambda opt, f: bo.ParamScheduler(opt, 'eps', f)),
        ('ByAffine', lambda opt, f: ByAffine(opt, f)),
        ('ByRates', lambda opt, f: ByRates(opt, f)),
    ],
)
def test_a_condition_on_the_epoch_in_a_compiled_program(name, make):
    opt = ready()
    scheduler = make(opt, lambda epoch: 0.5 if epoch < 3 else 0.1)
    before = opt.state_dict()
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        brainstate.transform.for_loop(lambda _: scheduler.step(), jnp.arange(3))
    note = '\n'.join(caught.value.__notes__)
    assert note.count(f'the function of {name}') == 1 and 'jnp.where(epoch < 3, 1.0, 0.1)' in note
    assert repr(opt.state_dict()) == repr(before)
    scheduler.step()
    assert scheduler.last_epoch.value == 1


@pytest.mark.parametrize(
    ('owner', 'step'),
    [
        ('loss_fn', lambda w, f: bo.train_step([w], of_one(bo.SGD, w), f)()),
        ('loss_fn', lambda w, f: bo.train_step([w], of_one(bo.LBFGS, w), f)()),
        ('the closure given to LBFGS.step', lambda w, f: of_one(bo.LBFGS, w).step(f)),
    ],
)
def test_a_loss_as_a_number(owner, step):
    w = ParamState(jnp.ones(2))
    for loss in (lambda: float(jnp.sum(w.value**2)), lambda: jnp.sum(w.value**2).item()):
        with pytest.raises(jax.errors.ConcretizationTypeError) as caught:
            step(w, loss)
        note, *others = (x for x in caught.value.__notes__ if not x.startswith('---'))
        assert note.startswith(f'{owner} is compiled') and 'as an array' in note and not others


def of_one(cls, w):
    return cls(0.1).register_trainable_weights({'w': w})


def test_a_number_that_a_chain_reads_and_its_optimizer_lacks():
    class Own(bo.OptaxOptimizer):
        def transform(self, h):
            return optax.sgd(h.lr * h.rho)

    with pytest.raises(
        AttributeError, match=r"no hyper-parameter 'rho'; it has lr, maximize, weight_decay\. "
    ):
        ready(Own)


def test_two_gradients_are_not_taken_for_a_pair_with_a_loss():
    with pytest.raises(KeyError, match='gradients under 0, 1 match no parameter') as caught:
        ready().step((jnp.ones(2), jnp.ones(2)))
    assert 'loss' not in str(caught.value)


@pytest.mark.parametrize('array', [np.asarray, jnp.asarray])
def test_betas_as_an_array(array):
    opt = ready(betas=array([0.5, 0.25]))
    assert opt.betas == (0.5, 0.25)
    opt.betas = array([0.75, 0.5])
    assert opt.betas == (0.75, 0.5)
    for wrong in (array([0.5]), array([[0.5, 0.5]]), array(0.5)):
        with pytest.raises(TypeError, match='Adam needs 2 numbers for betas'):
            opt.betas = wrong


@pytest.mark.parametrize(
    ('method', 'given', 'got'),
    [
        ('transform', None, 'None'),
        ('transform', optax.MultiSteps(optax.sgd(0.1), 2), 'MultiSteps'),
        ('default_tx', None, 'None'),
    ],
)
def test_a_chain_that_is_not_returned(method, given, got):
    cls = type('MyOpt', (bo.OptaxOptimizer,), {method: lambda self, *h: given})
    with pytest.raises(TypeError, match=f'MyOpt.{method} must return an optax.Grad.*, got {got}.'):
        ready(cls)


def test_a_loop_over_a_live_number():
    class Own(bo.OptaxOptimizer):
        def __init__(self, lr=1e-3, steps=2):
            super().__init__(lr=lr, steps=steps)

        def transform(self, h):
            return optax.chain(*(optax.scale(0.5) for _ in range(h.steps)), optax.sgd(h.lr))

    with pytest.raises(TypeError, match='as an integer') as caught:
        ready(Own)
    assert 'Own.transform' in caught.value.__notes__[0] and 'in static' in caught.value.__notes__[0]
    Fixed = type('Fixed', (Own,), {'static': ('steps',)})  # noqa: N806
    ready(Fixed).step(GRADS)
    wrong = type('Wrong', (Own,), {'transform': lambda self, h: optax.chain(None)})
    with pytest.raises(Exception, match='NoneType') as caught:
        ready(wrong)
    assert not hasattr(caught.value, '__notes__')


def test_a_field_that_is_named_as_what_it_is_not():
    class State(NamedTuple):
        leaf_scale: jax.Array

    class Own(bo.OptaxOptimizer):
        def transform(self, h):
            return optax.GradientTransformation(
                lambda params: State(jnp.ones(3)),
                lambda updates, state, params=None: (updates, state),
            )

    with pytest.raises(TypeError, match=r"Own keeps 'leaf_scale', float32\[3\].*2 here"):
        ready(Own)
    opt = Own(lr=0.1).register_trainable_weights({k: ParamState(jnp.ones(2)) for k in 'abc'})
    assert opt.state_dict()['opt_state']['0']['leaf_scale'] == {'a': 1.0, 'b': 1.0, 'c': 1.0}


def test_a_hint_names_nothing_private():
    opt = ready()
    assert '_leaves' in dir(opt)
    with pytest.raises(AttributeError, match="no attribute 'leaves'") as caught:
        getattr(opt, 'leaves')  # noqa: B009  (a bare attribute would be a useless expression)
    assert '_leaves' not in str(caught.value)


@pytest.mark.parametrize(
    ('owner', 'name', 'hint'),
    [
        (bo.Adam, 'b1', "Did you mean 'betas'?"),
        (bo.Lion, 'b2', "Did you mean 'betas'?"),
        (bo.SGD, 'b1', ''),
        (bo.AdamW, 'wd', "Did you mean 'weight_decay'?"),
        (bo.AdamW, 'max_norm', "Did you mean 'grad_clip_norm'?"),
        (bo.AdamW, 'use_ema', 'Averages of parameters are AveragedModel(model, decay=0.999).'),
        (bo.Adam, 'eps_root', 'Chains of optax have it: OptaxOptimizer(tx=optax.adam(lr, eps_root'),
        (bo.Lamb, 'gradient_accumulation_steps', "Did you mean 'accumulate_steps'?"),
        (bo.LBFGS, 'gradient_accumulation_steps', ''),
        (bo.Quad, 'mask', "Did you mean 'weight_decay_mask'?"),
        (bo.AdEMAMix, 'weight_decay_mask', "Did you mean 'mask'?"),
        (bo.AdamW, 'weight_decay_mask', "Did you mean 'decay_mask'?"),
        (bo.LBFGS, 'mask', ''),
        (bo.Mars, 'mars_type', "Did you mean 'variant'?"),
        (bo.AdEMAMix, 'beta3_warmup', "Did you mean 'T_b3'?"),
        (bo.Adafactor, 'relative_step', ''),
        (bo.Adam, 'ema_decay', ''),
        (bo.StepLR, 'verbose', 'Leave it out, and print opt.current_lr where you want to see it.'),
        (bo.StepLR, 'lr', "Did you mean 'base_lr'?"),
        (bo.StepLR, 'learning_rate', "Did you mean 'base_lr'?"),
        (bo.CosineAnnealingLR, 'init_value', "Did you mean 'base_lr'?"),
        (bo.CosineAnnealingLR, 'decay_steps', "Did you mean 'T_max'?"),
        (bo.WarmupCosineSchedule, 'init_value', "Did you mean 'warmup_start_lr'?"),
        (bo.WarmupCosineSchedule, 'peak_value', "Did you mean 'base_lr'?"),
        (bo.WarmupCosineSchedule, 'decay_steps', "Did you mean 'total_steps'?"),
        (bo.WarmupCosineSchedule, 'end_value', "Did you mean 'eta_min'?"),
        (bo.OneCycleLR, 'peak_value', "Did you mean 'max_lr'?"),
        (bo.PolynomialLR, 'decay_steps', "Did you mean 'total_iters'?"),
        (bo.ExponentialDecayLR, 'transition_steps', "Did you mean 'decay_steps'?"),
    ],
)
def test_an_argument_of_another_library(owner, name, hint):
    with pytest.raises(TypeError, match=f'{owner.__name__} has no argument {name!r}') as caught:
        owner(**{name: 1})
    assert hint in str(caught.value) and (hint or 'Did you mean' not in str(caught.value))


@pytest.mark.parametrize(
    ('owner', 'name', 'hint'),
    [
        (lambda: bo, 'EarlyStopping', 'recipe for stopping early'),
        (lambda: bo, 'GradScaler', 'recipe for loss scaling'),
        (lambda: bo, 'LRFinder', 'Assign current_lr between steps'),
        (lambda: bo, 'schedule_free', 'OptaxOptimizer(tx=...)'),
        (ready, 'iterations', 'The number of steps is step_count.'),
        (ready, 'set_lr', 'Assign current_lr.'),
        (ready, 'register', 'Call register_trainable_weights(params).'),
        (lambda: ready().param_groups[0], 'lr', "group['lr']"),
    ],
)
def test_a_name_of_another_library(owner, name, hint):
    with pytest.raises(AttributeError, match=f'no attribute {name!r}') as caught:
        getattr(owner(), name)
    assert hint in str(caught.value) and 'Did you mean' not in str(caught.value)


def test_an_optax_schedule_is_followed_as_the_message_says():
    schedule = optax.cosine_decay_schedule(1e-3, 10)
    opt = ready(lr=bo.LambdaLR(1.0, schedule))
    for step in range(12):
        assert opt.current_lr == float(schedule(step))
        opt.lr.step()


def test_a_tree_of_arrays_is_wrapped_as_the_message_says():
    w = ParamState({'w': jnp.ones(2), 'b': jnp.ones(())})
    bo.SGD(0.5).register_trainable_weights(w).step({'w': jnp.ones(2), 'b': jnp.ones(())})
    assert w.value['b'] == 0.5


@pytest.mark.parametrize('cls', [bo.Adam, bo.LBFGS, bo.Mars])
@pytest.mark.parametrize('habit', ['optax', 'nnx'])
def test_update_of_another_library(cls, habit):
    opt = ready(cls)
    given = (GRADS, opt.opt_state.value, GRADS) if habit == 'optax' else (MODEL, GRADS)
    with pytest.raises(TypeError) as caught:
        opt.update(*given)
    gradients = habit == 'nnx' and cls is bo.Mars  # which takes two trees of gradients
    says = 'step needs gradients, a pytree' if gradients else f'{cls.__name__}.update takes grad'
    assert says in str(caught.value) and opt.step_count.value == 0


@pytest.mark.parametrize(
    'load',
    [
        lambda path, opt: bo.restore(path, opt),
        lambda path, opt: bo.restore(path, opt, strict=False),
        lambda path, opt: opt.load_state_dict(bo.load(path)),
        lambda path, opt: bo.Adam(0.1).load_state_dict(bo.load(path)),
    ],
)
def test_what_opt_save_wrote_is_loaded_by_opt_load(load, tmp_path):
    opt, path = ready(), tmp_path / 'opt.ckpt'
    opt.save(path, params=True)
    with pytest.raises(
        bo.IncompatibleCheckpoint, match=r'as opt.save writes it: use opt\.load'
    ) as e:
        load(path, opt)
    assert len(e.value.differences) == 1
    opt.load_state_dict(bo.load(path)['opt'])


def test_what_torch_saved_is_told_from_damage():
    opt = ready(lr=bo.StepLR(0.1, step_size=2))
    group = {'lr': 0.1, 'initial_lr': 0.1, 'betas': (0.9, 0.999), 'params': [0]}
    with pytest.raises(bo.IncompatibleCheckpoint, match='it comes from torch.optim') as caught:
        opt.load_state_dict({'state': {}, 'param_groups': [group]}, strict=False)
    assert len(caught.value.differences) == 1
    with pytest.raises(bo.IncompatibleCheckpoint, match='it comes from torch: step') as caught:
        opt.lr.load_state_dict({'step_size': 2, 'gamma': 0.1, 'last_epoch': 3, '_step_count': 4})
    assert len(caught.value.differences) == 1
    opt.lr.step(3)
    assert opt.current_lr == pytest.approx(0.01)
    with pytest.raises(KeyError, match="'initial_lr'.*are opt.lr.base_lrs, one for each group"):
        opt.param_groups[0]['initial_lr']
    assert opt.lr.base_lrs == [0.1]


def test_a_scan_asks_a_loss_for_its_own_arguments():
    """And not for those of a function that it wraps."""

    @wraps(lambda x, y: 0.0)
    def loss(x):
        return jnp.mean(MODEL(x) ** 2)

    xs = jnp.ones((2, 4, 3))
    for function in (loss, jax.jit(loss), partial(loss), lambda *xs: loss(xs[0])):
        assert bo.train_step(MODEL, of_model(), function).scan(xs).shape == (2,)


def test_a_tensor_is_told_how_to_become_an_array():
    class Tensor:
        def numpy(self):
            return jnp.ones(2)

        def detach(self):
            return self

    w = ParamState(jnp.ones(2))
    opt = bo.SGD(0.1).register_trainable_weights({'w': w})
    step = bo.train_step(w, opt, lambda x: jnp.sum(w.value * x))
    with pytest.raises(TypeError, match=r'got a torch.Tensor for argument \[0\]; give tensor'):
        step(Tensor())


@pytest.mark.parametrize('way', ['differentiate', 'register'])
def test_parts_of_a_model_are_trained_as_the_message_says(way):
    """In torch a group is made of ``model.a.parameters()``; here those have the part's keys."""

    class Model(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = brainstate.nn.Linear(3, 2), brainstate.nn.Linear(2, 1)

        def loss(self):
            return (self.b(self.a(jnp.ones(3))) ** 2).sum()

    def grouped(a, b):
        opt = bo.SGD(0.1).register_trainable_weights(a)
        opt.add_param_group(b, lr=0.2)
        return opt

    model = Model()
    whole = model.states(brainstate.ParamState)
    opt = grouped(model.a.states(brainstate.ParamState), model.b.states(brainstate.ParamState))
    with pytest.raises(KeyError, match='only parts were registered.*to_pytree.*whole model'):
        opt.step(grads := brainstate.transform.grad(model.loss, whole)())
    with pytest.raises(KeyError) as other_mistake:
        opt.step((grads, None))
    assert 'only parts' not in str(other_mistake.value)
    if way == 'register':
        opt = grouped(*({k: whole[k] for k in whole if k[0] == part} for part in 'ab'))
    else:
        whole = opt.param_states.to_pytree()
    before = [jnp.copy(model.a.weight.value['weight']), jnp.copy(model.b.weight.value['weight'])]
    opt.step(brainstate.transform.grad(model.loss, whole)())
    after = [model.a.weight.value['weight'], model.b.weight.value['weight']]
    assert all((x != y).any() for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize(
    'form',
    [
        *(tuple, set, list, iter, lambda states: filter(None, states)),
        *(lambda states: (s for s in states), lambda states: states[0], lambda _: jnp.ones(3)),
    ],
)
def test_parameters_before_the_learning_rate(form):
    """As torch takes them: a filter of those that are not frozen, a chain of two models."""
    with pytest.raises(TypeError, match=r'parameters after.*lr=.*register_trainable_weights'):
        bo.Adam(form([ParamState(jnp.ones(2))]), lr=0.1)


@pytest.mark.parametrize('form', [dict.values, lambda d: iter(d.values()), lambda d: {*d.values()}])
def test_states_that_came_without_keys(form):
    states = {'w': ParamState(jnp.ones(2))}
    with pytest.raises(TypeError, match=r'State, got .* give them as a dict, or as list\(...\)'):
        bo.Adam(0.1).register_trainable_weights(form(states))
