"""The rows of AdEMAMix and MARS."""

import jax
import jax.numpy as jnp
import numpy as np
import reference_averaged as rules
from cases_authors import ADAM, DECAY, LR

import braintools_optim as bo
from braintools_optim.transforms import beta3_scheduler


class ExactMars(bo.Mars):
    """MARS whose gradients at the previous point are the present ones, negated and reversed."""

    def __init__(self, lr=3e-3, betas=(0.95, 0.99), gamma=0.025, **more):
        super().__init__(lr, betas, gamma, exact=True, **more)

    def step(self, grads, **extra):
        super().step(grads, previous_point_grads=jax.tree.map(turned, grads), **extra)


def turned(g):
    """The gradient, negated and reversed; outside of traces nothing is compiled for it."""
    if isinstance(g, jax.core.Tracer):
        return -jnp.flip(g)
    return jax.device_put(-np.flip(np.asarray(g)))


def exact_rule(*args, **h):
    """The rule of the optimizer above."""
    return rules.mars_together(*args, exact=True, **h)


exact_rule.of_group = True


def falling(step):
    """A schedule for MARS' gamma, as people write them."""
    return 0.3 / (1.0 + step)


def rising(step):
    """A schedule for AdEMAMix' alpha."""
    return 5.0 * jnp.minimum(step / 6.0, 1.0)


SLOW = {'b3': (0.9, 0.99), 'alpha': (1.0, 6.0), 'eps_root': (1e-6, 1e-2)}
WARM = {'T_alpha': (0.0, 9.0), 'alpha_start': (0.0, 2.0), 'T_b3': (0.0, 9.0)}
NO_SCHEDULE = {
    f'live:{name}': 'the schedule is a function: nothing warms it up'
    for name in ('T_alpha', 'alpha_start', 'T_b3')
}

MARS = {**ADAM, 'gamma': (0.01, 0.3), 'eps_root': (1e-6, 1e-2), 'max_grad_norm': (0.2, 1.5)}
OTHERS = {
    **{'lr_1d': (0.02, 0.2), 'betas_1d': ((0.7, 0.9), (0.95, 0.99))},
    **{'weight_decay_1d': (0.01, 0.4), 'lr_ref': (0.03, 0.1)},
}
NO_OTHERS = {f'live:{name}': 'with optimize_1d all parameters take the rule' for name in OTHERS}
AS_MARS = {
    **dict.fromkeys(
        ('vmap', 'atomic', 'outer_trace', 'donation'),
        'is tested with Mars, of which it is a subclass',
    ),
    'accumulation': 'it takes two gradients in each step, so it is refused',
}
TOGETHER = {'groups': 'the norm of a group is bounded: groups change it'}


def rows(case):
    """Return the rows, made by `cases.Case`."""
    late = frozenset({'late'})
    return [
        case(
            'ademamix',
            bo.AdEMAMix,
            {'lr': 0.05, 'T_alpha': 5.0, 'T_b3': 7.0},
            rules.ademamix,
            traits=late | {'contracted'},
            live={**ADAM, **SLOW, **WARM},
        ),
        case(
            'ademamix-slow-only',
            bo.AdEMAMix,
            {
                **{'lr': 0.05, 'betas': (0.0, 0.99), 'b3': beta3_scheduler(0.99, 0.5, 6)},
                **{'alpha': rising, 'step_offset': 1, 'weight_decay': 0.1, 'maximize': True},
            },
            rules.ademamix,
            live={
                **{**LR, **DECAY, 'betas': ((0.0, 0.9), (0.0, 0.99)), 'eps': (1e-8, 1e-2)},
                'eps_root': (1e-6, 1e-2),
            },
            skip=NO_SCHEDULE,
        ),
        case(
            *('mars', bo.Mars, {'lr': 0.05, 'lr_ref': 0.05}, rules.mars),
            live={**MARS, **OTHERS},
        ),
        case(
            'mars-lion',
            bo.Mars,
            {
                **{'lr': 0.05, 'variant': 'lion', 'clip': None, 'gamma': falling, 'lr_ref': 0.05},
                **{'betas': (0.8, 0.99), 'first_step_correction': False, 'maximize': True},
            },
            rules.mars,
            live={**ADAM, **OTHERS, 'betas': ((0.05, 0.9), (0.6, 0.99)), 'eps_root': (1e-6, 1e-2)},
            skip={'live:max_grad_norm': 'nothing is clipped without a kind of bound'},
        ),
        case(
            'mars-shampoo',
            bo.Mars,
            {'lr': 0.05, 'variant': 'shampoo', 'optimize_1d': True, 'weight_decay': 0.1},
            rules.mars,
            live=MARS,
            skip=NO_OTHERS,
        ),
        case(
            'mars-exact',
            ExactMars,
            {
                **{'lr': 0.05, 'optimize_1d': True, 'weight_decay': 0.1, 'amsgrad': True},
                **{'clip': 'global', 'max_grad_norm': 1.0},
            },
            exact_rule,
            live=MARS,
            skip={**NO_OTHERS, **TOGETHER, **AS_MARS},
        ),
    ]
