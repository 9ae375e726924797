"""Steps by signs."""

from __future__ import annotations

from typing import Unpack

import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from .chain import descent

__all__ = ['Lion']


class Lion(OptaxOptimizer):
    r"""Lion, as its authors have it: every entry moves by the learning rate.

    .. math:: \theta \leftarrow \theta - \eta \big(\operatorname{sign}(\beta_1 m_{t-1} +
              (1-\beta_1) g_t) + \lambda \theta\big), \quad
              m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`, a third to a tenth of what AdamW needs.
    betas : tuple of float
        :math:`\beta_1` and :math:`\beta_2`.
    weight_decay : float
        Decoupled decay :math:`\lambda`, three to ten times what AdamW needs.

    For large batches, with half of Adam's memory. Chen et al., arXiv:2302.06675.
    """

    def __init__(
        self,
        lr: float | LRScheduler = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, betas=betas, weight_decay=weight_decay, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Sign, then decay, then the step."""
        b1, b2 = h.betas
        return descent(h, optax.scale_by_lion(b1, b2), decoupled=True)
