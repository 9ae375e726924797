"""Steps whose size is relative to that of each layer, that is, of each parameter array."""

from __future__ import annotations

from typing import Unpack

import jax.numpy as jnp
import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import NON_NEGATIVE
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import (
    bound_norm,
    decayed_weights,
    scale_by_adam,
    scale_by_lars_ratio,
    scale_by_layer_ratio,
    scale_by_novograd,
)
from .arguments import check_nesterov

__all__ = ['Fromage', 'Lamb', 'Lars', 'Novograd']


class Lamb(OptaxOptimizer):
    r"""LAMB, as its authors have it: Adam's direction at the size of the layer.

    .. math:: r = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda \theta, \quad
              \theta \leftarrow \theta - \eta \frac{\|\theta\|}{\|r\|} r

    with Adam's bias-corrected averages :math:`\hat m, \hat v` of the gradient and its square. The
    quotient of norms is one where a norm is zero.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`, relative to the size of the layer.
    betas : tuple of float
        Decay rates of Adam's two averages.
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        Decay :math:`\lambda`.

    For very large batches, of transformers above all. You et al., arXiv:1904.00962. Its authors
    leave biases and normalizations out of decay and scaling: give these to another optimizer.
    """

    never_negative = ('nu',)

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Adam's direction, then decay, then the layer's size, then the step."""
        b1, b2 = h.betas
        return optax.chain(
            scale_by_adam(b1, b2, h.eps),
            decayed_weights(h.weight_decay),
            scale_by_layer_ratio(),
            optax.scale_by_learning_rate(h.lr),
        )


class Lars(OptaxOptimizer):
    r"""LARS, as its authors have it: momentum with a learning rate for each layer.

    .. math:: d_t = \eta \frac{c \|\theta\|}{\|g_t\| + \lambda \|\theta\| + \epsilon}
              (g_t + \lambda \theta), \quad b_t = \mu b_{t-1} + d_t, \quad
              \theta \leftarrow \theta - b_t

    The quotient is one where the norm of the parameter or of the gradient is zero.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`, applied before the momentum.
    momentum : float
        :math:`\mu`; built with 0 it keeps no buffer.
    weight_decay : float
        L2 decay :math:`\lambda`.
    trust_coefficient : float
        :math:`c`.
    eps : float
        :math:`\epsilon`.
    nesterov : bool
        Look ahead along the momentum: :math:`\theta \leftarrow \theta - d_t - \mu b_t`.

    For very large batches, of convolutional networks above all. You et al., arXiv:1708.03888. Its
    authors leave biases and normalizations out: give these to another optimizer.
    """

    structural = ('momentum',)
    ranges = {'trust_coefficient': NON_NEGATIVE}
    first_moments = ('trace',)

    def __init__(
        self,
        lr: float | LRScheduler = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        *,
        nesterov: bool = False,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            eps=eps,
            nesterov=nesterov,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Raise where nesterov has no momentum to look along."""
        check_nesterov(type(self).__name__, h)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay and the layer's rate, then the step, then momentum."""
        return optax.chain(
            scale_by_lars_ratio(h.weight_decay, h.trust_coefficient, h.eps),
            optax.scale_by_learning_rate(h.lr),
            optax.trace(h.momentum, h.nesterov) if h.uses('momentum') else optax.identity(),
        )


class Novograd(OptaxOptimizer):
    r"""NovoGrad, as its authors have it: momentum of gradients normalized by layer.

    .. math:: v_t = \beta_2 v_{t-1} + (1-\beta_2) \|g_t\|^2, \quad m_t = \beta_1 m_{t-1} +
              \frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda \theta, \quad
              \theta \leftarrow \theta - \eta m_t

    with :math:`v = \|g\|^2` at first.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    betas : tuple of float
        :math:`\beta_1` and :math:`\beta_2`; its authors have (0.95, 0.98) and (0.95, 0).
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        Decay :math:`\lambda`.
    grad_averaging : bool
        Multiply what is added to :math:`m` by :math:`1-\beta_1`.
    amsgrad : bool
        Divide by the largest :math:`v` so far.

    Where Adam's memory is too much: half of it. Ginsburg et al., arXiv:1905.11286.
    """

    never_negative = ('nu', 'nu_max')

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        **common: Unpack[CommonOptions],
    ):
        flags = {'grad_averaging': grad_averaging, 'amsgrad': amsgrad}
        super().__init__(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **flags, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Normalized gradient and decay into the momentum, then the step."""
        b1, b2 = h.betas
        return optax.chain(
            scale_by_novograd(b1, b2, h.eps, h.weight_decay, h.grad_averaging, h.amsgrad),
            optax.scale_by_learning_rate(h.lr),
        )


class Fromage(OptaxOptimizer):
    r"""Fromage, as its authors have it: each step turns a layer by an angle and keeps its size.

    .. math:: \theta \leftarrow \frac{1}{\sqrt{1 + \eta^2}} \left(\theta -
              \eta \frac{\|\theta\|}{\|g_t\|} g_t\right)

    The quotient is one where a norm is zero.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`, the tangent of the angle; its authors advise 0.01.
    momentum : float
        Heavy ball on the gradient, not in the authors' code; built with 0 it keeps no buffer.
    p_bound : float
        Bound of each layer's norm, as a multiple of its initial one; built with 0 there is none.

    Where there is no time to tune a learning rate. Bernstein et al., arXiv:2002.03432.
    """

    structural = ('momentum', 'p_bound')
    ranges = {'p_bound': NON_NEGATIVE}
    first_moments = ('trace',)
    never_negative = ('initial',)

    def __init__(
        self,
        lr: float | LRScheduler = 1.0,
        momentum: float = 0.0,
        *,
        p_bound: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, momentum=momentum, p_bound=p_bound, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Momentum, the layer's size, the step, the way back to the size, the bound."""
        root = jnp.sqrt(1.0 + h.lr**2)
        return optax.chain(
            optax.trace(h.momentum) if h.uses('momentum') else optax.identity(),
            scale_by_layer_ratio(),
            optax.scale_by_learning_rate(h.lr / root),
            # 1 / root - 1, where the difference would cancel
            decayed_weights(-(h.lr**2) / (root * (1.0 + root))),
            bound_norm(h.p_bound) if h.uses('p_bound') else optax.identity(),
        )
