"""Schedulers: stateful shells over `braintools_optim.schedules`, which drive an optimizer.

| module | what it is |
|---|---|
| `scheduler` | what all share: attaching, stepping, previewing, saving |
| `construction` | how they are constructed: with a learning rate, or an optimizer first |
| `rate` | those of the learning rate, which is affine in the base |
| `arguments`, `base_rates`, `row` | their numbers, their bases, and their memory of a group |
| `anneal`, `decay`, `cyclic`, `plateau`, `param` | the classes |
| `rising` | those that warm up from a rate of their own |
| `functions` | functions of users |
| `composite`, `chained`, `sequential` | those that are made of others |
| `present` | those that act on the rate that they find |
| `shown`, `snapshot` | numbers as they are shown, and as they are saved |

A scheduler *begins* with an optimizer: it adopts the groups, each as a `Row`, and gives their first
rates (`_begin`, `_started`). A group that is added later *joins* (`_join`, `_joined`). A step
*advances* what is remembered, purely (`_advanced`, group by group `_moved`). A later part of a
sequence is *entered* (`_entered`). To *set out* is to compute the rate from a given start.
"""

from .anneal import (
    SWALR,
    WSDLR,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    InverseSqrtLR,
    LinearLR,
    WarmupCosineSchedule,
    WarmupScheduler,
)
from .chained import ChainedScheduler
from .cyclic import CyclicLR, OneCycleLR
from .decay import (
    ExponentialDecayLR,
    ExponentialLR,
    InverseTimeLR,
    LambdaLR,
    MultiplicativeLR,
    MultiStepLR,
    PiecewiseConstantSchedule,
    PolynomialLR,
    RexLR,
    StepLR,
)
from .param import ParamScheduler
from .plateau import ReduceLROnPlateau
from .rate import LRScheduler
from .scheduler import Scheduler
from .sequential import SequentialLR

__all__ = [
    'SWALR',
    'WSDLR',
    'ChainedScheduler',
    'ConstantLR',
    'CosineAnnealingLR',
    'CosineAnnealingWarmRestarts',
    'CyclicLR',
    'ExponentialDecayLR',
    'ExponentialLR',
    'InverseSqrtLR',
    'InverseTimeLR',
    'LRScheduler',
    'LambdaLR',
    'LinearLR',
    'MultiStepLR',
    'MultiplicativeLR',
    'OneCycleLR',
    'ParamScheduler',
    'PiecewiseConstantSchedule',
    'PolynomialLR',
    'ReduceLROnPlateau',
    'RexLR',
    'Scheduler',
    'SequentialLR',
    'StepLR',
    'WarmupCosineSchedule',
    'WarmupScheduler',
]
