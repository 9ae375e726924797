"""The rows of Quad and Skew.

They find norms by singular values and draw nothing: what is random has no reference to the last
digit, and is tested in `test_white_kron.py`.
"""

import reference_white_kron as rules
from cases_authors import DECAY, LR

import braintools_optim as bo

EXACT = {'dtype': None, 'norm_estimator': 'exact', 'noise_scale': 0.0}
LIVE = {
    **{**LR, **DECAY, 'b1': (0.6, 0.95)},
    **{'preconditioner_lr': (0.2, 0.7), 'preconditioner_lr_min': (0.1, 0.8)},
}
SKIP = {
    'live:preconditioner_init_scale': 'factors have started when it can be changed',
    'live:noise_scale': 'noise has no reference to the last digit: see test_white_kron.py',
}
NO_AVERAGE = {'live:b1': 'built with b1 = 0 it keeps no average, and says so when assigned'}


def rows(case):
    """Return the rows, made by `cases.Case`."""
    late = frozenset({'late'})
    without = {k: v for k, v in LIVE.items() if k != 'b1'}
    return [
        case('quad', bo.Quad, {'lr': 0.05, **EXACT}, rules.quad, None, late, LIVE, SKIP),
        case(
            'quad-mixed',
            bo.Quad,
            {
                **{'lr': 0.05, 'b1': 0.0, **EXACT, 'max_size_dense': 2, 'update_every': 2},
                **{'lr_style': None, 'normalize_grads': True, 'preconditioner_init_scale': 1.5},
                **{'maximize': True, 'grad_clip_norm': 2.0},
            },
            rules.quad,
            traits=late,
            live=without,
            skip={**SKIP, **NO_AVERAGE},
        ),
        case('skew', bo.Skew, {'lr': 0.05, **EXACT}, rules.skew, None, late, LIVE, SKIP),
    ]
