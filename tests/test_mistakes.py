"""Thirty mistakes of newcomers: the message names the culprit, and says what to do."""

import copy
import pickle
from functools import partial, wraps
from typing import NamedTuple

import brainstate
import jax
import jax.numpy as jnp
import optax
import pytest
from brainstate import ParamState

import braintools_optim as bo

MODEL = brainstate.nn.Linear(3, 2)
OTHER = brainstate.nn.Sequential(brainstate.nn.Linear(4, 4), brainstate.nn.Linear(4, 1))
W = ParamState(jnp.ones(2))
GRADS = {'w': jnp.ones((2, 3)), 'b': jnp.ones(3)}


class Foreign:
    """A model of another library, which can be called."""

    def __call__(self, x):
        return x


def ready(cls=bo.Adam, lr=0.1, **options):
    """Return an optimizer that is ready to step."""
    params = {'w': ParamState(jnp.ones((2, 3))), 'b': ParamState(jnp.ones(3))}
    return cls(lr=lr, **options).register_trainable_weights(params)


def of_model():
    return bo.Adam(0.1).register_trainable_weights(MODEL.states(ParamState))


def of_two():
    return bo.train_step(MODEL, of_model(), lambda x, y: jnp.mean((MODEL(x) - y) ** 2))


def parameters_of(model):
    """As torch has it: a generator."""
    yield from model.states(ParamState).values()


def step_on_gradients_of_another_model():
    opt = bo.Adam(0.1).register_trainable_weights(MODEL.states(ParamState))
    opt.step({path: state.value for path, state in OTHER.states(ParamState).items()})


def two_optimizers_with_one_scheduler():
    scheduler = bo.StepLR(0.1, step_size=30)
    return bo.Adam(lr=scheduler), bo.SGD(lr=scheduler)


def one_parameter_in_two_groups():
    w = ParamState(jnp.ones(2))
    bo.Adam(0.1).register_trainable_weights({'w': w}).add_param_group({'again': w})


def assign(name, value, cls=bo.Adam):
    return lambda: setattr(ready(cls), name, value)


