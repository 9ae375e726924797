"""Gradient descent, with and without momentum."""

from __future__ import annotations

from typing import Unpack

import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import UNIT
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import scale_by_momentum
from ..transforms.momentum import unless_zero
from .arguments import check_nesterov
from .chain import descent

__all__ = ['SGD', 'Momentum', 'MomentumNesterov']


class SGD(OptaxOptimizer):
    r"""Stochastic gradient descent, as ``torch.optim.SGD``.

    .. math:: b_t = \mu b_{t-1} + (1 - \tau)(g_t + \lambda \theta), \quad
              \theta \leftarrow \theta - \eta b_t

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    momentum : float
        :math:`\mu`; built with 0 it keeps no buffer. While it is 0 later, the buffer rests and
        gradients enter whole.
    weight_decay : float
        L2 decay :math:`\lambda`, added to the gradient.
    nesterov : bool
        Look ahead along the momentum: :math:`\theta \leftarrow \theta - \eta (g_t + \lambda \theta
        + \mu b_t)`.
    dampening : float
        :math:`\tau`; the first gradient enters whole.

    The simplest choice, and with momentum still the best one for many convolutional networks.
    """

    structural = ('momentum',)
    ranges = {'dampening': UNIT}
    first_moments = ('trace',)

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        dampening: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            dampening=dampening,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Raise where nesterov has no momentum to look along."""
        check_nesterov(type(self).__name__, h)
        if h.nesterov and isinstance(h.dampening, float) and h.dampening != 0.0:
            raise ValueError(
                f'{type(self).__name__} needs dampening = 0 with nesterov=True, got {h.dampening}.'
            )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then momentum, then the step."""
        if not h.uses('momentum'):
            return descent(h, optax.identity())
        momentum = scale_by_momentum(h.momentum, h.dampening, h.nesterov)
        return descent(h, unless_zero(h.momentum, momentum))


class Momentum(OptaxOptimizer):
    r"""Gradient descent with heavy-ball momentum.

    .. math:: b_t = \mu b_{t-1} + g_t + \lambda \theta, \quad \theta \leftarrow \theta - \eta b_t

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    momentum : float
        :math:`\mu`.
    weight_decay : float
        L2 decay :math:`\lambda`, added to the gradient.
    """

    nesterov = False
    first_moments = ('trace',)

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, momentum=momentum, weight_decay=weight_decay, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then momentum, then the step."""
        return descent(h, optax.trace(h.momentum, nesterov=self.nesterov))


class MomentumNesterov(Momentum):
    r"""Gradient descent with Nesterov's momentum.

    .. math:: b_t = \mu b_{t-1} + g_t + \lambda \theta, \quad
              \theta \leftarrow \theta - \eta (g_t + \lambda \theta + \mu b_t)

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    momentum : float
        :math:`\mu`, the weight of what was there before.
    weight_decay : float
        L2 decay :math:`\lambda`, added to the gradient.
    """

    nesterov = True
