"""Learning-rate schedulers: thin stateful shells over pure schedules."""

from .base import LRScheduler
from .constant import ConstantLR

__all__ = ['ConstantLR', 'LRScheduler']
