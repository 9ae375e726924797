"""What people do wrong: the error names the culprit, and says what to do instead."""

import copy
import pickle
from functools import partial

import brainstate
import jax.numpy as jnp
import optax
import pytest
from brainstate import ParamState
from mistaken import GRADS, MODEL, assign, of_model, ready

import braintools_optim as bo

OTHER = brainstate.nn.Sequential(brainstate.nn.Linear(4, 4), brainstate.nn.Linear(4, 1))

W = ParamState(jnp.ones(2))


class Foreign:
    """A model of another library, which can be called."""

    def __call__(self, x):
        return x


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
        *("'clipnorm'", "Did you mean 'grad_clip_norm'?"),
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
    'torch: eval()': (*(lambda: ready().eval(), AttributeError, "'eval'", 'AveragedModel(model)'),),
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
        *('warmup_steps=1000 and total_steps=100', 'needs warmup_steps to be at most total_steps'),
    ),
    'a schedule that warms up for longer than it lasts': (
        *(lambda: bo.schedules.warmup_cosine(1e-3, 200, 100), ValueError),
        *('warmup_steps=200 and total_steps=100', 'needs warmup_steps to be at most total_steps'),
    ),
    'scheduler argument': (
        *(lambda: bo.StepLR(0.1, stepsize=30), TypeError),
        *("'stepsize'", "Did you mean 'step_size'?"),
    ),
    'more peaks than groups': (
        *(lambda: bo.OneCycleLR(ready(), max_lr=[0.1, 0.2], total_steps=9), ValueError),
        *('2 values for max_lr', 'number of parameter groups is 1'),
    ),
    'torch: lr after the optimizer': (
        *(lambda: bo.StepLR(ready(), 0.1), ValueError),
        *('got 0.1', 'needs an integer >= 1 for step_size'),
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
    'the pair of jax.value_and_grad': (
        *(lambda: of_model().step((jnp.zeros(()), {})), KeyError),
        *('gradients under 0', 'returns (loss, gradients): give step the second'),
    ),
    'no gradients': (
        *(lambda: of_model().step({}), KeyError, 'no gradients came', 'Expected the keys of'),
    ),
    'gradients=': (
        *(lambda: ready().step(gradients=GRADS), TypeError),
        *("no argument 'gradients'", 'its first argument, grads'),
    ),
    'a scheduler for a ParamScheduler': (
        *(lambda: bo.ParamScheduler(ready(), 'weight_decay', bo.StepLR(0.1)), TypeError),
        *('got StepLR', 'with a function f'),
    ),
    'an optimizer after the name': (
        *(lambda: bo.ParamScheduler('weight_decay', ready(), lambda t: 0.1), TypeError),
        *('got Adam', "ParamScheduler(optimizer, 'weight_decay', f)"),
    ),
    'lr for each group': (
        *(
            lambda: bo.Adam(lr=[0.1, 0.2]),
            TypeError,
            '[0.1, 0.2]',
            'add_param_group(params, lr=...)',
        ),
    ),
    'a number in a sequence of schedules': (
        *(lambda: bo.schedules.sequential([0.1, bo.schedules.step(0.1)], [5]), TypeError),
        *('got 0.1 at 0', 'piecewise_constant takes numbers'),
    ),
    'no period of synchronization': (
        *(lambda: bo.transforms.lookahead(optax.sgd(0.1), 0), ValueError),
        *('got 0', 'an integer >= 1 for sync_period'),
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
