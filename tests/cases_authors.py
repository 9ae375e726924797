"""The rows of algorithms that torch lacks."""

import optax
import reference_authors as rules

import braintools_optim as bo


class AdamAhead(bo.Lookahead):
    """Lookahead over an optimizer of this library, whose numbers are its own."""

    def __init__(
        self, lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, sync_period=5, alpha=0.5,
        **common,
    ):  # fmt: skip
        base = bo.AdamW(lr, betas, eps, weight_decay)
        super().__init__(base, sync_period, alpha, **common)


class RmsAhead(bo.Lookahead):
    """Lookahead over an optimizer that has an alpha, too."""

    def __init__(self, lr=0.05, alpha=0.5, base_alpha=0.9, **common):
        super().__init__(bo.RMSprop(lr, base_alpha), 3, alpha, **common)


LR = {'lr': (0.02, 0.2)}
DECAY = {'weight_decay': (0.01, 0.4)}
MOMENTUM = {'momentum': (0.3, 0.95)}
EPS = {'eps': (1e-8, 1e-2)}
ADAM = {**LR, 'betas': ((0.7, 0.9), (0.95, 0.99)), **EPS, **DECAY}
# A sign shows a change of its betas where the average and the gradient point apart.
LION = {**LR, 'betas': ((0.05, 0.5), (0.3, 0.9)), **DECAY}
ALPHA = {'alpha': (0.2, 0.9)}
TRUST = {'trust_coefficient': (0.1, 1.0)}

STATELESS = {
    'live:momentum': 'built with momentum = 0 it keeps no buffer, and says so when assigned'
}
NORMED = {'infinities': 'the norm of a parameter enters its step'}
UNBOUND = {'live:p_bound': 'built with p_bound = 0 it keeps no norms, and says so when assigned'}
STARTED = {'live:initial_accumulator_value': 'accumulators have started when it can be changed'}


def rows(case):
    """Return the rows, made by `cases.Case`."""
    momentum = frozenset({'momentum'})
    return [
        case('lion', bo.Lion, {'lr': 0.05}, rules.lion, live=LION),
        case(
            'lion-all',
            bo.Lion,
            {'lr': 0.05, 'betas': (0.8, 0.9), 'weight_decay': 0.1, 'maximize': True},
            rules.lion,
            live=LION,
        ),
        case('lamb', bo.Lamb, {'lr': 0.05}, rules.lamb, live=ADAM, skip=NORMED),
        case(
            'lamb-all',
            bo.Lamb,
            {'lr': 0.05, 'betas': (0.8, 0.9), 'eps': 1e-3, 'weight_decay': 0.1, 'maximize': True},
            rules.lamb,
            live=ADAM,
        ),
        case(
            'lars',
            bo.Lars,
            {'lr': 0.05, 'trust_coefficient': 0.5},
            rules.lars,
            traits=momentum,
            live={**LR, **MOMENTUM, **DECAY, **TRUST, **EPS},
            skip=NORMED,
        ),
        case(
            'lars-nesterov',
            bo.Lars,
            {'lr': 0.05, 'trust_coefficient': 0.5, 'weight_decay': 0.1, 'nesterov': True},
            rules.lars,
            traits=momentum,
            live={**LR, **MOMENTUM, **DECAY, **TRUST, **EPS},
        ),
        case(
            'lars-stateless',
            bo.Lars,
            {'lr': 0.05, 'trust_coefficient': 0.5, 'momentum': 0.0},
            rules.lars,
            live={**LR, **DECAY, **TRUST, **EPS},
            skip=STATELESS,
        ),
        case('novograd', bo.Novograd, {'lr': 0.05}, rules.novograd, live=ADAM),
        case(
            'novograd-all',
            bo.Novograd,
            {
                **{'lr': 0.05, 'betas': (0.8, 0.9), 'eps': 1e-3, 'weight_decay': 0.1},
                **{'grad_averaging': True, 'amsgrad': True},
            },
            rules.novograd,
            live=ADAM,
        ),
        case(
            'fromage',
            bo.Fromage,
            {'lr': 0.05},
            rules.fromage,
            live=LR,
            skip={**STATELESS, **UNBOUND, **NORMED},
        ),
        case(
            'fromage-all',
            bo.Fromage,
            {'lr': 0.05, 'momentum': 0.8, 'p_bound': 1.0, 'grad_clip_norm': 2.0},
            rules.fromage,
            traits=momentum,
            live={**LR, **MOMENTUM, 'p_bound': (0.85, 1.0)},
        ),
        case('adabelief', bo.AdaBelief, {'lr': 0.05}, rules.belief, live=ADAM),
        case(
            'adabelief-coupled',
            bo.AdaBelief,
            {'lr': 0.05, 'weight_decay': 0.1, 'decoupled_weight_decay': False},
            rules.belief,
            live=ADAM,
        ),
        case(
            'adabelief-amsgrad',
            bo.AdaBelief,
            {'lr': 0.05, 'eps': 1e-4, 'amsgrad': True, 'maximize': True},
            rules.belief,
            live=ADAM,
        ),
        case(
            'adabelief-rectify',
            bo.AdaBelief,
            {'lr': 0.05, 'betas': (0.8, 0.98), 'rectify': True},
            rules.belief,
            traits=frozenset({'late'}),
            live=ADAM,
        ),
        case('yogi', bo.Yogi, {'lr': 0.05}, rules.yogi, live=ADAM, skip=STARTED),
        case(
            'yogi-all',
            bo.Yogi,
            {
                **{'lr': 0.05, 'betas': (0.8, 0.9), 'eps': 1e-2, 'weight_decay': 0.1},
                **{'initial_accumulator_value': 0.1, 'maximize': True},
            },
            rules.yogi,
            live=ADAM,
            skip=STARTED,
        ),
        case(
            'sm3',
            bo.SM3,
            {'lr': 0.05},
            rules.sm3,
            traits=momentum,
            live={**LR, **MOMENTUM, **EPS, **DECAY},
        ),
        case(
            'sm3-stateless',
            bo.SM3,
            {'lr': 0.05, 'momentum': 0.0, 'weight_decay': 0.1},
            rules.sm3,
            live={**LR, **EPS, **DECAY},
            skip=STATELESS,
        ),
        case(
            'lookahead-chain',
            bo.Lookahead,
            {
                **{'base_optimizer': optax.sgd(0.5, momentum=0.8), 'sync_period': 3},
                **{'lr': 0.05, 'weight_decay': 0.1},
            },
            rules.lookahead_chain,
            live={**LR, **DECAY, **ALPHA},
        ),
        case(
            'lookahead-adamw',
            AdamAhead,
            {'lr': 0.05, 'sync_period': 3},
            rules.lookahead_adam,
            live={**ADAM, **ALPHA},
            traits=frozenset({'contracted'}),  # by JAX 0.12
        ),
        case(
            'lookahead-rmsprop',
            RmsAhead,
            {'lr': 0.05, 'alpha': 0.5, 'base_alpha': 0.9},
            rules.lookahead_rms,
            live={**LR, **ALPHA, 'base_alpha': (0.5, 0.95)},
            skip={
                'live:eps': 'is tested with RMSprop itself',
                'live:weight_decay': 'is tested with RMSprop itself',
                'live:momentum': STATELESS['live:momentum'],
            },
        ),
    ]
