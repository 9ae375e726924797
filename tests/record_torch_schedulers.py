"""Record the sequences of torch.optim.lr_scheduler into golden/torch_schedulers.npz.

Run ``python tests/record_torch_schedulers.py`` where torch is installed; the tests need only the
file. A case is two groups of different lr, driven by Python floats (float64):

- ``<name>/lr``, (steps + 1, groups): the lr of each group after construction and after every step;
- ``<name>/momentum``, likewise, where the scheduler cycles it (SGD's momentum, Adam's beta1);
- its row in the JSON string ``cases``: name, scheduler, kwargs, optimizer, optimizer_kwargs (``lr``
  lists the groups'), steps, and, where they apply:
  ``metrics``: what step i (from 0) is given; ``step_to``: its epoch, or None for a plain step();
  ``changes``: {epoch, group, factor}: after the lr at index epoch is recorded, the group's lr is
  multiplied by hand; ``children``: {scheduler, kwargs} of each, for the composite schedulers.

Functions stand in kwargs by their names in FUNCTIONS.
"""

import inspect
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import lr_scheduler, swa_utils

GOLDEN = Path(__file__).parent / 'golden' / 'torch_schedulers.npz'
LRS = [0.5, 0.02]
STEPS = 95
CHANGES = [
    {'epoch': 7, 'group': 0, 'factor': 0.5},
    {'epoch': 7, 'group': 1, 'factor': 0.5},
    {'epoch': 23, 'group': 1, 'factor': 3.0},
    {'epoch': 61, 'group': 0, 'factor': 1.5},
]
JUMPS = [None, None, 5, 6, None, 40, 12, None, None, 13, 77, 30, 0, None, 29, 90, 100, None]

