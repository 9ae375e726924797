"""Adam with another second moment."""

from __future__ import annotations

from typing import Unpack

import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import NON_NEGATIVE
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import scale_by_belief, scale_by_yogi
from .chain import descent

__all__ = ['AdaBelief', 'Yogi']


class AdaBelief(OptaxOptimizer):
    r"""AdaBelief, as its authors have it: large steps where gradients are near their average.

    .. math:: s_t = \beta_2 s_{t-1} + (1-\beta_2) (g_t - m_t)^2 + \epsilon, \quad
              \theta \leftarrow \theta - \eta \left(\frac{\hat m_t}{\sqrt{\hat s_t} + \epsilon}
              + \lambda \theta\right)

    with Adam's average :math:`m` of the gradient; a hat is Adam's bias correction.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    betas : tuple of float
        Decay rates of the two averages.
    eps : float
        :math:`\epsilon`; its authors advise 1e-8 where SGD does better than Adam.
    weight_decay : float
        Decay :math:`\lambda` of the parameters, or L2 decay added to the gradient.
    amsgrad : bool
        Divide by the largest :math:`s` so far.
    decoupled_weight_decay : bool
        False adds the decay to the gradient, as braintools does.
    rectify : bool
        Divide only as far as :math:`s` can be trusted, as :class:`RAdam`.

    Where Adam trains fast but SGD ends better. Zhuang et al., arXiv:2010.07468. Its authors'
    package rectifies by default, their paper does not.
    """

    never_negative = ('nu', 'nu_max')

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        rectify: bool = False,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            rectify=rectify,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Refuse amsgrad with rectify, of which the authors' code ignores one."""
        if h.amsgrad and h.rectify:
            raise ValueError(f'{type(self).__name__} needs rectify=False with amsgrad=True.')

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay before (L2) or after (decoupled) the direction."""
        b1, b2 = h.betas
        direction = scale_by_belief(b1, b2, h.eps, h.amsgrad, h.rectify)
        return descent(h, direction, h.decoupled_weight_decay)


class Yogi(OptaxOptimizer):
    r"""Yogi, as its authors have it: Adam whose second moment falls no faster than it rises.

    .. math:: v_t = v_{t-1} + (1-\beta_2) \operatorname{sign}(g_t^2 - v_{t-1}) g_t^2, \quad
              \theta \leftarrow \theta - \eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}
              \frac{m_t}{\sqrt{v_t} + \epsilon}

    with Adam's average :math:`m` of the gradient.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`; its authors advise ten times Adam's.
    betas : tuple of float
        Decay rates of the two averages.
    eps : float
        :math:`\epsilon`; a larger one is less adaptive and more stable.
    weight_decay : float
        L2 decay, added to the gradient.
    initial_accumulator_value : float
        :math:`v_0`.

    Where gradients are rare, and Adam forgets them in between. Zaheer et al., NeurIPS 2018. Its
    authors' code has a proximal L1 and L2 penalty instead of the weight decay.
    """

    ranges = {'initial_accumulator_value': NON_NEGATIVE}
    never_negative = ('nu',)

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        initial_accumulator_value: float = 1e-6,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            **common,
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then the direction, then the step."""
        b1, b2 = h.betas
        return descent(h, scale_by_yogi(b1, b2, h.eps, h.initial_accumulator_value))
