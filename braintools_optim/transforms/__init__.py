"""Pure optax transformations that optax lacks, or computes otherwise than an algorithm's owner."""

from .adam import ScaleByAdamState, scale_by_adam
from .momentum import ScaleByMomentumState, scale_by_momentum

__all__ = [
    'ScaleByAdamState',
    'ScaleByMomentumState',
    'scale_by_adam',
    'scale_by_momentum',
]
