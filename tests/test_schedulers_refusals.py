"""What schedulers refuse, with nothing changed; and their plots."""

import sys
from pathlib import Path

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
from interrupts import interrupted, nth
from scheduler_cases import CASES, FUNCTIONS, LRS, two_groups

import braintools_optim as bo

BAD = {
    'T_max': (lambda: bo.CosineAnnealingLR(0.1, T_max=0), ['CosineAnnealingLR', 'T_max', '0']),
    'gamma': (lambda: bo.ExponentialLR(0.1, gamma=-1), ['ExponentialLR', 'gamma', '-1']),
    'gamma nan': (lambda: bo.StepLR(0.1, gamma=float('nan')), ['StepLR', 'gamma', 'nan']),
    'step_size': (lambda: bo.StepLR(0.1, 2.5), ['StepLR', 'step_size', '2.5']),
    'milestones': (
        lambda: bo.MultiStepLR(0.1, [30, 10]),
        ['MultiStepLR', 'milestones', '[30, 10]'],
    ),
    'sequence': (
        lambda: bo.SequentialLR([bo.StepLR(0.1), bo.StepLR(), bo.StepLR()], [9, 5]),
        ['SequentialLR', 'milestones', '[9, 5]'],
    ),
    'sequence length': (
        lambda: bo.SequentialLR([bo.StepLR(0.1)], [9, 5]),
        ['SequentialLR'],
    ),
    'sequence of numbers': (lambda: bo.SequentialLR([0.1, 0.2], [9]), ['SequentialLR', '0.1']),
    'empty chain': (lambda: bo.ChainedScheduler([]), ['ChainedScheduler', 'empty']),
    'chain of bases': (
        lambda: bo.SGD(lr=bo.ChainedScheduler([bo.StepLR(0.1), bo.StepLR(0.2)])),
        ['ChainedScheduler', '0.1', '0.2'],
    ),
    'one twice': (lambda: bo.ChainedScheduler([bo.StepLR(0.1)] * 2), ['ChainedScheduler', 'twice']),
    'both': (
        lambda: bo.OneCycleLR(0.1, total_steps=10, epochs=3, steps_per_epoch=4),
        ['OneCycleLR', 'total_steps=10', 'epochs=3'],
    ),
    'neither': (lambda: bo.OneCycleLR(0.1), ['OneCycleLR', 'total_steps=None']),
    'total_steps': (lambda: bo.OneCycleLR(0.1, 0), ['OneCycleLR', 'total_steps', '0']),
    'pct_start': (lambda: bo.OneCycleLR(0.1, 9, pct_start=1.2), ['OneCycleLR', 'pct_start', '1.2']),
    'strategy': (lambda: bo.SWALR(0.1, anneal_strategy='x'), ['SWALR', 'anneal_strategy', "'x'"]),
    'mode': (lambda: bo.CyclicLR(0.1, mode='x'), ['CyclicLR', 'mode', "'x'"]),
    'plateau mode': (lambda: bo.ReduceLROnPlateau(0.1, 'x'), ['ReduceLROnPlateau', 'mode', "'x'"]),
    'plateau factor': (lambda: bo.ReduceLROnPlateau(factor=1.0), ['factor', '1.0', '[0, 1)']),
    'plateau patience': (lambda: bo.ReduceLROnPlateau(patience=-1), ['patience', '-1']),
    'metric': (lambda: bo.ReduceLROnPlateau(0.1).step('x'), ['metric', 'x']),
    'lambda': (lambda: bo.LambdaLR(0.1, 0.5), ['LambdaLR', 'lr_lambda', '0.5']),
    'no lambda': (lambda: bo.MultiplicativeLR(0.1), ['MultiplicativeLR', 'lr_lambda', 'None']),
    'piecewise': (
        lambda: bo.PiecewiseConstantSchedule(0.1, [1, 2], [0.1]),
        ['boundaries', 'values'],
    ),  # fmt: skip
    'no list': (lambda: bo.PiecewiseConstantSchedule(0.1, [1], 3), ['list of numbers', 'values']),
    'negative value': (
        lambda: bo.PiecewiseConstantSchedule(0.1, [1], [0.1, -1]),
        ['PiecewiseConstantSchedule', 'values', '-1'],
    ),
    'negative minimum': (
        lambda: bo.CosineAnnealingLR([0.1, 0.2], 9, eta_min=[0.0, -0.1]),
        ['CosineAnnealingLR', 'eta_min', '[0, inf)', '-0.1'],
    ),
    'negative minimum later': (
        lambda: setattr(bo.CosineAnnealingLR(0.1, 9), 'eta_min', -0.1),
        ['CosineAnnealingLR', 'eta_min', '[0, inf)', '-0.1'],
    ),
    'negative maximum': (lambda: bo.OneCycleLR(-1.0, 9), ['OneCycleLR', 'max_lr', '-1.0']),
    'negative beginning': (
        lambda: bo.WarmupScheduler(0.1, 9, warmup_start_lr=-1.0),
        ['WarmupScheduler', 'warmup_start_lr', '-1.0'],
    ),
    'negative end': (lambda: bo.SWALR(0.1, swa_lr=-1.0), ['SWALR', 'swa_lr', '-1.0']),
    'one of a sequence': (
        lambda: bo.SequentialLR(bo.StepLR(0.1), [3]),
        ['SequentialLR', 'one scheduler more than milestones', '1 and 1'],
    ),
    'epoch': (lambda: bo.StepLR(0.1).step(-1), ['StepLR', 'epoch', '-1']),
    'epoch nan': (lambda: bo.StepLR(0.1).step(float('nan')), ['StepLR', 'epoch', 'nan']),
    'last_epoch': (lambda: bo.StepLR(0.1, last_epoch='x'), ['StepLR', 'last_epoch', 'x']),
    'base': (lambda: bo.StepLR('x'), ['StepLR', 'base_lr', "'x'"]),
    'bases': (lambda: bo.StepLR([0.1, -0.1]), ['StepLR', 'base_lr', '-0.1']),
    'lists': (
        lambda: bo.CosineAnnealingLR([0.1, 0.2], eta_min=[0.0, 0.0, 0.0]),
        ['CosineAnnealingLR', 'base_lr', '2', '3'],
    ),
    'bases for groups': (
        lambda: two_groups(0.1)[0].add_scheduler(bo.StepLR([0.1, 0.2, 0.3])),
        ['StepLR', '3 values for base_lr', 'number of parameter groups is 2'],
    ),
    'max_lr for groups': (
        lambda: bo.CyclicLR(two_groups(0.1)[0], 0.1, [0.2]),
        ['CyclicLR', '1 values for max_lr'],
    ),  # fmt: skip
    'lambdas for groups': (
        lambda: bo.LambdaLR(two_groups(0.1)[0], [FUNCTIONS['wave']] * 3),
        ['LambdaLR', '3 values for lr_lambda'],
    ),
    'groups that did not come': (
        lambda: bo.SGD(lr=bo.StepLR([0.1, 0.2])).lr.step(),
        ['StepLR', '2 values for base_lr'],
    ),  # fmt: skip
    'name': (lambda: bo.ParamScheduler(bo.SGD(), 'betas', abs), ['SGD', 'betas', 'momentum']),
    'no schedule': (lambda: bo.ParamScheduler(bo.SGD(), 'momentum', 'x'), ['momentum', "'x'"]),
    'unknown argument': (lambda: bo.StepLR(0.1, size=3), ['size']),
    'too many': (lambda: bo.ExponentialLR(bo.SGD(), 0.9, 0, 0), ['ExponentialLR', '2 arguments']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_arguments(name):
    call, words = BAD[name]
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_more_steps_than_planned():
    opt, _ = two_groups(0.1)
    scheduler = bo.OneCycleLR(opt, 0.5, 3)
    for _ in range(3):
        scheduler.step()
    before = opt.get_last_lr()
    with pytest.raises(ValueError, match=r'OneCycleLR was made for total_steps=3.*step 4'):
        scheduler.step()
    assert opt.get_last_lr() == before and scheduler.last_epoch.value == 3


def test_a_metric_that_is_nan_is_no_improvement():
    scheduler = bo.ReduceLROnPlateau(0.1, patience=0)
    scheduler.step(float('nan'))
    assert scheduler.get_last_lr() == [pytest.approx(0.01)]


def test_a_refused_step_changes_nothing():
    """A schedule that gives a rate which is no number is named, and all States stay."""
    opt, _ = two_groups(0.1)
    scheduler = bo.LambdaLR(opt, lambda t: 1.0 if t < 2 else np.nan)
    scheduler.step()
    before = scheduler.state_dict(), opt.get_last_lr()
    with pytest.raises(ValueError, match='needs lr in .*got lr=nan'):
        scheduler.step()
    assert (scheduler.state_dict(), opt.get_last_lr()) == before


def test_an_interrupt_leaves_all_old_or_all_new():
    """Wherever it comes, the learning rates and the epoch belong together."""
    for n in range(1, 2000):
        opt, _ = two_groups(LRS)
        scheduler = bo.ExponentialLR(opt, 0.5)
        scheduler.step()
        line = interrupted(scheduler.step, nth(n))
        epoch = int(scheduler.last_epoch.value)
        assert opt.get_last_lr() == [lr * 0.5**epoch for lr in LRS], line
        if line is None:
            assert epoch == 2 and n > 20
            return
    raise AssertionError('the step never ended')


class Axes:
    """What plot needs of matplotlib's axes."""

    def __init__(self):
        self.lines, self.words = [], {}

    def plot(self, x, y, label=''):
        self.lines.append((list(x), list(y), label))

    def set(self, **words):
        self.words.update(words)

    def legend(self):
        self.words['legend'] = True


def test_plot(monkeypatch):
    opt, _ = two_groups(LRS)
    scheduler = bo.ExponentialLR(opt, 0.5)
    scheduler.step()
    axes = scheduler.plot(3, ax=Axes())
    assert axes.lines == [
        ([1, 2, 3], [0.25, 0.125, 0.0625], 'group 0'),
        ([1, 2, 3], [0.01, 0.005, 0.0025], 'group 1'),
    ]
    assert axes.words['ylabel'] == 'learning rate' and axes.words['legend']
    nothing = scheduler.plot(0, ax=Axes())
    assert nothing.lines == []
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ImportError, match='needs matplotlib'):
        scheduler.plot(3)


def test_every_plot_of_the_docs_is_of_one_scheduler():
    """The script that draws them knows every class; it needs matplotlib, so it is only read."""
    script = (Path(__file__).parent.parent / 'docs' / 'plot_schedulers.py').read_text()
    missing = [case.id for case in CASES if f'bo.{case.id}(' not in script]
    assert not missing


@pytest.mark.parametrize(
    'use',
    [
        lambda: bo.StepLR(0.1, gamma=np.array([0.5, 0.1])),
        lambda: setattr(bo.StepLR(0.1), 'gamma', np.array([0.5, 0.1])),
        lambda: bo.StepLR(0.1, gamma=jnp.ones(2)),
    ],
)
def test_an_array_is_not_one_number(use):
    with pytest.raises(TypeError, match='StepLR needs one number for gamma, or a list .*, got'):
        use()


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (lambda opt: bo.ParamScheduler(opt, 'weight_decay', lambda epoch: None), 'weight_decay'),
        (lambda opt: bo.ParamScheduler(opt, 'betas', (lambda _: None, 0.9)), 'betas'),
        (lambda opt: bo.LambdaLR(opt, lambda epoch: None), 'LambdaLR'),
        (lambda opt: bo.MultiplicativeLR(opt, lambda epoch: None).step(), 'MultiplicativeLR'),
    ],
)
def test_a_function_without_a_return_is_named(make, says):
    opt = bo.AdamW(0.1, weight_decay=0.5)
    with pytest.raises(TypeError, match=f'function of .*{says} must return a number, got None'):
        make(opt)
    assert opt.weight_decay == 0.5 and opt.betas == (0.9, 0.999)


@pytest.mark.parametrize(
    ('step', 'name'),
    [
        (lambda s: s.step(5.0, metric=0.3), 'metric'),
        (lambda s: s.step(metric=0.3, metrics=0.2), 'metric'),
        (lambda s: s.schedulers[1].step(0.5, metrics=0.1), 'metric'),
        (lambda s: bo.ChainedScheduler([bo.StepLR(0.1)]).step(3, epoch=7), 'epoch'),
    ],
)
def test_a_step_is_given_nothing_twice(step, name):
    scheduler = bo.ChainedScheduler([bo.StepLR(0.1), bo.ReduceLROnPlateau(0.1)])
    with pytest.raises(TypeError, match=f'step takes one {name}, got 2'):
        step(scheduler)
    scheduler.step(0.5)
    scheduler.step(metric=0.4, epoch=5)
    assert scheduler.last_epoch.value == 5


def test_what_is_driven_is_an_optimizer():
    average = bo.AveragedModel(brainstate.nn.Linear(2, 1), decay=0.9)
    with pytest.raises(TypeError, match='needs the name of a hyper-parameter, got AveragedModel'):
        bo.ParamScheduler(average, 'decay', bo.schedules.cosine(0.99, T_max=20))
