"""Stateful, PyTorch-style optimizers and learning-rate schedulers for JAX and brainstate."""

from typing import TYPE_CHECKING

from . import schedules, transforms
from .algorithms import (
    ASGD,
    LBFGS,
    SGD,
    SM3,
    AdaBelief,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AdEMAMix,
    Fromage,
    Lamb,
    Lars,
    Lion,
    Lookahead,
    Mars,
    Momentum,
    MomentumNesterov,
    Muon,
    NAdam,
    Nadam,
    Novograd,
    Quad,
    RAdam,
    RMSprop,
    Rprop,
    Skew,
    SparseAdam,
    Yogi,
)
from .averaging import AveragedModel
from .checkpoint import CheckpointError, CorruptCheckpoint, IncompatibleCheckpoint, SaveError
from .checkpoint.background import Saving
from .checkpoint.judge import LoadReport
from .checkpoint.legacy import import_braintools
from .checkpoint.rotation import Checkpointer
from .checkpoint.whole import load, restore, save
from .groups import ParamGroup
from .hyper import Hyper
from .leafwise import leafwise
from .optimizer import OptaxOptimizer, Optimizer
from .other_libraries import name_here
from .ranges import Range
from .schedulers import (
    SWALR,
    WSDLR,
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialDecayLR,
    ExponentialLR,
    InverseSqrtLR,
    InverseTimeLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    ParamScheduler,
    PiecewiseConstantSchedule,
    PolynomialLR,
    ReduceLROnPlateau,
    RexLR,
    Scheduler,
    SequentialLR,
    StepLR,
    WarmupCosineSchedule,
    WarmupScheduler,
)
from .state import OptimState, UniqueStateManager
from .train import TrainStep, train_step

__version__ = '0.1.0'

__all__ = [
    'ASGD',
    'AdEMAMix',
    'AdaBelief',
    'Adadelta',
    'Adafactor',
    'Adagrad',
    'Adam',
    'AdamW',
    'Adamax',
    'AveragedModel',
    'ChainedScheduler',
    'CheckpointError',
    'Checkpointer',
    'ConstantLR',
    'CorruptCheckpoint',
    'CosineAnnealingLR',
    'CosineAnnealingWarmRestarts',
    'CyclicLR',
    'ExponentialDecayLR',
    'ExponentialLR',
    'Fromage',
    'Hyper',
    'IncompatibleCheckpoint',
    'InverseSqrtLR',
    'InverseTimeLR',
    'LBFGS',
    'LRScheduler',
    'Lamb',
    'LambdaLR',
    'Lars',
    'LinearLR',
    'Lion',
    'LoadReport',
    'Lookahead',
    'Mars',
    'Momentum',
    'MomentumNesterov',
    'MultiStepLR',
    'MultiplicativeLR',
    'Muon',
    'NAdam',
    'Nadam',
    'Novograd',
    'OneCycleLR',
    'OptaxOptimizer',
    'OptimState',
    'Optimizer',
    'ParamGroup',
    'ParamScheduler',
    'PiecewiseConstantSchedule',
    'PolynomialLR',
    'Quad',
    'RAdam',
    'RMSprop',
    'Range',
    'ReduceLROnPlateau',
    'RexLR',
    'Rprop',
    'SGD',
    'SM3',
    'SWALR',
    'SaveError',
    'Saving',
    'Scheduler',
    'SequentialLR',
    'Skew',
    'SparseAdam',
    'StepLR',
    'TrainStep',
    'UniqueStateManager',
    'WSDLR',
    'WarmupCosineSchedule',
    'WarmupScheduler',
    'Yogi',
    'import_braintools',
    'leafwise',
    'load',
    'restore',
    'save',
    'schedules',
    'train_step',
    'transforms',
]


if not TYPE_CHECKING:  # type checkers find wrong names themselves, if there is no such function

    def __getattr__(name):
        """Raise for a name that there is not, and say which one was probably meant."""
        hint = '' if name.startswith('_') else name_here(name, __all__)
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}.{hint}')