FUNCTIONS = {
    'pow0.95': lambda t: 0.95**t,
    'third': lambda t: 1.0 / (1 + t // 3),
    'constant0.97': lambda t: 0.97,
    'wave': lambda t: 1.0 + 0.1 * math.sin(t),
}


def case(name, scheduler, optimizer='SGD', momentum=None, steps=STEPS, children=None, **rest):
    """A row; what isn't an option of rows is a keyword of the scheduler."""
    extra: dict[str, Any] = {k: rest.pop(k) for k in ('metrics', 'changes', 'step_to') if k in rest}
    optimizer_kwargs: dict[str, Any] = {'lr': LRS}
    if momentum is not None:
        key, value = ('betas', [momentum, 0.99]) if optimizer == 'Adam' else ('momentum', momentum)
        optimizer_kwargs[key] = value
    if children:
        extra['children'] = [{'scheduler': s, 'kwargs': k} for s, k in children]
    return {
        'name': f'{scheduler}/{name}', 'scheduler': scheduler, 'kwargs': rest,
        'optimizer': optimizer, 'optimizer_kwargs': optimizer_kwargs, 'steps': steps, **extra,
    }  # fmt: skip


def plateau_metrics():
    """A loss that falls, stalls with noise, gets worse, falls again, and stalls at a low level."""
    rng = np.random.default_rng(0)
    t = np.arange(STEPS)
    trend = np.interp(t, [0, 12, 40, 50, 60, 94], [2.0, 1.0, 0.98, 1.1, 0.4, 0.399])
    return [round(float(x), 6) for x in trend * (1 + 0.002 * rng.standard_normal(STEPS))]


def cases():
    """All rows."""
    recursive: dict[str, dict[str, Any]] = {
        'StepLR': {'step_size': 20, 'gamma': 0.3},
        'MultiStepLR': {'milestones': [10, 25, 25, 60], 'gamma': 0.4},
        'ExponentialLR': {'gamma': 0.97},
        'LinearLR': {'start_factor': 0.2, 'end_factor': 0.9, 'total_iters': 50},
        'ConstantLR': {'factor': 0.3, 'total_iters': 40},
        'PolynomialLR': {'total_iters': 80, 'power': 1.7},
        'CosineAnnealingLR': {'T_max': 40, 'eta_min': 0.003},
        'LambdaLR': {'lr_lambda': 'pow0.95'},
        'CosineAnnealingWarmRestarts': {'T_0': 9, 'T_mult': 2, 'eta_min': 0.001},
        'MultiplicativeLR': {'lr_lambda': 'constant0.97'},
    }
    yield case('default', 'StepLR', step_size=30)
    yield case('every', 'StepLR', step_size=1, gamma=0.9)
    yield case('growing', 'StepLR', step_size=7, gamma=1.25)
    yield case('plain', 'MultiStepLR', milestones=[30, 60, 90])
    yield case('repeated', 'MultiStepLR', milestones=[10, 25, 25, 60], gamma=0.4)
    yield case('none', 'MultiStepLR', milestones=[], gamma=0.4)
    yield case('plain', 'ExponentialLR', gamma=0.95)
    yield case('growing', 'ExponentialLR', gamma=1.02)
    yield case('one_period', 'CosineAnnealingLR', T_max=95)
    yield case('periodic', 'CosineAnnealingLR', T_max=40)
    yield case('periodic_min', 'CosineAnnealingLR', T_max=22, eta_min=0.004)
    yield case('one_step', 'CosineAnnealingLR', T_max=1, eta_min=0.004)
    for mult in (1, 2, 3):
        kwargs = {'T_0': 7, 'T_mult': mult}
        yield case(f'mult{mult}', 'CosineAnnealingWarmRestarts', **kwargs)
        fractional = [round(0.37 * i, 2) for i in range(1, STEPS + 1)]
        yield case(
            f'fractional_mult{mult}', 'CosineAnnealingWarmRestarts', eta_min=0.002,
            step_to=fractional, **kwargs,
        )  # fmt: skip
    yield case('min', 'CosineAnnealingWarmRestarts', T_0=10, T_mult=2, eta_min=0.004)
    yield case('one_step', 'CosineAnnealingWarmRestarts', T_0=1, T_mult=2)
    yield case('default', 'PolynomialLR')
    yield case('power', 'PolynomialLR', total_iters=90, power=2.3)
    yield case('root', 'PolynomialLR', total_iters=60, power=0.5)
    yield case('power0', 'PolynomialLR', total_iters=10, power=0.0)
    yield case('default', 'LinearLR')
    yield case('up', 'LinearLR', start_factor=0.01, total_iters=70)
    yield case('down', 'LinearLR', start_factor=1.0, end_factor=0.0, total_iters=60)
    yield case('default', 'ConstantLR')
    yield case('long', 'ConstantLR', factor=0.25, total_iters=44)

    cyclic: dict[str, Any] = {'base_lr': [0.01, 0.002], 'max_lr': [0.4, 0.03], 'step_size_up': 9}
    for mode in ('triangular', 'triangular2', 'exp_range'):
        uneven = {**cyclic, 'step_size_down': 14, 'mode': mode, 'gamma': 0.98}
        yield case(mode, 'CyclicLR', cycle_momentum=False, **uneven)
        yield case(f'{mode}_sgd', 'CyclicLR', momentum=0.9, **uneven)
        yield case(f'{mode}_adam', 'CyclicLR', 'Adam', 0.9, **uneven,
                   base_momentum=0.7, max_momentum=0.95)  # fmt: skip
    yield case('even', 'CyclicLR', momentum=0.5, **cyclic, base_momentum=[0.6, 0.8],
               max_momentum=[0.9, 0.99])  # fmt: skip
    for mode, function in (('cycle', 'third'), ('iterations', 'pow0.95')):
        yield case(f'scale_{mode}', 'CyclicLR', cycle_momentum=False, **cyclic, scale_fn=function,
                   scale_mode=mode)  # fmt: skip
    yield case('one_base', 'CyclicLR', base_lr=0.01, max_lr=0.1, step_size_up=11,
               step_size_down=3, cycle_momentum=False)  # fmt: skip

    end = STEPS + 1  # torch extrapolates at step total_steps; it isn't part of the cycle
    for strategy in ('cos', 'linear'):
        for three in (False, True):
            one: dict[str, Any] = {'max_lr': [0.6, 0.04]}
            one |= {'anneal_strategy': strategy, 'three_phase': three}
            tag = f'{strategy}_{"three" if three else "two"}'
            yield case(f'{tag}_sgd', 'OneCycleLR', momentum=0.9, total_steps=end, **one)
            yield case(f'{tag}_adam', 'OneCycleLR', 'Adam', 0.9, total_steps=end, **one,
                       base_momentum=0.8, max_momentum=0.92)  # fmt: skip
            yield case(f'{tag}_epochs', 'OneCycleLR', epochs=8, steps_per_epoch=12, **one,
                       cycle_momentum=False, pct_start=0.41, div_factor=10.0,
                       final_div_factor=50.0)  # fmt: skip
    yield case('one_max', 'OneCycleLR', total_steps=end, max_lr=0.3, cycle_momentum=False)
    yield case('no_rise', 'OneCycleLR', total_steps=end, max_lr=0.3, pct_start=0.0, momentum=0.9,
               base_momentum=[0.8, 0.7], max_momentum=[0.9, 0.95])  # fmt: skip
    yield case('only_rise', 'OneCycleLR', total_steps=end, max_lr=0.3, pct_start=1.0,
               cycle_momentum=False)  # fmt: skip

    metrics = plateau_metrics()
    worse = [round(2.5 - x, 6) for x in metrics]
    yield case('default', 'ReduceLROnPlateau', metrics=metrics)
    yield case('min_rel', 'ReduceLROnPlateau', metrics=metrics, factor=0.5, patience=3,
               threshold=0.01, cooldown=4)  # fmt: skip
    yield case('min_abs', 'ReduceLROnPlateau', metrics=metrics, factor=0.5, patience=2,
               threshold=0.02, threshold_mode='abs', min_lr=[0.06, 0.001])  # fmt: skip
    yield case('max_rel', 'ReduceLROnPlateau', metrics=worse, mode='max', factor=0.3, patience=0,
               threshold=0.003, cooldown=1, min_lr=1e-4)  # fmt: skip
    yield case('max_abs', 'ReduceLROnPlateau', metrics=worse, mode='max', factor=0.6, patience=4,
               threshold=0.01, threshold_mode='abs', cooldown=2)  # fmt: skip
    yield case('eps', 'ReduceLROnPlateau', metrics=metrics, factor=0.5, patience=1, eps=0.006)
    yield case('changed', 'ReduceLROnPlateau', metrics=metrics, factor=0.5, patience=3,
               changes=CHANGES)  # fmt: skip

    yield case('one', 'LambdaLR', lr_lambda='wave')
    yield case('list', 'LambdaLR', lr_lambda=['pow0.95', 'third'])
    yield case('one', 'MultiplicativeLR', lr_lambda='constant0.97')
    yield case('list', 'MultiplicativeLR', lr_lambda=['wave', 'constant0.97'])
    yield case('default', 'SWALR', swa_lr=0.05)
    yield case('cos', 'SWALR', swa_lr=[0.05, 0.001], anneal_epochs=70)
    yield case('linear', 'SWALR', swa_lr=[0.05, 0.001], anneal_epochs=33, anneal_strategy='linear')
    yield case('at_once', 'SWALR', swa_lr=0.05, anneal_epochs=0)

    warm = ('LinearLR', {'start_factor': 0.1, 'total_iters': 15})
    hold = ('ConstantLR', {'factor': 0.5, 'total_iters': 20})
    decay = ('ExponentialLR', {'gamma': 0.96})
    anneal = ('CosineAnnealingLR', {'T_max': 35, 'eta_min': 0.002})
    restarts = ('CosineAnnealingWarmRestarts', {'T_0': 6, 'T_mult': 2, 'eta_min': 0.001})
    yield case('linear_exponential', 'ChainedScheduler', children=[warm, decay])
    yield case('constant_cosine', 'ChainedScheduler', children=[hold, anneal])
    yield case('three', 'ChainedScheduler', children=[
        hold, ('StepLR', {'step_size': 30, 'gamma': 0.5}),
        ('MultiplicativeLR', {'lr_lambda': 'wave'})])  # fmt: skip
    yield case('changed', 'ChainedScheduler', children=[warm, decay], changes=CHANGES)
    yield case('warmup_cosine', 'SequentialLR', children=[warm, anneal], milestones=[15])
    yield case('constant_restarts_exponential', 'SequentialLR', milestones=[20, 70],
               children=[hold, restarts, decay])  # fmt: skip
    yield case('changed', 'SequentialLR', children=[warm, anneal], milestones=[15],
               changes=CHANGES)  # fmt: skip

    # What torch computes from the base alone doesn't care what acted before it; two have own bases.
    wave = ('LambdaLR', {'lr_lambda': 'wave'})
    slower = ('MultiplicativeLR', {'lr_lambda': 'constant0.97'})
    cycle = ('CyclicLR', {'base_lr': [0.01, 0.03], 'max_lr': 0.3, 'step_size_up': 7,
                          'cycle_momentum': False})  # fmt: skip
    once = ('OneCycleLR', {'max_lr': [0.4, 0.1], 'total_steps': 200, 'cycle_momentum': False})
    for name, *children in (('lambda', warm, wave), ('restarts', hold, restarts),
                            ('cycle', cycle, decay), ('one_cycle', warm, once)):  # fmt: skip
        yield case(f'with_{name}', 'ChainedScheduler', children=children)
    average = ('SWALR', {'swa_lr': [0.05, 0.001], 'anneal_epochs': 30})
    at_once = ('SWALR', {'swa_lr': 0.03, 'anneal_epochs': 0})
    yield case('to_swa_changed', 'SequentialLR', children=[decay, average], milestones=[40],
               changes=CHANGES)  # fmt: skip
    yield case('to_swa_and_back', 'SequentialLR', children=[anneal, average, hold],
               milestones=[15, 35])  # fmt: skip
    yield case('to_swa_at_once', 'SequentialLR', children=[warm, at_once], milestones=[12])
    for name, *children in (('multiplicative', hold, slower), ('cycle', warm, cycle),
                            ('cycle_first', cycle, anneal), ('one_cycle', warm, once),
                            ('one_cycle_first', once, hold), ('lambda', wave, once)):  # fmt: skip
        yield case(f'to_{name}', 'SequentialLR', children=children, milestones=[25])
    yield case('to_four', 'SequentialLR', children=[wave, warm, once, cycle],
               milestones=[11, 31, 62])  # fmt: skip

    for scheduler, kwargs in recursive.items():
        yield case('changed', scheduler, changes=CHANGES, **kwargs)
    at_zero = [{'epoch': 40, 'group': 0, 'factor': 5.0}]
    yield case('changed_at_min', 'CosineAnnealingLR', changes=at_zero, T_max=40, eta_min=0.003)
    yield case('changed_cos', 'SWALR', swa_lr=0.05, anneal_epochs=40, changes=CHANGES)
    yield case('changed_linear', 'SWALR', swa_lr=0.05, anneal_epochs=70, changes=CHANGES,
               anneal_strategy='linear')  # fmt: skip
    for scheduler in list(recursive)[:8]:
        yield case('jumps', scheduler, step_to=JUMPS, steps=len(JUMPS), **recursive[scheduler])


def build(scheduler, kwargs, optimizer):
    """The torch scheduler of a row, or of a child."""
    kwargs = dict(kwargs)
    if 'lr_lambda' in kwargs:
        names = kwargs['lr_lambda']
        one = isinstance(names, str)
        kwargs['lr_lambda'] = FUNCTIONS[names] if one else [FUNCTIONS[n] for n in names]
    if 'scale_fn' in kwargs:
        kwargs['scale_fn'] = FUNCTIONS[kwargs['scale_fn']]
    cls = getattr(lr_scheduler, scheduler, None) or getattr(swa_utils, scheduler)
    return cls(optimizer, **kwargs)


def record(row):
    """Run one row: the lr, and momentum or None, at every index."""
    kwargs = dict(row['optimizer_kwargs'])
    groups = [{'params': [torch.nn.Parameter(torch.zeros(1))], 'lr': lr} for lr in kwargs.pop('lr')]
    optimizer = getattr(torch.optim, row['optimizer'])(groups, lr=1.0, **kwargs)
    scheduler: Any
    children = [build(c['scheduler'], c['kwargs'], optimizer) for c in row.get('children', ())]
    if row['scheduler'] == 'ChainedScheduler':
        scheduler = lr_scheduler.ChainedScheduler(children, optimizer)
    elif row['scheduler'] == 'SequentialLR':
        scheduler = lr_scheduler.SequentialLR(optimizer, children, **row['kwargs'])
    else:
        scheduler = build(row['scheduler'], row['kwargs'], optimizer)
    cycles = getattr(scheduler, 'cycle_momentum', False)
    lrs, momenta = [], []

    def snapshot():
        lrs.append([float(g['lr']) for g in optimizer.param_groups])
        if cycles:
            momenta.append([g['betas'][0] if 'betas' in g else g['momentum']
                            for g in optimizer.param_groups])  # fmt: skip

    snapshot()
    for i in range(row['steps']):
        for change in row.get('changes', ()):
            if change['epoch'] == i:
                optimizer.param_groups[change['group']]['lr'] *= change['factor']
        optimizer.step()
        if 'metrics' in row:
            scheduler.step(row['metrics'][i])
        elif 'step_to' in row and row['step_to'][i] is not None:
            scheduler.step(row['step_to'][i])
        else:
            scheduler.step()
        snapshot()
    return np.array(lrs), np.array(momenta) if cycles else None


def main():
    """Record all rows and check that every argument of every scheduler is exercised."""
    warnings.filterwarnings('ignore', message='The epoch parameter in')
    arrays: dict[str, Any] = {}
    used: dict[str, set[str]] = {}
    rows = []
    for row in cases():
        lr, momentum = record(row)
        for item in (row, *row.get('children', ())):
            used.setdefault(item['scheduler'], set()).update(item['kwargs'])
        if momentum is not None:
            arrays[row['name'] + '/momentum'] = momentum
        assert row['name'] + '/lr' not in arrays, row['name']
        assert np.isfinite(lr).all(), row['name']
        arrays[row['name'] + '/lr'] = lr
        rows.append(row)
    for scheduler, seen in used.items():
        cls = getattr(lr_scheduler, scheduler, None) or getattr(swa_utils, scheduler)
        known = {'optimizer', 'schedulers', 'last_epoch'}
        missing = set(inspect.signature(cls).parameters) - seen - known
        assert not missing, (scheduler, missing)
    np.savez_compressed(
        GOLDEN, cases=json.dumps(rows), torch_version=str(torch.__version__), **arrays
    )
    print(f'{len(rows)} cases, {GOLDEN.stat().st_size} bytes')


if __name__ == '__main__':
    main()
