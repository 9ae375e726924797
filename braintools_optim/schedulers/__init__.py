"""Schedulers: stateful shells over `braintools_optim.schedules`, which drive an optimizer."""

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
