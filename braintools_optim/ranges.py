"""Which numbers a hyper-parameter may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = [
    'DECAY',
    'FINITE',
    'NON_NEGATIVE',
    'POSITIVE',
    'RANGES',
    'UNIT',
    'Range',
    'inherit_ranges',
    'range_of',
]


class Range(NamedTuple):
    """The numbers that a hyper-parameter may take, for ``ranges`` of an optimizer of your own.

    Parameters
    ----------
    low, high : float
        The least and the largest number.
    open_low, open_high : bool
        Leave ``low``, or ``high``, itself out.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, x: object) -> bool:
        low, high, open_low, open_high = self
        above = x > low if open_low else x >= low  # type: ignore[operator]  # anything that compares
        return above and (x < high if open_high else x <= high)  # type: ignore[operator]  # anything that compares

    def __str__(self) -> str:
        left, right = '(' if self.open_low else '[', ')' if self.open_high else ']'
        return f'{left}{self.low:g}, {self.high:g}{right}'


NON_NEGATIVE = Range(0.0, open_high=True)
POSITIVE = Range(0.0, open_low=True, open_high=True)
UNIT = Range(0.0, 1.0)
DECAY = Range(0.0, 1.0, open_high=True)
CLIP = Range(0.0, open_low=True)  # infinity is allowed: it turns the clipping off
FINITE = Range(open_low=True, open_high=True)

RANGES: Mapping[str, Range] = {
    'lr': NON_NEGATIVE,
    'base_lr': NON_NEGATIVE,
    'betas': DECAY,
    'eps': NON_NEGATIVE,
    'weight_decay': NON_NEGATIVE,
    'momentum': NON_NEGATIVE,
    'grad_clip_norm': CLIP,
    'grad_clip_value': CLIP,
}
"""The ranges of numbers that mean the same in every class; a class says those of its own."""


def inherit_ranges(cls: type) -> None:
    """Let a class have the ranges of its bases besides those that it says itself."""
    if 'ranges' in vars(cls):
        own = vars(cls)['ranges']
        if not isinstance(own, Mapping) or not all(isinstance(x, Range) for x in own.values()):
            raise TypeError(f'{cls.__name__}.ranges must be a dict of Range by name, got {own!r}.')
        bases = [vars(base).get('ranges', {}) for base in reversed(cls.__mro__)]
        cls.ranges = {name: own for ranges in bases for name, own in ranges.items()}  # type: ignore[attr-defined]  # of classes that have ranges


def range_of(name: str, own: Mapping[str, Range] = MappingProxyType({})) -> Range:
    """Return the range of a number, or an entry of a tuple of them, as ``'betas[0]'``.

    ``own`` are the ranges of the class that has it. What is listed nowhere is any finite number.
    """
    found = own.get(name) or RANGES.get(name)
    if found is None and name.endswith(']'):
        return range_of(name.partition('[')[0], own)
    return found or FINITE
