"""Which numbers a hyper-parameter may take."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ['DECAY', 'FINITE', 'RANGES', 'UNIT', 'Range']


class Range(NamedTuple):
    """The numbers a hyper-parameter may take; ``open_high`` leaves ``high`` itself out."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, x: object) -> bool:
        low, high, open_low, open_high = self
        above = x > low if open_low else x >= low  # type: ignore[operator]
        return above and (x < high if open_high else x <= high)  # type: ignore[operator]

    def __str__(self) -> str:
        left, right = '(' if self.open_low else '[', ')' if self.open_high else ']'
        return f'{left}{self.low:g}, {self.high:g}{right}'


NON_NEGATIVE = Range(0.0, open_high=True)
UNIT = Range(0.0, 1.0)
DECAY = Range(0.0, 1.0, open_high=True)
CLIP = Range(0.0, open_low=True)  # infinity is allowed: it turns the clipping off
FINITE = Range(open_low=True, open_high=True)

RANGES: dict[str, Range] = {
    'lr': NON_NEGATIVE,
    'base_lr': NON_NEGATIVE,
    'betas': DECAY,
    'eps': NON_NEGATIVE,
    'weight_decay': NON_NEGATIVE,
    'momentum': NON_NEGATIVE,
    'dampening': UNIT,
    'alpha': NON_NEGATIVE,
    'rho': UNIT,
    'lr_decay': NON_NEGATIVE,
    'initial_accumulator_value': NON_NEGATIVE,
    'momentum_decay': NON_NEGATIVE,
    'etas': NON_NEGATIVE,
    'step_sizes': NON_NEGATIVE,
    'lambd': NON_NEGATIVE,
    't0': NON_NEGATIVE,
    'beta1': DECAY,
    'b1': DECAY,
    'beta2_decay': Range(high=0.0, open_low=True),
    'd': Range(1.0),
    'ns_coefficients': FINITE,
    'trust_coefficient': NON_NEGATIVE,
    'p_bound': NON_NEGATIVE,
    'b3': UNIT,
    'T_b3': NON_NEGATIVE,
    'T_alpha': NON_NEGATIVE,
    'alpha_start': NON_NEGATIVE,
    'gamma': NON_NEGATIVE,
    'eps_root': NON_NEGATIVE,
    'max_grad_norm': Range(0.0),  # 0 and infinity are no bound
    'lr_1d': NON_NEGATIVE,
    'lr_ref': NON_NEGATIVE,
    'betas_1d': DECAY,
    'weight_decay_1d': NON_NEGATIVE,
    'base_alpha': NON_NEGATIVE,  # the alpha of an optimizer that Lookahead is over
    'tolerance_grad': NON_NEGATIVE,
    'tolerance_change': NON_NEGATIVE,
    'preconditioner_lr': DECAY,
    'preconditioner_lr_min': DECAY,
    'preconditioner_init_scale': Range(0.0, open_low=True, open_high=True),
    'noise_scale': NON_NEGATIVE,
    'grad_clip_norm': CLIP,
    'grad_clip_value': CLIP,
    'factor': DECAY,
    'threshold': NON_NEGATIVE,
    'min_lr': NON_NEGATIVE,
    'base_momentum': UNIT,
    'max_momentum': UNIT,
}
"""The allowed range of each hyper-parameter; one that is not listed may be any finite number."""
