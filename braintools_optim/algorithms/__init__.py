"""The algorithms, by family."""

from .adam import Adam, AdamW
from .sgd import SGD, Momentum, MomentumNesterov

__all__ = ['SGD', 'Adam', 'AdamW', 'Momentum', 'MomentumNesterov']