# What is done, the error, the culprit as it must appear, the remedy as it must appear.
MISTAKES = {
    # construction
    'torch: parameters first': (
        *(lambda: bo.Adam(parameters_of(MODEL), 0.1), TypeError),
        *('generator', 'Adam(lr=...).register_trainable_weights(params)'),
    ),
    'the model first': (
        *(lambda: bo.AdamW(MODEL, 0.1), TypeError),
        *('Linear', 'register_trainable_weights(model.states(brainstate.ParamState))'),
    ),
    'learning_rate=': (
        *(lambda: bo.Adam(learning_rate=0.1), TypeError),
        *("'learning_rate'", "Did you mean 'lr'?"),
    ),
    'params=': (
        *(lambda: bo.AdamW(params=MODEL.states(ParamState), lr=0.1), TypeError),
        *("'params'", 'AdamW(lr=...).register_trainable_weights(params)'),
    ),
    'fused=': (
        *(lambda: bo.AdamW(lr=0.1, fused=True), TypeError, "'fused'", 'Leave it out: it chooses'),
    ),
    "Keras' clipnorm=": (
        *(lambda: bo.SGD(lr=0.1, clipnorm=1.0), TypeError),
        *("'clipnorm'", 'It is grad_clip_norm here.'),
    ),
    'misspelt': (
        *(lambda: bo.AdamW(weight_decy=0.1), TypeError),
        *("'weight_decy'", "Did you mean 'weight_decay'?"),
    ),
    'lr as text': (lambda: bo.Adam(lr='1e-3'), TypeError, "'1e-3'", 'a number in [0, inf) for lr'),
    'lr below zero': (lambda: bo.SGD(lr=-0.1), ValueError, 'lr=-0.1', 'lr in [0, inf)'),
    'lr is an optax schedule': (
        *(lambda: bo.Adam(lr=optax.cosine_decay_schedule(0.1, 90)), TypeError),
        *('function schedule', 'lr=LambdaLR(1.0, schedule), which multiplies 1.0 by it'),
    ),
    "lr is another library's model": (
        *(lambda: bo.Adam(Foreign(), 1e-3), TypeError),
        *('got a Foreign', 'the States of a model are given to register_trainable_weights'),
    ),
    'lr is a function of one more argument': (
        *(lambda: bo.Adam(partial(pow, 0.9)), TypeError, 'got a partial;', 'lr=LambdaLR(1.0'),
    ),
    'lr is a class': (
        *(lambda: bo.Adam(lr=bo.StepLR), TypeError, 'class StepLR', 'call it, StepLR(...)'),
    ),
    'beta of one': (lambda: bo.Adam(betas=(0.9, 1.0)), ValueError, 'betas[1]=1.0', '[0, 1)'),
    'nesterov alone': (
        *(lambda: bo.SGD(0.1, nesterov=True), ValueError, 'nesterov=True', 'momentum > 0'),
    ),
    'optax chain not called': (
        *(lambda: bo.OptaxOptimizer(tx=optax.adam), TypeError),
        *('got function', 'an optax.GradientTransformation for tx'),
    ),
    'optax.MultiSteps itself': (
        *(lambda: bo.OptaxOptimizer(tx=optax.MultiSteps(optax.sgd(0.1), 2)), TypeError),
        *('got MultiSteps', 'give tx.gradient_transformation()'),
    ),
    'Lookahead of MultiSteps': (
        *(lambda: bo.Lookahead(optax.MultiSteps(optax.sgd(0.1), 2)), TypeError),
        *('MultiSteps', 'give base_optimizer.gradient_transformation()'),
    ),
    "braintools' order of Adafactor": (
        *(lambda: bo.Adafactor(1e-3, (1e-30, 1e-3), 1.0, 0.8), TypeError),
        *('got (1e-30, 0.001)', "give braintools' by name, eps=..., clip_threshold=..., decay_r"),
    ),
    'one schedule for each group of what is one for all': (
        lambda: bo.ParamScheduler(ready(grad_clip_norm=1.0), 'grad_clip_norm', [lambda t: 1.0]),
        *(ValueError, 'grad_clip_norm of Adam is one number for all groups', 'one schedule'),
    ),
    'a state of another structure': (
        *(lambda: setattr(ready().opt_state, 'value', {'mu': jnp.zeros(3)}), TypeError),
        *('the state of group 0 is the tree', "cannot become PyTreeDef({'mu': *})"),
    ),
    'copying a training step': (
        *(lambda: copy.deepcopy(bo.train_step(MODEL, of_model(), lambda: 0.0)), TypeError),
        *('cannot be copied or pickled', 'train_step on the copies'),
    ),
    'keys of two types': (
        *(lambda: bo.Adam(0.1).register_trainable_weights({1: W, 'b': W}), TypeError),
        *('cannot be sorted', 'use keys of one type at each level'),
    ),
    "torch's multi_avg_fn=": (
        *(lambda: bo.AveragedModel(MODEL, multi_avg_fn=print), TypeError),
        *("no argument 'multi_avg_fn'", 'Give decay=0.999'),
    ),
    "torch's swa_utils": (
        *(lambda: bo.swa_utils, AttributeError),
        *("no attribute 'swa_utils'", 'AveragedModel(model)'),
    ),
    "torch's clip_grad_norm_": (
        *(lambda: bo.clip_grad_norm_, AttributeError),
        *("no attribute 'clip_grad_norm_'", 'with grad_clip_norm=1.0'),
    ),
    "optax's MultiSteps": (
        *(lambda: bo.MultiSteps, AttributeError),
        *("no attribute 'MultiSteps'", 'with accumulate_steps=4'),
    ),
    'parameters are assigned': (
        *(lambda: setattr(ready(), 'param_states', MODEL.states(ParamState)), AttributeError),
        *('param_states of Adam is what was registered', 'call register_trainable_weights'),
    ),
    'a scheduler is assigned': (
        *(lambda: setattr(ready(), 'lr', bo.StepLR(0.1)), AttributeError),
        *('opt.lr is fixed at construction', 'opt.add_scheduler(...) adds this StepLR'),
    ),
    'another scheduler is assigned': (
        *(assign('lr_scheduler', None), AttributeError),
        *('lr_scheduler of Adam cannot be assigned', 'add_scheduler adds one'),
    ),
    'a base is assigned': (
        *(assign('base_lr', 0.1), AttributeError),
        *('base_lr of Adam cannot be assigned', 'assign current_lr'),
    ),
    'lr_apply of a number': (
        *(lambda: ready().lr_apply(0.5), TypeError, 'got 0.5', 'assign current_lr'),
    ),
    'LambdaLR of a function alone': (
        *(lambda: bo.LambdaLR(lambda t: 0.5), TypeError),
        *('lr_lambda', 'it comes after the learning rate or the optimizer'),
    ),
    'a decay without its name': (
        *(lambda: bo.AveragedModel(MODEL, 0.9), TypeError),
        *('got float besides', 'AveragedModel(model, decay=0.999)'),
    ),
    'the average is updated as an EMA': (
        *(lambda: bo.AveragedModel(MODEL).update(MODEL), TypeError),
        *('got Linear', 'call update_parameters(model)'),
    ),
    'the average is stepped': (
        *(lambda: bo.AveragedModel(MODEL).step(), AttributeError),
        *("no attribute 'step'", 'Call update_parameters(model)'),
    ),
    'a list of batches': (
        *(lambda: of_two().scan([(jnp.ones((1, 3)), jnp.ones((1, 2)))] * 2), TypeError),
        *("missing a required argument: 'y'", 'scan((xs, ys))'),
    ),
    'a batch more than arguments': (
        *(lambda: of_two().scan((jnp.ones((4, 1, 3)),) * 3), TypeError),
        *('too many positional arguments', 'scan((xs, ys))'),
    ),
    'the average of an optimizer': (
        *(lambda: bo.AveragedModel(ready()), TypeError),
        *('got Adam', 'a brainstate Module'),
    ),
    'a chain with a plateau without a metric': (
        *(lambda: bo.ChainedScheduler([bo.StepLR(0.1), bo.ReduceLROnPlateau()]).step(), TypeError),
        *('ChainedScheduler.step needs the metric', 'call step(loss)'),
    ),
    'OneCycleLR by text': (
        *(lambda: bo.OneCycleLR(0.1, epochs='3', steps_per_epoch=4), TypeError),
        *("got '3'", 'an integer >= 1 for epochs'),
    ),
    'OneCycleLR divided by nothing': (
        *(lambda: bo.OneCycleLR(0.1, 5, div_factor=0), ValueError),
        *('div_factor=0.0', 'div_factor in (0, inf)'),
    ),
    'scheduler=': (
        *(lambda: bo.Adam(scheduler=bo.StepLR(0.1)), TypeError),
        *("'scheduler'", 'A scheduler is given as lr: write Adam(lr=StepLR('),
    ),
    "optax's decay=": (
        *(lambda: bo.RMSprop(decay=0.9), TypeError),
        *("'decay'", 'Decays of averages are alpha, rho or betas here'),
    ),
    'what stays in braintools': (
        *(lambda: bo.ScipyOptimizer, AttributeError),
        *("'ScipyOptimizer'", 'from braintools.optim import ScipyOptimizer'),
    ),
    'Lookahead of a class': (
        *(lambda: bo.Lookahead(bo.Adam), TypeError, 'Adam', 'needs an optimizer'),
    ),
    # parameters and groups
    'no parameters': (
        *(lambda: bo.Adam(0.1).register_trainable_weights({}), ValueError),
        *('was given no parameters', 'has the model any ParamState?'),
    ),
    'register a model': (
        *(lambda: bo.Adam(0.1).register_trainable_weights(MODEL), TypeError),
        *('got Linear', 'model.states(brainstate.ParamState)'),
    ),
    'register values': (
        *(lambda: bo.Adam(0.1).register_trainable_weights({'w': jnp.ones(2)}), TypeError),
        *('at w', 'pass the States (for example model.states(brainstate.ParamState)), not their'),
    ),
    "register another library's model": (
        *(lambda: bo.Adam(0.1).register_trainable_weights(Foreign()), TypeError),
        *('got Foreign at its root', 'wrap arrays that have none: ParamState(arrays)'),
    ),
    'register integers': (
        lambda: bo.Adam(0.1).register_trainable_weights({'ids': ParamState(jnp.arange(3))}),
        *(TypeError, "'ids' has dtype int32", 'leave it out'),
    ),
    'torch: group as a dict': (
        lambda: ready().add_param_group({'params': [ParamState(jnp.ones(2))], 'lr': 0.1}),
        *(TypeError, "a dict with 'lr'", 'write add_param_group(params, lr=...)'),
    ),
    'group before parameters': (
        *(lambda: bo.Adam(0.1).add_param_group(MODEL.states(ParamState)), ValueError),
        *('Adam has no parameters yet', 'call register_trainable_weights first'),
    ),
    'a group before parameters': (
        *(lambda: bo.Adam(0.1).param_groups[0], IndexError),
        *('Adam has no parameter groups yet', 'call register_trainable_weights first'),
    ),
    'two groups': (
        *(one_parameter_in_two_groups, ValueError),
        *("'again' is already in group 0 as 'w'", 'a parameter is in one group'),
    ),
    'group option': (
        *(lambda: ready().param_groups[0].update(learning_rate=0.1), KeyError),
        *("'learning_rate'", "Did you mean 'lr'?"),
    ),
    'a scheduler for one group': (
        lambda: ready().add_param_group({'z': ParamState(jnp.ones(2))}, lr=bo.StepLR(0.1)),
        *(TypeError, 'got StepLR(', 'a scheduler drives all groups'),
    ),
    'an option of all groups for one': (
        lambda: ready().add_param_group({'z': ParamState(jnp.ones(2))}, grad_clip_norm=1.0),
        *(TypeError, "'grad_clip_norm'", 'give it at construction'),
    ),
    'a group that is not there': (
        *(lambda: ready().param_groups[1], IndexError),
        *('group 0 alone, got 1', 'add_param_group adds one'),
    ),
    # stepping
    'step before register': (
        *(lambda: bo.Adam(0.1).step(GRADS), ValueError),
        *('Adam has no parameters yet', 'call register_trainable_weights before step'),
    ),
    'torch: step()': (
        *(lambda: ready().step(), TypeError),
        *('got None', 'grads = brainstate.transform.grad(loss, params)()'),
    ),
    'torch: zero_grad()': (
        *(lambda: ready().zero_grad(), AttributeError, "'zero_grad'", 'call step(grads)'),
    ),
    'torch: step(closure)': (
        *(lambda: ready().step(lambda: 1.0), TypeError),
        *('got function', 'only LBFGS takes a closure'),
    ),
    'the loss': (
        *(lambda: ready().step(jnp.float32(0.3)), KeyError, 'a bare array', 'takes its gradients'),
    ),
    'gradients and loss': (
        *(lambda: ready().step((GRADS, jnp.float32(0.3))), KeyError),
        *("(0, 'b'), (0, 'w'), 1", 'give step the first'),
    ),
    'gradients and nothing': (
        *(lambda: ready().step((GRADS, None)), KeyError, "(0, 'b'), (0, 'w')", 'Expected the keys'),
    ),
    'gradients of another model': (
        *(step_on_gradients_of_another_model, KeyError),
        *("('layers', 0, 'weight')", 'Expected the keys of the registered parameters: weight'),
    ),
    'a list of gradients': (
        *(lambda: ready().step(list(GRADS.values())), KeyError, '0, 1', 'Expected the keys'),
    ),
    'names of leaves': (
        *(lambda: of_model().step({'weight.bias': jnp.ones(2)}), KeyError),
        *("'weight.bias'", "The gradient of 'weight' is a tree as its value is, with bias, weight"),
    ),
    'a transposed gradient': (
        *(lambda: ready().step({**GRADS, 'w': jnp.ones((3, 2))}), ValueError),
        *("'w'", 'must have the shape of the parameter, (2, 3), got (3, 2)'),
    ),
    'optax: init': (
        *(lambda: ready().init(GRADS), AttributeError),
        *("'init'", 'Call register_trainable_weights(params)'),
    ),
    'LBFGS without anything': (
        *(lambda: ready(bo.LBFGS).step(), TypeError, 'got neither', 'gradients or a closure'),
    ),
    'closure without a loss': (
        *(lambda: ready(bo.LBFGS).step(lambda: None), TypeError),
        *('got NoneType', 'must return the loss'),
    ),
    # changing numbers
    'opt.lr = 0.1': (
        *(assign('lr', 0.1), AttributeError, 'opt.lr is the scheduler', 'opt.current_lr = 0.1'),
    ),
    'opt.learning_rate = 0.1': (
        *(assign('learning_rate', 0.1), AttributeError, "'learning_rate'", 'it has current_lr'),
    ),
    'reading opt.learning_rate': (
        *(lambda: ready().learning_rate, AttributeError),
        *("'learning_rate'", 'The number is current_lr'),
    ),
    'a number of another algorithm': (
        *(assign('momentum', 0.9), AttributeError, "'momentum'", 'it has current_lr, betas, eps'),
    ),
    'momentum of none': (
        *(assign('momentum', 0.9, bo.SGD), ValueError),
        *('built with momentum=0', 'construct it with momentum > 0'),
    ),
    'a flag': (assign('amsgrad', True), AttributeError, 'amsgrad', 'build a new optimizer'),
    'clipping later': (
        *(assign('grad_clip_norm', 1.0), AttributeError),
        *('without grad_clip_norm', 'construct it with a value'),
    ),
    # schedulers
    'one scheduler, two optimizers': (
        *(two_optimizers_with_one_scheduler, ValueError),
        *('this StepLR already drives an optimizer', 'a scheduler of its own'),
    ),
    'a warm-up that is longer than the training': (
        *(lambda: bo.WarmupCosineSchedule(1e-3, total_steps=100), ValueError),
        *('warmup_steps=1000 and total_steps=100', 'must be at most total_steps'),
    ),
    'a schedule that warms up for longer than it lasts': (
        *(lambda: bo.schedules.warmup_cosine(1e-3, 200, 100), ValueError),
        *('warmup_steps=200 and total_steps=100', 'must be at most total_steps'),
    ),
    'scheduler argument': (
        *(lambda: bo.StepLR(0.1, stepsize=30), TypeError),
        *("'stepsize'", "Did you mean 'step_size'?"),
    ),
    'more peaks than groups': (
        *(lambda: bo.OneCycleLR(ready(), max_lr=[0.1, 0.2], total_steps=9), ValueError),
        *('2 values for max_lr', '1 parameter groups'),
    ),
    'torch: lr after the optimizer': (
        *(lambda: bo.StepLR(ready(), 0.1), ValueError),
        *('got 0.1', 'step_size must be an integer >= 1'),
    ),
    'plateau without a metric': (
        *(lambda: ready(lr=bo.ReduceLROnPlateau(0.1)).lr.step(), TypeError),
        *('ReduceLROnPlateau.step', 'call step(loss)'),
    ),
    'opt.scheduler': (
        *(lambda: ready().scheduler.step(), AttributeError, "'scheduler'", 'The scheduler is lr'),
    ),
    # saving
    'load into another algorithm': (
        *(lambda: ready().load_state_dict(ready(bo.SGD).state_dict()), bo.IncompatibleCheckpoint),
        *('saved by SGD', 'this is Adam'),
    ),
    'torch.save order': (
        *(lambda: bo.save(ready().state_dict(), 'run.ckpt'), TypeError),
        *('got dict', 'save(path, tree)'),
    ),
    'a state_dict for a path': (
        *(lambda: ready().load(ready().state_dict()), TypeError),
        *('got dict', 'load_state_dict'),
    ),
    'a path for a state_dict': (
        *(lambda: ready().load_state_dict('run.ckpt'), TypeError),
        *('got a path', "use opt.load('run.ckpt')"),
    ),
    "optax's lower case": (lambda: bo.adam(1e-3), AttributeError, "'adam'", "'Adam'"),
    'a slip of the pen': (lambda: bo.AdmaW(1e-3), AttributeError, "'AdmaW'", "'AdamW'"),
    "torch's lr_scheduler": (
        *(lambda: bo.lr_scheduler.StepLR(0.1, 30), AttributeError),
        *("'lr_scheduler'", 'names of the package itself'),
    ),
    'pickle': (
        *(lambda: pickle.dumps(ready()), TypeError, 'Adam cannot be pickled', 'opt.state_dict()'),
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistake(mistake):
    make, error, culprit, remedy = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        make()
    message = str(caught.value)
    assert culprit in message and remedy in message, message
    assert len(message) < 800


def test_there_are_thirty():
    assert len(MISTAKES) >= 30


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
    opt.note = 'my own'


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

    with pytest.raises(TypeError, match=r"Own keeps 'leaf_scale' of shape \(3,\).*2 here"):
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
        (bo.Lamb, 'gradient_accumulation_steps', 'It is accumulate_steps here.'),
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


def test_a_scan_asks_a_loss_for_its_own_arguments():
    """And not for those of a function that it wraps."""

    @wraps(lambda x, y: 0.0)
    def loss(x):
        return jnp.mean(MODEL(x) ** 2)

    xs = jnp.ones((2, 4, 3))
    for function in (loss, jax.jit(loss), partial(loss), lambda *xs: loss(xs[0])):
        assert bo.train_step(MODEL, of_model(), function).scan(xs).shape == (2,)
