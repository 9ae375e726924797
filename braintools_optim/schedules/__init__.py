r"""Learning-rate schedules as pure functions of the step.

Every name here makes a schedule: ``f = cosine(1e-3, T_max=90)``; then ``f(step)`` is the value at
that step, counted from 0, for Python ints and traced steps alike, in optax too: ``optax.adam(f)``.

Each is one formula, affine in the base value :math:`\eta`, the number that is scheduled:
:math:`\eta_t = a_t + b_t\,\eta`. A scheduler takes
:math:`(a_t, b_t)` from ``cosine.pair(t, T_max, eta_min)``, for this closed form or for torch's
recursion :math:`\eta_{t+1} = a_{t+1} + b_{t+1} (\eta_t - a_t) / b_t`. The pair checks nothing;
``cosine.check(owner, T_max=90)`` does, and returns all hyper-parameters in normal form.

Python numbers are computed in float64 by Python's ``math``, NumPy arrays of steps likewise by
NumPy, without JAX; what is traced, by JAX. Steps stay integers up to the last division, so that
they are exact however large; results are weakly typed.
"""

from .composite import lambda_, piecewise_constant, sequential
from .cycle import cosine, cosine_restarts, cyclic, one_cycle
from .decay import (
    exponential,
    exponential_decay,
    inverse_time,
    multistep,
    polynomial,
    rex,
    step,
    swa,
)
from .ramp import constant, inverse_sqrt, linear, warmup, warmup_cosine, wsd

__all__ = ['constant', 'cosine', 'cosine_restarts', 'cyclic', 'exponential', 'exponential_decay',
           'inverse_sqrt', 'inverse_time', 'lambda_', 'linear', 'multistep', 'one_cycle',
           'piecewise_constant', 'polynomial', 'rex', 'sequential', 'step', 'swa', 'warmup',
           'warmup_cosine', 'wsd']  # fmt: skip
