"""Steps adapted to each number by the size of its gradients."""

from __future__ import annotations

from typing import Unpack

import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import DECAY, NON_NEGATIVE, UNIT
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import (
    scale_by_adadelta,
    scale_by_adagrad,
    scale_by_centered_rms,
    scale_by_rms,
)
from ..transforms.momentum import unless_zero
from .chain import descent

__all__ = ['Adadelta', 'Adagrad', 'RMSprop']


class RMSprop(OptaxOptimizer):
    r"""Gradients divided by their recent size, as ``torch.optim.RMSprop``.

    .. math:: v_t = \alpha v_{t-1} + (1-\alpha) g_t^2, \quad
              b_t = \mu b_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon}, \quad
              \theta \leftarrow \theta - \eta b_t

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    alpha : float
        Decay rate of the averages.
    eps : float
        :math:`\epsilon`, outside of the root.
    weight_decay : float
        L2 decay, added to the gradient.
    momentum : float
        :math:`\mu`; built with 0 it keeps no buffer. While it is 0 later, the buffer rests.
    centered : bool
        Divide by the standard deviation, :math:`\sqrt{v_t - m_t^2}` with the averaged gradient
        :math:`m`.

    For recurrent networks and reinforcement learning, where gradients change their size. Hinton,
    Coursera lecture 6e (2012); centered: Graves, arXiv:1308.0850.
    """

    structural = ('momentum',)
    ranges = {'alpha': DECAY}
    first_moments = ('trace',)
    never_negative = ('nu', 'variance')

    def __init__(
        self,
        lr: float | LRScheduler = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            **common,
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then the quotient and its momentum, then the step."""
        if h.centered:
            quotient = scale_by_centered_rms(h.alpha, h.eps)
        else:
            quotient = scale_by_rms(h.alpha, h.eps)
        if h.uses('momentum'):
            quotient = optax.chain(quotient, unless_zero(h.momentum, optax.trace(h.momentum)))
        return descent(h, quotient)


class Adagrad(OptaxOptimizer):
    r"""Gradients divided by their size so far, as ``torch.optim.Adagrad``.

    .. math:: s_t = s_{t-1} + g_t^2, \quad \theta \leftarrow \theta
              - \frac{\eta}{1 + (t-1) \zeta} \frac{g_t}{\sqrt{s_t} + \epsilon}

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    lr_decay : float
        :math:`\zeta`.
    weight_decay : float
        L2 decay, added to the gradient.
    initial_accumulator_value : float
        :math:`s_0`, read when a parameter is registered.
    eps : float
        :math:`\epsilon`.

    For sparse features, whose rare gradients it makes count. Duchi, Hazan & Singer, JMLR 12
    (2011).
    """

    ranges = {'lr_decay': NON_NEGATIVE, 'initial_accumulator_value': NON_NEGATIVE}
    first_moments = ()
    never_negative = ('sum',)

    def __init__(
        self,
        lr: float | LRScheduler = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then the quotient, then the step."""
        return descent(h, scale_by_adagrad(h.lr_decay, h.initial_accumulator_value, h.eps))


class Adadelta(OptaxOptimizer):
    r"""Steps of the size of the recent steps, as ``torch.optim.Adadelta``.

    .. math:: v_t = \rho v_{t-1} + (1-\rho) g_t^2, \quad
              d_t = \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}} g_t, \quad
              u_t = \rho u_{t-1} + (1-\rho) d_t^2, \quad \theta \leftarrow \theta - \eta d_t

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    rho : float
        Decay rate :math:`\rho` of both averages.
    eps : float
        :math:`\epsilon`, inside of the roots: it starts the steps.
    weight_decay : float
        L2 decay, added to the gradient.

    Where no learning rate is to be tuned; it starts slowly. Zeiler, arXiv:1212.5701.
    """

    ranges = {'rho': UNIT}
    first_moments = ()
    never_negative = ('e_g', 'e_x')

    def __init__(
        self,
        lr: float | LRScheduler = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then the direction, then the step."""
        return descent(h, scale_by_adadelta(h.rho, h.eps))
