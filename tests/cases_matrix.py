"""The rows of the algorithms that look at rows, columns and matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import reference_matrix as rules
from cases_authors import ADAM, DECAY, LR, MOMENTUM
from jax.experimental.sparse import BCOO

import braintools_optim as bo

ADAFACTOR = {
    **{**LR, **DECAY, 'beta2_decay': (-0.9, -0.5), 'd': (1.0, 1.4)},
    'eps': ((0.02, 0.1), (0.4, 1.5)),
}
MUON = {
    **{**LR, **DECAY, **MOMENTUM, 'eps': (0.1, 3.0)},
    'ns_coefficients': ((3.2, -4.9, 1.9), (3.5, -4.6, 2.1)),
}
MUON_ADAMW = {
    **{f'adamw_{name}': ends for name, ends in ADAM.items() if name != 'lr'},
    'adamw_lr_ratio': (0.5, 2.0),
}
SPARSE = {k: v for k, v in ADAM.items() if k != 'weight_decay'}

NO_SUM = {'accumulation': 'sparse gradients have other rows in each call, so it is refused'}
NO_ADAMW = {f'live:{name}': 'AdamW updates nothing here' for name in MUON_ADAMW}
NO_AVERAGE = {'live:beta1': 'built without it, it keeps no average, and says so when assigned'}


class Rows(bo.SparseAdam):
    """SparseAdam on dense gradients, of which it is given the rows that are not zero.

    It gets each of them as two halves, and padding for the others; scalars have no rows.
    """

    gradient_layouts = frozenset({'dense', 'sparse'})

    def step(self, grads, **extra):
        super().step(jax.tree.map(rows_of, grads), **extra)


def rows_of(g):
    """The rows of a gradient that are not zero, as BCOO."""
    if np.ndim(g) == 0:
        return g
    # Outside of traces nothing is compiled: the tests count programs.
    xp, put = (jnp, lambda x: x) if isinstance(g, jax.core.Tracer) else (np, jax.device_put)
    g = xp.asarray(g)
    there = (g != 0).any(axis=tuple(range(1, g.ndim)))
    rows = xp.where(there, xp.arange(len(g)), len(g))[:, None]
    twice = [xp.concatenate(x) for x in ([g / 2, g / 2], [rows, rows])]
    return BCOO(tuple(map(put, twice)), shape=g.shape)


def rows(case):
    """Return the rows, made by `cases.Case`."""
    rule, name, late = rules.adafactor, 'Adafactor', frozenset({'late'})
    return [
        case(
            *('adafactor', bo.Adafactor, {'lr': 0.05}, rule, name, late),
            live=ADAFACTOR,
            skip={**NO_AVERAGE, 'infinities': 'the size of a parameter enters its step'},
        ),
        case(
            'adafactor-average',
            bo.Adafactor,
            {'lr': 0.05, 'beta1': 0.8, 'weight_decay': 0.1, 'maximize': True},
            rule,
            name,
            late,
            live={**ADAFACTOR, 'beta1': (0.5, 0.95)},
        ),
        case(
            'adafactor-original',
            bo.Adafactor,
            {'lr': 0.05, 'original': True},
            rule,
            traits=late,
            live={**ADAFACTOR, 'eps': ((0.001, 0.1), (0.02, 1.5))},
            skip=NO_AVERAGE,
        ),
        case(
            'adafactor-full',
            bo.Adafactor,
            {'lr': 0.05, 'factored': False},
            rule,
            traits=late,
            live=ADAFACTOR,
            skip=NO_AVERAGE,
        ),
        case(
            *('muon', bo.Muon, {'lr': 0.05, 'reshape': 'last'}, rules.muon, 'Muon'),
            live=MUON,
            skip=NO_ADAMW,
        ),
        case(
            'muon-match',
            bo.Muon,
            {
                **{'lr': 0.05, 'reshape': 'last', 'nesterov': False},
                **{'ns_steps': 3, 'adjust_lr_fn': 'match_rms_adamw'},
            },
            rules.muon,
            'Muon',
            live=MUON,
            skip=NO_ADAMW,
        ),
        case(
            'muon-adamw',
            bo.Muon,
            {'lr': 0.05, 'reshape': 'last', 'outputs': 'columns', 'adamw': 'rest'},
            rules.muon,
            live=MUON | MUON_ADAMW | {'eps': (0.5, 20.0)},
        ),
        case(
            *('sparse-adam', Rows, {'lr': 0.05}, rules.sparse_adam, 'SparseAdam'),
            live=SPARSE,
            skip=NO_SUM,
        ),
        case(
            'sparse-adam-clipped',
            Rows,
            {'lr': 0.05, 'maximize': True, 'grad_clip_norm': 2.0, 'grad_clip_value': 0.6},
            rules.sparse_adam,
            'SparseAdam',
            live=SPARSE,
            skip=NO_SUM,
        ),
    ]
