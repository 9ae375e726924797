"""The rows of torch.optim's adaptive and classic algorithms."""

import reference_adaptive as rules
from cases_authors import ADAM, DECAY, EPS, LR, MOMENTUM, STATELESS

import braintools_optim as bo

RMSPROP = {**LR, 'alpha': (0.7, 0.95), **EPS, **DECAY}
ADAGRAD = {**LR, 'lr_decay': (0.05, 0.5), **EPS, **DECAY}
NADAM = {**ADAM, 'momentum_decay': (0.01, 0.5)}
RPROP = {
    **{**LR, 'etas': ((0.3, 1.05), (0.8, 1.5))},
    'step_sizes': ((0.01, 0.05), (0.03, 0.15)),
}
ASGD = {**LR, 'lambd': (0.01, 0.3), 'alpha': (0.5, 1.0), **DECAY}

INITIAL = {'live:initial_accumulator_value': 'it is read once, when a parameter is registered'}
AVERAGING = {'live:t0': 'it acts on the average, which is not among the parameters'}


def rows(case):
    """Return the rows, made by `cases.Case`."""
    momentum, late = frozenset({'momentum'}), frozenset({'late'})
    return [
        case('rmsprop', bo.RMSprop, {'lr': 0.05}, rules.rmsprop, 'RMSprop', live=RMSPROP,
             skip=STATELESS),
        case('rmsprop-centered', bo.RMSprop, {'lr': 0.05, 'centered': True}, rules.rmsprop,
             'RMSprop', live=RMSPROP, skip=STATELESS),
        case(
            'rmsprop-all',
            bo.RMSprop,
            {
                **{'lr': 0.05, 'alpha': 0.9, 'eps': 1e-3, 'weight_decay': 0.1, 'momentum': 0.8},
                **{'centered': True, 'maximize': True},
            },
            rules.rmsprop,
            'RMSprop',
            momentum,
            live={**RMSPROP, **MOMENTUM},
        ),
        case('adagrad', bo.Adagrad, {'lr': 0.05}, rules.adagrad, 'Adagrad', live=ADAGRAD,
             skip=INITIAL),
        case(
            'adagrad-all',
            bo.Adagrad,
            {
                **{'lr': 0.05, 'lr_decay': 0.1, 'weight_decay': 0.1, 'eps': 1e-3},
                **{'initial_accumulator_value': 0.5, 'maximize': True},
            },
            rules.adagrad,
            'Adagrad',
            live=ADAGRAD,
            skip=INITIAL,
        ),
        case('adadelta', bo.Adadelta, {'lr': 0.05}, rules.adadelta, 'Adadelta',
             live={**LR, 'rho': (0.5, 0.95), 'eps': (1e-6, 1e-2), **DECAY}),
        case('adamax', bo.Adamax, {'lr': 0.05}, rules.adamax, 'Adamax', live=ADAM),
        case('nadam', bo.Nadam, {'lr': 0.05}, rules.nadam, 'NAdam', live=NADAM),
        case(
            'nadam-decoupled',
            bo.Nadam,
            {'lr': 0.05, 'weight_decay': 0.1, 'decoupled_weight_decay': True},
            rules.nadam,
            'NAdam',
            live=NADAM,
        ),
        case('radam', bo.RAdam, {'lr': 0.05}, rules.radam, 'RAdam', late, live=ADAM),
        case(
            'radam-decoupled',
            bo.RAdam,
            {
                **{'lr': 0.05, 'betas': (0.8, 0.95), 'weight_decay': 0.1},
                **{'decoupled_weight_decay': True},
            },
            rules.radam,
            'RAdam',
            late,
            live=ADAM,
        ),
        case(
            'rprop',
            bo.Rprop,
            {'lr': 0.05, 'step_sizes': (1e-2, 0.07)},
            rules.rprop,
            'Rprop',
            late | {'rests'},
            live=RPROP,
        ),
        case('asgd', bo.ASGD, {'lr': 0.05, 'lambd': 0.1}, rules.asgd, 'ASGD', live=ASGD,
             skip=AVERAGING),
    ]  # fmt: skip
