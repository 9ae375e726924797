"""Stateful, PyTorch-style optimizers and learning-rate schedulers for JAX and brainstate."""

from . import transforms
from .algorithms import SGD, Adam, AdamW, Momentum, MomentumNesterov
from .checkpoint import CheckpointError, IncompatibleCheckpoint
from .groups import ParamGroup
from .optimizer import OptaxOptimizer, Optimizer
from .schedulers import ConstantLR, LRScheduler
from .state import OptimState, UniqueStateManager

__version__ = '0.1.0'

__all__ = [
    'SGD',
    'Adam',
    'AdamW',
    'CheckpointError',
    'ConstantLR',
    'IncompatibleCheckpoint',
    'LRScheduler',
    'Momentum',
    'MomentumNesterov',
    'OptaxOptimizer',
    'OptimState',
    'Optimizer',
    'ParamGroup',
    'UniqueStateManager',
    'transforms',
]
