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


def rows(case):
    """Return the rows, made by `cases.Case`."""
    traits = frozenset({'late', 'pooled'})
    return [
        case('quad', bo.Quad, {'lr': 0.05, **EXACT}, rules.quad, None, traits, LIVE, SKIP),
        case('skew', bo.Skew, {'lr': 0.05, **EXACT}, rules.skew, None, traits, LIVE, SKIP),
    ]
