"""Adamax, NAdam and RAdam."""

from __future__ import annotations

from typing import Unpack

import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import NON_NEGATIVE
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import scale_by_adamax, scale_by_nadam, scale_by_radam
from .chain import descent

__all__ = ['Adamax', 'NAdam', 'Nadam', 'RAdam']


class Adamax(OptaxOptimizer):
    r"""Adam with a fading maximum in place of the averaged square, as ``torch.optim.Adamax``.

    .. math:: v_t = \max(\beta_2 v_{t-1}, |g_t| + \epsilon), \quad
              \theta \leftarrow \theta - \eta \frac{\hat m_t}{v_t}

    with the bias-corrected average :math:`\hat m` of the gradient.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    betas : tuple of float
        Decay rates of the average and of the maximum.
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        L2 decay, added to the gradient.

    Where single gradients are very large: it remembers them for a while. Kingma & Ba,
    arXiv:1412.6980.
    """

    never_negative = ('nu',)

    def __init__(
        self,
        lr: float | LRScheduler = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then the direction, then the step."""
        b1, b2 = h.betas
        return descent(h, scale_by_adamax(b1, b2, h.eps))


class Nadam(OptaxOptimizer):
    r"""Adam with Nesterov's look ahead, as ``torch.optim.NAdam``; both names are this class.

    .. math:: \mu_t = \beta_1 (1 - 0.96^{t \psi} / 2), \quad \theta \leftarrow \theta - \eta
              \frac{(1-\mu_t) g_t / (1-\prod_{i \le t} \mu_i)
              + \mu_{t+1} m_t / (1-\prod_{i \le t+1} \mu_i)}{\sqrt{\hat v_t} + \epsilon}

    with the averages :math:`m` of the gradient and, bias-corrected, :math:`\hat v` of its square.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    betas : tuple of float
        Decay rates of the two averages.
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        L2 decay added to the gradient, or decoupled from it.
    momentum_decay : float
        How fast :math:`\mu` grows, :math:`\psi`.
    decoupled_weight_decay : bool
        Decay the parameters themselves, as AdamW.

    Where Adam does well and should react sooner. Dozat, ICLR workshop 2016.
    """

    ranges = {'momentum_decay': NON_NEGATIVE}
    never_negative = ('nu', 'leaf_products')

    def __init__(
        self,
        lr: float | LRScheduler = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        *,
        decoupled_weight_decay: bool = False,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            **common,
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay before (L2) or after (decoupled) the direction."""
        b1, b2 = h.betas
        direction = scale_by_nadam(b1, b2, h.eps, h.momentum_decay)
        return descent(h, direction, h.decoupled_weight_decay)


NAdam = Nadam


class RAdam(OptaxOptimizer):
    r"""Adam that divides only as far as the average can be trusted, as ``torch.optim.RAdam``.

    .. math:: \theta \leftarrow \theta - \eta \hat m_t r_t
              \frac{\sqrt{1-\beta_2^t}}{\sqrt{v_t} + \epsilon}
              \text{ if } \rho_t > 5, \text{ else } \theta - \eta \hat m_t, \quad
              r_t^2 = \frac{(\rho_t-4) (\rho_t-2) \rho_\infty}
              {(\rho_\infty-4)(\rho_\infty-2) \rho_t}

    with Adam's averages :math:`\hat m, v` and the effective length of the second,
    :math:`\rho_t = \rho_\infty - 2 t \beta_2^t / (1-\beta_2^t)`.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    betas : tuple of float
        Decay rates of the two averages.
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        L2 decay added to the gradient, or decoupled from it.
    decoupled_weight_decay : bool
        Decay the parameters themselves, as AdamW.

    Where Adam needs a warm-up of its learning rate; it is built in. Liu et al., arXiv:1908.03265.
    """

    never_negative = ('nu',)

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            **common,
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay before (L2) or after (decoupled) the direction."""
        b1, b2 = h.betas
        return descent(h, scale_by_radam(b1, b2, h.eps), h.decoupled_weight_decay)
