"""SM3, Adagrad in little memory."""

from __future__ import annotations

from typing import Unpack

import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import DECAY
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import scale_by_sm3
from .chain import descent

__all__ = ['SM3']


class SM3(OptaxOptimizer):
    r"""SM3-II, as its authors have it: Adagrad with one accumulator for each row and column.

    .. math:: \nu_t = \min_i a_{t-1}^{(i)} + g_t^2, \quad a_t^{(i)} = \max_{\text{all axes but } i}
              \nu_t, \quad m_t = \mu m_{t-1} + (1-\mu) \frac{g_t}{\sqrt{\nu_t + \epsilon}}, \quad
              \theta \leftarrow \theta - \eta m_t

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    momentum : float
        :math:`\mu`; built with 0 it keeps no buffer.
    eps : float
        :math:`\epsilon`; its authors have 1e-30.
    weight_decay : float
        L2 decay, added to the gradient; its authors have none.

    Where even one number for each parameter is too much: built with ``momentum=0`` it keeps one
    for each row and column. It wants a warm-up. Anil et al., arXiv:1901.11150.
    """

    structural = ('momentum',)
    ranges = {'momentum': DECAY}
    first_moments = ('ema',)
    never_negative = ('accumulators',)

    def __init__(
        self,
        lr: float | LRScheduler = 1.0,
        momentum: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, momentum=momentum, eps=eps, weight_decay=weight_decay, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then the direction and its average, then the step."""
        averaged = [optax.ema(h.momentum, debias=False)] if h.uses('momentum') else []
        return descent(h, optax.chain(scale_by_sm3(h.eps), *averaged))
